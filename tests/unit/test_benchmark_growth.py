"""How far the benchmark's times deviate from linear growth."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from benchmarks.sections.growth import straight_line  # noqa: E402

ROWS = (1_000, 100_000, 1_000_000, 10_000_000, 100_000_000)


def test_a_fixed_cost_and_a_cost_per_row_are_a_straight_line() -> None:
    fixed, each, distance = straight_line({rows: 0.5 + 2e-6 * rows for rows in ROWS})
    assert (fixed, each) == (pytest.approx(0.5), pytest.approx(2e-6))
    assert distance == pytest.approx(0, abs=1e-9)


def test_a_time_that_is_off_by_a_half_shows() -> None:
    seconds = {rows: 0.5 + 2e-6 * rows for rows in ROWS}
    *_, distance = straight_line({**seconds, 10_000_000: 1.5 * seconds[10_000_000]})
    assert distance > 0.2


@pytest.mark.parametrize("power", [0.8, 1.2])
def test_times_that_grow_with_a_power_of_the_rows_are_no_straight_line(power: float) -> None:
    *_, distance = straight_line({rows: 0.5 + 1e-5 * rows**power for rows in ROWS})
    assert distance > 0.2
