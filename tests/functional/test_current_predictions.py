"""The serving view: which version it serves, how fresh, and how it shows rejected and missing entities."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from consumer import Project
from hand_written import CLOCK, RUNS, STAMPS, HandWritten, prediction, run, sources

from dbt_onnx.runs.tables import LEDGER_TYPES, RUNS_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime.fromisoformat(CLOCK)
YESTERDAY = NOW - timedelta(days=1)
LAST_WEEK = NOW - timedelta(days=7)
BOTH = [run("1", started_at="1998-03-31", as_of=YESTERDAY), run("2")]


def view(predictions: str, *, key: list[str] | None = None, **arguments: str) -> str:
    given = {
        "registry": "source('hand', 'registry')",
        "key": str(key or ["customer_id"]),
        **arguments,
    }
    listed = ", ".join(f"{name}={value}" for name, value in given.items())
    return f"{{{{ dbt_onnx.current_predictions(source('hand', '{predictions}'), {listed}) }}}}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("current"))
    hand = HandWritten(project.warehouse)
    hand.registry("registry", ("1", None), ("2", "champion"))
    hand.registry("natural_registry", ("1.9", None), ("1.10", "champion"), ("1.2", None))
    hand.registry("no_champion", ("1", None), ("2", "challenger"))
    hand.table("entities", {"customer_id": "varchar"}, [("both",), ("never",), ("never",), (None,)])
    everyone = (
        "both",
        "only 1",
        "rejected by 2",
        "rejected later",
        "rejected before",
        "rejected only",
    )
    everyone += ("no moment", "retired")
    hand.table("everyone", {"customer_id": "varchar"}, [(key,) for key in everyone])
    ages = ("confirmed", "gone", "exactly", "a second over", "backfilled", "to come")
    hand.table("all_ages", {"customer_id": "varchar"}, [(key,) for key in ages])
    hand.scoring_model(
        "versions",
        [
            prediction("both", "1", churn=0.1, as_of=YESTERDAY),
            prediction("both", "2", churn=0.2),
            prediction("only 1", "1", churn=0.1, as_of=YESTERDAY),
            prediction("rejected by 2", "1", churn=0.1, as_of=YESTERDAY),
            prediction("rejected by 2", "2", status="rejected"),
            prediction("rejected later", "2", churn=0.2, as_of=YESTERDAY, scored_at=YESTERDAY),
            prediction("rejected later", "2", status="rejected"),
            prediction("rejected before", "2", churn=0.2),
            prediction("rejected before", "2", status="rejected", scored_at=YESTERDAY),
            prediction("rejected only", "2", status="rejected"),
            prediction("no moment", "2", churn=0.2, as_of=YESTERDAY, scored_at=YESTERDAY),
            prediction("no moment", "2", status="rejected", as_of=None),
            prediction("retired", "0", churn=0.9),
        ],
        BOTH,
    )
    hand.scoring_model(
        "ages",
        [
            prediction("confirmed", as_of=LAST_WEEK),
            prediction("gone", as_of=LAST_WEEK, last_seen_as_of=NOW - timedelta(days=3)),
            prediction("exactly", as_of=LAST_WEEK, last_seen_as_of=NOW - timedelta(days=2)),
            prediction(
                "a second over",
                as_of=LAST_WEEK,
                last_seen_as_of=NOW - timedelta(days=2, seconds=1),
            ),
            prediction("backfilled", as_of=LAST_WEEK, last_seen_as_of=LAST_WEEK),
            prediction("to come", as_of=NOW + timedelta(days=1)),
        ],
        # a backfill, a failed run and an empty run confirm nothing
        [
            run("2", as_of=YESTERDAY),
            run("2", run_id="b", scope="backfill"),
            run("2", run_id="e", status="error"),
            run("2", run_id="i", status="interrupted"),
            run("2", run_id="0", scope="empty"),
        ],
    )
    hand.scoring_model(
        "natural",
        [
            prediction("a", "1.9", churn=0.9),
            prediction("a", "1.10", churn=0.1),
            prediction("b", "1.9", churn=0.9),
            prediction("b", "1.2", churn=0.2),
            prediction("b", "1.10", status="rejected"),
        ],
        # a backfill by another version does not change what is served, even if it is later than the last full run
        [
            run("1.10"),
            run("1.9", run_id="b", scope="backfill", model_alias=None, started_at=NOW),
        ],
    )
    hand.scoring_model(
        "pinned",
        [prediction("a", "1"), prediction("b", "2"), prediction("b", "1", status="rejected")],
        [run("1", model_alias=None)],
    )
    hand.scoring_model("unscored", [], [])
    hand.scoring_model("no_champion_rows", [prediction("a", "1")], [run("1")])
    hand.scoring_model(
        "odd",
        [
            {**prediction(None), "客户 id": 1, 'a"b': "x", "order": 0.5},
            {**prediction(None), "客户 id": 1, 'a"b': "y", "order": 0.6},
        ],
        [run("2")],
        key={"客户 id": "bigint", 'a"b': "varchar"},
        outputs={"order": "double"},
    )
    hand.table("odd_entities", {"客户 id": "bigint", 'a"b': "varchar"}, [(1, "x"), (2, "z")])
    hand.scoring_model("aging", [], [], outputs={"Age": "double"})
    hand.close()

    tables = (
        "registry natural_registry no_champion entities everyone all_ages versions ages natural pinned unscored "
        "no_champion_rows odd odd_entities aging not_there"
    )
    project.write_yaml("models/hand.yml", sources(**dict.fromkeys(tables.split())))
    odd_key = ["客户 id", 'a"b']
    for name, text in {
        "versions_current": view("versions"),
        "entities_current": view("versions", entities="source('hand', 'entities')"),
        "everyone_current": view("versions", entities="source('hand', 'everyone')"),
        "present_ages": view("ages"),
        "ages_current": view("ages", entities="source('hand', 'all_ages')"),
        "never_stale": view("ages", entities="source('hand', 'all_ages')", stale_after="none"),
        "natural_current": view("natural", registry="source('hand', 'natural_registry')"),
        "pinned_current": view("pinned"),
        "unscored_current": view("unscored"),
        "no_champion_current": view("no_champion_rows", registry="source('hand', 'no_champion')"),
        "odd_current": view("odd", key=odd_key),
        "odd_entities_current": view("odd", key=odd_key, entities="source('hand', 'odd_entities')"),
        "not_there_current": view("not_there", entities="source('hand', 'entities')"),
        "aging_current": view("aging"),
        "wrong_current": view(
            "versions",
            key=["customer"],
            entities="'entities'",
            stale_after="{'count': 0, 'period': 'fortnight'}",
        ),
    }.items():
        project.write(f"models/{name}.sql", text)
    project.dbt("run", vars={"dbt_onnx_clock": CLOCK})
    return project


def test_hand_written_tables_have_the_columns_of_those_that_a_run_writes() -> None:
    types = {name: kind.upper() for name, kind in LEDGER_TYPES.items()}
    assert {name: kind.upper() for name, kind in STAMPS.items()} == types
    written = {name: RUNS_TYPES[name] for name in RUNS}
    assert {name: kind.upper() for name, kind in RUNS.items()} == written


def current(project: Project, view: str, *columns: str) -> dict[Any, Any]:
    rows = project.sql(f"select customer_id, {', '.join(columns)} from {view}")
    return {row[0]: row[1] if len(row) == 2 else row[1:] for row in rows}


def test_only_the_views_with_wrong_arguments_fail(project: Project) -> None:
    failed = {n for n, s in project.outcome.statuses().items() if s != "success"}
    assert failed == {"aging_current", "wrong_current"}


def test_the_serving_version_is_served_else_the_newest_earlier_one(project: Project) -> None:
    assert current(project, "everyone_current", "churn", "model_version", "served_from") == {
        "both": (0.2, "2", "serving_version"),
        "only 1": (0.1, "1", "earlier_version"),
        "rejected by 2": (0.1, "1", "earlier_version"),
        "rejected later": (0.2, "2", "serving_version"),
        "rejected before": (0.2, "2", "serving_version"),
        "rejected only": (None, None, "missing"),
        "no moment": (0.2, "2", "serving_version"),
        # its version is no longer in the registry
        "retired": (None, None, "missing"),
    }


def test_status_is_that_of_the_newest_attempt_by_the_serving_version(project: Project) -> None:
    assert current(project, "everyone_current", "status", "rejected_reason") == {
        "both": ("scored", None),
        "only 1": (None, None),
        "rejected by 2": ("rejected", "null:recency"),
        "rejected later": ("rejected", "null:recency"),
        "rejected before": ("scored", None),
        "rejected only": ("rejected", "null:recency"),
        "no moment": ("rejected", "null:recency"),
        "retired": (None, None),
    }


def test_a_rejection_since_takes_the_confirmation_away(project: Project) -> None:
    fresh = current(project, "versions_current", "fresh_as_of")
    assert fresh["rejected later"] == YESTERDAY
    assert fresh["no moment"] == YESTERDAY
    assert fresh["rejected before"] == NOW
    # version 1 was last confirmed by its own last run, whatever version 2 rejected
    assert fresh["rejected by 2"] == YESTERDAY


def test_a_rollback_takes_effect_with_the_registry_alone(project: Project) -> None:
    alias = "update registry set alias = case when model_version = '{}' then 'champion' end"
    project.sql(alias.format("1"))
    try:
        served = current(project, "versions_current", "churn", "model_version", "served_from")
    finally:
        project.sql(alias.format("2"))
    assert served["both"] == (0.1, "1", "serving_version")
    # only version 2 has scored it, and after a rollback version 2 must not be served
    assert served["rejected before"] == (None, None, "missing")


def test_who_is_no_longer_there_is_not_served(project: Project) -> None:
    """If entities are given, they decide instead."""
    everyone = current(project, "everyone_current", "churn", "age", "served_from")
    # version 2 ran, but has no row about these entities
    departed = {"only 1", "retired"}
    served = current(project, "versions_current", "churn", "age", "served_from")
    assert served == {key: row for key, row in everyone.items() if key not in departed}
    assert set(current(project, "present_ages", "age")) == {"confirmed", "to come"}


def test_who_is_there_is_known_after_a_rollback_too(project: Project) -> None:
    """The last run was by version 2, and the registry has gone back to version 1."""
    alias = "update registry set alias = case when model_version = '{}' then 'champion' end"
    project.sql(alias.format("1"))
    try:
        served = current(project, "versions_current", "model_version")
    finally:
        project.sql(alias.format("2"))
    assert set(served) == {"both", "rejected by 2", "rejected later", "rejected before"} | {
        "rejected only", "no moment",
    }  # fmt: skip
    assert set(served.values()) == {"1", None}


def test_entities_decide_which_rows_there_are(project: Project) -> None:
    assert current(project, "entities_current", "served_from", "is_stale", "age") == {
        "both": ("serving_version", False, timedelta(0)),
        "never": ("missing", True, None),
    }


def test_age_runs_from_the_last_confirmation(project: Project) -> None:
    assert current(project, "ages_current", "age", "is_stale") == {
        "confirmed": (timedelta(days=1), False),
        "gone": (timedelta(days=3), True),
        "exactly": (timedelta(days=2), False),
        "a second over": (timedelta(days=2, seconds=1), True),
        "backfilled": (timedelta(days=7), True),
        "to come": (timedelta(0), False),
    }
    assert set(current(project, "never_stale", "is_stale").values()) == {False}


def test_versions_are_ordered_by_the_numbers_in_them(project: Project) -> None:
    assert current(project, "natural_current", "churn", "served_from") == {
        "a": (0.1, "serving_version"),
        "b": (0.9, "earlier_version"),
    }


def test_a_pinned_version_is_the_serving_one_whatever_the_champion_is(project: Project) -> None:
    assert current(project, "pinned_current", "served_from") == {
        "a": "serving_version",
        "b": "missing",
    }


def test_nothing_is_served_before_the_first_run_or_without_a_champion(project: Project) -> None:
    assert current(project, "unscored_current", "served_from") == {}
    assert current(project, "not_there_current", "served_from") == {
        "both": "missing",
        "never": "missing",
    }
    assert current(project, "no_champion_current", "served_from") == {"a": "missing"}


def test_odd_and_composite_keys_are_quoted(project: Project) -> None:
    columns = '"客户 id", "a""b", "order", served_from'
    assert sorted(project.sql(f"select {columns} from odd_current")) == [
        (1, "x", 0.5, "serving_version"),
        (1, "y", 0.6, "serving_version"),
    ]
    assert sorted(project.sql(f"select {columns} from odd_entities_current")) == [
        (1, "x", 0.5, "serving_version"),
        (2, "z", None, "missing"),
    ]


def test_the_view_survives_a_new_output_column(project: Project) -> None:
    before = project.rows("select * from versions_current order by customer_id")
    project.sql("alter table versions__current add column uplift double")
    assert project.rows("select * from versions_current order by customer_id") == before


def test_a_lookup_by_key_is_pushed_down_to_the_scan(project: Project) -> None:
    for view in ("versions_current", "entities_current"):
        query = f"explain (format json) select * from {view} where customer_id = 'both'"
        [(_, plan)] = project.sql(query)
        scans = [node for node in nodes_of(json.loads(plan)) if "versions__current" in str(node)]
        assert [scan["Filters"] for scan in scans] == ["(customer_id = 'both')"], plan


def nodes_of(plan: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the details of each operator of a query plan, without its children."""
    for node in plan:
        yield node["extra_info"]
        yield from nodes_of(node["children"])


def test_wrong_arguments_are_all_named_at_once(project: Project) -> None:
    nodes = project.outcome.nodes
    wrong = nodes["wrong_current"].message
    assert 'current_predictions on "warehouse"."main"."versions" has 2 wrong arguments' in wrong
    assert 'entities is "entities"; it takes a relation' in wrong
    assert (
        "stale_after is {'count': 0, 'period': 'fortnight'}; it takes {count: 2, period: day}"
        in wrong
    )
    assert (
        "output column 'Age' has the name of a column that the view adds"
        in nodes["aging_current"].message
    )
