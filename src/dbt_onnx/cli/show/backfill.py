"""What `dbt-onnx backfill` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich import progress

from dbt_onnx.cli.show.console import open_console, print_text, table
from dbt_onnx.project.backfill import show_clock
from dbt_onnx.runs.progress import TERMINAL, duration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dbt_onnx.project.backfill import Backfill, SliceResult


def show_backfill(backfill: Backfill) -> None:
    """Print how many slices there are, and how many of them have already run."""
    clocks, missing = backfill.clocks, len(backfill.missing)
    version = str(backfill.version.model)
    print_text(
        f"{backfill.model.selector} with {version}: {len(clocks)} slices from {show_clock(clocks[0])} "
        f"to {show_clock(clocks[-1])}, {len(clocks) - missing} done before, {missing} to run",
        style="bold",
    )


def show_slices(backfill: Backfill, results: Sequence[SliceResult]) -> None:
    """Print every slice of a dry run with its state and the number of its feature rows."""
    found = {result.clock: result for result in results}
    rows = []
    for clock in backfill.clocks:
        result = found.get(clock)
        counted = "" if result is None or result.rows is None else f"{result.rows:,}"
        state = "done" if clock in backfill.done else "to run"
        if result is not None and result.error is not None:
            state = f"FAILED {result.error}"
        rows.append((show_clock(clock), state, counted))
    open_console().print(table("slices", ("clock", "state", "feature rows"), rows))
    print_text(
        "Only rows whose features have changed are scored, so these numbers are upper limits."
    )
    print_text("Nothing was scored.")


class SliceProgress:
    """A context manager that prints a line for each slice and, on a terminal, draws a progress bar."""

    def __init__(self, slices: int) -> None:
        self._slices = slices
        self._ended = 0
        self._seconds = 0.0
        self._console = open_console()
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=slices, left="")

    def __enter__(self) -> Self:
        # a terminal has one bar at a time: while this bar is shown, the run of a slice draws none
        self._has_bar = self._console.is_interactive and TERMINAL.acquire(blocking=False)
        if self._has_bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_bar:
            self._bar.stop()
            TERMINAL.release()

    def started(self, clock: datetime) -> None:
        """Show the slice's clock next to the bar."""
        self._bar.update(self._task, description=show_clock(clock))

    def ended(self, result: SliceResult) -> None:
        """Print the result of the slice, and the estimated time left."""
        self._ended += 1
        self._seconds += result.seconds
        left = (self._slices - self._ended) * self._seconds / self._ended
        line = f"{show_clock(result.clock)}  {_outcome(result)}  in {result.seconds:.1f} s"
        line += f"  [{self._ended} of {self._slices}, {duration(left)} left]"
        print_text(line, style="red" if result.error is not None else "", console=self._console)
        self._bar.update(self._task, advance=1, left=f"{duration(left)} left")


def _outcome(result: SliceResult) -> str:
    if result.error is not None:
        return f"FAILED {result.error}"
    if result.rows is not None:
        return f"{result.rows:,} rows"
    return result.message


def show_end(backfill: Backfill, results: Sequence[SliceResult]) -> None:
    """Print how many slices ran and, if some failed, how to continue."""
    failed = sum(result.error is not None for result in results)
    skipped = len(backfill.missing) - len(results)
    if not backfill.missing:
        print_text("nothing to do: every slice has run before")
        return
    text = f"{len(results) - failed} slices run"
    text += f", {failed} failed" if failed else ""
    text += f", {skipped} not tried" if skipped else ""
    print_text(text, style="red" if failed else "green")
    if failed:
        print_text("Hint: fix the cause and run the command again: it runs the missing slices")


def show_interrupted(backfill: Backfill, results: Sequence[SliceResult]) -> None:
    """Print what is left of an interrupted backfill."""
    done = sum(result.error is None for result in results)
    print_text(
        f"interrupted: {done} of {len(backfill.missing)} slices have run; the slice that was "
        "running is written completely or not at all. The same command runs the missing slices.",
        style="yellow",
    )
