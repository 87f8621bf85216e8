"""The modules that attack, and how often each does."""

from __future__ import annotations

import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.torture.report import Attack

ATTACKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dbt_runs": (
        {"kills": 100, "hooks": 50, "runs": 100, "pairs": 50},
        {"kills": 2, "hooks": 1, "runs": 2, "pairs": 1},
    ),
    "crashes": ({"kills": 1_000, "every": 1}, {"kills": 20, "every": 24}),
    "hardened": (
        {"tests": None, "builds": 2},
        {
            # the planning tests run under hostile settings in the next module
            "tests": ["test_clock.py", "test_kept_inputs.py", "test_scoring_many_models.py"],
            "builds": 0,
        },
    ),
    "settings": (
        {"tests": None},
        {
            "tests": [
                "test_compare_predictions.py",
                "test_current_predictions.py",
                "test_kept_inputs.py",
                "test_plan.py",
                "test_prediction_outcomes.py",
            ]
        },
    ),
    "exactness": (
        {"rows": 10_000_000, "cases": 1_000, "every": 1},
        {"rows": 200_000, "cases": 20, "every": 10},
    ),
    "bad_rows": ({"deaths": 100, "failures": 200}, {"deaths": 4, "failures": 6}),
    "arrival": ({"schedules": 200}, {"schedules": 3}),
    "fuzzing": ({"seconds": 600, "examples": 500}, {"seconds": 6, "examples": 20}),
    "hostile_models": ({"every": 1, "dbt": 10}, {"every": 9, "dbt": 2}),
    "names": ({"every": 1}, {"every": 26}),
    "wrong_bytes": ({"flips": 10_000, "runs": 200}, {"flips": 500, "runs": 20}),
    "publications": (
        {"kills": 200, "every": 1, "switches": 50},
        {"kills": 4, "every": 9, "switches": 4},
    ),
    "service": ({"kills": 100, "hostile": 10_000}, {"kills": 2, "hostile": 150}),
    "submissions": ({"kills": 100, "hostile": 2_000}, {"kills": 2, "hostile": 50}),
    "shortage": ({"places": 10, "rows": 2_000_000}, {"places": 1, "rows": 200_000}),
    "many_models": ({"runs": 20}, {"runs": 1}),
    "no_code": ({"every": 1, "short": False}, {"every": 4, "short": True}),
    "paths": ({"every": 1}, {"every": 20}),
    "bad_input": ({"every": 1}, {"every": 4}),
    "types_at_edges": ({"every": 1, "values": 200}, {"every": 9, "values": 20}),
    "estimators": ({"seeds": 3, "every": 1}, {"seeds": 1, "every": 12}),
    "nulls": ({"rows": 1_000_000}, {"rows": 50_000}),
}
"""Module -> (arguments of a full run, arguments of a smoke run), the longest module first."""


def attack_with(name: str, smoke: bool) -> tuple[list[Attack], float]:
    """In a child process: return the attacks of a module, and the seconds they took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        module = import_module(f"tests.torture.{name}")
        return list(module.measure(Path(folder), **ATTACKS[name][smoke])), time.monotonic() - began
