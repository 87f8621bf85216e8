"""Findings about whether the tables of a scoring model are as its runs left them. No SQL.

An engine counts and hashes rows. This module compares the results and words the differences.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from dbt_onnx.runs.chain import faults_of_chain
from dbt_onnx.runs.replay import Finding, key_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dbt_onnx.runs.history import RunRow

ERASED = ("rows", "rows_inputs", "ledger_fingerprint", "inputs_fingerprint")
Erased = defaultdict[int, dict[str, int]]
"""{run_no: what was erased of the run, by the names in ERASED}; zeros for a run without erasures."""

DOUBLED = "row(s) in current, of one entity, model version and status"
NEWER = "newer row(s) in history than in current"


def nothing_erased() -> Erased:
    """Return an `Erased` without any erasures."""
    return defaultdict(lambda: dict.fromkeys(ERASED, 0))


def key_of_runs(runs: Iterable[RunRow]) -> list[str]:
    """Return the key columns; empty if no run has recorded them yet."""
    return next((list(run.key_columns) for run in runs if run.key_columns), [])


def altered_runs(runs: Iterable[RunRow]) -> Iterator[Finding]:
    """Yield findings about run rows that were altered, doubled or deleted, according to their chain."""
    for number, fault in faults_of_chain([run.values for run in runs]):
        yield Finding(
            problem="runs", expected="as the run left it", actual=f"run {number}: {fault}"
        )


def missing_runs(gaps: Iterable[Sequence[int]], table: object) -> Iterator[Finding]:
    """Yield findings about gaps in the numbers of runs. `gaps` are (first, last) missing numbers."""
    for first, last in gaps:
        which = f"run {first} is" if first == last else f"runs {first} to {last} are"
        yield Finding(problem="runs", expected="there", actual=f"{which} gone from {table}")


def strange_rows(
    problem: str, what: str, found: Iterable[Sequence[Any]], key: Sequence[str]
) -> Iterator[Finding]:
    """Yield findings about rows of no successful run. `found` are (run_no, number of rows, *one row's key)."""
    for number, count, *values in found:
        yield Finding(
            problem=problem,
            key=key_text(key, values) or None,
            expected="rows of successful runs",
            actual=f"{count:,} {what} of {'no run' if number is None else f'run {number}'}",
        )


def not_newest(what: str, found: Iterable[Sequence[Any]], key: Sequence[str]) -> Iterator[Finding]:
    """Yield findings about entities that do not have exactly one row in current, the newest. `found` are
    (*key, number of rows).
    """
    for *values, count in found:
        yield Finding(
            problem="ledger",
            key=key_text(key, values),
            expected="one, the newest",
            actual=f"{count} {what}",
        )


def faults_of_counts(
    runs: Iterable[RunRow],
    found: Mapping[int, int],
    kept: Mapping[int, int],
    erased: Erased,
) -> Iterator[Finding]:
    """Yield findings about successful runs with more or fewer rows, or kept inputs, than they wrote."""
    for run in runs:
        if run.status != "success":
            continue
        gone = erased[run.run_no]
        rows_left = (run.rows_scored or 0) + (run.rows_rejected or 0) - gone["rows"]
        # at least 0: once a run's inputs have expired, its rows_inputs_kept is 0, less than was erased before
        inputs_left = max(0, (run.rows_inputs_kept or 0) - gone["rows_inputs"])
        for problem, what, wanted, counts in (
            ("ledger", "rows", rows_left, found),
            ("inputs", "kept inputs", inputs_left, kept),
        ):
            count = counts.get(run.run_no, 0)
            if count != wanted:
                actual = f"run {run.run_id} has {count:,} {what}"
                yield Finding(problem=problem, expected=f"{wanted:,}", actual=actual)


def lost_outputs(names: Iterable[str]) -> Finding:
    """Return the finding for output columns that runs have written and the ledger no longer has."""
    return Finding(problem="ledger", expected="there", actual=f"columns {sorted(names)} are gone")


def faults_of_fingerprints(
    runs: Iterable[RunRow], found: Mapping[int, int], erased: Erased
) -> Iterator[Finding]:
    """Yield findings about runs with rows that no longer match the run's fingerprint. Runs without a
    fingerprint in `found` are skipped.
    """
    for run in runs:
        if run.run_no not in found:
            continue
        wanted = run.ledger_fingerprint ^ erased[run.run_no]["ledger_fingerprint"]
        if found[run.run_no] != wanted:
            yield Finding(
                problem="ledger",
                expected=f"{wanted}",
                actual=f"the fingerprint of the rows of run {run.run_id} is {found[run.run_no]}",
            )


def other_view(ledger: object) -> Finding:
    """Return the finding for a ledger with a replaced view: anybody can replace a view."""
    return Finding(
        problem="ledger",
        expected="the rows of its tables",
        actual=f"the view {ledger} returns other rows",
    )
