"""A gate refuses if it could compare nothing; features that cannot be looked up by name are not scored."""

from __future__ import annotations

import csv
import json
import shutil
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from click.testing import CliRunner, Result
from scoring_project import ScoringProject
from warehouse import line_contract, line_model

from dbt_onnx.cli import main
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.runs.chain import fingerprint_of

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 30
UPSIDE_DOWN = line_model(a=-2.0)


class Shop(ScoringProject):
    """A project in which `scores` reads `features`, with `line/1` and a version that ranks the other way round."""

    def __init__(self, root: Path, **profile: Any) -> None:
        super().__init__(root, **profile)
        self.facts(ROWS)
        self.register("opposite", UPSIDE_DOWN, alias="")
        self.scoring_model("scores")
        self.dbt("deps")

    def call(self, command: str, *arguments: str) -> Result:
        where = ("--project-dir", str(self.root), "--profiles-dir", str(self.root))
        done = CliRunner().invoke(main, [command, *arguments, *where], env={"COLUMNS": "250"})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def recorded(self) -> list[tuple[str, str, str]]:
        path = self.root / "seeds" / "model_promotions.csv"
        if not path.exists():
            return []
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [(row["model_version"], row["gate"], row["reason"]) for row in rows]

    def refused(self, *arguments: str) -> str:
        """Return the message with which `promote` refuses; checks that it changes nothing."""
        before = (self.root / "seeds" / "model_registry.csv").read_bytes()
        done = self.call("promote", *arguments)
        assert done.exit_code == 1, done.output
        assert (self.root / "seeds" / "model_registry.csv").read_bytes() == before
        assert self.recorded() == []
        return done.stderr


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.mark.parametrize(
    ("features", "shown"),
    [
        ('dbt.ref("features").filter("b > 0")', "WHERE (b > 0"),
        ('dbt.ref("features").limit(5)', "LIMIT 5"),
        ('session.query("select * from features where a > 3")', "where a > 3"),
        ("""session.sql('select * from "warehouse"."main"."features" where a > 3')""", "a > 3"),
        ('session.table("features")', 'FROM "features"'),
        pytest.param('dbt.source("files", "outside")', "facts.csv", id="file"),
    ],
)
def test_features_that_are_no_relation_by_name_are_refused_before_anything_is_written(
    shop: Shop, features: str, shown: str
) -> None:
    (shop.root / "facts.csv").write_text("id,a,b\n1,1,1\n")
    outside = {"name": "outside", "meta": {"external_location": f"{shop.root}/facts.csv"}}
    shop.write_yaml("models/files.yml", {"sources": [{"name": "files", "tables": [outside]}]})
    assert shop.dbt("build", "-s", "features", "model_registry").success
    path = shop.root / "python_models" / "scores.py"
    path.write_text(path.read_text().replace('dbt.ref("features")', features))
    before = shop.relations()
    said = shop.dbt("run", "-s", "scores").nodes["scores"].message
    assert "configuration error: features is an expression or a file, not a table or view" in said
    assert shown in said
    assert "Hint: make it a model, and dbt.ref() that" in said
    assert shop.relations() == before


def test_a_registry_that_is_an_expression_is_refused(shop: Shop) -> None:
    path = shop.root / "python_models" / "scores.py"
    path.write_text(path.read_text().replace('"model_registry")', '"model_registry").limit(9)'))
    said = shop.dbt("build").nodes["scores"].message
    assert "configuration error: registry is an expression or a file" in said


def test_a_source_and_a_view_are_relations_by_name_also_in_a_dry_build(shop: Shop) -> None:
    path = shop.root / "python_models" / "scores.py"
    path.write_text(path.read_text().replace('ref("features")', 'source("shop", "facts")'))
    assert shop.dbt("build", "-s", "model_registry", "scores").success
    assert shop.dbt("run", "--empty", "-s", "scores").success
    assert shop.sql("select features_relation, rows_in from dbt_onnx_runs order by 2") == [
        ("main.facts", 0),
        ("main.facts", ROWS),
    ]
    assert "y ranks 30 rows differently from line/1" in shop.refused("line/opposite")
    assert shop.call("status").exit_code == 0


