"""The macros and generic tests of the package return the same rows on Spark as on DuckDB.

One project is built on both engines for three nights, with a promotion, a rejection, a departure, an entity whose
as_of never moves, and an entity that is never scored. It has a model for each macro, and for each argument that
changes a macro's SQL. The tests compare the rows of these models, and the findings of each generic test.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
import yaml
from dbt.cli.main import dbtRunner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]
SCHEMA = "macros"
NIGHTS = {1: "1998-04-01", 2: "1998-04-02", 3: "1998-04-03"}
CLOCK = "1998-04-04"
# a clock after all predictions, when all outcomes are known
LATER = "2199-01-02"
NAMES = (
    "recency_weeks", "frequency", "active_weeks", "monetary", "average_purchase", "largest_purchase", "cds",
    "purchases_13w", "dollars_13w", "cds_13w",
)  # fmt: skip
# columns that differ between any two projects: times of runs, ids, and hashes by different functions
OF_THE_RUN = {
    "scored_at", "run_id", "features_hash", "rejected_at", "last_good_run_id", "last_good_run_at", "last_run_id",
    "last_run_at", "tested_at",
}  # fmt: skip
# the engines add numbers in different orders
TOLERANCE = 1e-12


def scoring_model(model: str, *, with_moment: bool) -> str:
    moment = 'as_of="described_at", ' if with_moment else ""
    return f"""
        from dbt_onnx import score

        def model(dbt, session):
            dbt.config(materialized="predictions")
            return score(
                dbt, session, features=dbt.ref("features"), registry=dbt.ref("registry"), model="{model}",
                key=["customer_id"], {moment}max_rejected_fraction=0.2,
            )
    """


FEATURES = ",\n".join(
    f"cast((id * {place + 3}) % 97 + case when id % 10 = {{{{ night }}}} then {{{{ night }}}} else 0 end as double) "
    f"as {name}"
    for place, name in enumerate(NAMES[1:], 1)
)
FILES = {
    "packages.yml": f"packages: [{{local: {ROOT}}}]",
    "models/features.sql": f"""
        {{{{ config(materialized='table') }}}}
        {{% set night = var('night') %}}
        select
            concat('c', id) as customer_id,
            cast(case when id = 9 then '1998-03-20' else '{{{{ var('dbt_onnx_clock') }}}}' end as date) as described_at,
            case when id = 5 and {{{{ night }}}} >= 2 then null else cast((id * 3) % 97 as double) end as recency_weeks,
            {FEATURES}
        from range(120) as given(id)
        where not (id = 7 and {{{{ night }}}} >= 2)
    """,
    "models/registry.sql": """
        {{ config(materialized='table') }}
        {% set champion = '1' if var('night') < 3 else '2' %}
        select
            model_name, model_version,
            case when model_name = 'spend' or model_version = '{{ champion }}' then 'champion' else 'challenger' end as alias,
            artifact, sha256, card_sha256
        from {{ ref('model_registry') }}
    """,
    "models/customers.sql": """
        {{ config(materialized='table') }}
        select
            concat('c', id) as customer_id,
            case when id % 3 = 0 then 'DK' when id % 3 = 1 then 'SE' end as country,
            cast(case when id >= 100 then '1998-04-03' else '1998-01-01' end as date) as signed_up_at
        from range(110) as given(id)
        union all select 'c900', 'NO', cast('1998-04-03' as date)
        union all select 'c901', null, cast('1998-02-01' as date)
        union all select cast(null as {{ dbt.type_string() }}), 'NO', cast('1998-02-01' as date)
    """,
    "models/outcomes.sql": """
        {{ config(materialized='table') }}
        select
            concat('c', id) as customer_id,
            (id * 7) % 5 < 2 as churned,
            cast((id * 7) % 5 as double) as spent,
            cast(case when id % 2 = 0 then '1998-04-02' else '1998-04-03' end as date) as as_of,
            cast(case when id % 4 = 3 then '1998-04-04' else '2199-01-01' end as date) as known_at
        from range(100) as given(id)
    """,
    "models/scores.py": scoring_model("churn", with_moment=True),
    "models/challenger.py": scoring_model("churn/1", with_moment=True),
    "models/spend.py": scoring_model("spend", with_moment=False),
}
KEY = "key=['customer_id']"
REGISTRY = "registry=ref('registry')"
SERVED = f"ref('scores'), {REGISTRY}, {KEY}"
PAIR = f"ref('scores'), ref('challenger'), {KEY}"
JUDGED = f"ref('scores'), ref('outcomes'), {KEY}, column='churn_probability', outcome='churned', known_at='known_at'"
MODELS = {
    "served": f"current_predictions({SERVED})",
    "served_to_entities": f"current_predictions({SERVED}, entities=ref('customers'), stale_after=none)",
    "served_spend": f"current_predictions(ref('spend'), {REGISTRY}, {KEY}, stale_after={{'count': 1, 'period': 'week'}})",
    "served_with_fallback": f"current_predictions({SERVED}, entities=ref('customers'), fallback={{"
    "'allow_stale': {'count': 3, 'period': 'day'}, 'segment': ['country'], 'min_segment_size': 5, "
    "'constant': {'churn_probability': 0.5, 'is_churn': 1}})",
    "averages": f"segment_averages({SERVED}, entities=ref('customers'), segment=['country'], min_segment_size=2)",
    "served_with_averages": f"current_predictions({SERVED}, entities=ref('customers'), fallback={{"
    "'segment': ['country'], 'segment_averages': ref('averages'), 'constant': {'is_churn': 0}})",
    "lacking": f"missing_predictions(ref('scores'), ref('customers'), {KEY})",
    "lacking_by_registry": f"missing_predictions(ref('scores'), ref('customers'), {KEY}, {REGISTRY}, "
    "entity_since='signed_up_at')",
    "as_of_a_day": f"predictions_as_of(ref('scores'), {KEY}, about='1998-04-02 12:00+02:00')",
    "as_of_what_was_said": f"predictions_as_of(ref('scores'), {KEY}, said_at='2199-01-01', about='1998-04-03')",
    "compared": f"compare_predictions({PAIR}, column='churn_probability', threshold=0.5)",
    "compared_labels": f"compare_predictions({PAIR}, column='is_churn')",
    "compared_about": f"compare_predictions({PAIR}, column='churn_probability', about='1998-04-03')",
    "compared_versions": f"compare_predictions(ref('scores'), ref('scores'), {KEY}, column='churn_probability', "
    "champion_version='1', challenger_version='2', about='1998-04-03')",
    "movers": f"prediction_movers({PAIR}, column='churn_probability', limit=7)",
    "all_movers": f"prediction_movers({PAIR}, column='churn_probability', limit=none, about='1998-04-03')",
    "judged": f"prediction_outcomes({JUDGED}, made_at='as_of', as_of='as_of')",
    "judged_in_time": f"prediction_outcomes({JUDGED}, as_of='as_of')",
    "judged_without_moment": f"prediction_outcomes({JUDGED})",
    "judged_version": f"prediction_outcomes({JUDGED}, as_of='as_of', version='1')",
    "judged_spend": f"prediction_outcomes(ref('spend'), ref('outcomes'), {KEY}, column='expected_spend', "
    "outcome='spent', known_at='known_at', task='regression')",
    "calibrated": f"prediction_calibration({JUDGED}, as_of='as_of', bins=5)",
    "calibrated_at_once": f"prediction_calibration({JUDGED}, bins=1)",
    "health": f"prediction_health({SERVED}) }}}} union all {{{{ dbt_onnx.prediction_health(ref('spend'), {REGISTRY}, {KEY})",
    "health_of_view": f"prediction_health({SERVED}, view=ref('served_with_fallback'))",
}
# models that need the clock LATER, since they look at all predictions
OF_LATER = (
    "judged_in_time",
    "judged_without_moment",
    "judged_version",
    "judged_spend",
    "calibrated",
    "calibrated_at_once",
)
# models that are tables, as users materialize them
AS_TABLES = ("averages", "health", "health_of_view")


def claim(kind: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {f"dbt_onnx.{kind}": {"name": name, "arguments": arguments}}


ENTITIES = "ref('customers')"
DAY = {"count": 1, "period": "day"}
WEEK = {"count": 1, "period": "week"}
TESTS = {
    "scores": [
        claim("predictions_are_fresh", "fresh", key=["customer_id"], error_after=WEEK),
        claim("predictions_are_fresh", "not_fresh", key=["customer_id"], warn_after={"count": 20, "period": "hour"},
              error_after={"count": 5, "period": "day"}, registry="ref('registry')", entities=ENTITIES),
        claim("predictions_are_complete", "complete", key=["customer_id"], entities=ENTITIES,
              max_missing_fraction=0.5, max_unknown_fraction=0.5),
        claim("predictions_are_complete", "not_complete", key=["customer_id"], entities=ENTITIES),
        claim("predictions_are_complete", "not_complete_in_time", key=["customer_id"], entities=ENTITIES,
              registry="ref('registry')", grace={"count": 2, "period": "day"}, entity_since="signed_up_at"),
        claim("predictions_are_valid", "valid", key=["customer_id"], column="churn_probability", min=0, max=1),
        claim("predictions_are_valid", "not_valid", key=["customer_id"], column="churn_probability", max=0.5,
              max_rejected_fraction=0.001, constant_from_rows=2),
        claim("predictions_are_valid", "valid_in_all_columns", key=["customer_id"]),
        claim("predictions_match_registry", "registered", key=["customer_id"], registry="ref('registry')",
              max_earlier_fraction=0.5),
        claim("predictions_match_registry", "not_registered", key=["customer_id"], registry="ref('registry')"),
        claim("predictions_match_baseline", "as_in_training", column="churn_probability", min_rows=100000),
        claim("predictions_match_baseline", "not_as_in_training", column="churn_probability", min_rows=50),
        claim("predictions_match_baseline", "labels_not_as_in_training", column="is_churn", min_rows=50,
              warn_psi=0.0001, max_label_share=0.1),
        claim("features_match_training", "features_as_in_training", features="ref('features')", min_rows=100000),
        claim("features_match_training", "features_not_as_in_training", features="ref('features')", min_rows=50,
              max_null_increase=0.001),
        claim("predictions_replay", "replays", registry="ref('registry')"),
    ],
    # the version of this model has a previous run
    "challenger": [
        claim("predictions_match_baseline", "not_as_before", column="churn_probability", baseline="previous_run",
              min_rows=50, warn_psi=0.00001),
        claim("predictions_match_baseline", "labels_not_as_before", column="is_churn", baseline="previous_run",
              min_rows=50, warn_psi=0.00001),
    ],
}  # fmt: skip


@dataclass
class Project:
    """A dbt project in a folder, with the files that both engines share."""

    root: Path
    tests: dict[str, Any] = field(default_factory=dict)

    def write(self, target: Mapping[str, Any], **settings: Any) -> None:
        profile = {"consumer": {"target": "dev", "outputs": {"dev": dict(target)}}}
        project = {
            "name": "consumer",
            "version": "1.0",
            "profile": "consumer",
            "flags": {
                "send_anonymous_usage_stats": False,
                "require_generic_test_arguments_property": True,
            },
            "on-run-end": "{{ dbt_onnx.record_test_results(results) }}",
            **settings,
        }
        tested = [{"name": name, "data_tests": tests} for name, tests in TESTS.items()]
        written = {
            **FILES,
            **{
                f"models/told/{name}.sql": f"{{{{ config(materialized='{kind}') }}}}\n{{{{ dbt_onnx.{call} }}}}"
                for name, call in MODELS.items()
                for kind in ["table" if name in AS_TABLES else "view"]
            },
            "profiles.yml": yaml.safe_dump(profile),
            "dbt_project.yml": yaml.safe_dump(project),
            "models/tests.yml": yaml.safe_dump({"models": tested}),
        }
        for name, text in written.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        (self.root / "seeds").mkdir(exist_ok=True)
        shutil.copy(ROOT / "seeds" / "model_registry.csv", self.root / "seeds")
        shutil.copytree(ROOT / "artifacts", self.root / "artifacts", dirs_exist_ok=True)
        assert self.dbt("deps").success

    def dbt(self, *arguments: str, night: int = 3, clock: str = CLOCK) -> Any:
        options = ["--project-dir", str(self.root), "--profiles-dir", str(self.root)]
        if arguments[0] != "deps":
            options += ["--vars", yaml.safe_dump({"night": night, "dbt_onnx_clock": clock})]
        return dbtRunner().invoke([arguments[0], "--quiet", *arguments[1:], *options])

    def play(self) -> None:
        """Run all nights, then the generic tests, then the models of the macros."""
        for night, clock in NIGHTS.items():
            chosen = ["+scores", "+challenger", *(["+spend"] if night == 3 else [])]
            self.run("run" if night > 1 else "build", "--select", *chosen, "--exclude", "test_type:data",
                     night=night, clock=clock)  # fmt: skip
        self.run("run", "--select", "customers", "outcomes")
        self.tests = {
            result.node.name: result for result in self.dbt("test", "--threads", "2").result
        }
        self.run("run", "--threads", "2", "--select", "path:models/told", "--exclude", *OF_LATER)
        self.run("run", "--threads", "2", "--select", *OF_LATER, clock=LATER)

    def run(self, *arguments: str, **given: Any) -> None:
        done = self.dbt(*arguments, **given)
        results = getattr(done.result, "results", None) or []
        said = [(r.node.name, r.message) for r in results if r.status not in {"success", "pass"}]
        assert done.success, (done.exception, said)


def as_on_spark(value: Any) -> Any:
    """Convert a value of DuckDB to Spark's: durations are seconds there, because Iceberg cannot store intervals."""
    return value.total_seconds() if isinstance(value, timedelta) else value


