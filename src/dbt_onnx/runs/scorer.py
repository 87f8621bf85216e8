"""Scoring the planned rows of a run: batches of features in, batches of predictions out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.kernel.row_search import RowSearch
from dbt_onnx.kernel.scoring import PART_ROWS, prediction_schema, score_batches
from dbt_onnx.kernel.session import DEFAULT_BATCH_ROWS
from dbt_onnx.runs.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from dbt_onnx.runs.plan import Planned
    from dbt_onnx.runs.run import ScoringRun

_PARTS_PER_WORKER = 8
_PART_VALUES = 4_000_000


class RunScorer:
    """Scores the batches of one run within the run's limits, and shows the progress.

    `part_rows` is the number of rows that a batch should have: enough work for every worker, and of bounded
    size. `columns` are the columns of the run row that a replay needs. `examples` has the first rejected
    row for each reason, for messages.
    """

    def __init__(self, run: ScoringRun, planned: Planned, *, in_child_process: bool) -> None:
        """Open the model of a run. Raises ArtifactError when onnxruntime cannot load it."""
        if run.artifact.signature.batch_rows == 1:
            run.log(
                f"model '{run.artifact.model}' has a batch fixed at 1: each row is a separate call, "
                "often a hundred times slower. Hint: export it with a dynamic first axis, for PyTorch "
                "torch.onnx.export(..., dynamic_axes={'input': {0: 'batch'}})"
            )
        self._session = run.artifact.open(
            threads=run.request.threads,
            batch_rows=run.request.batch_rows,
            in_child_process=in_child_process,
        )
        self._in_child_process = in_child_process
        self._contract = run.artifact.contract
        self._name = run.settings.identifier
        self._log = run.log
        self._rows = planned.summary.rows_to_score
        max_failures = planned.summary.max_failures(run.request.max_rejected_fraction)
        self._search = RowSearch(rows=self._rows, max_rows=max_failures)
        width = sum(feature.width or 1 for feature in self._contract.features)
        shared = max(self._rows // (_PARTS_PER_WORKER * self._session.workers), DEFAULT_BATCH_ROWS)
        self.part_rows = max(1, min(shared, PART_ROWS, _PART_VALUES // width))
        self.examples: dict[str, str] = {}

    @property
    def columns(self) -> dict[str, Any]:
        """How the rows were scored. Read it after scoring, because `batch_rows` is only known then.

        On Spark it describes the driver's session: the executors' sessions choose `batch_rows` themselves.
        """
        names = ("onnxruntime_version", "provider", "threads", "workers", "batch_rows")
        return {name: getattr(self._session, name) for name in names} | {
            "in_child_process": self._in_child_process
        }

    def schema_for(self, features: pa.Schema) -> pa.Schema:
        """Return the schema of the predictions for batches with the schema `features`."""
        return prediction_schema(features, self._contract)

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield predictions as `score_batches` does. A row on which the model fails is rejected."""
        with Progress(self._rows, label=self._name, log=self._log) as progress:
            yield from score_batches(
                batches,
                self._session,
                contract=self._contract,
                workers=self._session.workers,
                on_progress=progress.advance,
                search=self._search,
                examples=self.examples,
            )
        for reason, count in self._search.found.most_common(5):
            self._log(
                f"{self._name}: the model fails on {count:,} row(s), such as {self.examples[reason]}, "
                f"found with {self._search.calls:,} more calls: rejected as {reason}"
            )