def rewrite_as_before(shop: Shop) -> None:
    """Write a run row like those of versions that allowed expressions, and the code that led to it."""
    shop.sql("update dbt_onnx_runs set features_relation = 'the feature relation'")
    with shop.connection() as connection:
        found = connection.execute("select * from dbt_onnx_runs")
        names = [column[0] for column in found.description]
        [row] = found.fetchall()
        fingerprint = fingerprint_of(dict(zip(names, row, strict=True)))
        connection.execute("update dbt_onnx_runs set fingerprint = $1", [fingerprint])
    path = shop.root / "python_models" / "scores.py"
    path.write_text(path.read_text().replace('"features")', '"features").filter("b > 0")'))


def test_a_gate_that_cannot_tell_what_is_read_does_not_pass(shop: Shop) -> None:
    assert shop.dbt("build").success
    rewrite_as_before(shop)
    said = " ".join(shop.refused("line/opposite").split())
    assert (
        "refused: nothing was compared with the champion line/1: scores: neither its code nor its "
        "runs show which features it reads" in said
    )
    assert "or promote with --override 'reason'" in said
    assert shop.call("promote", "line/opposite", "--override", "seen by eye").exit_code == 0
    [(version, gate, reason)] = shop.recorded()
    assert (version, gate) == ("opposite", "overridden")
    assert reason.startswith("seen by eye (despite comparison with line/1 nothing compared")


def test_status_says_what_to_do_about_a_run_that_named_no_relation(shop: Shop) -> None:
    assert shop.dbt("build").success
    code = (shop.root / "python_models" / "scores.py").read_text()
    rewrite_as_before(shop)
    done = shop.call("status")
    assert done.exit_code == 2
    assert "the last run read its features from an expression or a file" in done.stdout
    assert "make it a model, dbt.ref() it in score(), and run again" in done.stdout
    # a replay needs no features, and after the correction a run makes the model healthy
    assert shop.call("replay", "scores").exit_code == 0
    (shop.root / "python_models" / "scores.py").write_text(code)
    assert shop.dbt("run").success
    assert shop.call("status").exit_code == 0


def test_a_version_whose_file_was_replaced_after_it_had_scored_does_not_pass(shop: Shop) -> None:
    shop.promote("opposite")
    assert shop.dbt("build").success
    shutil.rmtree(shop.root / "artifacts" / "line" / "opposite")
    shop.entries = [entry for entry in shop.entries if entry["model_version"] != "opposite"]
    shop.register("opposite", line_model(a=3.0), alias="")
    shop.promote("1")
    assert "line/opposite is another file than in earlier runs" in shop.refused("line/opposite")


def test_a_first_champion_is_recorded_as_compared_with_nobody(shop: Shop) -> None:
    shop.promote("1", alias="")
    done = shop.call("promote", "line/1")
    assert done.exit_code == 0, done.output
    assert "no champion yet" in done.stdout
    assert "recorded as not_compared" in done.stdout
    assert shop.recorded() == [("1", "not_compared", "")]
    # once the project has been built, the next promotion is compared with its features
    assert shop.dbt("build").success
    done = shop.call("promote", "line/opposite")
    assert done.exit_code == 1
    assert "y ranks 30 rows differently from line/1" in done.stderr


