"""`predictions_are_fresh`: what it returns when predictions are old, and that a backfill changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from consumer import Project
from hand_written import CLOCK, HandWritten, claim, prediction, run, sources

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.fromisoformat(CLOCK)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
ONE_DAY, TWO_DAYS = {"count": 1, "period": "day"}, {"count": 2, "period": "day"}
EVERYONE = {"entities": "source('hand', 'everyone')"}
BOTH_LEVELS = {"warn_after": ONE_DAY, "error_after": TWO_DAYS}


def fresh(name: str, **arguments: Any) -> dict[str, Any]:
    return claim(
        "predictions_are_fresh", name, **{"key": ["customer_id"], **BOTH_LEVELS, **arguments}
    )


def seen(key: str, ago: timedelta, **given: Any) -> dict[str, Any]:
    """A prediction last confirmed `ago`."""
    return prediction(key, as_of=NOW - 30 * DAY, last_seen_as_of=NOW - ago, **given)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    profile = {"settings": {"TimeZone": "America/New_York"}}
    project = Project(tmp_path_factory.mktemp("fresh"), profile=profile)
    hand = HandWritten(project.warehouse)
    hand.registry("registry", ("1", "champion"), ("2", None))
    hand.table("entities", {"customer_id": "varchar"}, [("c0",), ("c1",)])
    # as after a nightly run two weeks ago and a backfill of an old month today
    hand.scoring_model(
        "backfilled",
        [prediction("a", as_of=NOW - 60 * DAY, scored_at=NOW)],
        [
            run("2", run_id="old", as_of=NOW - 14 * DAY, started_at=NOW - 14 * DAY),
            run("2", scope="backfill", as_of=NOW, started_at=NOW),
            run("2", run_id="failed", status="error", as_of=NOW, started_at=NOW),
        ],
    )
    hand.scoring_model(
        "confirmed", [prediction("a", as_of=NOW - 60 * DAY, scored_at=NOW - 60 * DAY)], [run("2")]
    )
    hand.scoring_model(
        "thresholds",
        [
            seen("day - 1 s", DAY - SECOND),
            seen("day", DAY),
            seen("day + 1 s", DAY + SECOND),
            seen("two days", 2 * DAY),
            seen("two days + 1 s", 2 * DAY + SECOND),
        ],
        [run("2")],
    )
    hand.scoring_model(
        "one_in_ten", [seen(f"c{n}", 3 * DAY if n == 9 else 0 * DAY) for n in range(10)], [run("2")]
    )
    hand.scoring_model("one_left", [prediction("a"), seen("b", 30 * DAY)], [run("2")])
    to_come = datetime(
        2100, 1, 1
    )  # later than the clock, which is set back, and than the real time
    later = prediction("c", as_of=NOW + SECOND)
    hand.scoring_model(
        "to_come", [prediction("a", as_of=to_come), prediction("b"), later], [run("2")]
    )
    hand.scoring_model("failed_only", [], [run("2", status="error")])
    hand.scoring_model("nothing_scored", [], [run("2")])
    hand.scoring_model(
        "rolled_back",
        [prediction("a", "1", as_of=NOW - 9 * DAY), prediction("a", "2")],
        [run("1", as_of=NOW - 9 * DAY, started_at=NOW - 9 * DAY), run("2")],
    )
    hand.scoring_model(
        "odd",
        [
            {"客户 id": 1, 'a"b': "x", **seen("", 3 * DAY)},
            {"客户 id": 2, 'a"b': "x", **seen("", 0 * DAY)},
        ],
        [run("2")],
        key={"客户 id": "bigint", 'a"b': "varchar"},
    )
    ages = ("day - 1 s", "day", "day + 1 s", "two days", "two days + 1 s")
    everyone = [*ages, *(f"c{n}" for n in range(10))]
    hand.table("everyone", {"customer_id": "varchar"}, [(key,) for key in everyone])
    odd_everyone = [(1, "x"), (2, "x")]
    hand.table("odd_everyone", {"客户 id": "integer", 'a"b': "varchar"}, odd_everyone)
    odd_entities = [(1, "y"), (2, "x"), (1, None)]
    hand.table("odd_entities", {"客户 id": "integer", 'a"b': "varchar"}, odd_entities)
    hand.close()
    filtered = fresh("filtered")
    filtered["dbt_onnx.predictions_are_fresh"]["config"]["where"] = "customer_id = 'day'"
    project.write_yaml(
        "models/hand.yml",
        sources(
            registry=None,
            entities=None,
            everyone=None,
            odd_everyone=None,
            backfilled=[fresh("backfilled_is_stale")],
            confirmed=[fresh("confirmed_is_fresh")],
            thresholds=[
                fresh("both_levels", **EVERYONE),
                fresh("warns_only", error_after=None, **EVERYONE),
                fresh("errors_only", warn_after=None, **EVERYONE),
                fresh("warns_below_error", error_after={"count": 1, "period": "week"}, **EVERYONE),
                fresh("wrong", key=["customer"], warn_after=None, error_after=None),
                filtered,
                fresh(
                    "swapped",
                    warn_after=TWO_DAYS,
                    error_after={"count": 47, "period": "hour"},
                    max_stale_fraction=0.5,
                ),
                fresh(
                    "malformed",
                    warn_after="1 day",
                    error_after={"count": 1.5, "period": "day"},
                    max_stale_fraction=2,
                ),
            ],
            one_in_ten=[
                fresh("a_tenth_is_tolerated", max_stale_fraction=0.1, **EVERYONE),
                fresh("less_is_not", max_stale_fraction=0.0999, **EVERYONE),
                fresh("only_entities_are_judged", entities="source('hand', 'entities')"),
            ],
            one_left=[fresh("who_left_is_not_judged")],
            to_come=[fresh("future_is_an_error", max_stale_fraction=1)],
            failed_only=[fresh("never_run")],
            nothing_scored=[fresh("no_predictions")],
            not_there=[fresh("no_tables")],
            rolled_back=[
                fresh("last_run_is_fresh"),
                fresh("serving_version_is_stale", registry="source('hand', 'registry')"),
            ],
            odd=[
                fresh(
                    "odd_names",
                    key=["客户 id", 'a"b'],
                    entities="source('hand', 'odd_everyone')",
                ),
                fresh(
                    "odd_entities_are_fresh",
                    key=["客户 id", 'a"b'],
                    entities="source('hand', 'odd_entities')",
                ),
            ],
            odd_entities=None,
        ),
    )
    project.dbt("test", vars={"dbt_onnx_clock": CLOCK})
    return project


def test_each_case_has_the_level_it_should(project: Project) -> None:
    assert project.outcome.statuses() == {
        "backfilled_is_stale": "fail",
        "confirmed_is_fresh": "pass",
        "both_levels": "fail",
        "warns_only": "warn",
        "errors_only": "fail",
        "warns_below_error": "warn",
        "wrong": "error",
        "filtered": "error",
        "swapped": "error",
        "malformed": "error",
        "a_tenth_is_tolerated": "pass",
        "less_is_not": "fail",
        "only_entities_are_judged": "pass",
        "who_left_is_not_judged": "pass",
        "future_is_an_error": "fail",
        "never_run": "fail",
        "no_predictions": "fail",
        "no_tables": "fail",
        "last_run_is_fresh": "pass",
        "serving_version_is_stale": "fail",
        "odd_names": "fail",
        "odd_entities_are_fresh": "pass",
    }


def test_a_backfill_does_not_make_a_stale_table_fresh(project: Project) -> None:
    assert project.failures("backfilled_is_stale") == [
        {
            "customer_id": "a",
            "problem": "stale",
            "model_version": "2",
            "as_of": NOW - 60 * DAY,
            "scored_at": NOW,
            "fresh_as_of": NOW - 14 * DAY,
            "age": 14 * DAY,
            "threshold": 2 * DAY,
            "severity": "error",
        }
    ]


def test_a_threshold_is_passed_a_second_later_and_not_before(project: Project) -> None:
    columns = ("customer_id", "severity", "threshold", "age")
    day, two_days = (
        (
            ("day + 1 s", "warn", DAY, DAY + SECOND),
            ("two days", "warn", DAY, 2 * DAY),
        ),
        ("two days + 1 s", "error", 2 * DAY, 2 * DAY + SECOND),
    )
    assert project.found("both_levels", *columns) == [two_days, day[1], day[0]]
    assert project.found("errors_only", *columns) == [two_days]
    assert [row[:3] for row in project.found("warns_only", *columns)] == [
        ("two days + 1 s", "warn", DAY),
        ("two days", "warn", DAY),
        ("day + 1 s", "warn", DAY),
    ]


def test_the_number_that_dbt_reports_is_the_number_of_rows(project: Project) -> None:
    both = project.outcome.nodes["both_levels"]
    assert both.failures == 3
    assert "severity = 'error'" in both.message


def test_a_tolerated_fraction_tolerates_up_to_itself(project: Project) -> None:
    assert project.found("less_is_not", "customer_id", "age") == [("c9", 3 * DAY)]


def test_a_moment_to_come_is_an_error_whatever_is_tolerated(project: Project) -> None:
    assert project.found("future_is_an_error", "customer_id", "problem", "severity", "age") == [
        ("a", "future_as_of", "error", timedelta(0))
    ]


@pytest.mark.parametrize(
    ("test", "problem"),
    [
        ("never_run", "no_successful_run"),
        ("no_predictions", "no_predictions"),
        ("no_tables", "no_successful_run"),
    ],
)
def test_no_run_or_no_prediction_is_a_finding(project: Project, test: str, problem: str) -> None:
    assert project.found(test, "customer_id", "problem", "severity") == [(None, problem, "error")]


def test_the_registry_says_which_version_is_judged(project: Project) -> None:
    assert project.found("serving_version_is_stale", "model_version", "age") == [("1", 9 * DAY)]


def test_odd_and_composite_keys_are_returned(project: Project) -> None:
    assert project.found("odd_names", "客户 id", 'a"b', "problem") == [(1, "x", "stale")]


def test_wrong_arguments_are_named(project: Project) -> None:
    nodes = project.outcome.nodes
    assert "neither warn_after nor error_after is given" in nodes["wrong"].message
    assert "warn_after is longer than error_after" in nodes["swapped"].message
    assert "model is " in nodes["filtered"].message
    assert "and no `where` config" in nodes["filtered"].message
    malformed = nodes["malformed"].message
    assert "predictions_are_fresh on" in malformed
    assert "has 3 wrong arguments" in malformed
    for fault in (
        "warn_after is 1 day;",
        "error_after is {'count': 1.5",
        "max_stale_fraction is 2;",
    ):
        assert fault in malformed


def test_the_sessions_time_zone_changes_nothing(tmp_path: Path) -> None:
    """With the real clock: 23 hours old is fresh, 25 hours old is not, 14 hours ahead of UTC too."""
    now = datetime.now(UTC).replace(tzinfo=None)
    project = Project(tmp_path / "zone", profile={"settings": {"TimeZone": "Pacific/Kiritimati"}})
    hand = HandWritten(project.warehouse)
    hours = timedelta(hours=1)
    rows = [
        prediction(str(n), as_of=now - n * hours, scored_at=now - n * hours) for n in (0, 23, 25)
    ]
    rows.append(prediction("said before", as_of=now - hours, scored_at=now - 2 * hours))
    hand.scoring_model("scores", rows, [run("2", as_of=now - 40 * hours)])
    hand.close()
    project.write_yaml("models/hand.yml", sources(scores=[fresh("is_fresh")]))
    project.dbt("test")
    assert project.found("is_fresh", "customer_id", "problem", "severity") == [
        ("said before", "future_as_of", "error"),
        ("25", "stale", "warn"),
    ]
