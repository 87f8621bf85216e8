"""`python -m benchmarks [--smoke] [--only SECTION]...`"""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path

import click
from rich.console import Console

from benchmarks import results
from benchmarks.measure import Scale

SECTIONS = (
    "scoring", "memory", "incremental", "history", "lookup", "serving", "overhead", "growth", "before",
    "spark",
)  # fmt: skip
SHORT = ("scoring", "incremental")
"""Sections of the short version. Their figures are ratios of long runs, so they also hold on a busy machine."""
FOLDER = Path(__file__).parent


@click.command()
@click.option(
    "--smoke", is_flag=True, help="Use less data, fail only below half a target, write no results."
)
@click.option(
    "--record",
    is_flag=True,
    help="With --smoke: record the figures to compare later short runs with.",
)
@click.option("--only", multiple=True, type=click.Choice(SECTIONS), help="Run these sections.")
def main(*, smoke: bool, record: bool, only: tuple[str, ...]) -> None:
    """Measure, print each figure as it comes, and exit with 1 if any figure misses its target.

    In the short version, a figure that missed its target when it was recorded is compared with the recorded figure.
    """
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    margin = results.SMOKE_MARGIN if smoke else 0.0
    before = results.recorded(FOLDER / "results.json") if smoke and not record else {}
    missed, measured = 0, []
    for name in only or (SHORT if smoke else SECTIONS):
        console.rule(name)
        started, rows = time.monotonic(), []
        for row in import_module(f"benchmarks.sections.{name}").measure(Scale(smoke=smoke)):
            rows.append(row)
            row = row.with_recorded_target(before.get((row.section, row.workload, row.against)))  # noqa: PLW2901
            missed += not row.holds(margin=margin)
            console.print(_line(row, margin=margin), soft_wrap=True)
        console.print(f"[dim]{name}: {time.monotonic() - started:.0f} s[/dim]")
        measured += rows
        if not smoke and rows:
            document = results.merge(FOLDER / "results.json", name, rows)
            (FOLDER / "RESULTS.md").write_text(results.markdown(document))
            results.plot(document, [FOLDER / "growth.png", FOLDER / "growth.svg"])
    if record:
        results.merge(FOLDER / "results.json", results.SMOKE, measured)
    console.print(
        f"{missed} figure(s) missed their targets" if missed else "all figures meet their targets"
    )
    sys.exit(1 if missed else 0)


def _line(row: results.Row, *, margin: float) -> str:
    word = "    " if not row.judged else "ok  " if row.holds(margin=margin) else "[red]MISS[/red]"
    figure = results.shown(row.figure, row.unit)
    target = f"({row.target})" if row.judged else ""
    return f"{word} {row.workload:24} {row.against:28} {figure:>12} {target:18} {row.detail}"


if __name__ == "__main__":
    main()