def test_a_first_champion_needs_neither_warehouse_nor_features(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.promote("1", alias="")
    shop.warehouse.unlink()
    assert shop.call("promote", "line/1").exit_code == 0
    assert shop.recorded() == [("1", "not_compared", "")]


def test_a_second_version_before_the_first_build_is_not_compared_and_does_not_pass(
    shop: Shop,
) -> None:
    assert "main.features is not in the warehouse" in shop.refused("line/opposite")


def test_a_champion_that_no_scoring_model_asks_for_is_compared_with_nobody(shop: Shop) -> None:
    shop.scoring_model("scores", arguments="model='line/1'")
    assert shop.dbt("build").success
    said = shop.refused("line/opposite")
    assert "nothing was compared with the champion line/1" in said
    assert "no scoring model scores with the champion of 'line'" in said


def test_rows_that_the_champion_rejects_compare_nothing(shop: Shop) -> None:
    assert shop.dbt("build").success
    contract = line_contract()
    filled = Contract(
        features=tuple(Feature(name=n, null_policy="fill", fill=1.0) for n in ("a", "b")),
        inputs=contract.inputs,
        outputs=contract.outputs,
    )
    shop.register("filled", UPSIDE_DOWN, filled, alias="")
    shop.sql("update features set b = null")
    said = shop.refused("line/filled")
    assert (
        "fewer than two rows are scored by both versions: this version scores 30, the champion 0"
        in " ".join(said.split())
    )


def test_a_vector_is_not_compared_and_does_not_pass(shop: Shop) -> None:
    vector = Contract(
        features=(Feature(name="a"), Feature(name="b")),
        inputs=(Input(name="X", dtype="float32", features=("a", "b")),),
        outputs=(Output(name="y", kind="vector", dtype="float32", columns=("y",), width=1),),
    )
    shop.register("v1", line_model(), vector, name="vector")
    shop.register("v2", UPSIDE_DOWN, vector, name="vector", alias="")
    shop.scoring_model("vectors", arguments="model='vector'")
    assert shop.dbt("build").success
    assert "the versions have no number or label column in common" in shop.refused("vector/v2")


def test_two_versions_of_the_features_are_told_apart(shop: Shop) -> None:
    """`features.v1` is scored; v2, which another model reads, has different columns."""
    body = "{{ config(materialized='table') }} select * from {{ source('shop', 'facts') }}"
    (shop.root / "models" / "features.sql").unlink()
    shop.write("models/features_v1.sql", body)
    shop.write("models/features_v2.sql", body.replace("select *", "select id, a as b, b as a"))
    shop.write_yaml(
        "models/features.yml",
        {"models": [{"name": "features", "latest_version": 2, "versions": [{"v": 1}, {"v": 2}]}]},
    )
    path = shop.root / "python_models" / "scores.py"
    path.write_text(
        path.read_text()
        .replace('dbt.ref("features")', 'dbt.ref("features", v=1)')
        .replace("    return score(", '    dbt.ref("features", v=2)\n    return score(')
    )
    assert shop.dbt("build").success
    done = shop.call("promote", "line/opposite")
    assert "main.features_v1, 30 rows" in done.stdout


def as_of_a_text(shop: Shop) -> None:
    shop.scoring_model("scores", arguments="as_of='day'")
    shop.sql("create or replace table features as select *, '2024-01-01' as day from features")


def another_key(shop: Shop) -> None:
    shop.scoring_model("scores", arguments="key=['id', 'region']")
    shop.sql("create or replace table features as select *, 1 as region from features")
    for table in ("scores__current", "scores__history"):
        shop.sql(f"alter table {table} add column region integer")


def no_column_of_an_earlier_score(shop: Shop) -> None:
    for table in ("scores__current", "scores__history"):
        shop.sql(f"alter table {table} drop column y")


def runs_of_another_type(shop: Shop) -> None:
    shop.sql("alter table dbt_onnx_runs alter rows_in type varchar")


def no_current_table(shop: Shop) -> None:
    shop.sql("drop table scores__current")


def a_view_for_kept_inputs(shop: Shop) -> None:
    shop.sql("drop table scores__inputs; create view scores__inputs as select 1 as run_no")


def a_history_without_its_stamps(shop: Shop) -> None:
    shop.sql("alter table scores__history drop column is_late")


def no_such_as_of(shop: Shop) -> None:
    shop.scoring_model("scores", arguments="as_of='day'")


@pytest.mark.parametrize(
    "change",
    [
        as_of_a_text, no_such_as_of, another_key, no_column_of_an_earlier_score,
        runs_of_another_type, no_current_table, a_view_for_kept_inputs, a_history_without_its_stamps,
    ],
)  # fmt: skip
def test_what_would_stop_the_next_run_stops_the_gate_in_the_same_words(
    shop: Shop, change: Any
) -> None:
    shop.register("same", line_model(), alias="")
    assert shop.dbt("build").success
    shop.promote("same")  # version "same" has scored, so its rows are in the ledger
    assert shop.dbt("build").success
    shop.promote("1")
    assert shop.dbt("seed").success
    change(shop)
    gate = " ".join(shop.refused("line/same").split())
    shop.promote("same")
    assert shop.dbt("seed").success
    run = shop.dbt("run", "-s", "scores").nodes["scores"].message
    said = run.partition(" error: ")[2].partition("\n")[0].strip()
    assert said
    assert f"refused: {' '.join(said.split())}" in gate


def no_features_in_some_rows(shop: Shop) -> None:
    shop.sql("update features set b = null where id < 4")


def no_key_in_some_rows(shop: Shop) -> None:
    shop.sql("update features set id = null where id < 4")


def no_moment_in_some_rows(shop: Shop) -> None:
    shop.sql(
        "update features set day = null where id < 2; update features set id = null where id = 2"
    )
    shop.sql("update features set b = null where id = 3")


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (no_features_in_some_rows, "null:b 4"),
        (no_key_in_some_rows, "null_key 4"),
        (no_moment_in_some_rows, "null_as_of 2, null:b 1, null_key 1"),
    ],
)
def test_the_gate_allows_as_many_rejected_rows_as_a_run(
    shop: Shop, change: Any, reasons: str
) -> None:
    """Of 30 rows 4 are rejected: more than a tenth, and less than a seventh."""
    shop.register("same", line_model(), alias="")
    body = "select *, date '2024-01-01' as day from {{ source('shop', 'facts') }}"
    shop.write("models/features.sql", "{{ config(materialized='table') }} " + body)
    allowed = "as_of='day', max_rejected_fraction="
    shop.scoring_model("scores", arguments=f"{allowed}0.2")
    assert shop.dbt("build").success
    change(shop)
    wide = ("--max-rejected", "1", "--min-rank-correlation", "-1")
    for fraction, is_allowed in ((0.1, False), (0.15, True)):
        shop.scoring_model("scores", arguments=f"{allowed}{fraction}")
        assert shop.dbt("run", "-s", "scores", "--full-refresh").success is is_allowed
        if is_allowed:
            assert shop.call("promote", "line/same", *wide).exit_code == 0
        else:
            said = " ".join(shop.refused("line/same", *wide).split())
            assert f"4 of 30 rows of main.features would be rejected: {reasons}" in said
            assert "and max_rejected_fraction in score()" in said


