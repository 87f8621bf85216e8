"""The commands print the same for a project on Spark as for the same project on DuckDB."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
import yaml
from click.testing import CliRunner
from dbt.cli.main import dbtRunner
from test_nights import ENTITIES, NAMES, ORDINARY, REGISTRY, OnSpark

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.cli import main
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.spark.warehouse import SparkWarehouse
from dbt_onnx.project.dbt_project import DbtProject
from dbt_onnx.reporting.gather import gather
from dbt_onnx.reporting.page import page_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]
CUSTOMERS = 30
SCHEMA = "shop"
SCRATCH = "shop__backfill_scores"
# the features of a third of the customers change each month; every fifth customer has a NULL feature
FEATURES = ", ".join(
    f"cast(mod(number * {place + 3}, 97) + case when mod(number, 3) = {place % 3} then "
    f"month({{{{ dbt_onnx.clock() }}}}) else 0 end as double) as {name}"
    for place, name in enumerate(NAMES[1:])
)
FILES = {
    "dbt_project.yml": """
        name: consumer
        version: "1.0"
        profile: consumer
        flags: {send_anonymous_usage_stats: false}
        seeds: {+file_format: iceberg, +column_types: {model_version: string}}
        models: {+file_format: iceberg}
    """,
    "packages.yml": f"packages: [{{local: {ROOT}}}]",
    "seeds/customers.csv": "customer_id,number,since\n"
    + "".join(f"c{n:02},{n},{n % 20}\n" for n in range(CUSTOMERS)),
    "models/arrived.sql": """
        {{ config(materialized='view') }}
        select * from {{ ref('customers') }}
        where since <= 12 * (year({{ dbt_onnx.clock() }}) - 1997) + month({{ dbt_onnx.clock() }})
        {% if var('twice', false) %} union all select * from {{ ref('customers') }} {% endif %}
    """,
    "models/features.sql": "{{ config(materialized='table') }}\n"
    "select customer_id, {{ dbt_onnx.clock() }} as described_at, "
    f"case when mod(number, 5) <> 1 then cast(number as double) end as {NAMES[0]}, {FEATURES} "
    "from {{ ref('arrived') }}",
    "models/scores.py": """
from dbt_onnx import score

def model(dbt, session):
    dbt.config(materialized="predictions")
    return score(
        dbt,
        session,
        features=dbt.ref("features"),
        registry=dbt.ref("model_registry"),
        model="churn",
        key=["customer_id"],
        as_of="described_at",
        max_rejected_fraction=0.5,
    )
