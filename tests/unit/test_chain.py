"""The chain of a scoring model's runs: what breaks it, and what does not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from dbt_onnx.runs.chain import NOT_SEALED, faults_of_chain, fingerprint_of

Row = dict[str, Any]


def chain(*statuses: str) -> list[Row]:
    """Return runs that were chained one after another; the first has number 1."""
    rows: list[Row] = []
    previous = None
    for number, status in enumerate(statuses, start=1):
        row: Row = {
            "run_no": number,
            "run_id": f"run-{number}",
            "status": status,
            "clock": datetime(2024, 1, number),
            "rows_scored": 3 * number,
            "rows_inputs_kept": 3 * number,
            "features": ["a", "b"],
            "error": None,
            "previous_fingerprint": previous,
            "fingerprint": None,
        }
        row["fingerprint"] = previous = fingerprint_of(row)
        rows.append(row)
    return rows


def faults(rows: list[Row]) -> list[tuple[int, str]]:
    return list(faults_of_chain(rows))


def test_a_whole_chain_has_no_fault_in_any_order() -> None:
    rows = chain("success", "error", "interrupted", "success")
    assert faults(rows) == []
    assert faults(rows[::-1]) == []
    assert faults([]) == []


def test_a_fingerprint_is_the_same_each_time_and_whatever_the_order_of_columns() -> None:
    [row] = chain("success")
    assert fingerprint_of(row) == fingerprint_of(dict(reversed(row.items())))
    # computed by hand: sha256 of {"run_no": 1, "status": "success"}
    known = "9c9b7725bbcb4f53b2313fa85cef3dd0250fcc3e6c72ee3fbb0963ee4cf5e696"
    assert fingerprint_of({"run_no": 1, "status": "success", "error": None}) == known


def test_a_column_that_comes_later_changes_nothing_while_it_is_null() -> None:
    [row] = chain("success")
    assert fingerprint_of({**row, "of_a_newer_version": None}) == row["fingerprint"]
    assert fingerprint_of({**row, "of_a_newer_version": 0}) != row["fingerprint"]


@pytest.mark.parametrize("name", NOT_SEALED)
def test_what_may_change_after_the_run_is_left_out(name: str) -> None:
    [row] = chain("success")
    assert fingerprint_of({**row, name: "another"}) == row["fingerprint"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run_id", "run-3"),
        ("status", "error"),
        ("clock", datetime(2024, 1, 2, microsecond=1)),
        ("clock", None),
        ("rows_scored", 7),
        ("features", ["b", "a"]),
        ("error", ""),
        ("previous_fingerprint", None),
        ("fingerprint", None),
    ],
)
def test_a_value_altered_is_told_of_its_run_alone(name: str, value: object) -> None:
    rows = chain("success", "success", "success")
    rows[1][name] = value
    found = faults(rows)
    assert found[0] == (2, "the run row was altered")
    assert {number for number, _ in found} <= {2, 3}


def test_values_that_change_places_are_told() -> None:
    rows = chain("success", "success")
    rows[0]["rows_scored"], rows[1]["rows_scored"] = rows[1]["rows_scored"], rows[0]["rows_scored"]
    assert faults(rows) == [(1, "the run row was altered"), (2, "the run row was altered")]


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_deleted_row_is_told_by_the_next_one(gone: int) -> None:
    rows = chain("success", "error", "success", "success")
    del rows[gone]
    assert faults(rows) == [(gone + 2, "the run before it was deleted or altered")]


def test_the_newest_row_is_missed_by_nobody_here() -> None:
    """The chain alone cannot show that the newest row is gone; `prove` can, by the sequence of run numbers."""
    assert faults(chain("success", "success")[:1]) == []


def test_a_doubled_row_is_told_once_with_its_number() -> None:
    rows = chain("success", "success", "success")
    for copies in (2, 3):
        rows.append(dict(rows[1]))
        assert faults(rows) == [(2, f"there are {copies} run rows with this number")]


def test_the_first_row_doubled_is_told_once() -> None:
    rows = chain("success", "success")
    assert faults([*rows, dict(rows[0])]) == [(1, "there are 2 run rows with this number")]


def test_a_row_that_replaced_the_chain_before_it_is_told() -> None:
    """Somebody deleted the earlier runs and recomputed the fingerprint of the next one."""
    rows = chain("success", "success", "success", "success")
    rows[2]["previous_fingerprint"] = None
    rows[2]["fingerprint"] = fingerprint_of(rows[2])
    assert faults(rows) == [
        (4, "the run before it was deleted or altered"),
        (3, "the runs before it were deleted"),
    ]


def test_a_run_that_goes_on_is_in_no_chain_yet() -> None:
    rows = chain("success", "success")
    going_on = {"run_no": 3, "status": "running", "previous_fingerprint": None, "fingerprint": None}
    assert faults([*rows, going_on]) == []


def test_rows_without_a_number_are_told() -> None:
    rows = chain("success", "success")
    rows[0]["run_no"] = rows[1]["run_no"] = None
    assert faults(rows)[0][1] == "there are 2 run rows with this number"
