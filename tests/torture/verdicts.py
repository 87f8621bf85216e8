"""What the package's tests must report for a `State`, and where they report anything else."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.torture.claims import UNITS, Claims

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    import duckdb
    from tests.torture.histories import State
    from tests.torture.report import Attack

PROMISE = "Completeness and staleness are exact"
LENGTHS = {unit: timedelta(**{f"{unit}s": 1}) for unit in UNITS}
FRESH = "id, problem, model_version, as_of, fresh_as_of, age, threshold, severity"
COMPLETE = "id, problem, rejected_reason, model_version, as_of"
CURRENT = "id, model_version, as_of, status, fresh_as_of, is_stale, served_from"


def alarms(state: State, clock: datetime, unit: str, warn: int, error: int) -> dict[str, Any]:
    """Return the expected result by test: its columns and rows."""
    levels = warn * LENGTHS[unit], error * LENGTHS[unit]
    found = {
        "complete": (COMPLETE, state.incomplete(by_registry=False)),
        "complete_served": (COMPLETE, state.incomplete(by_registry=True)),
        f"fresh_served_{unit}": (FRESH, state.stale(clock, *levels, by_registry=True)),
    }
    if unit == "day":
        found["fresh_day"] = (FRESH, state.stale(clock, *levels, by_registry=False))
    return found


def difference(
    claims: Claims, connection: duckdb.DuckDBPyConnection, state: State,
    clock: datetime, unit: str, warn: int, error: int,
) -> str | None:  # fmt: skip
    """Return the first difference between a test or query and the state; None if there is none."""
    expected = alarms(state, clock, unit, warn, error)
    expected[f"current_{unit}"] = (CURRENT, state.current(clock, warn * LENGTHS[unit]))
    for name, (columns, rows) in expected.items():
        found = claims.rows(
            connection, f"scores_{name}", clock, columns=columns, warn=warn, error=error
        )
        if Counter(found) != Counter(rows):
            return f"{name} at {clock}, {warn} and {error} {unit}: {found}, not {rows}"
    return None


def compare(attack: Attack, name: str, found: Iterable[Any], expected: Iterable[Any]) -> None:
    """Compare rows in any order. Counts one attack per expected row, or one if none is expected."""
    found, expected = Counter(found), Counter(expected)
    wrong = [*(f"{row} not found" for row in expected - found), *(f"{row} found" for row in found - expected)]  # fmt: skip
    attack.made(times=max(1, expected.total()))
    attack.harm += [f"{name}: {what}" for what in wrong[:5]]
