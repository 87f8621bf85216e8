"""`dbt-onnx backfill`: score the past, slice by slice."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from dbt_onnx.cli import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from types import FrameType

    from dbt_onnx.project.backfill import Every, SliceResult
    from dbt_onnx.project.dbt_project import DbtProject

_EVERY = ("day", "week", "month")


@options.main.command()
@click.argument("model")
@click.option(
    "--from", "first", required=True, type=options.MOMENT, help="The first slice's clock."
)
@click.option(
    "--to",
    "last",
    required=True,
    type=options.MOMENT,
    help="The last slice's clock, if a step ends on it.",
)
@click.option("--every", required=True, type=click.Choice(_EVERY), help="The step between slices.")
@click.option(
    "--model",
    "version",
    metavar="NAME/VERSION",
    help="Score with this version, or NAME@ALIAS, instead of the scoring model's own.",
)
@click.option("--dry-run", is_flag=True, help="Build and count the features; score nothing.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first slice that fails.")
@options.project
def backfill(
    model: str,
    first: datetime,
    last: datetime,
    every: Every,
    version: str | None,
    dry_run: bool,  # noqa: FBT001
    fail_fast: bool,  # noqa: FBT001
    project: DbtProject,
) -> None:
    """Run the scoring model MODEL under the clocks of the past, oldest first.

    Only slices that have not run before are run: you can stop the command at any time and start it
    again. Features are built in separate schemas; the predictions that are served now do not change.
    """
    from dbt_onnx.cli.show import backfill as show
    from dbt_onnx.project.backfill import plan_backfill, run_backfill

    planned = plan_backfill(
        project, model, first=first, last=last, every=every, requested_version=version
    )
    show.show_backfill(planned)
    results: list[SliceResult] = []
    try:
        with (
            show.SliceProgress(len(planned.missing)) as report,
            reraised_interrupts() as raise_if_interrupted,
        ):
            for result in run_backfill(planned, on_start=report.started, is_dry_run=dry_run):
                results.append(result)
                report.ended(result)
                raise_if_interrupted()
                if fail_fast and result.error is not None:
                    break
    except KeyboardInterrupt:
        show.show_interrupted(planned, results)
        raise SystemExit(options.EXIT_INTERRUPTED) from None
    if dry_run:
        show.show_slices(planned, results)
    else:
        show.show_end(planned, results)
    if any(result.error is not None for result in results):
        raise SystemExit(options.EXIT_FAILED)


@contextmanager
def reraised_interrupts() -> Iterator[Callable[[], None]]:
    """Yield a function that raises KeyboardInterrupt if Ctrl-C was pressed inside this block.

    dbt, or a package that it imports, may have swallowed the original KeyboardInterrupt.
    """
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    def raise_if_interrupted() -> None:
        if came:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, before)
