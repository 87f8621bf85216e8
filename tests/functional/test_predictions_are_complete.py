"""`predictions_are_complete`: exact both ways, with grace for what is new."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from consumer import Project
from hand_written import CLOCK, HandWritten, claim, prediction, run, sources

NOW = datetime.fromisoformat(CLOCK)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
SINCE = {"grace": {"count": 1, "period": "day"}, "entity_since": "since"}


def complete(name: str, entities: str = "customers", **arguments: Any) -> dict[str, Any]:
    given = {"key": ["customer_id"], "entities": f"source('hand', '{entities}')", **arguments}
    return claim("predictions_are_complete", name, **given)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    profile = {"settings": {"TimeZone": "Asia/Kolkata"}}
    project = Project(tmp_path_factory.mktemp("complete"), profile=profile)
    hand = HandWritten(project.warehouse)
    key = {"customer_id": "varchar"}
    hand.registry("registry", ("1", "champion"), ("2", None))
    # one customer in ten is missing; the same one twice, as in a table of snapshots
    ten = [(f"c{n}",) for n in range(10)]
    hand.table("customers", key, [*ten, ("c0",)])
    hand.scoring_model("all_scored", [prediction(f"c{n}") for n in range(10)], [run("2")])
    hand.scoring_model("one_missing", [prediction(f"c{n}") for n in range(1, 10)], [run("2")])
    hand.scoring_model(
        "one_rejected",
        [
            prediction("c0", status="rejected", as_of=NOW - DAY),
            prediction("c1", status="rejected"),
            *(prediction(f"c{n}", as_of=NOW - DAY) for n in range(1, 10)),
        ],
        [run("2")],
    )
    hand.scoring_model("one_unknown", [prediction(f"c{n}") for n in range(11)], [run("2")])
    for name, week_ago in (("some_left", NOW - 7 * DAY), ("long_ago", NOW - 7 * DAY - SECOND)):
        hand.scoring_model(
            name,
            [
                *(prediction(f"c{n}") for n in range(10)),
                prediction("left lately", last_seen_as_of=week_ago, as_of=NOW - 40 * DAY),
                prediction("left before", last_seen_as_of=NOW - 30 * DAY, as_of=NOW - 40 * DAY),
                # the version that runs now has not seen it
                prediction("left with version 1", "1", as_of=NOW - 40 * DAY),
                prediction("still scored"),
            ],
            [
                run("1", run_id="1", as_of=NOW - 30 * DAY, started_at=NOW - 30 * DAY),
                run("2", run_id="2", as_of=week_ago, started_at=NOW - 6 * DAY),
                run("2", run_id="b", scope="backfill", as_of=NOW - 9 * DAY, started_at=NOW - DAY),
                run("2", run_id="e", status="error", as_of=NOW - 9 * DAY, started_at=NOW - DAY),
                run("2"),
            ],
        )
    hand.table("customers_and_one", key, [*ten, ("still scored",)])
    hand.scoring_model(
        "by_version_2",
        [prediction(f"c{n}") for n in range(10)],
        [run("1"), run("2", scope="backfill", started_at="1998-03-01")],
    )
    hand.scoring_model("empty", [], [])
    hand.table("nobody", key, [])
    hand.table("with_null", key, [*ten, (None,)])
    for zoned in ("timestamp", "timestamptz", "date"):
        # the grace period ends at CLOCK - 1 day, in UTC
        moments = {
            "exactly": NOW - DAY,
            "over": NOW - DAY - SECOND,
            "under": NOW - DAY + SECOND,
            "no moment": None,
            "rejected": NOW,
        }
        if zoned == "date":
            moments = {"over": (NOW - DAY).date(), "under": NOW.date()}
        rows = [(k, f"{m}+00" if m and zoned == "timestamptz" else m) for k, m in moments.items()]
        hand.table(f"since_{zoned}", {**key, "since": zoned}, rows)
    hand.scoring_model("in_grace", [prediction("rejected", status="rejected")], [run("2")])
    odd_key = {"客户 id": "bigint", 'a"b': "varchar"}
    hand.scoring_model(
        "odd", [{"客户 id": 1, 'a"b': "x", **prediction("")}], [run("2")], key=odd_key
    )
    hand.table("odd_customers", odd_key, [(1, "y"), (2, "x"), (3, None)])
    hand.close()
    tables = (
        "registry",
        "customers_and_one",
        "customers",
        "nobody",
        "with_null",
        "odd_customers",
        "since_timestamp",
    )
    project.write_yaml(
        "models/hand.yml",
        sources(
            **dict.fromkeys((*tables, "since_timestamptz", "since_date")),
            all_scored=[
                complete("exact"),
                complete("null_key", "with_null"),
                complete("wrong", key=["customer"], entity_since="born", max_missing_fraction=-1),
            ],
            one_missing=[
                complete("missing"),
                complete("a_tenth_is_tolerated", max_missing_fraction=0.1),
                complete("less_is_not", max_missing_fraction=0.0999),
            ],
            one_rejected=[complete("rejected")],
            one_unknown=[
                complete("unknown"),
                complete("leaving_is_usual", max_unknown_fraction=1),
                complete("missing_is_another_matter", max_missing_fraction=1),
            ],
            some_left=[
                complete("departed", "customers_and_one"),
                complete("departed_and_no_entity"),
                complete("never_told", "customers_and_one", tell_departures_for=None),
                complete("none_may_leave", "customers_and_one", max_unknown_fraction=0),
                complete("a_fifth_may_leave", "customers_and_one", max_unknown_fraction=0.2142),
                complete("three_may_leave", "customers_and_one", max_unknown_fraction=0.2143),
                complete("told_oddly", "customers_and_one", tell_departures_for="a week"),
            ],
            long_ago=[
                complete("no_longer_told", "customers_and_one"),
                complete(
                    "told_for_longer",
                    "customers_and_one",
                    tell_departures_for={"count": 8, "period": "day"},
                ),
            ],
            by_version_2=[
                complete("any_version_counts"),
                complete("only_served_count", registry="source('hand', 'registry')"),
            ],
            empty=[complete("nothing_for_nobody", "nobody"), complete("nothing_for_ten")],
            not_there=[complete("no_tables")],
            in_grace=[
                complete("grace_timestamp", "since_timestamp", **SINCE),
                complete("grace_timestamptz", "since_timestamptz", **SINCE),
                complete("grace_date", "since_date", max_unknown_fraction=1, **SINCE),
            ],
            odd=[complete("odd_names", "odd_customers", key=list(odd_key))],
        ),
    )
    project.dbt("test", vars={"dbt_onnx_clock": CLOCK})
    return project


def test_each_case_has_the_status_it_should(project: Project) -> None:
    passing = {n for n, s in project.outcome.statuses().items() if s == "pass"}
    assert passing == {
        "exact",
        "a_tenth_is_tolerated",
        "leaving_is_usual",
        "any_version_counts",
        "nothing_for_nobody",
        "never_told",
        "three_may_leave",
    }
    by_status = {
        status: {n for n, s in project.outcome.statuses().items() if s == status}
        for status in ("error", "warn")
    }
    assert by_status["error"] == {"wrong", "told_oddly"}
    assert by_status["warn"] == {"departed", "no_longer_told", "told_for_longer"}


def test_an_entity_never_tried_is_missing(project: Project) -> None:
    row = {
        "customer_id": "c0",
        "problem": "missing",
        "rejected_reason": None,
        "model_version": None,
        "as_of": None,
        "scored_at": None,
        "waiting_since": None,
        "waiting": None,
        "severity": "error",
        "last_seen_as_of": None,
    }
    assert project.failures("missing") == [row]
    assert project.failures("less_is_not") == [row]


def test_a_rejected_entity_is_told_from_a_missing_one_and_says_why(project: Project) -> None:
    columns = ("customer_id", "problem", "rejected_reason", "model_version", "as_of", "scored_at")
    # c1 was rejected since, and has the prediction from before
    assert project.found("rejected", *columns) == [
        ("c0", "rejected", "null:recency", "2", NOW - DAY, NOW)
    ]


def test_a_prediction_without_an_entity_is_found(project: Project) -> None:
    columns = ("customer_id", "problem", "model_version", "as_of", "scored_at")
    assert project.found("unknown", *columns) == [("c10", "no_entity", "2", NOW, NOW)]
    assert project.found("missing_is_another_matter", *columns) == project.found(
        "unknown", *columns
    )


LEFT_LATELY = ("left lately", "departed", NOW - 7 * DAY)
LEFT_BEFORE = ("left before", "departed", NOW - 30 * DAY)
LEFT_WITH_VERSION_1 = ("left with version 1", "departed", NOW - 30 * DAY)
LEFT = ("customer_id", "problem", "last_seen_as_of")


def test_who_has_left_is_told_for_a_while_and_fails_nothing(project: Project) -> None:
    everybody = [LEFT_BEFORE, LEFT_LATELY, LEFT_WITH_VERSION_1]
    assert project.found("departed", *LEFT) == everybody
    assert set(project.found("departed", "severity")) == {("warn",)}
    # a second too long ago, counted from the first run that did not see them
    lately = ("left lately", "departed", NOW - 7 * DAY - SECOND)
    assert project.found("no_longer_told", *LEFT) == [lately]
    assert project.found("told_for_longer", *LEFT) == [LEFT_BEFORE, lately, LEFT_WITH_VERSION_1]


def test_what_is_no_entity_and_still_scored_fails(project: Project) -> None:
    found = project.found("departed_and_no_entity", *LEFT, "severity")
    assert found[0] == ("still scored", "no_entity", None, "error")
    assert [row[3] for row in found[1:]] == ["warn"] * 3


def test_with_a_fraction_all_predictions_without_an_entity_count(project: Project) -> None:
    for test in ("none_may_leave", "a_fifth_may_leave"):
        assert project.outcome.nodes[test].status == "fail"
        assert project.found(test, *LEFT) == [LEFT_BEFORE, LEFT_LATELY, LEFT_WITH_VERSION_1]


def test_an_entity_with_a_null_key_cannot_have_a_prediction(project: Project) -> None:
    assert project.found("null_key", "customer_id", "problem") == [(None, "null_key")]


def test_with_a_registry_only_what_is_served_counts(project: Project) -> None:
    problems = project.found("only_served_count", "problem")
    assert problems == [("missing",)] * 10


def test_no_ledger_means_that_everybody_is_missing(project: Project) -> None:
    for test in ("nothing_for_ten", "no_tables"):
        assert project.found(test, "problem") == [("missing",)] * 10


@pytest.mark.parametrize("zoned", ["timestamp", "timestamptz"])
def test_grace_ends_a_second_after_it(project: Project, zoned: str) -> None:
    columns = ("customer_id", "problem", "waiting_since", "waiting")
    assert project.found(f"grace_{zoned}", *columns) == [
        ("no moment", "missing", None, None),
        ("over", "missing", NOW - DAY - SECOND, DAY + SECOND),
        # it was tried: waiting would not help
        ("rejected", "rejected", NOW, timedelta(0)),
    ]


def test_a_date_counts_from_its_midnight_in_utc(project: Project) -> None:
    assert project.found("grace_date", "customer_id", "waiting") == [
        ("over", DAY + 12 * 3600 * SECOND)
    ]


def test_odd_and_composite_keys_are_returned(project: Project) -> None:
    assert project.found("odd_names", "客户 id", 'a"b', "problem") == [
        (1, "y", "missing"),
        (2, "x", "missing"),
        (1, "x", "no_entity"),
        (3, None, "null_key"),
    ]


def test_wrong_arguments_are_named(project: Project) -> None:
    message = project.outcome.nodes["wrong"].message
    assert "predictions_are_complete on" in message
    for fault in (
        """key names column 'customer'; "warehouse"."main"."all_scored__current" has ["customer_id",""",
        """key names column 'customer'; "warehouse"."main"."customers" has ["customer_id"]""",
        """entity_since names column 'born';""",
        "max_missing_fraction is -1; it takes a number from 0 to 1",
        "grace and entity_since go together",
    ):
        assert fault in message
    assert "tell_departures_for is a week; it takes" in project.outcome.nodes["told_oddly"].message
