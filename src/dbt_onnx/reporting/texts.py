"""Figures and moments as texts. NULL is a dash."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import shortened
from dbt_onnx.runs.health import age_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from dbt_onnx.reporting.gather import Row

NOTHING = "–"


def count_text(value: int | None) -> str:
    """Return `23,570`."""
    return NOTHING if value is None else f"{value:,}"


def share_text(value: float | None) -> str:
    """Return `12.3%`."""
    return NOTHING if value is None else f"{value:.1%}"


def index_text(value: float | None) -> str:
    """Return `0.123`, for a stability index."""
    return NOTHING if value is None else f"{value:.3f}"


def figure_text(value: float | None) -> str:
    """A count with thousands separators, any other number with four decimals, or two digits if it is tiny."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1e}" if 0 < abs(value) < 0.00005 else f"{value:,.4f}"


def period_text(age: timedelta | float | None) -> str:
    """Return `1 day 6 h`, see `age_text`."""
    return NOTHING if age is None else age_text(age)


def moment_text(value: datetime | None) -> str:
    """Return `1998-04-01 06:00`; empty for None."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}"


def day_text(value: datetime | None) -> str:
    """Return `1998-04-01`, with the time unless it is midnight."""
    if value is None:
        return NOTHING
    return f"{value:%Y-%m-%d %H:%M}".removesuffix(" 00:00")


def any_text(value: object) -> str:
    """Return any value on one line of at most 300 characters."""
    return NOTHING if value is None else shortened(" ".join(str(value).split()), 300)


def rows_by(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    """Return {value of the column: its rows}."""
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[column]].append(row)
    return dict(found)
