"""Charts as shapes in a square of 100 by 100, and tables.

A chart has a table with the figures that it shows, so that nobody has to see it. Texts beside the
shapes are HTML, so they keep their size when the square is stretched.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_NUMBER = re.compile(r"–|[+-]?[0-9][0-9,]*(\.[0-9]+)?(e-[0-9]+)?%?")


class Rect(NamedTuple):
    """A rectangle; `y` is 0 at the top. `css` is the class that gives it a colour."""

    x: float
    y: float
    width: float
    height: float
    css: str


class Line(NamedTuple):
    """A line through points `(x, y)`, with a dot at each."""

    points: tuple[tuple[float, float], ...]
    css: str


class Cell(NamedTuple):
    """A cell of a table: a text, and optionally a bar of `bar` (0 to 1) of the width, or small shapes."""

    text: str
    bar: float | None = None
    css: str = "s1"
    shapes: tuple[Rect, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. The first column names the row. A folded table is shown on request."""

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str | Cell, ...]]
    is_folded: bool = False

    @property
    def cells(self) -> list[tuple[Cell, ...]]:
        return [
            tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row)
            for row in self.rows
        ]

    @property
    def is_number(self) -> tuple[bool, ...]:
        """Whether a column has numbers only, which are aligned to the right; never the first."""
        columns = zip(*([cell.text for cell in row[1:]] for row in self.cells), strict=True)
        found = [all(map(_NUMBER.fullmatch, column)) for column in columns]
        return (False, *(found or [False] * (len(self.header) - 1)))


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its title, its axes and its table.

    legend    (css class, name) of each series; empty for a single one
    top       the text at the upper end of the y axis, `bottom` that at the lower end
    labels    texts below, from left to right: one for each column if `is_labelled`, else of the ends
    size      css class of the height: "tall", "low" or "square"
    table     None if the table of the next chart has these figures, too
    """

    title: str
    rects: Sequence[Rect] = ()
    lines: Sequence[Line] = ()
    legend: Sequence[tuple[str, str]] = ()
    top: str
    bottom: str = "0"
    labels: Sequence[str]
    is_labelled: bool = False
    size: str = "tall"
    table: Table | None = None


Block = str | Chart | Table
"""A part of a section; a text is a paragraph."""


def nice_top(value: float) -> float:
    """Return a round number that is at least `value`, as the end of an axis; 1 for 0."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        step * power
        for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
        if step * power >= value * (1 - 1e-9)
    )


def stacked(columns: Sequence[Mapping[str, float]], *, top: float) -> list[Rect]:
    """Return rectangles of stacked columns, each {css class: value}, from the bottom to the top."""
    found, step = [], 100 / max(len(columns), 1)
    for position, column in enumerate(columns):
        height = 0.0
        for css, value in column.items():
            part = 100 * value / top
            height += part
            if part > 0:
                found.append(_rect(position * step, 100 - height, step * 0.8, part, css))
    return found


def grouped(columns: Sequence[Mapping[str, float]], *, top: float) -> list[Rect]:
    """Return rectangles of columns, each {css class: value}, side by side."""
    found, step = [], 100 / max(len(columns), 1)
    for position, column in enumerate(columns):
        width = step * 0.84 / max(len(column), 1)
        for number, (css, value) in enumerate(column.items()):
            height = 100 * value / top
            found.append(_rect(position * step + number * width, 100 - height, width, height, css))
    return found


def outlines(rects: Sequence[Rect]) -> dict[str, str]:
    """Return {css class: the path of all its rectangles}: a third of the bytes of one element for each."""
    found: dict[str, str] = {}
    for x, y, width, height, css in rects:
        found[css] = f"{found.get(css, '')}M{x:g} {y:g}h{width:g}v{height:g}h{-width:g}z"
    return found


def line(points: Sequence[tuple[float, float]], css: str) -> Line:
    """Return a line through points with coordinates from 0 to 1, where y is 0 at the bottom."""
    return Line(tuple((round(100 * x, 1), round(100 * (1 - y), 1)) for x, y in points), css)


def _rect(x: float, y: float, width: float, height: float, css: str) -> Rect:
    return Rect(round(x, 1), round(y, 1), round(width, 1), round(height, 1), css)