def test_a_limit_that_is_no_literal_is_left_to_the_run(shop: Shop) -> None:
    shop.register("same", line_model(), alias="")
    shop.scoring_model("scores", arguments="max_rejected_fraction=1 / 2")
    assert shop.dbt("build").success
    no_features_in_some_rows(shop)
    assert "4 of 30 rows" in " ".join(shop.refused("line/same").split())
    assert shop.call("promote", "line/same", "--max-rejected", "0.2").exit_code == 0


def test_a_sample_has_its_share_of_the_rows_without_a_key(shop: Shop) -> None:
    shop.scoring_model("scores", arguments="max_rejected_fraction=0.5")
    assert shop.dbt("build").success
    shop.sql("update features set id = null where id < 10")
    said = " ".join(shop.refused("line/opposite", "--sample", "10").split())
    assert "5 of 15 rows of main.features would be rejected: null_key 5" in said


def test_a_feature_called_run_no_stops_the_gate_unless_no_inputs_are_kept(shop: Shop) -> None:
    shop.register("run_no", line_model(), line_contract(features=("run_no", "b")), alias="")
    assert shop.dbt("build").success
    shop.sql("create or replace table features as select *, a as run_no from features")
    said = " ".join(shop.refused("line/run_no").split())
    assert "feature 'run_no' of 'line/run_no' has the name of a column of the kept inputs" in said
    shop.scoring_model("scores", arguments="keep_inputs=False")
    assert shop.call("promote", "line/run_no").exit_code == 0


def test_features_of_another_database_are_not_taken_for_those_of_the_same_name(
    tmp_path: Path,
) -> None:
    """Both databases have a `main.features`: status judges the one that the run read."""
    path = tmp_path / "other.duckdb"
    shop = Shop(tmp_path, profile={"attach": [{"path": str(path), "alias": "other"}]})
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "create table features as select i as id, i / 2 as a, 1.0::double as b from range(12) as t(i)"
        )
    there = {
        "name": "there",
        "database": "other",
        "schema": "main",
        "tables": [{"name": "features"}],
    }
    shop.write_yaml("models/there.yml", {"sources": [there]})
    code = shop.root / "python_models" / "scores.py"
    code.write_text(code.read_text().replace('ref("features")', 'source("there", "features")'))
    assert shop.dbt("build").success
    assert shop.sql("select features_relation from dbt_onnx_runs") == [("other.main.features",)]
    [model] = json.loads(shop.call("status", "--json").stdout)["scoring_models"]
    assert (model["entities"], model["status"]) == (12, "healthy")
    assert "main.features, 12 rows" in shop.call("promote", "line/opposite").stdout
