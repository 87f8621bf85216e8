"""What `runs`, `history`, `explain`, `replay`, `forget` and `prune` print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.cli.show.console import open_console, print_text, table
from dbt_onnx.errors import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from dbt_onnx.runs.history import Contribution, Erasure, Explained, LedgerRow, RunRow
    from dbt_onnx.runs.replay import Finding, Replay

_SHORT = 8
_LARGEST = 3


def show_runs(runs: Sequence[RunRow]) -> None:
    """Print one row per run, then the errors."""
    header = (
        "run", "scoring model", "started", "clock", "status", "scope", "model",
        "in", "scored", "why", "rejected", "unchanged", "inputs kept",
    )  # fmt: skip
    rows = [
        (
            run.run_id[:_SHORT],
            run.scoring_model,
            _moment(run.started_at),
            _moment(run.clock),
            run.status,
            run.scope or "",
            str(run.model) if run.model_version else "",
            *(_count(run.values[name]) for name in ("rows_in", "rows_scored")),
            ", ".join(f"{reason} {count:,}" for reason, count in run.per_reason.items()),
            *(
                _count(run.values[name])
                for name in ("rows_rejected", "rows_unchanged", "rows_inputs_kept")
            ),
        )
        for run in runs
    ]
    open_console().print(table("runs", header, rows))
    for run in runs:
        if run.error:
            print_text(f"{run.run_id[:_SHORT]} {run.scoring_model}: {run.error}", style="red")


def show_history(name: str, key: Sequence[str], history: Sequence[LedgerRow]) -> None:
    """Print one row per prediction, oldest first."""
    outputs = list(history[0].outputs)
    header = ("scored at", "as of", "model", "run", *outputs, "why", "inputs changed")
    explained = any(row.contributions for row in history)
    header += ("contributions",) if explained else ()
    rows = [
        (
            _moment(row.scored_at),
            _moment(row.as_of),
            row.model,
            row.run_id[:_SHORT],
            *(_value(row.outputs[column]) for column in outputs),
            _why(row),
            _changes(row.changed_inputs),
            *([_largest(row.contributions)] if explained else []),
        )
        for row in history
    ]
    open_console().print(table(f"{name} of {', '.join(key)}", header, rows))


def show_explanation(name: str, key: Sequence[str], row: LedgerRow, *, top: int) -> None:
    """Print the contributions to one prediction, largest first. Those after the first `top` are summed up."""
    print_text(
        f"{name} of {', '.join(key)}: {row.model}, as of {_moment(row.as_of)}, run {row.run_id[:_SHORT]}"
    )
    for output in dict.fromkeys(item.output for item in row.contributions):
        items = [item for item in row.contributions if item.output == output]
        base, scale = items[0].base, items[0].scale
        cells = [(item.feature, _given(item), _signed(item.contribution)) for item in items[:top]]
        if rest := items[top:]:
            cells.append((f"{len(rest)} more", "", _signed(sum(i.contribution for i in rest))))
        score = base + sum(item.contribution for item in items)
        cells.append(("mean of the sample", "", _value(base)))
        cells.append((f"score ({scale})", "", _value(score)))
        title = f"{output} {_value(row.outputs[output])}"
        open_console().print(table(title, ("feature", "value", "contribution"), cells))


def show_explained_run(name: str, result: Explained, *, seconds: float) -> None:
    """Print how many rows of a run were explained."""
    print_text(
        f"{name}: explained {result.rows_added:,} row(s) of run {result.run.run_id} ({result.run.model}) "
        f"in {seconds:.1f} s; {result.rows_explained:,} of its {result.run.rows_scored:,} scores are explained"
    )


def show_served(publications: Sequence[Mapping[str, Any]]) -> None:
    """Print the publications, oldest first. Print nothing if there are none."""
    header = ("published as", "target", "served from", "until", "rows", "publication", "run")
    rows = [
        (
            row["name"],
            row["target"],
            _moment(row["served_since"]),
            "now" if row["served_until"] is None else _moment(row["served_until"]),
            _count(row["rows_published"]),
            row["publication"],
            (row["run_id"] or "")[:_SHORT],
        )
        for row in publications
    ]
    if rows:
        open_console().print(table("served", header, rows))


def show_replay(replay: Replay) -> None:
    """Print the result of a replay, and its differences."""
    sampled = f" of {replay.rows_kept:,}" if replay.rows != replay.rows_kept else ""
    print_text(
        f"{replay.run_id}  {replay.model}  rows {replay.rows:,}{sampled}  "
        f"identical {replay.identical:,}  within tolerance {replay.within_tolerance:,}  "
        f"different {replay.different:,}  {'ok' if replay.passed else 'FAILED'}",
        style="" if replay.passed else "red",
    )
    for finding in replay.findings:
        print_text(f"  {finding}", style="red")
    for note in replay.notes:
        print_text(f"  note: {note}", style="yellow")


def show_proof(name: str, findings: Sequence[Finding]) -> None:
    """Print the first differences between the tables and the records of the runs, then the verdict."""
    from dbt_onnx.runs.replay import MAX_FINDINGS

    for finding in findings[:MAX_FINDINGS]:
        print_text(f"  {finding}", style="red")
    verdict = "match the records of the runs" if not findings else "FAILED"
    print_text(f"{name}: tables {verdict}", style="red" if findings else "")


def show_erasure(name: str, erasure: Erasure, *, dry_run: bool) -> None:
    """Print how many rows were erased, or would be in a dry run."""
    print_text(
        f"{name}: {'would erase' if dry_run else 'erased'} {erasure.rows:,} prediction(s) and "
        f"{erasure.rows_inputs:,} row(s) of inputs of {erasure.runs:,} run(s)"
    )
    if erasure.logged_by:
        print_text(
            "the answers of a service remain in the files in requests/ of publication(s) "
            f"{', '.join(erasure.logged_by)}: remove the files that a run has taken over "
            "(docs/serving.md)"
        )


def _why(row: LedgerRow) -> str:
    why = row.score_reason + (", late" if row.is_late else "")
    return f"{why}, rejected: {row.rejected_reason}" if row.rejected_reason else why


def _changes(changes: Mapping[str, tuple[Any, Any]] | None) -> str:
    return ", ".join(
        f"{name} {_value(old)} > {_value(new)}" for name, (old, new) in (changes or {}).items()
    )


def _largest(contributions: Sequence[Contribution]) -> str:
    has_one = len({item.output for item in contributions}) == 1
    return ", ".join(
        f"{'' if has_one else item.output + ': '}{item.feature} {_signed(item.contribution)}"
        for item in contributions[:_LARGEST]
    )


def _given(item: Contribution) -> str:
    return "NULL" if item.value is None else shortened(item.value, 100)


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def _value(value: Any) -> str:
    # imported only here, because it imports pyarrow, which `runs` does not need
    from dbt_onnx.runs.replay import shown

    return f"{value:.6g}" if isinstance(value, float) else shown(value)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _moment(value: datetime | None) -> str:
    if value is None:
        return ""
    return value.isoformat(sep=" ", timespec="seconds").removesuffix(" 00:00:00")
