"""What `watch` prints: a line for each build, and a line for each node that failed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dbt_onnx.cli.show.console import print_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbt_onnx.project.watching import Build

_MOST_NAMES = 3


def show_start(patterns: Sequence[str], every: float) -> None:
    """Print which files the command waits for."""
    what = f"watching for files like {', '.join(patterns)}" if patterns else "building"
    print_text(f"{what}, every {every:g} s; Ctrl-C ends")


def show_build(build: Build, *, wait: float) -> None:
    """Print what arrived, how long the build took, and what failed."""
    names = [Path(path).name for path in build.arrived[:_MOST_NAMES]]
    more = len(build.arrived) - len(names)
    arrived = ", ".join(names) + (f" and {more:,} more" if more else "")
    state = "ok" if build.succeeded else "FAILED"
    line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}  {state}  {build.nodes} nodes in {build.seconds:.2f} s"
    print_text(f"{line}  {arrived}".rstrip(), style="" if build.succeeded else "red")
    for name, why in build.failed.items():
        print_text(f"  {name}: {why}", style="red")
    if build.error is not None:
        print_text(f"  {build.error}", style="red")
    if not build.succeeded:
        print_text(f"  next try in {wait:g} s")
