"""The same nights on DuckDB and on Spark give the same ledger, row by row."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.engine import score_on_duckdb
from dbt_onnx.engines.duckdb.ledger import LedgerShape, LedgerTables, select_current
from dbt_onnx.engines.spark import writing
from dbt_onnx.engines.spark.engine import score_on_spark
from dbt_onnx.engines.spark.features import loader
from dbt_onnx.errors import ArtifactError, DbtOnnxError
from dbt_onnx.runs.request import RunSettings, check_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import SparkSession

    from dbt_onnx.runs.run import RunSummary

ROOT = Path(__file__).parents[2]
NAMES = (
    "recency_weeks", "frequency", "active_weeks", "monetary", "average_purchase", "largest_purchase", "cds",
    "purchases_13w", "dollars_13w", "cds_13w",
)  # fmt: skip
ENTITIES = 60
REGISTRY = list(csv.DictReader((ROOT / "seeds" / "model_registry.csv").open()))
LEDGER = (
    "select customer_id, as_of, is_churn, churn_probability, status, rejected_reason, score_reason, is_late, "
    "model_version, run_id from {0}"
)
CURRENT = (
    "select current.customer_id, runs.run_id, current.last_seen_as_of, "
    "greatest(current.as_of, current.confirmed_as_of) as known_until "
    "from {0}__current as current inner join dbt_onnx_runs as runs using (run_no)"
)
INPUTS = (
    "select runs.run_id, inputs.customer_id, {1} from {0}__inputs as inputs "
    "inner join dbt_onnx_runs as runs using (run_no)"
)
RUNS = (
    "select run_id, status, scope, as_of, rows_in, rows_scored, rows_rejected, rows_unchanged, rows_new, "
    "rows_features_changed, rows_model_changed, rows_expired, rows_retry, rows_full_refresh, rows_inputs_kept "
    "from dbt_onnx_runs where scoring_model = '{0}'"
)
Row = tuple[Any, ...]


@dataclass
class Night:
    """The input of one run: its clock, feature rows, arguments and settings."""

    clock: str
    rows: Sequence[Row]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def entity(number: int, *, plus: float | None = 0.0, moment: str | None = "1998-01-01") -> Row:
    values = [float((number * (place + 3)) % 97) for place in range(len(NAMES))]
    values[0] = None if plus is None else values[0] + plus  # type: ignore[call-overload]
    when = None if moment is None else datetime.fromisoformat(moment)
    return (f"c{number:03}", when, *values)


def everybody(**changed: Any) -> list[Row]:
    """Return the rows of all entities. `changed` maps `c007` to arguments of `entity`, or to None if it is gone."""
    rows = []
    for number in range(ENTITIES):
        name = f"c{number:03}"
        if name not in changed:
            rows.append(entity(number))
        elif changed[name] is not None:
            rows.append(entity(number, **changed[name]))
    return rows


class OnDuckDB:
    kept = ", ".join(f"inputs.{name}" for name in NAMES)

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        columns = ", ".join(f"{name} double" for name in NAMES)
        self.connection.execute(
            f"create table features (customer_id varchar, described_at timestamp, {columns})"
        )
        self.connection.execute(
            "create table model_registry as select * from read_csv(?, all_varchar = true)",
            [str(ROOT / "seeds" / "model_registry.csv")],
        )

    def run(self, night: Night, run_id: str, name: str) -> RunSummary:
        self.connection.execute("delete from features")
        marks = ", ".join("?" * (2 + len(NAMES)))
        self.connection.executemany(f"insert into features values ({marks})", night.rows)
        return self.score(night, run_id, name)

    def score(self, night: Night, run_id: str, name: str) -> RunSummary:
        """Run on the features as they are now."""
        relations = {
            table: self.connection.query(f'select * from "memory"."main"."{table}"')
            for table in ("features", "model_registry")
        }
        return score_on_duckdb(
            *request_and_settings(night, run_id, name, relations, database="memory", schema="main"),
            connection=self.connection,
            artifacts=ROOT / "artifacts",
            log=print,
        )

    def rows(self, query: str) -> list[Row]:
        """Run a query. `<name>__current` has the presence columns that runs confirm, like the view on Spark."""
        return self.connection.execute(
            re.sub(r"(\w+)__current( as \w+)?", _current, query)
        ).fetchall()


def _current(found: re.Match[str]) -> str:
    name = TableName(database="memory", schema="main", identifier=found[1])
    shape = LedgerShape(key={"customer_id": "VARCHAR"}, outputs={})
    return select_current(LedgerTables(name), shape) + (found[2] or "")


class OnSpark:
    kept = ", ".join(f"inputs.inputs.{name}" for name in NAMES)

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        spark.sql("drop schema if exists lab cascade")
        spark.sql("create schema lab")
        spark.sql("use lab")
        columns = ", ".join(f"{name} string" for name in REGISTRY[0])
        rows = [tuple(row.values()) for row in REGISTRY]
        spark.createDataFrame(rows, columns).writeTo("lab.model_registry").using("iceberg").create()

    def write_features(self, night: Night) -> None:
        """Write the features of a night."""
        columns = ", ".join(f"{name} double" for name in NAMES)
        frame = self.spark.createDataFrame(
            list(night.rows), f"customer_id string, described_at timestamp_ntz, {columns}"
        )
        frame.writeTo("lab.features").using("iceberg").createOrReplace()

    def run(self, night: Night, run_id: str, name: str) -> RunSummary:
        self.write_features(night)
        return score(self.spark, night, run_id, name)

    def rows(self, query: str) -> list[Row]:
        return [tuple(row) for row in self.spark.sql(query).collect()]


def score(spark: SparkSession, night: Night, run_id: str, name: str) -> RunSummary:
    """Run on the features as they are now."""
    load = loader(spark)
    relations = {table: load(f"lab.{table}") for table in ("features", "model_registry")}
    return score_on_spark(
        *request_and_settings(night, run_id, name, relations, database="", schema="lab"),
        session=spark,
        artifacts=ROOT / "artifacts",
        log=print,
    )


def request_and_settings(
    night: Night, run_id: str, name: str, relations: Mapping[str, Any], **place: str
) -> tuple[Any, RunSettings]:
    arguments = {
        "features": relations["features"],
        "registry": relations["model_registry"],
        "model": "churn",
        "key": ["customer_id"],
        "as_of": None,
        "refresh_after": None,
        "keep_inputs": True,
        "significant_digits": 9,
        "max_rejected_fraction": 0.5,
        "batch_rows": None,
        "threads": None,
        **night.arguments,
    }
    settings = {"full_refresh": False, "empty": False, "retry_rejected": False, **night.settings}
    return check_request(arguments, {}), RunSettings(
        **place,
        identifier=name,
        run_id=run_id,
        clock_sql=f"timestamp '{night.clock}'",
        dbt_version="1.11",
        **settings,
    )


ORDINARY = [
    Night("1998-01-02", everybody()),
    Night("1998-01-03", everybody()),
    Night("1998-01-04", everybody(c007={"plus": 1})),
    Night("1998-01-05", everybody(c007={"plus": 1}, c003=None, c004=None)),
    Night("1998-01-06", everybody(c007={"plus": None}, c003=None)),
    Night("1998-01-07", everybody(c007={"plus": None}, c008={"plus": None})),
    Night(
        "1998-01-08",
        everybody(c007={"plus": 1}, c008={"plus": None}),
        settings={"retry_rejected": True},
    ),
    Night("1998-01-09", everybody(c008={"plus": None}, c003=None)),
    Night("1998-01-05", everybody(c009={"plus": 2}, c010=None)),
    Night("1998-01-10", everybody(), settings={"full_refresh": True}),
    Night("1998-01-11", everybody(), arguments={"model": "churn/1"}),
    Night("1998-01-12", everybody(c011={"plus": 3})),
]
WITH_MOMENTS = [
    Night("1998-02-01", everybody()),
    Night("1998-02-02", everybody(c001={"moment": "1998-02-01"}, c002={"plus": 1, "moment": "1998-02-01"})),
    Night("1998-02-03", everybody(c001={"plus": 4, "moment": "1998-01-20"}, c002={"plus": 1})),
    Night("1998-02-04", everybody(c001={"moment": None}, c002={"moment": "1998-02-03"})),
    Night("1998-02-05", everybody(c001={"moment": "1998-02-04"}, c002=None)),
]  # fmt: skip
WITH_EXPIRY = [
    Night("1998-03-01", everybody()),
    Night("1998-03-03", everybody(c005={"plus": 1})),
    Night("1998-03-08", everybody(c005={"plus": 1})),
    Night("1998-03-09", everybody(c005={"plus": 1})),
]
NULL_KEYS = [
    Night("1998-04-01", [*everybody(), (None, *entity(70)[1:])]),
    Night("1998-04-02", [*everybody(), (None, *entity(70)[1:]), (None, *entity(71)[1:])]),
]


def with_arguments(nights: Sequence[Night], **arguments: Any) -> list[Night]:
    return [
        Night(night.clock, night.rows, {**arguments, **night.arguments}, night.settings)
        for night in nights
    ]


SERIES = {
    "ordinary": ORDINARY,
    "moments of their own": with_arguments(WITH_MOMENTS, as_of="described_at"),
    "expiry": with_arguments(WITH_EXPIRY, refresh_after={"count": 7, "period": "day"}),
    "rows without a key": NULL_KEYS,
}


@pytest.mark.parametrize("series", SERIES)
def test_the_ledger_says_the_same_after_each_night(spark: SparkSession, series: str) -> None:
    on_duckdb, on_spark = OnDuckDB(), OnSpark(spark)
    for number, night in enumerate(SERIES[series]):
        said = [outcome(engine, night, f"run{number:02}") for engine in (on_duckdb, on_spark)]
        assert said[0] == said[1], (number, night.clock)
        for query in (LEDGER, CURRENT, INPUTS, RUNS):
            found = [
                sorted(each.rows(query.format("scores", each.kept)), key=repr)
                for each in (on_duckdb, on_spark)
            ]
            assert found[0] == found[1], (number, query)


def outcome(engine: OnDuckDB | OnSpark, night: Night, run_id: str) -> str:
    try:
        return str(engine.run(night, run_id, "scores"))
    except DbtOnnxError as error:
        return error.message


def test_features_that_are_others_at_each_reading_end_the_run(spark: SparkSession) -> None:
    lab = OnSpark(spark)
    lab.run(Night("1998-01-02", everybody()), "first", "scores")
    spark.sql("alter table lab.features rename to lab.facts")
    values = ", ".join(f"{name} + rand() as {name}" for name in NAMES)
    spark.sql(
        f"create view lab.features as select customer_id, described_at, {values} from lab.facts"
    )
    with pytest.raises(DbtOnnxError, match="each reading of the features gives different rows"):
        score(spark, Night("1998-01-03", ()), "second", "scores")
    assert lab.rows("select status from dbt_onnx_runs order by run_no") == [
        ("success",),
        ("error",),
    ]
    assert lab.rows("select distinct run_id from lab.scores") == [("first",)]


def test_another_file_of_a_version_that_has_scored_is_refused(spark: SparkSession) -> None:
    lab = OnSpark(spark)
    lab.run(ORDINARY[0], "first", "scores")
    spark.sql("update lab.dbt_onnx_runs set artifact_sha256 = repeat('0', 64)")
    with pytest.raises(ArtifactError, match="churn/2 is another file than in earlier runs"):
        lab.run(ORDINARY[1], "second", "scores")
    assert lab.rows("select distinct run_id from lab.scores") == [("first",)]


def test_features_that_change_before_they_are_scored_end_the_run(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, append = OnSpark(spark), writing.append_predictions
    lab.run(Night("1998-01-02", everybody()), "first", "scores")
    lab.write_features(changed := Night("1998-01-03", everybody(c007={"plus": 1})))

    def append_of_others(*arguments: Any) -> None:
        lab.write_features(Night("1998-01-03", everybody(c007={"plus": 2})))
        append(*arguments)

    monkeypatch.setattr(writing, "append_predictions", append_of_others)
    with pytest.raises(DbtOnnxError, match="rows"):
        score(spark, changed, "second", "scores")
    assert lab.rows("select distinct run_id from lab.scores") == [("first",)]
