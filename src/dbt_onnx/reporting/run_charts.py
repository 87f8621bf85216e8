"""The runs of a scoring model over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.reporting.charts import Block, Chart, Table, nice_top, stacked
from dbt_onnx.reporting.texts import NOTHING, any_text, count_text, day_text, moment_text
from dbt_onnx.runs.plan import SCORE_REASONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbt_onnx.runs.history import RunRow

# the same colour everywhere; what is usual in blue
_REASONS = dict(zip(SCORE_REASONS, ("s3", "s1", "s2", "s4", "s5", "s6", "s7", "s8"), strict=True))


def run_blocks(runs: Sequence[RunRow]) -> list[Block]:
    """Return the charts and tables of the runs, oldest first."""
    if not runs:
        return []
    columns = [
        {_REASONS[name]: float(rows) for name, rows in run.per_reason.items()}
        | ({"s0": float(run.rows_unchanged)} if run.rows_unchanged else {})
        for run in runs
    ]
    seen = {css for column in columns for css in column}
    labels = (
        [day_text(runs[0].clock), day_text(runs[-1].clock)]
        if len(runs) > 1
        else [day_text(runs[0].clock)]
    )
    top = nice_top(max(sum(column.values()) for column in columns))
    blocks: list[Block] = [
        Chart(
            title="Rows of each run, by the reason for scoring",
            rects=stacked(columns, top=top),
            legend=[
                (css, name.replace("_", " "))
                for name, css in [*_REASONS.items(), ("unchanged", "s0")]
                if css in seen
            ],
            top=f"{top:,.0f}",
            labels=labels,
        )
    ]
    rejected = [float(run.rows_rejected or 0) for run in runs]
    if any(rejected):
        top = nice_top(max(rejected))
        blocks.append(
            Chart(
                title="Rejected rows of each run",
                rects=stacked([{"bad": rows} for rows in rejected], top=top),
                top=f"{top:,.0f}",
                labels=labels,
                size="low",
            )
        )
    else:
        blocks.append("No row was rejected in these runs.")
    seconds = [_seconds(run) or 0.0 for run in runs]
    top = nice_top(max(seconds))
    blocks.append(
        Chart(
            title="Seconds of each run",
            rects=stacked([{"s1": each} for each in seconds], top=top),
            top=f"{top:,g} s",
            labels=labels,
            size="low",
            table=_runs_table(runs),
        )
    )
    failed = [run for run in runs if run.status != "success"]
    if failed:
        blocks.append(
            Table(
                caption="Runs without success",
                header=("run", "started (UTC)", "status", "error"),
                rows=[
                    (
                        str(run.run_id)[:8],
                        moment_text(run.started_at) or NOTHING,
                        run.status,
                        any_text(run.error),
                    )
                    for run in failed
                ],
            )
        )
    return blocks


def _runs_table(runs: Sequence[RunRow]) -> Table:
    return Table(
        caption="Runs, oldest first",
        header=(
            "run", "started (UTC)", "clock", "version", "scope", "in", "scored", "rejected", "unchanged",
            "seconds", "why",
        ),
        rows=[
            (
                str(run.run_id)[:8],
                moment_text(run.started_at) or NOTHING,
                day_text(run.clock),
                f"{run.model_name}/{run.model_version}" if run.model_name else NOTHING,
                run.scope if run.status == "success" else run.status,
                *map(count_text, (run.rows_in, run.rows_scored, run.rows_rejected, run.rows_unchanged)),
                _figure_of_seconds(run),
                ", ".join(
                    f"{name.replace('_', ' ')} {rows:,}" for name, rows in run.per_reason.items()
                )
                or NOTHING,
            )
            for run in runs
        ],
    )  # fmt: skip


def _figure_of_seconds(run: RunRow) -> str:
    seconds = _seconds(run)
    return NOTHING if seconds is None else f"{seconds:,.2f}"


def _seconds(run: RunRow) -> float | None:
    if run.started_at is None or run.ended_at is None:
        return None
    return float((run.ended_at - run.started_at).total_seconds())
