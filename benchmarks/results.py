"""Rows of the benchmark's table: measured figures, their targets, and whether they are reached."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SMOKE_MARGIN = 0.5
"""How much worse than its target a figure of the short version may be. The short version only checks that
everything runs and agrees: on another or a busy machine, the same code was a third slower compared with a rival.
"""
SMOKE = "smoke"
"""The key of the recorded figures of the short version in the results file."""

LIBRARIES = ("dbt-core", "dbt-duckdb", "duckdb", "onnxruntime", "pyarrow", "numpy",
             "pandas", "scikit-learn", "skl2onnx")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured figure. Without `at_least` and `at_most` it has no target and is only reported.

    `unit` is "x" for a ratio, else the unit of the figure. `series` has the points (x, seconds) behind
    the figure, for the plot; `series_of` names the quantity x, such as rows.
    """

    section: str
    workload: str
    against: str
    unit: str
    figure: float
    at_least: float | None = None
    at_most: float | None = None
    detail: str = ""
    series: Sequence[tuple[float, float]] = ()
    series_of: str = ""

    def holds(self, *, margin: float = 0.0) -> bool:
        """Whether the figure is within `margin` of its target, or has no target. A margin of 0.5 allows half of
        `at_least`, or twice `at_most`.
        """
        least = self.at_least is None or self.figure >= self.at_least * (1 - margin)
        most = self.at_most is None or self.figure <= self.at_most / (1 - margin)
        return least and most

    def with_recorded_target(self, recorded: Row | None) -> Row:
        """Return the figure with the recorded figure as its target, if the recorded one missed its target.

        So a figure that has not reached its target must at least not get worse.
        """
        if recorded is None or recorded.holds():
            return self
        least = None if self.at_least is None else recorded.figure
        most = None if self.at_most is None else recorded.figure
        return replace(self, at_least=least, at_most=most)

    @property
    def judged(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    @property
    def target(self) -> str:
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {shown(n, self.unit)}" for word, n in bounds if n is not None)

    @property
    def verdict(self) -> str:
        return "" if not self.judged else "yes" if self.holds() else "**no**"


def shown(number: float, unit: str) -> str:
    digits = ",.0f" if abs(number) >= 100 else ",.2f" if abs(number) >= 0.1 or not number else ".1g"
    return f"{number:{digits}} {unit}".strip()


def environment() -> dict[str, str]:
    """Return the machine and the versions that are reported with the figures."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def merge(path: Path, section: str, rows: Iterable[Row]) -> dict[str, Any]:
    """Replace a section of the results file with these rows, and return the whole document."""
    document = json.loads(path.read_text()) if path.exists() else {}
    document[section] = {
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
    }
    text = json.dumps(document, indent=1) + "\n"
    path.write_text(text)
    return dict(json.loads(text))


def recorded(path: Path) -> dict[tuple[str, str, str], Row]:
    """Return the recorded rows of the short version, by section, workload and rival."""
    document = json.loads(path.read_text()) if path.exists() else {}
    rows = rows_of(document[SMOKE]) if SMOKE in document else []
    return {(row.section, row.workload, row.against): row for row in rows}


def rows_of(section: Mapping[str, Any]) -> list[Row]:
    return [Row(**{**row, "series": tuple(map(tuple, row["series"]))}) for row in section["rows"]]


def markdown(document: Mapping[str, Any]) -> str:
    """Return the text of RESULTS.md: a table for each section, with its machine and versions."""
    lines = [
        "# Results",
        "",
        "Written by `make bench`; README.md in this folder explains how to read it.",
    ]
    for name, section in document.items():
        if name == SMOKE:
            continue
        known = section["environment"]
        versions = ", ".join(f"{key} {known[key]}" for key in known if key != "machine")
        lines += [
            "", f"## {name}", "",
            f"{section['measured_at']}, {known['machine']}; {versions}.", "",
            "| workload | against | figure | target | reached | detail |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        lines += [_line(row) for row in rows_of(section)]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = (row.workload, row.against, shown(row.figure, row.unit), row.target, row.verdict)
    return "| " + " | ".join((*cells, row.detail)) + " |"


def plot(document: Mapping[str, Any], paths: Iterable[Path]) -> None:
    """Plot every series of the results: time by rows, and time by features."""
    sections = [section for name, section in document.items() if name != SMOKE]
    rows = [row for section in sections for row in rows_of(section) if row.series]
    axes_of = sorted({row.series_of for row in rows}, reverse=True)
    if not rows:
        return
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "growth"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(axes_of), figsize=(6 * len(axes_of), 4), squeeze=False)
    for axis, what in zip(axes[0], axes_of, strict=True):
        for row in rows:
            if row.series_of == what:
                axis.plot(*zip(*row.series, strict=True), marker="o", label=row.workload)
        axis.set(xlabel=what, ylabel="seconds", xscale="log", yscale="log")
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize="small")
    figure.tight_layout()
    for path in paths:
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