class OnDuckDB(Project):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.warehouse = root.parent / "warehouse.duckdb"
        self.write({"type": "duckdb", "path": str(self.warehouse), "schema": SCHEMA, "threads": 1,
                    "plugins": [{"module": "dbt_onnx.replay_plugin"}]})  # fmt: skip

    def rows(self, query: str) -> list[dict[str, Any]]:
        with duckdb.connect(str(self.warehouse)) as connection:
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description or []]
            rows = [[as_on_spark(value) for value in row] for row in cursor.fetchall()]
            return [dict(zip(names, row, strict=True)) for row in rows]


class OnSpark(Project):
    def __init__(self, root: Path, spark: SparkSession, parameters: Mapping[str, str]) -> None:
        super().__init__(root)
        self.spark = spark
        spark.sql(f"drop schema if exists {SCHEMA} cascade")
        target = {"type": "sparkonnx", "schema": SCHEMA, "threads": 1}
        self.write(
            {**target, "server_side_parameters": dict(parameters)},
            seeds={"+file_format": "iceberg", "+column_types": {"model_version": "string"}},
            models={"+file_format": "iceberg"},
        )

    def rows(self, query: str) -> list[dict[str, Any]]:
        return [row.asDict(recursive=True) for row in self.spark.sql(query).collect()]


