"""The progress of a long run: a bar on a terminal, elsewhere log lines."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

LINE_EVERY_SECONDS = 10.0

# only one bar at a time: dbt scores several models at once, and bars would draw over each other
TERMINAL = threading.Lock()


class Progress:
    """Reports the rows done, their share, the rate and the time left of a run over `total_rows` rows.

    A context manager. On a terminal it draws a bar, and only one bar at a time. Elsewhere it calls `log`
    with a line at most every ten seconds, and never in a shorter run. `clock` returns seconds.
    """

    def __init__(
        self,
        total_rows: int,
        *,
        label: str,
        log: Callable[[str], None],
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_rows = total_rows
        self._label = label
        self._log = log
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._done = 0
        self._bar: Any = None

    def __enter__(self) -> Self:
        self._started_at = self._logged_at = self._clock()
        if self._stream.isatty() and TERMINAL.acquire(blocking=False):
            self._bar = _bar(self._stream, self._label, self._total_rows)
            if self._bar is None:
                TERMINAL.release()
            else:
                self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            TERMINAL.release()

    def advance(self, rows: int) -> None:
        """Count `rows` more as done."""
        self._done += rows
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], rows)
            return
        now = self._clock()
        if now - self._logged_at >= LINE_EVERY_SECONDS:
            self._logged_at = now
            self._log(self._line(now - self._started_at))

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        line = f"{self._label}: {self._done:,} of {self._total_rows:,} rows"
        if self._total_rows:
            line += f" ({self._done / self._total_rows:.0%})"
        line += f", {rate:,.0f} rows/s"
        if self._done and self._total_rows > self._done:
            line += f", {duration((self._total_rows - self._done) / rate)} left"
        return line


def duration(seconds: float) -> str:
    """`0:07`, `12:30` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(stream: TextIO, label: str, total_rows: int) -> Any:
    """Return a progress bar of rich; None on a dumb terminal or if rich is not installed."""
    try:
        from rich import progress
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return None
    console = Console(file=stream)
    if not console.is_interactive:
        return None

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.0f} rows/s")

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.completed:,.0f} of {task.total:,.0f} rows"),
        Rate(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    bar.add_task(label, total=total_rows)
    return bar
