"""onnxruntime sends no telemetry here; by default it does, with an id that it keeps for the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import onnx
import onnx_models as models
import pytest

if TYPE_CHECKING:
    from pathlib import Path

SCORE = "onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"


def kept_at_home(folder: Path, program: str, **environment: str) -> tuple[set[str], str]:
    """Run a program with its own home folder. Returns the files it leaves there, and its output."""
    onnx.save(models.linear(), folder / "model.onnx")
    home = folder / "home"
    home.mkdir()
    # nothing else: with a variable such as CI set, onnxruntime sends nothing anyway
    environment |= {"PATH": os.environ["PATH"], "HOME": str(home)}
    run = subprocess.run(
        [sys.executable, "-c", program, str(folder / "model.onnx")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return {str(path.relative_to(home)) for path in home.rglob("*")}, run.stdout.strip()


def test_nothing_is_kept_for_a_report(tmp_path: Path) -> None:
    program = f"import sys, dbt_onnx.kernel.session, onnxruntime; {SCORE}"
    assert kept_at_home(tmp_path, program) == (set(), "")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is kept elsewhere")
def test_it_still_needs_to_be_told(tmp_path: Path) -> None:
    """If this fails, onnxruntime's telemetry is off by default, and `dbt_onnx/__init__.py` need not switch it off."""
    found, _ = kept_at_home(tmp_path, f"import sys, onnxruntime; {SCORE}")
    assert found


def test_who_wants_it_has_it(tmp_path: Path) -> None:
    program = "import dbt_onnx, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert kept_at_home(tmp_path, program, ORT_DISABLE_TELEMETRY="0")[1] == "0"
