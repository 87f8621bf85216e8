"""Rows may arrive in any order, and a run that takes the plan's shortcuts writes the same as a run without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import test_order_of_arrival
import test_plans_agree
from tests.torture.report import Attack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROMISE = "Order of arrival does not matter"


def measure(folder: Path, *, schedules: int) -> Iterator[Attack]:
    """Run `schedules` schedules of late, corrected, repeated and bad rows, and as many for the plan's shortcuts."""
    yield _played(
        folder / "arrival", "random schedules against a computation from scratch", schedules,
        test_order_of_arrival.test_current_equals_a_computation_from_scratch,
    )  # fmt: skip
    yield _played(
        folder / "plans", "random schedules, planned in short and at length", schedules,
        test_plans_agree.test_short_ways_write_the_same,
    )  # fmt: skip


def _played(folder: Path, what: str, schedules: int, play: Callable[[Path, int], None]) -> Attack:
    attack = Attack(PROMISE, what)
    for seed in range(schedules):
        place = folder / str(seed)
        place.mkdir(parents=True)
        try:
            play(place, seed)
        except AssertionError as error:
            attack.made(harm=f"schedule {seed}: {str(error)[:200]}")
        else:
            attack.made()
    return attack
