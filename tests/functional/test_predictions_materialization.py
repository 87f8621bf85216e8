"""The `predictions` materialization as dbt runs it: hooks, retries, flags, threads, names."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from scoring_project import ScoringProject, expect
from warehouse import line_contract, line_model

if TYPE_CHECKING:
    from pathlib import Path

OWN = {
    "main.facts",
    "main.features",
    "main.model_registry",
    "main.dbt_onnx_runs",
    "main.dbt_onnx_references",
    "main.dbt_onnx_erasures",
}
# DuckDB 1.5 counts runs in a table, later versions in a sequence
COUNTER = ["dbt_onnx_run_numbers"] if duckdb.__version__.startswith("1.") else []
OWN |= {f"main.{name}" for name in COUNTER}
SUFFIXES = ("", "__current", "__history", "__presence", "__inputs")


def tables(*names: str) -> set[str]:
    return {f"main.{name}{suffix}" for name in names for suffix in SUFFIXES}


@pytest.fixture
def project(tmp_path: Path) -> ScoringProject:
    project = ScoringProject(tmp_path / "shop")
    project.facts(5)
    return project


CURRENT = """
{{{{ dbt_onnx.current_predictions(
    ref('{model}'), registry=ref('model_registry'), key={key}
) }}}}
"""
HOOKS: dict[str, Any] = {
    "pre_hook": [
        "select case when pre_hook then error('pre-hook refused') end from main.switches",
        "insert into {{ ref('features') }} select 100, 50.0, 1.0 where (from main.switches select one_more)",
    ],
    "post_hook": [
        "create or replace table main.hook_saw as select count(*) as rows from {{ this }}",
        "select case when post_hook then error('post-hook refused') end from main.switches",
        {
            "sql": "create or replace table main.hook_saw_last as select count(*) as rows from {{ this }}",
            "transaction": False,
        },
    ],
}


def test_a_run_with_failing_hooks_and_retries_ends_as_an_undisturbed_one(
    project: ScoringProject,
) -> None:
    project.sql("create table switches as select false pre_hook, false post_hook, false one_more")
    project.scoring_model("scores", **HOOKS)
    project.scoring_model("undisturbed")
    project.write("models/scores_current.sql", CURRENT.format(model="scores", key=["id"]))
    files = project.files()
    said = "id, as_of, y, status, score_reason, model_version, features_hash"

    def ledgers_agree(rows: int) -> None:
        with project.scores("undisturbed") as undisturbed:
            expected = undisturbed.ledger(said)
            undisturbed.check()
        with project.scores() as scores:
            assert scores.ledger(said) == expected
            assert len(expected) == rows
            scores.check()

    project.sql("update switches set pre_hook = true")
    expect(project.dbt("build"), scores="error", scores_current="skipped", undisturbed="success")
    assert "pre-hook refused" in project.outcome.nodes["scores"].message
    assert project.relations() == OWN | tables("undisturbed") | {"main.switches"}
    assert project.sql("select scoring_model from dbt_onnx_runs") == [("undisturbed",)]

    project.sql("update switches set pre_hook = false, post_hook = true")
    expect(project.dbt("retry"), scores="error", scores_current="skipped")
    assert "post-hook refused" in project.outcome.nodes["scores"].message
    ledgers_agree(5)

    project.sql("update switches set post_hook = false")
    expect(project.dbt("retry"), scores="success", scores_current="success")
    assert project.outcome.nodes["scores"].message == "line/1: scored 0, unchanged 5"
    ledgers_agree(5)
    assert project.sql("select id, y from scores_current order by id") == [
        (i, i - 0.5) for i in range(5)
    ]

    # changed features, and the post-hook fails again; `dbt run` instead of `dbt build`
    project.sql("update facts set a = 10.0 where id = 3")
    project.sql("update switches set post_hook = true")
    expect(project.dbt("run"), scores="error", undisturbed="success")
    ledgers_agree(6)
    project.sql("update switches set post_hook = false")
    expect(project.dbt("retry"), scores="success")
    ledgers_agree(6)
    assert project.sql("from hook_saw union all from hook_saw_last") == [(6,), (6,)]
    assert project.sql("select y from scores_current where id = 3") == [(19.5,)]

    # a row that a pre-hook writes is scored, and the post-hooks see the result of this run
    project.sql("update switches set one_more = true")
    expect(project.dbt("run", "-s", "+scores"), scores="success")
    assert "scored 1 (new 1), unchanged 5" in project.outcome.nodes["scores"].message
    assert project.sql("from hook_saw union all from hook_saw_last") == [(7,), (7,)]

    assert project.files() == files
    assert project.relations() == OWN | tables("scores", "undisturbed") | {
        "main.scores_current",
        "main.switches",
        "main.hook_saw",
        "main.hook_saw_last",
    }


def test_empty_writes_no_row_and_full_refresh_keeps_the_history(project: ScoringProject) -> None:
    project.scoring_model("scores")
    project.write("models/scores_current.sql", CURRENT.format(model="scores", key=["id"]))
    expect(project.dbt("seed"), model_registry="success")

    expect(project.dbt("run", "--empty"), scores="success", scores_current="success")
    assert project.outcome.nodes["scores"].message == "line/1: scored 0, unchanged 0"
    with project.scores() as scores:
        assert scores.ledger() == []
        assert scores.runs("status, scope, rows_in") == [("success", "empty", 0)]
        scores.check()

    expect(project.dbt("build"), scores="success")
    assert project.outcome.nodes["scores"].message == "line/1: scored 5 (new 5), unchanged 0"
    expect(project.dbt("run", "--empty"), scores="success")
    assert project.sql("select count(*) from features") == [(0,)]
    with project.scores() as scores:
        history = scores.ledger()
        assert len(history) == 5
        assert scores.sql("select count(*) from scores__current") == [(5,)]
        assert scores.sql("from scores__presence") == []
        scores.check()

    expect(project.dbt("build", "--full-refresh"), scores="success")
    with project.scores() as scores:
        assert {row for row in scores.ledger() if row in set(history)} == set(history)
        assert scores.sql(
            "select score_reason, count(*) from scores group by all order by all"
        ) == [
            ("full_refresh", 5),
            ("new", 5),
        ]
        assert [row[0] for row in scores.runs("scope")] == ["empty", "full", "empty", "full"]
        scores.check()
    assert project.relations() == OWN | tables("scores") | {"main.scores_current"}


def test_four_scoring_models_side_by_side_stamp_dbts_invocation_id_every_time(
    tmp_path: Path,
) -> None:
    project = ScoringProject(tmp_path / "shop", profile={"threads": 4})
    names = ["first", "second", "third", "fourth"]
    for name in names:
        project.scoring_model(name)
    variables: list[dict[str, Any] | None] = [None, None, None, {"x": 1}, {"x": 2}]
    side_by_side = 0
    for run, given in enumerate(variables):
        project.facts(3_000 * (run + 1))
        outcome = project.dbt("build", vars=given)
        expect(outcome, **dict.fromkeys(names, "success"))
        if run in {1, 2}:
            # the wording differs between dbt 1.10 and later versions
            assert re.search("skipping (partial )?parsing", outcome.log)
        with project.scores("first") as scores:
            found = scores.sql(
                "select scoring_model, rows_scored, rows_unchanged, started_at, ended_at "
                f"from dbt_onnx_runs where run_id = '{project.invocation_id()}' order by started_at"
            )
            total = scores.sql("select count(*), count(distinct run_id) from dbt_onnx_runs")
        assert sorted(row[:3] for row in found) == sorted(
            (name, 3_000, 3_000 * run) for name in names
        )
        assert total == [(4 * (run + 1), run + 1)]
        side_by_side += any(later[3] < earlier[4] for earlier, later in itertools.pairwise(found))
    assert side_by_side > 0
    for name in names:
        with project.scores(name) as scores:
            scores.check()
    assert project.relations() == OWN | tables(*names)


def test_odd_names_other_schemas_and_other_databases(tmp_path: Path) -> None:
    other = tmp_path / "other.duckdb"
    project = ScoringProject(
        tmp_path / "shop", profile={"attach": [{"path": str(other), "alias": "other"}]}
    )
    project.attached = {"other": other}
    project.register(
        "1",
        contract=line_contract('gain "net" %', features=('a"b', "order")),
        name="odd",
    )
    project.write(
        "models/odd_features.sql",
        """
        {{ config(materialized='table', alias="odd ü", schema='sché ma') }}
        select i as "客户 id", 'k' || i as "select", i / 2.0::double as "a""b", 1.0::double as "order"
        from range(4) as numbers (i)
        """,
    )
    arguments = "model='odd'; key=['客户 id', 'select']"
    project.scoring_model("odd_scores", features="odd_features", arguments=arguments)
    project.write_yaml(
        "models/odd.yml",
        {
            "models": [
                {
                    "name": "odd_scores",
                    "description": "what's scored",
                    "config": {
                        "alias": "客户 得分",
                        "schema": "sché ma",
                        "tags": ["nightly"],
                        "persist_docs": {"relation": True, "columns": True},
                    },
                    "columns": [{"name": "客户 id", "description": "it's the id", "quote": True}],
                }
            ]
        },
    )
    project.scoring_model(
        "other_scores",
        features="odd_features",
        arguments=arguments,
        database="other",
        schema="order",
        alias="table",
        grants={"select": ["analyst"]},
    )
    key = ["客户 id", "select"]
    for model in ("odd_scores", "other_scores"):
        project.write(f"models/{model}_current.sql", CURRENT.format(model=model, key=key))
    for round_ in (1, 2):
        outcome = project.dbt("build")
        expect(
            outcome,
            odd_scores="success",
            other_scores="success",
            odd_scores_current="success",
            other_scores_current="success",
        )
        assert f"scored {4 if round_ == 1 else 0}" in outcome.nodes["odd_scores"].message
        assert f"scored {4 if round_ == 1 else 0}" in outcome.nodes["other_scores"].message
    places = [
        {"name": "客户 得分", "schema": "main_sché ma"},
        {"name": "table", "schema": "main_order", "database": "other"},
    ]
    for place in places:
        with project.scores(key=key, **place) as scores:
            assert scores.ledger('"客户 id", "select", "gain ""net"" %"') == [
                (i, f"k{i}", i - 0.5) for i in range(4)
            ]
            assert len(scores.runs()) == 2
            scores.check()
    with project.connection() as connection:
        assert connection.execute(
            "select comment from duckdb_views() where view_name = '客户 得分' union all "
            "select comment from duckdb_columns() where table_name = '客户 得分' and comment is not null"
        ).fetchall() == [("what's scored",), ("it's the id",)]
        for model in ("odd_scores", "other_scores"):
            found = connection.execute(f"select count(*) from {model}_current").fetchall()
            assert found == [(4,)]
    assert project.relations() == {
        "main.facts",
        "main.model_registry",
        "main.features",
        "main.odd_scores_current",
        "main.other_scores_current",
        "main_sché ma.odd ü",
        *(f"main_sché ma.客户 得分{suffix}" for suffix in SUFFIXES),
        "main_sché ma.dbt_onnx_runs",
        "main_sché ma.dbt_onnx_references",
        "main_sché ma.dbt_onnx_erasures",
        *(f"other.main_order.table{suffix}" for suffix in SUFFIXES),
        "other.main_order.dbt_onnx_runs",
        "other.main_order.dbt_onnx_references",
        "other.main_order.dbt_onnx_erasures",
        *(f"main_sché ma.{name}" for name in COUNTER),
        *(f"other.main_order.{name}" for name in COUNTER),
    }


def test_what_cannot_be_a_scoring_model_is_one_clear_error(project: ScoringProject) -> None:
    project.sql("create view taken as select 1 as one")
    project.scoring_model("taken")
    project.scoring_model("disabled", enabled=False)
    project.write("models/in_sql.sql", "{{ config(materialized='predictions') }} select 1 as id")
    project.write(
        "python_models/rows.py",
        """
        def model(dbt, session):
            dbt.config(materialized="predictions")
            return dbt.ref("features")
        """,
    )
    project.write(
        "python_models/stock.py",
        """
        from dbt_onnx import score


        def model(dbt, session):
            dbt.config(materialized="table")
            return score(
                dbt, session,
                features=dbt.ref("features"), registry=dbt.ref("model_registry"), model="line", key=["id"],
            )
        """,
    )
    outcome = project.dbt("build")
    expect(outcome, taken="error", in_sql="error", rows="error", stock="error", features="success")
    assert "disabled" not in outcome.nodes
    said = {name: node.message for name, node in outcome.nodes.items()}
    assert "the view main.taken is not a ledger" in said["taken"]
    assert "Hint: drop or rename the view" in said["taken"]
    assert "python" in said["in_sql"]
    assert "returned DuckDBPyRelation, not a scoring run" in said["rows"]
    assert "set dbt.config(materialized='predictions')" in said["stock"]
    for name in ("taken", "in_sql", "rows"):
        assert "Traceback" not in said[name]
    assert project.relations() == OWN | {"main.taken"}


def test_a_promotion_and_a_rollback_are_an_edit_of_the_seed(project: ScoringProject) -> None:
    project.register("2", line_model(1.0, 1.0, 1.0), line_contract("z"), alias="challenger")
    project.scoring_model("scores")
    project.write("models/scores_current.sql", CURRENT.format(model="scores", key=["id"]))
    project.write("models/unrelated.sql", "select 1 as one")
    expect(project.dbt("build"), scores="success")
    before = project.root / "before"
    before.mkdir()
    (project.root / "target" / "manifest.json").rename(before / "manifest.json")

    def served() -> list[tuple[Any, ...]]:
        return project.sql(
            "select model_version, served_from, count(*) from scores_current group by all"
        )

    def build(message: str) -> None:
        expect(
            project.dbt("build", "-s", "model_registry+"),
            scores="success",
            scores_current="success",
        )
        assert "unrelated" not in project.outcome.nodes
        assert project.outcome.nodes["scores"].message == message
        with project.scores() as scores:
            scores.check()

    assert served() == [("1", "serving_version", 5)]
    project.promote("2")
    selected = project.dbt(
        "ls", "-s", "state:modified+", "--state", str(before), "--resource-type", "model", "seed"
    ).value
    assert sorted(name.split(".")[-1] for name in selected) == [
        "model_registry",
        "scores",
        "scores_current",
    ]
    build("line/2: scored 5 (model_changed 5), unchanged 0")
    assert served() == [("2", "serving_version", 5)]
    with project.scores() as scores:
        assert scores.ledger("model_version, id, y, z") == [
            *(("1", i, i - 0.5, None) for i in range(5)),
            *(("2", i, None, i / 2 + 2) for i in range(5)),
        ]
    project.promote("1")
    build("line/1: scored 0, unchanged 5")
    assert served() == [("1", "serving_version", 5)]
    project.promote("2")
    build("line/2: scored 0, unchanged 5")
    assert served() == [("2", "serving_version", 5)]
    assert project.relations() == OWN | tables("scores") | {"main.scores_current", "main.unrelated"}
