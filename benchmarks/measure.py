"""Measurements, each in a separate process. Contenders run in turns."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[1]
T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """The full or the short version. `rounds` is the number of runs of each contender."""

    smoke: bool = False

    @property
    def rounds(self) -> int:
        return self.of(full=5, smoke=3)

    def of(self, *, full: T, smoke: T) -> T:
        return smoke if self.smoke else full


@dataclass(frozen=True)
class Task:
    """A function and its arguments, which are JSON values. The function returns a dict with the `seconds` of the
    job itself, as in `Stopwatch.taken()`, and any other values for its caller.
    """

    module: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """`seconds` and `cpu_seconds` of the job, and `peak_mb` (10^6 bytes) of its whole process.

    `result` has the other values that the task returned.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    result: Mapping[str, Any]


class Stopwatch:
    """`with Stopwatch() as watch: job()`, then `watch.taken()`."""

    def __enter__(self) -> Self:
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.perf_counter() - self._started
        self._cpu = _cpu_seconds() - self._cpu

    def taken(self) -> dict[str, float]:
        return {"seconds": self._seconds, "cpu_seconds": self._cpu}


@dataclass(frozen=True)
class Turns:
    """The measurements of each contender by name, one for each round."""

    runs: Mapping[str, list[Measurement]]

    def seconds(self, name: str) -> float:
        return median(run.seconds for run in self.runs[name])

    def cpu_seconds(self, name: str) -> float:
        return median(run.cpu_seconds for run in self.runs[name])

    def peak_mb(self, name: str) -> float:
        return median(run.peak_mb for run in self.runs[name])

    def ratio(self, name: str, to: str) -> float:
        """Return how many times as long as `to` it took: the median of the ratios of the rounds."""
        pairs = zip(self.runs[name], self.runs[to], strict=True)
        return median(one.seconds / other.seconds for one, other in pairs)

    def speed_ratio(self, name: str, to: str) -> float:
        """Return how many times as fast as `to` it was."""
        return 1 / self.ratio(name, to)

    def extended_with(self, more: Turns) -> Turns:
        """Return these rounds followed by more rounds of the same contenders."""
        return Turns({name: runs + more.runs[name] for name, runs in self.runs.items()})


def run(task: Task, *, root: Path = ROOT, python: str = sys.executable) -> Measurement:
    """Run a task in a separate process, with the code in the folder `root` and the interpreter `python`.

    Raises RuntimeError with the output of the process if it fails.
    """
    command = [python, "-m", "benchmarks.task", task.module, task.function]
    done = subprocess.run(
        [*command, json.dumps(dict(task.arguments))],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{task} failed:\n{done.stderr[-4000:]}")
    result = json.loads(done.stdout)
    return Measurement(
        seconds=result.pop("seconds", 0.0),
        cpu_seconds=result.pop("cpu_seconds", 0.0),
        peak_mb=result.pop("peak_mb"),
        result=result,
    )


def in_turns(tasks: Mapping[str, Task], rounds: int) -> Turns:
    """Run A B C, A B C, ..., so that a temporary load on the machine slows all contenders."""
    runs: dict[str, list[Measurement]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            runs[name].append(run(task))
    return Turns(runs)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