def alike(left: Any, right: Any) -> bool:
    if isinstance(left, float | Decimal) and isinstance(right, float | Decimal):
        return math.isclose(float(left), float(right), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(alike(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(alike, left, right))
    return bool(left == right)


def differences(left: Sequence[dict[str, Any]], right: Sequence[dict[str, Any]]) -> list[str]:
    """Return the differences between two lists of rows in any order. Empty if the rows are equal."""

    def order(row: dict[str, Any]) -> str:
        return repr(
            [
                f"{v:.6g}" if isinstance(v, float) else v
                for k, v in row.items()
                if k not in OF_THE_RUN
            ]
        )

    found = [] if len(left) == len(right) else [f"{len(left)} rows and {len(right)}"]
    for ours, theirs in zip(sorted(left, key=order), sorted(right, key=order), strict=False):
        if list(ours) != list(theirs):
            return [f"columns {list(ours)} and {list(theirs)}"]
        for name in ours:
            if name not in OF_THE_RUN and not alike(ours[name], theirs[name]):
                found.append(f"{name}: {ours[name]!r} and {theirs[name]!r} in {ours}")
    return found


@pytest.fixture(scope="module")
def engines(
    tmp_path_factory: pytest.TempPathFactory, parameters: dict[str, str], spark: SparkSession
) -> tuple[OnDuckDB, OnSpark]:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "duckdb").mkdir()
    duck = OnDuckDB(folder / "duckdb" / "project")
    duck.play()
    on_spark = OnSpark(folder / "spark", spark, parameters)
    on_spark.play()
    return duck, on_spark


@pytest.mark.parametrize("name", MODELS)
def test_a_macro_returns_the_same_rows(engines: tuple[OnDuckDB, OnSpark], name: str) -> None:
    duck, on_spark = (engine.rows(f"select * from {SCHEMA}.{name}") for engine in engines)
    assert len(duck) > 0 or name == "judged_in_time"
    assert differences(duck, on_spark) == []


CLAIMED = [next(iter(test.values()))["name"] for tests in TESTS.values() for test in tests]
FAILING = [name for name in CLAIMED if name.startswith("not") or "_not_" in name]


@pytest.mark.parametrize("name", [name for name in CLAIMED if name != "replays"])
def test_a_generic_test_finds_the_same(engines: tuple[OnDuckDB, OnSpark], name: str) -> None:
    results = [engine.tests[name] for engine in engines]
    assert results[0].failures == results[1].failures, results[1].message
    assert results[0].status == results[1].status
    assert (results[0].failures > 0) == (name in FAILING)
    if name not in FAILING:
        return
    found = [
        engine.rows(result.node.compiled_code)
        for engine, result in zip(engines, results, strict=True)
    ]
    assert differences(*found) == []


def test_a_replay_finds_nothing(engines: tuple[OnDuckDB, OnSpark]) -> None:
    for engine in engines:
        assert engine.tests["replays"].status == "pass", engine.tests["replays"].message


def test_what_tests_said_is_recorded_alike(engines: tuple[OnDuckDB, OnSpark]) -> None:
    query = f"select scoring_model, test_name, generic_test, status, failures, clock from {SCHEMA}.dbt_onnx_test_results"
    duck, on_spark = (engine.rows(query) for engine in engines)
    assert len(duck) == len(CLAIMED)
    assert differences(duck, on_spark) == []


def test_arithmetic_that_fails_where_dbts_gives_null_changes_nothing(
    engines: tuple[OnDuckDB, OnSpark],
) -> None:
    duck, on_spark = engines
    setting = "spark.sql.ansi.enabled"
    before = on_spark.spark.conf.get(setting)
    on_spark.spark.conf.set(setting, "true")
    try:
        for name in ("served_with_fallback", "judged_without_moment"):
            code = (on_spark.root / f"target/compiled/consumer/models/told/{name}.sql").read_text()
            expected = duck.rows(f"select * from {SCHEMA}.{name}")
            assert differences(expected, on_spark.rows(code)) == [], name
        for name in ("not_fresh", "not_valid", "features_not_as_in_training"):
            expected = duck.rows(duck.tests[name].node.compiled_code)
            found = on_spark.rows(on_spark.tests[name].node.compiled_code)
            assert differences(expected, found) == [], name
    finally:
        on_spark.spark.conf.set(setting, before)
