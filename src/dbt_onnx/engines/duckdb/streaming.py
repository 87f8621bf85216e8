"""From the planned rows to the ledger: stream, score, append."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb import plan, writing
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.contract import CARRIED_PREFIX
from dbt_onnx.kernel.row_search import RowSearch
from dbt_onnx.kernel.scoring import KEY_PREFIX, PART_ROWS, prediction_schema, score_batches
from dbt_onnx.kernel.session import DEFAULT_BATCH_ROWS, OnnxSession
from dbt_onnx.runs.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.fed_rows import FedRows
    from dbt_onnx.engines.duckdb.planning import PlannedRun
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.kernel.tally import Tally
    from dbt_onnx.runs.request import ScoringRequest

_PARTS_PER_WORKER = 8
_PART_VALUES = 4_000_000


def stream_predictions(
    reader: Cursor,
    writer: Cursor,
    request: ScoringRequest,
    artifact: Artifact,
    tables: ScoringTables,
    planned: PlannedRun,
    tally: Tally,
    fed: FedRows | None,
    *,
    in_child_process: bool,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Score the planned rows into the ledger, and add to `tally` what became of them; `fed` sets aside
    what is to be kept of them. Returns the columns of the run row that say how: what a replay needs.

    `in_child_process`: a row that kills the process in which the model runs is rejected.

    Raises ScoringError, and ArtifactError when onnxruntime cannot load the model.
    """
    to_score, name = planned.summary.rows_to_score, tables.ledger.identifier
    session = _open_session(request, artifact, in_child_process=in_child_process, log=log)
    rows_in = planned.summary.rows_in
    # a model that fails on all of them is broken, whatever may be rejected
    allowed = min(int(request.max_rejected_fraction * rows_in), rows_in - 1)
    search = RowSearch(
        rows=to_score, max_rows=max(0, allowed - planned.summary.rows_still_rejected)
    )
    rows = reader.stream(
        plan.select_rows(planned.plan),
        planned.parameters,
        batch_rows=_part_rows(to_score, artifact, workers=session.workers),
    )
    try:
        with Progress(to_score, label=name, log=log) as progress:
            predictions = score_batches(
                rows if fed is None else fed.passing(rows, columns=_kept_columns(rows.schema)),
                session,
                contract=artifact.contract,
                tally=tally,
                workers=session.workers,
                on_progress=progress.advance,
                search=search,
            )
            schema = prediction_schema(rows.schema, artifact.contract)
            writing.append_predictions(writer, tables, planned, predictions, schema=schema)
    finally:
        # an unfinished stream would keep the reader from ending its transaction
        rows.close()
    for reason, count in search.found.most_common(5):
        log(
            f"{name}: the model fails on {count:,} row(s), such as {tally.examples[reason]}, found with "
            f"{search.calls:,} calls more: rejected as {reason}"
        )
    return {
        "onnxruntime_version": session.onnxruntime_version,
        "provider": session.provider,
        "threads": session.threads,
        "workers": session.workers,
        "batch_rows": session.batch_rows,
        "in_child_process": in_child_process,
    }


def _kept_columns(schema: pa.Schema) -> list[str]:
    """Key and features."""
    return [
        name
        for name in schema.names
        if name.startswith(KEY_PREFIX) or not name.startswith(CARRIED_PREFIX)
    ]


def _open_session(
    request: ScoringRequest,
    artifact: Artifact,
    *,
    in_child_process: bool,
    log: Callable[[str], None],
) -> OnnxSession | ChildSession:
    if artifact.signature.batch_rows == 1:
        log(
            f"model '{artifact.model_name}/{artifact.model_version}' has a batch fixed at 1: each row "
            "is a call of its own, often a hundred times slower. Hint: export it with a dynamic first axis, for PyTorch "
            "torch.onnx.export(..., dynamic_axes={'input': {0: 'batch'}})"
        )
    return (ChildSession if in_child_process else OnnxSession)(
        artifact.scoring_bytes,
        output_names=[output.name for output in artifact.contract.outputs],
        # more rows at once are faster than more threads for each call
        threads=request.threads or 1,
        batch_rows=artifact.signature.batch_rows or request.batch_rows,
    )


def _part_rows(rows: int, artifact: Artifact, *, workers: int) -> int:
    """Rows that a worker takes at once: enough work for all of them, and of bounded size."""
    width = sum(feature.width or 1 for feature in artifact.contract.features)
    shared = max(rows // (_PARTS_PER_WORKER * workers), DEFAULT_BATCH_ROWS)
    return max(1, min(shared, PART_ROWS, _PART_VALUES // width))
