"""`dbt-onnx watch`: run `dbt build` whenever files arrive."""

from __future__ import annotations

import re
import signal
import threading
from typing import TYPE_CHECKING, Any

import click

from dbt_onnx.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_UNITS = {"s": 1, "m": 60, "h": 3600}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])", text)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{text!r} is not a time such as 2s, 30s or 5m")
    return float(found[1]) * _UNITS[found[2]]


@options.main.command()
@click.option(
    "--select", "-s", multiple=True, metavar="NODES", help="As in `dbt build`; repeatable."
)
@click.option(
    "--files",
    "patterns",
    multiple=True,
    metavar="GLOB",
    help="Build when matching files are new or changed, such as 'landing/*.parquet'; repeatable. "
    "Without it, build at every look.",
)
@click.option(
    "--every", type=_seconds, metavar="TIME", default="30s", help="How often to look: 2s, 30s, 5m."
)
@options.project_dir
@options.profiles_dir
@options.target
@options.variables
def watch(select: Sequence[str], patterns: Sequence[str], every: float, **project: Any) -> None:
    """Run `dbt build` now, and whenever files have arrived, until Ctrl-C.

    One build runs at a time; the next look finds files that arrive during a build. A failed build is
    tried again, after a longer wait each time. Ctrl-C ends the command after the running build; a second
    Ctrl-C ends the build, too. Write a file under another name, then rename it.
    """
    from dbt_onnx.cli.show.console import print_text
    from dbt_onnx.cli.show.watch import show_build, show_start
    from dbt_onnx.project.dbt_project import DbtProject
    from dbt_onnx.project.watching import Watch

    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            signal.default_int_handler(number, frame)
        ended.set()

    watching = Watch(lambda: DbtProject(**project), select=select, patterns=patterns, every=every)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    show_start(patterns, every)
    while not ended.is_set():
        build = watching.look()
        if build is not None:
            show_build(build, wait=watching.wait)
        ended.wait(watching.wait)
    print_text("ended")
