"""A scoring model's figures become problems: which kind, how severe, and the message."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from dbt_onnx.errors import WarehouseError
from dbt_onnx.runs.health import KINDS, Health, ModelHealth, Problem, age_text, judge

GOOD: dict[str, Any] = {
    "model_name": "churn",
    "serving_version": "2",
    "entities": 1000,
    "stale": 0,
    "missing": 0,
    "rejected": 0,
    "oldest_age": timedelta(0),
    "last_good_run_id": "a",
    "last_run_id": "a",
    "last_run_at": datetime(2024, 1, 10),
    "last_run_status": "success",
    "last_run_error": None,
    "failing_tests": [],
    "warning_tests": [],
    "drifting_tests": [],
}


@pytest.mark.parametrize(
    ("figures", "problems"),
    [
        ({}, []),
        ({"rejected": 100}, []),
        ({"rejected": 101}, [("rejected", "101 of 1,000 entities rejected")]),
        ({"missing": 234}, [("missing", "234 of 1,000 entities missing")]),
        (
            {"stale": 1, "oldest_age": timedelta(hours=49)},
            [("stale", "1 of 1,000 entities stale, the oldest 2 days 1 h")],
        ),
        (
            {"last_run_status": "error", "last_run_error": "no\n such column"},
            [("run_failed", "the last run (a, 2024-01-10 00:00 UTC) failed: no such column")],
        ),
        (
            {"last_run_status": "running"},
            [("run_interrupted", "the last run (a, 2024-01-10 00:00 UTC) was interrupted")],
        ),
        (
            {"serving_version": None},
            [("registry", "the registry does not say which version of churn serves")],
        ),
        (
            {"last_good_run_id": None, "last_run_status": None, "serving_version": None},
            [("never_ran", "no run has succeeded")],
        ),
        (
            {"failing_tests": ["x", "y"], "warning_tests": ["z"], "drifting_tests": ["y", "z"]},
            [
                ("test_failed", "the test x failed"),
                ("drifting", "the test y failed"),
                ("drifting", "the test z warns"),
            ],
        ),
        ({"warning_tests": ["z"]}, [("test_warned", "the test z warns")]),
    ],
)
def test_figures_are_judged(figures: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    found = judge({**GOOD, **figures}, has_one_writer=True)
    assert [(p.kind, p.message) for p in found] == problems


def test_a_run_at_work_is_no_fault_where_several_may_write() -> None:
    assert judge({**GOOD, "last_run_status": "running"}, has_one_writer=False) == []
    dead = judge({**GOOD, "last_run_status": "interrupted"}, has_one_writer=False)
    assert [problem.kind for problem in dead] == ["run_interrupted"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_worst_problem_of_all_models_is_the_exit_code(kind: str) -> None:
    good = ModelHealth(scoring_model="good", figures=GOOD, problems=())
    ill = ModelHealth(
        scoring_model="ill",
        figures=GOOD,
        problems=(Problem(kind="stale", message=""), Problem(kind=kind, message="")),
    )

    def code(*models: ModelHealth) -> int:
        return Health(clock=None, stale_after=timedelta(days=2), models=models).exit_code

    assert code(good) == 0
    assert code(good, ill, good) == {"degraded": 1, "broken": 2}[KINDS[kind]]


def test_what_cannot_be_read_is_broken() -> None:
    error = WarehouseError("gone", hint="build it")
    assert Health(clock=None, stale_after=timedelta(days=2), error=error).exit_code == 2


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(0), "0 min"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=23, minutes=59), "23 h"),
        (timedelta(days=1), "1 day"),
        (timedelta(days=4, hours=6, minutes=1), "4 days 6 h"),
    ],
)
def test_an_age_is_told_in_its_two_largest_units(age: timedelta, text: str) -> None:
    assert age_text(age) == text
