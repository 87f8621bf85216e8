"""Environments for rivals that need other packages than the project."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.data import FOLDER

if TYPE_CHECKING:
    from pathlib import Path


def python_with(requirements: Path) -> Path:
    """Return the Python of an environment with these packages. It is made once for each content of the file."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    folder = FOLDER / requirements.stem.removesuffix("_requirements") / digest
    python = folder / "bin" / "python"
    if not folder.exists():
        try:
            run(sys.executable, "-m", "venv", str(folder))
            run(str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return python


def run(*command: str) -> None:
    """Run a command. Raises RuntimeError with its error output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]} failed:\n{done.stderr[-4000:]}")
