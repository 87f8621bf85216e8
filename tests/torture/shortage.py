"""Disk full or memory short: one clear error, unchanged tables, and a next run that completes the work."""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import signal
import subprocess
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.torture import crashes, processes
from tests.torture.report import Attack
from warehouse import Warehouse

from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

PROMISE = "Disk full, memory short"
ROWS = 40_000
_SPILLING_MB = 32  # so little that a run over 400,000 rows spills to disk
_MEMORY_MB = (256, 128, 64, 48, 32, 24, 16, 8, 4, 1)
_DISK_MB = 300
_DISK_SAID = "No space left|File too large|max_temp_directory_size"
_MEMORY_SAID = "[Mm]emory|allocat|bad_alloc|start new thread"


def measure(folder: Path, *, places: int, rows: int) -> Iterator[Attack]:
    """Try `places` amounts of free disk, of DuckDB's memory over `rows` rows, and of address space."""
    with _small_disk(folder / "disk") as is_real:
        name = "a full disk" if is_real else "files that may not grow (RLIMIT_FSIZE)"
        for case, count, limits in (
            ("", ROWS, {}),
            (f" under memory_limit {_SPILLING_MB} MB", rows // 5, {"memory_mb": _SPILLING_MB}),
        ):
            trial = Trial.of(
                count, folder / f"filled{case}", folder / "disk" / "w", said=_DISK_SAID
            )
            _fill(trial, places, limits, is_real=is_real)
            yield trial.row(f"{name}{case}")
    trial = Trial.of(rows, folder / "memory", folder / "w", said=_MEMORY_SAID)
    for megabytes in _MEMORY_MB[-places:]:
        trial.attack({"memory_mb": megabytes})
    yield trial.row(f"memory_limit {_MEMORY_MB[0]} MB and less, {rows:,} rows")
    trial = Trial.of(ROWS, folder / "addresses", folder / "w", said=_MEMORY_SAID)
    needed = processes.run(address_bytes, str(trial.fresh()))[1]
    for halvings in range(11 - places, 11):
        trial.attack({"address_bytes": needed >> halvings})
    yield trial.row("address space limited (RLIMIT_AS)")


@dataclass
class Trial:
    """A run that lacks a resource, repeated many times: checks its error and what it leaves in the tables."""

    template: Path
    place: Path
    said: str
    before: crashes.Content
    after: crashes.Content = field(default_factory=dict)
    stopped: int = 0
    died: int = 0
    attacks: Attack = field(default_factory=lambda: Attack(PROMISE, ""))

    @classmethod
    def of(cls, rows: int, template: Path, place: Path, *, said: str) -> Trial:
        """Make a trial; `said` is a regular expression that an error must match."""
        before = processes.run(prepare, str(template), rows)[1]
        trial = cls(template, place, said, before)
        trial.after = processes.run(complete, str(trial.fresh()))[1]
        return trial

    def fresh(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.template, self.place)
        return self.place

    def attack(
        self,
        limits: dict[str, int],
        *,
        name: str = "",
        short: AbstractContextManager[Any] | None = None,
    ) -> bool:
        """Run under limits, or while `short` takes a resource away, and run again without. Returns
        whether the first run succeeded.
        """
        self.fresh()
        with short or nullcontext():
            said, is_dead = self._attempt(limits)
        self.stopped += bool(said)
        self.died += is_dead
        left = processes.run(crashes.content, str(self.place))[1]
        mended = processes.run(complete, str(self.place))[1]
        files = {path.name for path in self.place.iterdir()}
        faults = []
        # a process that died after the commit could not report it
        if left != (self.before if said else self.after) and not (is_dead and left == self.after):
            faults.append(f"left {left}")
        if said and not is_dead and not re.match(f"(?s).*({self.said}).*\nHint: ", said):
            faults.append("is not clear")
        if mended != self.after or not files <= {"artifacts", "w.duckdb", "w.duckdb.wal"}:
            faults.append(f"the next run left {mended}, {sorted(files)}")
        harm = f"{name or limits}: {said or 'success'}: {'; '.join(faults)}" if faults else None
        self.attacks.made(harm=harm)
        return not said

    def _attempt(self, limits: dict[str, int]) -> tuple[str, bool]:
        """Return the run's error ('' if it succeeded), and whether its process died."""
        try:
            return processes.run(attempt, str(self.place), limits)[1], False
        except RuntimeError as error:
            return str(error), bool(re.search(r"\) ended with -?\d+$", str(error)))

    def row(self, what: str) -> Attack:
        self.attacks.what = f"{what}: {self.stopped} runs stopped"
        if self.died:
            self.attacks.what += f", {self.died} of them with their process"
        if not self.stopped:
            self.attacks.harm.append(f"{what}: no run was stopped: the attack attacks nothing")
        return self.attacks


def prepare(path: str, rows: int) -> crashes.Content:
    """In a child process: make a warehouse with one run; then change a third of its features.
    Returns the tables' content.
    """
    folder = Path(path)
    folder.mkdir(parents=True)
    warehouse = Warehouse(folder)
    warehouse.register("1")
    warehouse.sql(
        "insert into features select i::integer, (hash(i) % 1000 / 100)::double, 1 "
        f"from range({rows}) as numbers (i)"
    )
    warehouse.run()
    warehouse.sql("update features set a = a + 1 where id % 3 = 0")
    warehouse.connection.close()
    return crashes.content(path)


def complete(path: str) -> crashes.Content:
    """In a child process: run without limits. Returns the tables' content afterwards."""
    said = attempt(path, {})
    return crashes.content(path) if not said else {said: (0, 0)}


def attempt(path: str, limits: dict[str, int]) -> str:
    """In a child process: run under limits. Returns the error; '' if it succeeded."""
    warehouse = Warehouse(Path(path))
    warehouse.runs = warehouse.sql("select count(*) from dbt_onnx_runs")[0][0]
    try:
        _limit(warehouse, **limits)
        warehouse.run()
    except DbtOnnxError as error:
        return str(error)
    finally:
        warehouse.connection.close()
    return ""


def address_bytes(path: str) -> int:
    """In a child process: return how much address space the next run takes."""
    warehouse = Warehouse(Path(path))
    warehouse.runs = 1
    began = _status("VmSize")
    warehouse.run()
    warehouse.connection.close()
    return _status("VmPeak") - began


def _limit(
    warehouse: Warehouse,
    *,
    memory_mb: int | None = None,
    file_bytes: int | None = None,
    address_bytes: int | None = None,
) -> None:
    """Apply the limits to this process; `address_bytes` is on top of what it already uses."""
    if memory_mb is not None:
        warehouse.sql(f"set memory_limit = '{memory_mb}MB'")
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write raises
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if address_bytes is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # hides what the C library prints
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        allowed = _status("VmSize") + address_bytes
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def _status(name: str) -> int:
    """Return a memory figure of this process, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)[1]) * 1024  # type: ignore[index]


def _fill(trial: Trial, places: int, limits: dict[str, int], *, is_real: bool) -> None:
    """Search by bisection for the free space that just suffices, then try amounts from 0 up to it."""

    def enough(spare: int) -> bool:
        if is_real:
            return trial.attack(limits, name=f"{spare:,} bytes", short=_filled(trial.place, spare))
        return trial.attack({**limits, "file_bytes": spare})

    low, high = 2**15, 2**27
    for _ in range(places // 2):
        middle = math.isqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    for place in range(places):
        enough(high * place // places)


@contextmanager
def _filled(folder: Path, spare: int) -> Iterator[None]:
    """Leave only `spare` bytes on the folder's disk inside the block."""
    filler = folder.parent / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(_free(folder) - spare, 1))
    try:
        yield
    finally:
        filler.unlink()


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """Mount a separate file system there, if the process may. Yields whether it could."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(folder)]
    try:
        is_real = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        is_real = False
    try:
        yield is_real
    finally:
        if is_real:
            subprocess.run(["umount", str(folder)], check=True)
