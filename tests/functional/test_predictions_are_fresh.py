"""`predictions_are_fresh`: the rows it returns for old predictions, and that a backfill does not refresh them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from consumer import Project
from generic_tests import Case, Model, Registry, Table, run_cases
from hand_written import CLOCK, HandWritten, generic_test, prediction, run, sources

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.fromisoformat(CLOCK)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
ONE_DAY, TWO_DAYS = {"count": 1, "period": "day"}, {"count": 2, "period": "day"}
DEFAULTS = {"key": ["customer_id"], "warn_after": ONE_DAY, "error_after": TWO_DAYS}
COLUMNS = ("customer_id", "problem", "severity", "threshold", "age")
KEY = {"customer_id": "varchar"}
ODD_KEY = {"客户 id": "bigint", 'a"b': "varchar"}


def seen(key: str, ago: timedelta, **given: Any) -> dict[str, Any]:
    """Return a prediction that was last confirmed `ago` before the clock."""
    return prediction(key, as_of=NOW - 30 * DAY, last_seen_as_of=NOW - ago, **given)


AGES = {
    "day - 1 s": DAY - SECOND,
    "day": DAY,
    "day + 1 s": DAY + SECOND,
    "two days": 2 * DAY,
    "two days + 1 s": 2 * DAY + SECOND,
}
THRESHOLDS = Model("thresholds", [seen(key, ago) for key, ago in AGES.items()], [run("2")])
TEN = {f"c{n}": 3 * DAY if n == 9 else 0 * DAY for n in range(10)}
ONE_IN_TEN = Model("one_in_ten", [seen(key, ago) for key, ago in TEN.items()], [run("2")])
EVERYONE = {"entities": Table("everyone", KEY, [(key,) for key in (*AGES, *TEN)])}
ROLLED_BACK = Model(
    "rolled_back",
    [prediction("a", "1", as_of=NOW - 9 * DAY), prediction("a", "2")],
    [run("1", as_of=NOW - 9 * DAY, started_at=NOW - 9 * DAY), run("2")],
)
ODD = Model(
    "odd",
    [{"客户 id": n, 'a"b': "x", **seen("", ago)} for n, ago in ((1, 3 * DAY), (2, 0 * DAY))],
    [run("2")],
    key=ODD_KEY,
)
WARNINGS = [
    ("two days + 1 s", "stale", "warn", DAY, 2 * DAY + SECOND),
    ("two days", "stale", "warn", DAY, 2 * DAY),
    ("day + 1 s", "stale", "warn", DAY, DAY + SECOND),
]
AN_ERROR = ("two days + 1 s", "stale", "error", 2 * DAY, 2 * DAY + SECOND)
CASES = [
    Case(
        "backfilled_is_stale",
        # a nightly run two weeks ago, and today a backfill of an old month
        Model(
            "backfilled",
            [prediction("a", as_of=NOW - 60 * DAY, scored_at=NOW)],
            [
                run("2", run_id="old", as_of=NOW - 14 * DAY, started_at=NOW - 14 * DAY),
                run("2", scope="backfill", as_of=NOW, started_at=NOW),
                run("2", run_id="failed", status="error", as_of=NOW, started_at=NOW),
            ],
        ),
        rows=[
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
        ],
    ),
    Case(
        "confirmed_is_fresh",
        Model(
            "confirmed",
            [prediction("a", as_of=NOW - 60 * DAY, scored_at=NOW - 60 * DAY)],
            [run("2")],
        ),
    ),
    Case("both_levels", THRESHOLDS, EVERYONE, rows=[AN_ERROR, *WARNINGS[1:]]),
    Case("warns_only", THRESHOLDS, {**EVERYONE, "error_after": None}, rows=WARNINGS, warns=True),
    Case("errors_only", THRESHOLDS, {**EVERYONE, "warn_after": None}, rows=[AN_ERROR]),
    Case(
        "warns_below_error",
        THRESHOLDS,
        {**EVERYONE, "error_after": {"count": 1, "period": "week"}},
        rows=WARNINGS,
        warns=True,
    ),
    Case("a_tenth_is_tolerated", ONE_IN_TEN, {**EVERYONE, "max_stale_fraction": 0.1}),
    Case(
        "less_is_not",
        ONE_IN_TEN,
        {**EVERYONE, "max_stale_fraction": 0.0999},
        rows=[("c9", "stale", "error", 2 * DAY, 3 * DAY)],
    ),
    Case(
        "only_entities_are_judged",
        ONE_IN_TEN,
        {"entities": Table("entities", KEY, [("c0",), ("c1",)])},
    ),
    Case(
        "who_left_is_not_judged",
        Model("one_left", [prediction("a"), seen("b", 30 * DAY)], [run("2")]),
    ),
    Case(
        "future_is_an_error",
        Model(
            "to_come",
            [
                # later than the clock, which is set back, and later than the real time
                prediction("a", as_of=datetime(2100, 1, 1)),
                prediction("b"),
                prediction("c", as_of=NOW + SECOND),
            ],
            [run("2")],
        ),
        {"max_stale_fraction": 1},
        rows=[("a", "future_as_of", "error", None, timedelta(0))],
    ),
    Case(
        "never_run",
        Model("failed_only", [], [run("2", status="error")]),
        rows=[(None, "no_successful_run", "error", None, None)],
    ),
    Case(
        "no_predictions",
        Model("nothing_scored", [], [run("2")]),
        rows=[(None, "no_predictions", "error", None, None)],
    ),
    Case(
        "no_tables",
        Model("not_there"),
        rows=[(None, "no_successful_run", "error", None, None)],
    ),
    Case("last_run_is_fresh", ROLLED_BACK),
    Case(
        "serving_version_is_stale",
        ROLLED_BACK,
        {"registry": Registry("registry", {"1": "champion", "2": None})},
        columns=("model_version", "age"),
        rows=[("1", 9 * DAY)],
    ),
    Case(
        "odd_names",
        ODD,
        {"key": list(ODD_KEY), "entities": Table("odd_everyone", ODD_KEY, [(1, "x"), (2, "x")])},
        columns=(*ODD_KEY, "problem"),
        rows=[(1, "x", "stale")],
    ),
    Case(
        "odd_entities_are_fresh",
        ODD,
        {
            "key": list(ODD_KEY),
            "entities": Table("odd_entities", ODD_KEY, [(1, "y"), (2, "x"), (1, None)]),
        },
    ),
    Case(
        "wrong",
        THRESHOLDS,
        {"key": ["customer"], "warn_after": None, "error_after": None},
        faults=("neither warn_after nor error_after is given",),
    ),
    Case(
        "filtered",
        THRESHOLDS,
        where="customer_id = 'day'",
        faults=("model is ", "and no `where` config"),
    ),
    Case(
        "swapped",
        THRESHOLDS,
        {
            "warn_after": TWO_DAYS,
            "error_after": {"count": 47, "period": "hour"},
            "max_stale_fraction": 0.5,
        },
        faults=("warn_after is longer than error_after",),
    ),
    Case(
        "malformed",
        THRESHOLDS,
        {
            "warn_after": "1 day",
            "error_after": {"count": 1.5, "period": "day"},
            "max_stale_fraction": 2,
        },
        faults=(
            "predictions_are_fresh on",
            "has 3 wrong arguments",
            "warn_after is 1 day;",
            "error_after is {'count': 1.5",
            "max_stale_fraction is 2;",
        ),
    ),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    profile = {"settings": {"TimeZone": "America/New_York"}}
    project = Project(tmp_path_factory.mktemp("fresh"), profile=profile)
    return run_cases(project, "predictions_are_fresh", CASES, **DEFAULTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_returns_what_it_should(project: Project, case: Case) -> None:
    case.check(project, COLUMNS)


def test_an_error_is_told_from_a_warning_by_the_severity_of_its_rows(project: Project) -> None:
    assert "severity = 'error'" in project.outcome.nodes["both_levels"].message


def test_the_sessions_time_zone_changes_nothing(tmp_path: Path) -> None:
    """With the real clock and a session 14 hours ahead of UTC, 23 hours old is fresh and 25 hours old is not."""
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
    project.write_yaml(
        "models/hand.yml",
        sources(scores=[generic_test("predictions_are_fresh", "is_fresh", **DEFAULTS)]),
    )
    project.dbt("test")
    assert project.found("is_fresh", "customer_id", "problem", "severity") == [
        ("said before", "future_as_of", "error"),
        ("25", "stale", "warn"),
    ]
