"""Distributions of scores and features: now, before the last run, and in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.reporting.charts import Block, Cell, Chart, Rect, Table, grouped, nice_top
from dbt_onnx.reporting.texts import NOTHING, index_text, rows_by, share_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dbt_onnx.reporting.gather import Row

DIFFERS, DIFFERS_MUCH = 0.1, 0.25
"""The default thresholds of `features_match_training` and `predictions_match_baseline`."""

_ABOUT_INDEX = (
    "The stability index (PSI) compares a feature now with training. Below "
    f"{DIFFERS} little has changed, above {DIFFERS_MUCH} much has."
)
_MOST_BINS = 12
_MOST_FEATURES = 200
_MOST_SHAPES = 20  # features whose distribution is drawn
_SERIES = {"now": "s1", "before": "s2", "training": "s0"}


def score_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return a chart for each output; `rows` are those of `_reported_outputs`."""
    blocks: list[Block] = []
    for name, of_output in rows_by(rows, "column_name").items():
        comparisons = rows_by(of_output, "comparison")
        # all series have the bins of training if the card describes the output
        shown = next(
            comparisons[each] for each in ("training", "previous_run", "now") if each in comparisons
        )
        before = {row["number"]: row["actual"] for row in comparisons.get("before", ())}
        series: dict[str, dict[str, float]] = {}
        for bin_name, number, expected, actual in _bins(shown):
            shares = {"now": actual}
            if "training" in comparisons:
                shares |= {"before": before.get(number, 0.0)} if before else {}
                shares |= {"training": expected}
            elif "previous_run" in comparisons:
                shares |= {"before": expected}
            if any(shares.values()) or bin_name != "other values":
                series[bin_name] = shares
        if not series:
            blocks.append(f"{name}: no entity has a value.")
            continue
        order = [
            each for each in ("training", "before", "now") if each in next(iter(series.values()))
        ]
        words = {"now": "now", "before": "before the last run", "training": "in training"}
        index = [
            f"{index_text(comparisons[each][0]['psi'])} against {what}"
            for each, what in (("training", "training"), ("previous_run", "the run before"))
            if each in comparisons
        ]
        if index:
            blocks.append(f"{name}: the stability index is {' and '.join(index)}.")
        top = nice_top(max(max(shares.values()) for shares in series.values()))
        blocks.append(
            Chart(
                title=f"Distribution of {name}",
                rects=grouped(
                    [{_SERIES[each]: shares[each] for each in order} for shares in series.values()],
                    top=top,
                ),
                legend=[(_SERIES[each], words[each]) for each in order],
                top=f"{top:.0%}",
                labels=list(series) if len(series) <= 3 else [next(iter(series)), list(series)[-1]],
                is_labelled=len(series) <= 3,
                table=Table(
                    caption=f"Share of the predictions by {name}",
                    header=(name, *(words[each] for each in order)),
                    rows=[
                        (bin_name, *(share_text(shares[each]) for each in order))
                        for bin_name, shares in series.items()
                    ],
                ),
            )
        )
    return blocks


def feature_blocks(rows: Sequence[Row]) -> list[Block]:
    """Return the features by their index; `rows` are those of `_reported_features`."""
    found = sorted(
        rows_by(rows, "column_name").items(),
        key=lambda item: item[1][0].get("psi") or 0.0,
        reverse=True,
    )
    if not found:
        return []
    listed: list[tuple[str | Cell, ...]] = []
    shares_of: list[tuple[str | Cell, ...]] = []
    for position, (name, rows_of_feature) in enumerate(found[:_MOST_FEATURES]):
        row = rows_of_feature[0]
        if row["problem"] is not None:
            problem = row["problem"].replace("_", " ")
            listed.append((name or "all", NOTHING, problem, *[NOTHING] * 3))
            continue
        bins, index = _bins(rows_of_feature), row["psi"]
        shapes: tuple[Rect, ...] = ()
        if position < _MOST_SHAPES and bins:
            columns = [{"s0": expected, "s1": actual} for _, _, expected, actual in bins]
            shapes = tuple(grouped(columns, top=max(max(each.values()) for each in columns) or 1))
            shares_of += [
                (name, bin_name, share_text(a), share_text(b)) for bin_name, _, a, b in bins
            ]
        listed.append(
            (
                name,
                Cell(index_text(index), bar=_bar(index), css=_severity(index)),
                _in_words(index),
                f"{share_text(row['expected_null_share'])} → {share_text(row['null_share'])}",
                Cell("", shapes=shapes),
                _moved(bins),
            )
        )
    blocks: list[Block] = [
        _ABOUT_INDEX,
        Table(
            caption="Features, the most changed first; grey is training, blue is now",
            header=("feature", "index", "compared with training", "NULL", "shares", "moved most"),
            rows=listed,
        ),
    ]
    if shares_of:
        header = ("feature", "value", "in training", "now")
        caption = "Shares of the values of each feature"
        blocks.append(Table(caption=caption, header=header, rows=shares_of, is_folded=True))
    if len(found) > _MOST_FEATURES:
        blocks.append(f"{len(found) - _MOST_FEATURES:,} more features, with a smaller index.")
    return blocks


def _bins(rows: Iterable[Row]) -> list[tuple[str, int, float, float]]:
    """Return (bin, number, expected, actual) in order. Rare categories beyond the first ones are added up."""
    found = sorted(
        (
            (row["bin"], row["number"], row["expected"] or 0.0, row["actual"] or 0.0)
            for row in rows
            if row["bin"] is not None
        ),
        key=lambda item: item[1],
    )
    if len(found) <= _MOST_BINS:
        return found
    rest = found[_MOST_BINS - 1 :]
    others = ("other values", rest[0][1], sum(row[2] for row in rest), sum(row[3] for row in rest))
    return [*found[: _MOST_BINS - 1], others]


def _moved(bins: Sequence[tuple[str, int, float, float]]) -> str:
    if not bins:
        return NOTHING
    name, _, expected, actual = max(bins, key=lambda item: abs(item[3] - item[2]))
    return f"{name}: {share_text(expected)} → {share_text(actual)}"


def _bar(index: float | None) -> float | None:
    return None if index is None else min(index / (2 * DIFFERS_MUCH), 1.0)


def _severity(index: float | None) -> str:
    if index is None or index <= DIFFERS:
        return "good"
    return "fair" if index <= DIFFERS_MUCH else "bad"


def _in_words(index: float | None) -> str:
    if index is None:
        return "no values"
    return {"good": "as in training", "fair": "differs", "bad": "differs much"}[_severity(index)]
