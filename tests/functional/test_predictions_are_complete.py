"""`predictions_are_complete` finds every missing and every extra entity, and gives new entities a grace period."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from consumer import Project
from generic_tests import Case, Model, Registry, Table, run_cases
from hand_written import CLOCK, prediction, run

NOW = datetime.fromisoformat(CLOCK)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
COLUMNS = ("customer_id", "problem", "severity")
KEY = {"customer_id": "varchar"}
ODD_KEY = {"客户 id": "bigint", 'a"b': "varchar"}

# one entity in ten is missing from some models; c0 is listed twice, as in a table of snapshots
TEN = [(f"c{n}",) for n in range(10)]
DEFAULTS = {"key": ["customer_id"], "entities": Table("customers", KEY, [*TEN, ("c0",)])}
NOBODY = {"entities": Table("nobody", KEY, [])}
AND_ONE = {"entities": Table("customers_and_one", KEY, [*TEN, ("still scored",)])}


def scored(name: str, numbers: range, *runs: dict[str, Any]) -> Model:
    return Model(name, [prediction(f"c{n}") for n in numbers], runs or [run("2")])


def with_departures(name: str, week_ago: datetime) -> Model:
    return Model(
        name,
        [
            *(prediction(key) for (key,) in TEN),
            prediction("left lately", last_seen_as_of=week_ago, as_of=NOW - 40 * DAY),
            prediction("left before", last_seen_as_of=NOW - 30 * DAY, as_of=NOW - 40 * DAY),
            # the version that runs now has never seen it
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


def since(zoned: str, **moments: Any) -> dict[str, Any]:
    """Arguments for entities with a moment since when they exist; the grace period ends at CLOCK - 1 day, in UTC."""
    rows = [(key.replace("_", " "), moment) for key, moment in moments.items()]
    return {
        "entities": Table(f"since_{zoned}", {**KEY, "since": zoned}, rows),
        "grace": {"count": 1, "period": "day"},
        "entity_since": "since",
    }


MOMENTS = {
    "exactly": NOW - DAY,
    "over": NOW - DAY - SECOND,
    "under": NOW - DAY + SECOND,
    "no_moment": None,
    "rejected": NOW,
}
ZONED = {key: moment and f"{moment}+00" for key, moment in MOMENTS.items()}
DATES = {"over": (NOW - DAY).date(), "under": NOW.date()}
IN_GRACE = Model("in_grace", [prediction("rejected", status="rejected")], [run("2")])
AFTER_GRACE = {
    "columns": ("customer_id", "problem", "waiting_since", "waiting"),
    "rows": [
        ("no moment", "missing", None, None),
        ("over", "missing", NOW - DAY - SECOND, DAY + SECOND),
        # already tried and rejected: no grace period
        ("rejected", "rejected", NOW, timedelta(0)),
    ],
}
ALL_SCORED = scored("all_scored", range(10))
ONE_MISSING = scored("one_missing", range(1, 10))
ONE_UNKNOWN = scored("one_unknown", range(11))
BY_VERSION_2 = scored(
    "by_version_2", range(10), run("1"), run("2", scope="backfill", started_at="1998-03-01")
)
BY_REGISTRY = {"registry": Registry("registry", {"1": "champion", "2": None})}
SOME_LEFT = with_departures("some_left", NOW - 7 * DAY)
LONG_AGO = with_departures("long_ago", NOW - 7 * DAY - SECOND)
LEFT = ("customer_id", "problem", "last_seen_as_of", "severity")
LEFT_BEFORE = ("left before", "departed", NOW - 30 * DAY)
LEFT_LATELY = ("left lately", "departed", NOW - 7 * DAY)
LEFT_A_SECOND_EARLIER = ("left lately", "departed", NOW - 7 * DAY - SECOND)
LEFT_WITH_VERSION_1 = ("left with version 1", "departed", NOW - 30 * DAY)
EVERYBODY = [LEFT_BEFORE, LEFT_LATELY, LEFT_WITH_VERSION_1]
MISSING = {
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
ALL_TEN_MISSING = {"columns": COLUMNS[1:], "rows": [("missing", "error")] * 10}
CASES = [
    Case("exact", ALL_SCORED),
    Case(
        "null_key",
        ALL_SCORED,
        {"entities": Table("with_null", KEY, [*TEN, (None,)])},
        rows=[(None, "null_key", "error")],
    ),
    Case("missing", ONE_MISSING, rows=[MISSING]),
    Case("a_tenth_is_tolerated", ONE_MISSING, {"max_missing_fraction": 0.1}),
    Case("less_is_not", ONE_MISSING, {"max_missing_fraction": 0.0999}, rows=[MISSING]),
    Case(
        "rejected",
        # c1 was rejected later, and still has its earlier prediction
        Model(
            "one_rejected",
            [
                prediction("c0", status="rejected", as_of=NOW - DAY),
                prediction("c1", status="rejected"),
                *(prediction(f"c{n}", as_of=NOW - DAY) for n in range(1, 10)),
            ],
            [run("2")],
        ),
        columns=(
            "customer_id",
            "problem",
            "rejected_reason",
            "model_version",
            "as_of",
            "scored_at",
        ),
        rows=[("c0", "rejected", "null:recency", "2", NOW - DAY, NOW)],
    ),
    Case(
        "unknown",
        ONE_UNKNOWN,
        columns=("customer_id", "problem", "model_version", "as_of", "scored_at"),
        rows=[("c10", "no_entity", "2", NOW, NOW)],
    ),
    Case("leaving_is_usual", ONE_UNKNOWN, {"max_unknown_fraction": 1}),
    Case(
        "missing_is_another_matter",
        ONE_UNKNOWN,
        {"max_missing_fraction": 1},
        rows=[("c10", "no_entity", "error")],
    ),
    Case(
        "departed",
        SOME_LEFT,
        AND_ONE,
        columns=LEFT,
        rows=[(*row, "warn") for row in EVERYBODY],
        warns=True,
    ),
    Case(
        "departed_and_no_entity",
        SOME_LEFT,
        columns=LEFT,
        rows=[
            ("still scored", "no_entity", None, "error"),
            *((*row, "warn") for row in EVERYBODY),
        ],
    ),
    Case("never_told", SOME_LEFT, {**AND_ONE, "tell_departures_for": None}),
    *(
        Case(
            name,
            SOME_LEFT,
            {**AND_ONE, "max_unknown_fraction": fraction},
            columns=LEFT,
            rows=[(*row, "error") for row in EVERYBODY],
        )
        for name, fraction in (("none_may_leave", 0), ("a_fifth_may_leave", 0.2142))
    ),
    Case("three_may_leave", SOME_LEFT, {**AND_ONE, "max_unknown_fraction": 0.2143}),
    # one second too long ago, counted from the first run that did not see them
    Case(
        "no_longer_told",
        LONG_AGO,
        AND_ONE,
        columns=LEFT,
        rows=[(*LEFT_A_SECOND_EARLIER, "warn")],
        warns=True,
    ),
    Case(
        "told_for_longer",
        LONG_AGO,
        {**AND_ONE, "tell_departures_for": {"count": 8, "period": "day"}},
        columns=LEFT,
        rows=[(*r, "warn") for r in (LEFT_BEFORE, LEFT_A_SECOND_EARLIER, LEFT_WITH_VERSION_1)],
        warns=True,
    ),
    Case("any_version_counts", BY_VERSION_2),
    Case(
        "only_served_count",
        BY_VERSION_2,
        BY_REGISTRY,
        **ALL_TEN_MISSING,
    ),
    Case(
        "what_is_not_served_needs_no_entity",
        Model(
            "one_by_version_2",
            [*(prediction(key, "1") for (key,) in TEN), prediction("c10", "2")],
            BY_VERSION_2.runs,
        ),
        BY_REGISTRY,
    ),
    Case(
        "a_tenth_may_leave",
        ALL_SCORED,
        {"entities": Table("nine", KEY, TEN[1:]), "max_unknown_fraction": 0.1},
    ),
    Case("nothing_for_nobody", Model("empty", [], []), NOBODY),
    Case("nothing_for_ten", Model("empty", [], []), **ALL_TEN_MISSING),
    Case("no_tables", Model("not_there"), **ALL_TEN_MISSING),
    Case("grace_timestamp", IN_GRACE, since("timestamp", **MOMENTS), **AFTER_GRACE),
    Case("grace_timestamptz", IN_GRACE, since("timestamptz", **ZONED), **AFTER_GRACE),
    Case(
        "a_date_counts_from_its_midnight",
        IN_GRACE,
        {**since("date", **DATES), "max_unknown_fraction": 1},
        columns=("customer_id", "waiting"),
        rows=[("over", DAY + 12 * 3600 * SECOND)],
    ),
    Case(
        "odd_names",
        Model("odd", [{"客户 id": 1, 'a"b': "x", **prediction("")}], [run("2")], key=ODD_KEY),
        {
            "key": list(ODD_KEY),
            "entities": Table("odd_customers", ODD_KEY, [(1, "y"), (2, "x"), (3, None)]),
        },
        columns=(*ODD_KEY, "problem"),
        rows=[
            (1, "y", "missing"),
            (2, "x", "missing"),
            (1, "x", "no_entity"),
            (3, None, "null_key"),
        ],
    ),
    Case(
        "wrong",
        ALL_SCORED,
        {"key": ["customer"], "entity_since": "born", "max_missing_fraction": -1},
        faults=(
            "predictions_are_complete on",
            """key names column 'customer'; "warehouse"."main"."all_scored__current" has ["customer_id",""",
            """key names column 'customer'; "warehouse"."main"."customers" has ["customer_id"]""",
            """entity_since names column 'born';""",
            "max_missing_fraction is -1; it takes a number from 0 to 1",
            "grace needs entity_since, and entity_since needs grace",
        ),
    ),
    Case(
        "told_oddly",
        SOME_LEFT,
        {**AND_ONE, "tell_departures_for": "a week"},
        faults=("tell_departures_for is a week; it takes",),
    ),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    profile = {"settings": {"TimeZone": "Asia/Kolkata"}}
    project = Project(tmp_path_factory.mktemp("complete"), profile=profile)
    return run_cases(project, "predictions_are_complete", CASES, **DEFAULTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_returns_what_it_should(project: Project, case: Case) -> None:
    case.check(project, COLUMNS)
