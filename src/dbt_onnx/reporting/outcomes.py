"""Outcomes, calibration, and comparisons, from the dbt models that compute them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from dbt_onnx.errors import shortened
from dbt_onnx.reporting.charts import Block, Cell, Chart, Table, line, nice_top
from dbt_onnx.reporting.texts import (
    NOTHING,
    any_text,
    count_text,
    day_text,
    figure_text,
    share_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dbt_onnx.reporting.gather import DbtModel, Row

_MOST_LINES = 8
_MOST_LISTED = 40
_METRICS = (
    ("auc", "AUC"),
    ("mean_absolute_error", "Mean absolute error"),
)
_FIGURES = (
    "rows", "positives", "auc", "log_loss", "brier_score", "mean_absolute_error", "root_mean_squared_error",
)  # fmt: skip


def outcome_blocks(models: Sequence[DbtModel]) -> list[Block]:
    """Return a chart for each model with outcomes by month and version."""
    blocks: list[Block] = []
    for model in models:
        if (rows := _rows_of(model, {"model_name", "model_version", "month"}, blocks)) is None:
            continue
        metric, words = next(
            (pair for pair in _METRICS if pair[0] in rows[0]), ("rows", "Number of outcomes")
        )
        rows = sorted(rows, key=lambda row: (str(row["month"]), *_names(row)))
        months = sorted({str(row["month"]) for row in rows})
        lines, legend = [], []
        values = [row[metric] for row in rows if row[metric] is not None]
        top = 1.0 if metric == "auc" else nice_top(max(values, default=1.0))
        # an AUC of 0.5 is chance
        bottom = 0.5 if metric == "auc" and min(values, default=0.0) >= 0.5 else 0.0
        for number, (name, of_name) in enumerate(_by_names(rows).items()):
            if number == _MOST_LINES:
                break
            points = [
                (
                    (months.index(str(row["month"])) + 0.5) / len(months),
                    (float(row[metric]) - bottom) / (top - bottom),
                )
                for row in of_name
                if row[metric] is not None
            ]
            lines.append(line(points, f"s{number + 1}"))
            legend.append((f"s{number + 1}", name))
        figures = [column for column in _FIGURES if column in rows[0]]
        blocks.append(
            Chart(
                title=f"{words} by month and version ({model.name})",
                lines=lines,
                legend=legend,
                top=f"{top:g}",
                bottom=f"{bottom:g}",
                labels=[months[0][:7], months[-1][:7]] if len(months) > 1 else [months[0][:7]],
                table=Table(
                    caption=f"{model.name}: outcomes by month and version",
                    header=("month", "version", *(name.replace("_", " ") for name in figures)),
                    rows=[
                        (
                            str(row["month"])[:7],
                            _name_of(row),
                            *(figure_text(row[name]) for name in figures),
                        )
                        for row in rows
                    ],
                ),
            )
        )
    return blocks


def calibration_blocks(models: Sequence[DbtModel]) -> list[Block]:
    """Return a chart of the newest month for each version."""
    blocks: list[Block] = []
    needed = {"model_name", "model_version", "month", "bin", "rows", "positives", "mean_prediction"}
    for model in models:
        if (rows := _rows_of(model, needed, blocks)) is None:
            continue
        for number, (name, of_name) in enumerate(_by_names(rows).items()):
            if number == _MOST_LINES:
                break
            month = max(str(row["month"]) for row in of_name)
            newest = sorted(
                (r for r in of_name if str(r["month"]) == month and r["bin"] is not None),
                key=lambda row: row["bin"],
            )
            if not newest:
                continue
            points = [
                (float(row["mean_prediction"]), row["positives"] / row["rows"]) for row in newest
            ]
            ordered = sorted(
                of_name, key=lambda row: (str(row["month"]), row["bin"] or 0), reverse=True
            )
            blocks.append(
                Chart(
                    title=f"Calibration of {name}, {month[:7]}",
                    lines=[line([(0.0, 0.0), (1.0, 1.0)], "ideal"), line(points, "s1")],
                    legend=[("s1", "share that came true"), ("ideal", "as predicted")],
                    top="100%",
                    labels=["predicted 0%", "100%"],
                    size="square",
                    table=Table(
                        caption=f"Calibration of {name} by month, newest first",
                        header=("month", "predicted", "came true", "rows", "positives"),
                        rows=[
                            (
                                str(row["month"])[:7],
                                share_text(row["mean_prediction"]),
                                share_text(row["positives"] / row["rows"]),
                                count_text(row["rows"]),
                                count_text(row["positives"]),
                            )
                            for row in ordered
                        ],
                    ),
                )
            )
    return blocks


def comparison_blocks(models: Sequence[DbtModel]) -> list[Block]:
    """Return a table for each comparison of champion and challenger."""
    blocks: list[Block] = []
    counts = ("paired_rows", "only_in_champion", "only_in_challenger")
    figures = (
        "agreement", "mean_difference", "mean_absolute_difference", "rank_correlation", "changed_decisions",
    )  # fmt: skip
    for model in models:
        rows = _rows_of(model, {"champion", "challenger", *counts, *figures}, blocks)
        if rows is None:
            continue
        blocks.append(
            Table(
                caption=f"{model.name}: champion against challenger",
                header=tuple(
                    name.replace("_", " ") for name in ("champion", "challenger", *counts, *figures)
                ),
                rows=[
                    (
                        row["champion"] or NOTHING,
                        row["challenger"] or NOTHING,
                        *(count_text(row[name]) for name in counts),
                        *(figure_text(row[name]) for name in figures),
                    )
                    for row in sorted(rows, key=lambda row: -row["paired_rows"])[:_MOST_LISTED]
                ],
            )
        )
    return blocks


def mover_blocks(models: Sequence[DbtModel]) -> list[Block]:
    """Return a table for each list of movers."""
    blocks: list[Block] = []
    needed = (
        "moment", "champion", "challenger", "champion_value", "challenger_value", "difference",
    )  # fmt: skip
    for model in models:
        if (rows := _rows_of(model, {*needed}, blocks)) is None:
            continue
        key = [
            name for name in rows[0] if name not in {*needed, "champion_as_of", "challenger_as_of"}
        ]
        largest = max(abs(row["difference"]) for row in rows) or 1.0
        blocks.append(
            Table(
                caption=f"{model.name}: the entities that the challenger moves most",
                header=(
                    ", ".join(key),
                    "moment",
                    "champion",
                    "challenger",
                    "from",
                    "to",
                    "difference",
                ),
                rows=[
                    (
                        ", ".join(any_text(row[name]) for name in key),
                        day_text(row["moment"]),
                        row["champion"],
                        row["challenger"],
                        figure_text(row["champion_value"]),
                        figure_text(row["challenger_value"]),
                        Cell(figure_text(row["difference"]), bar=abs(row["difference"]) / largest),
                    )
                    for row in rows
                ],
            )
        )
    return blocks


def _rows_of(model: DbtModel, needed: set[str], blocks: list[Block]) -> Sequence[Row] | None:
    """Return the rows of a dbt model; None, and a sentence in `blocks`, if they cannot be shown."""
    if model.fault is not None:
        blocks.append(f"{model.name} could not be read: {shortened(model.fault, 500)}")
    elif not model.rows:
        blocks.append(f"{model.name} has no rows yet.")
    elif missing := sorted(needed - model.rows[0].keys()):
        blocks.append(f"{model.name} is not shown: it has no column {', '.join(missing)}.")
    else:
        return model.rows
    return None


def _names(row: Row) -> tuple[str, ...]:
    return str(row.get("scoring_model", "")), str(row["model_name"]), str(row["model_version"])


def _name_of(row: Row) -> str:
    scoring_model, name, version = _names(row)
    return f"{scoring_model} {name}/{version}".strip()


def _by_names(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[_name_of(row)].append(row)
    return dict(sorted(found.items()))
