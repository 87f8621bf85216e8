"""The functional tests pass under a profile whose settings all differ from DuckDB's defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardening import SETTINGS_VARIABLE
from tests.torture.hardened import run_functional_tests
from tests.torture.report import Attack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PROMISE = "The same answers under any settings"


def measure(folder: Path, *, tests: Sequence[str] | None) -> Iterator[Attack]:
    """Run functional `tests` (file names; all by default)."""
    attack = Attack(PROMISE, "functional tests under settings that are all others")
    yield run_functional_tests(attack, folder, tests, variable=SETTINGS_VARIABLE, left_out=())