""",
}
LEDGER = (
    "select customer_id, cast(as_of as string), is_churn, churn_probability, status, rejected_reason, "
    "score_reason, is_late, model_name, model_version from {}scores"
)


@dataclass
class Shop:
    """A dbt project, with methods to build it and to run commands on it."""

    root: Path

    @property
    def options(self) -> list[str]:
        return ["--project-dir", str(self.root), "--profiles-dir", str(self.root)]

    def build(self, clock: str, **variables: Any) -> bool:
        given = yaml.safe_dump({"dbt_onnx_clock": clock, **variables}, default_flow_style=True)
        done = dbtRunner().invoke(["build", "--quiet", "--vars", given, *self.options])
        return bool(done.success)

    def command(self, *arguments: str, exit_code: int = 0) -> str:
        options = self.options[:2] if arguments[0] == "rollback" else self.options
        done = CliRunner().invoke(main, [*arguments, *options], env={"COLUMNS": "250"})
        assert done.exit_code == exit_code, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.output

    def printed(self, *arguments: str, exit_code: int = 0) -> str:
        """Run a command, and replace all text in its output that differs between the projects: ids, hashes, times."""
        text = self.command(*arguments, exit_code=exit_code)
        for pattern, name in (
            (r"[0-9a-f]{8}-[0-9a-f-]{27}", "RUN"),
            (r"\b[0-9a-f]{8}\b", "RUN"),
            (r"20\d\d-\d\d-\d\d \d\d:\d\d(:\d\d(\.\d+)?)?", "NOW"),
            (r"in \d+\.\d s", "in SECONDS"),
            (r"\d+ of \d+, .* left", "LEFT"),
            (r"main\.|shop\.", ""),
            # the examples of repeated keys: each engine lists the five that it finds first
            (r"\{'customer_id': '\w+'\} 2 times(; )?", "KEY"),
            (r"[ ─━┄╴│┃]+", " "),
        ):
            text = re.sub(pattern, name, text)
        return text

    def rows(self, spark: SparkSession, query: str) -> list[tuple[Any, ...]]:
        """Return the sorted rows of a query that is valid on both engines."""
        if (path := self.root / "w.duckdb").exists():
            with duckdb.connect(str(path)) as connection:
                found = connection.execute(query.format("main.")).fetchall()
        else:
            found = [tuple(row) for row in spark.sql(query.format(f"{SCHEMA}.")).collect()]
        return sorted(found, key=repr)


def shop(root: Path, target: dict[str, Any]) -> Shop:
    profile = {"consumer": {"target": "dev", "outputs": {"dev": target}}}
    for name, text in {**FILES, "profiles.yml": yaml.safe_dump(profile)}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    shutil.copy(ROOT / "seeds" / "model_registry.csv", root / "seeds")
    shutil.copytree(ROOT / "artifacts", root / "artifacts")
    made = Shop(root)
    assert dbtRunner().invoke(["deps", "--quiet", *made.options]).success
    return made


Shops = tuple[Shop, Shop]


@pytest.fixture(scope="module")
def shops(
    tmp_path_factory: pytest.TempPathFactory, parameters: dict[str, str], spark: SparkSession
) -> Shops:
    """Projects on DuckDB and on Spark that have run the same nights. One of the nights has failed."""
    spark.sql(f"drop schema if exists {SCHEMA} cascade")
    folder = tmp_path_factory.mktemp("shops")
    on_spark = {"type": "sparkonnx", "schema": SCHEMA, "server_side_parameters": parameters}
    made = (
        shop(folder / "duckdb", {"type": "duckdb", "path": str(folder / "duckdb" / "w.duckdb")}),
        shop(folder / "spark", on_spark),
    )
    for each in made:
        assert each.build("1998-01-05")
        assert each.build("1998-02-05")
        assert not each.build("1998-02-06", twice=True)
        assert each.build("1998-03-05")
    return made


def same(shops: Shops, *arguments: str, exit_code: int = 0) -> str:
    on_duckdb, on_spark = (each.printed(*arguments, exit_code=exit_code) for each in shops)
    assert on_spark == on_duckdb
    return on_spark


def test_runs_history_and_replay_print_the_same(shops: Shops) -> None:
    printed = same(shops, "runs")
    assert printed.count("success") == 3
    assert "is not unique" in printed
    printed = same(shops, "history", "scores", "c03")
    assert printed.count("churn/2") == 3
    assert "month" not in printed
    assert same(shops, "replay", "scores").count("different 0 ok") == 1
    printed = same(shops, "replay", "scores", "--all")
    assert printed.count("different 0 ok") == 3
    assert "match the records of the runs" in printed
    assert "rows 5 of" in same(shops, "replay", "scores", "--sample", "5")
    for wrong in (("history", "scores", "c99"), ("history", "scores", "1", "2")):
        same(shops, *wrong, exit_code=2)
    same(shops, "replay", "scores", "--run", "nothing", exit_code=2)


@contextmanager
def altered(spark: SparkSession, table: str, statement: str) -> Iterator[None]:
    """Within the context, an Iceberg table is altered; afterwards, it is rolled back."""
    [(before,)] = spark.sql(f"select snapshot_id from {table}.refs where name = 'main'").collect()
    spark.sql(statement.format(table))
    try:
        yield
    finally:
        spark.sql(f"call spark_catalog.system.rollback_to_snapshot('{table}', {before})")


ROWS, RUNS = f"{SCHEMA}.scores__rows", f"{SCHEMA}.dbt_onnx_runs"
ALTERED = {
    "a row of the ledger": (
        ROWS,
        "update {} set churn_probability = 0.75 where customer_id = 'c03'",
        ("ledger: the fingerprint of the rows", "prediction: customer_id=c03 churn_probability"),
    ),
    "a kept input": (
        ROWS,
        "update {} set inputs.cds = inputs.cds + 1 where customer_id = 'c03'",
        ("inputs: customer_id=c03: other inputs, or another features_hash",),
    ),
    "the last digits of a kept input, which count for no change": (
        ROWS,
        "update {} set inputs.cds = inputs.cds + 1e-9 where customer_id = 'c03'",
        ("inputs: the fingerprint of the kept inputs is",),
    ),
    "a row that is gone": (
        ROWS,
        "delete from {} where customer_id = 'c03'",
        ("ledger: run", "inputs: run"),
    ),
    "a run row": (
        RUNS,
        "update {} set threads = 7 where run_no = 1",
        ("runs: run 1: the run row was altered",),
    ),
}


def test_status_says_the_same(shops: Shops) -> None:
    clock = ("--vars", "{dbt_onnx_clock: '1998-03-09'}")
    # rejected entities have no prediction, and all other predictions are four days old
    printed = same(shops, "status", *clock, exit_code=1)
    assert "degraded" in printed
    assert "21 of 26 entities stale, the oldest 4 days" in printed
    same(shops, "status", "scores", *clock, "--stale-after", "1w", exit_code=1)


def test_a_report_says_the_same(shops: Shops) -> None:
    read = []
    for each in shops:
        variables = {"dbt_onnx_clock": "1998-03-09"}
        project = DbtProject(each.root, profiles_dir=each.root, variables=variables)
        facts = gather(project, None, stale_after=timedelta(days=2))
        [model] = facts.models
        assert [*facts.faults, *model.faults] == []
        page = page_of(facts)
        assert page.count("<svg") > 5
        read.append(model)
    on_duckdb, on_spark = read
    assert len(on_spark.runs) == len(on_duckdb.runs) == 4
    for attribute in ("outputs", "ages", "tests", "features"):
        assert same_numbers(getattr(on_spark, attribute), getattr(on_duckdb, attribute)), attribute
    assert on_spark.outputs and on_spark.ages and on_spark.features


def same_numbers(left: Any, right: Any) -> bool:
    """Whether two lists of rows are the same, in any order; the sums of floats have another order on Spark."""

    def rounded(rows: Any) -> list[str]:
        return sorted(
            repr(sorted((k, round(v, 9) if isinstance(v, float) else v) for k, v in row.items()))
            for row in rows
        )

    return rounded(left) == rounded(right)


@pytest.mark.parametrize("what", ALTERED)
def test_what_was_altered_is_found(shops: Shops, spark: SparkSession, what: str) -> None:
    table, statement, expected = ALTERED[what]
    with altered(spark, table, statement):
        printed = shops[1].command("replay", "scores", exit_code=1)
    assert [words for words in expected if words not in printed] == []


def test_a_replaced_view_is_found(shops: Shops, spark: SparkSession) -> None:
    warehouse = SparkWarehouse(spark)
    ledger = TableName(database="", schema=SCHEMA, identifier="scores")
    assert warehouse.prove(ledger, with_values=True) == []
    columns = ", ".join(
        "1 - churn_probability as churn_probability" if name == "churn_probability" else name
        for name in spark.table(f"{SCHEMA}.scores__current").columns
    )
    [text] = [
        row.data_type
        for row in spark.sql(f"describe extended {SCHEMA}.scores__current").collect()
        if row.col_name == "View Text"
    ]
    spark.sql(f"drop view {SCHEMA}.scores__current")
    spark.sql(f"create view {SCHEMA}.scores__current as select {columns} from ({text})")
    findings = warehouse.prove(ledger, with_values=True)
    assert [str(finding) for finding in findings] == [
        f"ledger: the view {SCHEMA}.scores__current returns other rows, not the rows of its tables"
    ]
    # the next run creates the view again; both projects run, since other tests compare their runs
    assert all(each.build("1998-03-05") for each in shops)
    assert warehouse.prove(ledger, with_values=True) == []


def test_what_was_fed_is_kept_of_who_leaves(spark: SparkSession) -> None:
    lab = OnSpark(spark)
    for number, night in enumerate(ORDINARY[2:5]):
        lab.run(night, f"run{number}", "scores")
    warehouse = SparkWarehouse(spark)
    ledger = TableName(database="", schema="lab", identifier="scores")
    assert warehouse.prove(ledger, with_values=True) == []
    replayed = warehouse.replay(
        ledger,
        "run0",
        registry=Registry.from_rows(REGISTRY, where="model_registry"),
        artifacts=ROOT / "artifacts",
    )
    assert (replayed.identical, replayed.findings) == (ENTITIES, [])


def test_a_backfill_says_what_it_says_on_duckdb(shops: Shops, spark: SparkSession) -> None:
    months = ("--from", "1997-09-05", "--to", "1997-11-05", "--every", "month")
    clock = ("--vars", "{dbt_onnx_clock: '1998-03-05'}")
    before = [each.rows(spark, "select * from {}features") for each in shops]
    same(shops, "backfill", "scores", *months, *clock, "--dry-run")
    printed = same(shops, "backfill", "scores", *months, *clock)
    assert "3 slices run" in printed
    assert "nothing to do" in same(shops, "backfill", "scores", *months, *clock)
    assert [each.rows(spark, "select * from {}features") for each in shops] == before
    on_duckdb, on_spark = (each.rows(spark, LEDGER) for each in shops)
    assert on_spark == on_duckdb
    assert sum(row[1].startswith("1997") for row in on_spark) > CUSTOMERS
    assert not spark.catalog.databaseExists(SCRATCH)


def test_a_schema_of_somebody_else_is_left_alone(shops: Shops, spark: SparkSession) -> None:
    spark.sql(f"create schema {SCRATCH}")
    spark.sql(f"create table {SCRATCH}.own (a int) using iceberg")
    slice_of_july = ("--from", "1997-07-05", "--to", "1997-07-05", "--every", "month")
    clock = ("--vars", "{dbt_onnx_clock: '1998-03-05'}")
    printed = shops[1].command("backfill", "scores", *slice_of_july, *clock, exit_code=1)
    assert "does not belong to a dbt_onnx backfill" in " ".join(printed.split())
    assert spark.catalog.tableExists(f"{SCRATCH}.own")
    spark.sql(f"create table {SCRATCH}.dbt_onnx_backfill using iceberg as select 'arrived' as name")
    printed = shops[1].command("backfill", "scores", *slice_of_july, *clock, exit_code=1)
    assert "is used by backfills, but contains other objects" in " ".join(printed.split())
    assert spark.catalog.tableExists(f"{SCRATCH}.own")
    spark.sql(f"drop schema {SCRATCH} cascade")


def test_a_promotion_and_a_rollback(shops: Shops, spark: SparkSession) -> None:
    refused = same(shops, "promote", "churn/1", exit_code=1)
    assert "contract: scores" in refused
    overridden = same(shops, "promote", "churn/1", "--override", "a trial")
    assert "churn/1 is champion" in overridden
    for each in shops:
        assert each.build("1998-03-06")
    same(shops, "rollback", "churn", "--reason", "the trial is over")
    for each in shops:
        assert each.build("1998-03-07")
    on_duckdb, on_spark = (each.rows(spark, LEDGER) for each in shops)
    assert on_spark == on_duckdb
    assert {row[-1] for row in on_spark} == {"1", "2"}
    assert same(shops, "runs").count("churn/1") == 1
    assert "different 0 ok" in same(shops, "replay", "scores", "--all")
