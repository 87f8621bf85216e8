"""The code that runs on an executor. A task scores its batches, or scores them again and compares the results.

Each executor process keeps its ONNX session between tasks. From Spark, this module imports only `TaskContext`. An
executor needs dbt_onnx, pyarrow, numpy and onnxruntime; it needs neither dbt nor pandas.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from dbt_onnx.engines.spark.session import ERROR_PREFIX
from dbt_onnx.errors import ArtifactError, DbtOnnxError, document_of
from dbt_onnx.kernel.child_session import open_session
from dbt_onnx.kernel.row_search import RowSearch
from dbt_onnx.kernel.scoring import prediction_schema, score_batch
from dbt_onnx.runs.replay import Replay, compare_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.kernel.contract import Contract

COUNTS = ("identical", "within_tolerance", "different")

# {(sha256 of the model, threads, batch_rows, whether it runs in a child process): session}; this process runs one
# task at a time, but tasks of several runs
_SESSIONS: dict[tuple[str, int | None, int | None, bool], Any] = {}


class ModelBytes(Protocol):
    """The model as a Spark broadcast. Each executor fetches its value once."""

    @property
    def value(self) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """The parameters of a task, small enough to be sent with each task. Of the run's `rows`, at most `max_rows` may be
    rejected because the model fails on them; None means that all may.
    """

    contract: Contract
    model: ModelBytes
    sha256: str
    batch_rows: int | None
    threads: int | None
    rows: int | None
    max_rows: int | None
    features: tuple[str, ...]

    @classmethod
    def of(
        cls,
        artifact: Artifact,
        broadcast: Callable[[bytes], ModelBytes],
        *,
        batch_rows: int | None,
        threads: int | None,
        rows: int | None = None,
        max_rows: int | None = None,
        features: tuple[str, ...] = (),
    ) -> Work:
        content = artifact.scoring_bytes
        return cls(
            contract=artifact.contract,
            model=broadcast(content),
            sha256=hashlib.sha256(content).hexdigest(),
            batch_rows=artifact.signature.batch_rows or batch_rows,
            threads=threads,
            rows=rows,
            max_rows=max_rows,
            features=features,
        )

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield batches of predictions, like `score_batches`, with the features that the model was fed."""
        try:
            session = self._session(in_child_process=_is_repeated())
            search = RowSearch(rows=self.rows, max_rows=self.max_rows)
            for batch in batches:
                if not batch.num_rows:
                    continue
                scored = score_batch(batch, session, self.contract, search)
                yield _with_lists(
                    scored, [batch.column(name) for name in self.features], self.features
                )
        except DbtOnnxError as error:
            # only the text of an error comes back to the driver
            raise RuntimeError(ERROR_PREFIX + json.dumps(document_of(error))) from None

    def _session(self, *, in_child_process: bool) -> Any:
        settings = (self.sha256, self.threads, self.batch_rows, in_child_process)
        if settings in _SESSIONS:
            return _SESSIONS[settings]
        content = self.model.value
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ArtifactError(
                "an executor received a corrupted model: its sha256 differs from the one sent",
                hint="run again; if it happens again, check the executor's memory and network",
            )
        session = _SESSIONS[settings] = open_session(
            content,
            self.contract,
            threads=self.threads,
            batch_rows=self.batch_rows,
            in_child_process=in_child_process,
        )
        return session

    def schema_for(self, given: pa.Schema) -> pa.Schema:
        """Return the schema of the output for input batches with the schema `given`."""
        scored = prediction_schema(given, self.contract)
        fields = [pa.field(f.name, as_list(f.type)) for f in scored]
        return pa.schema([*fields, *(given.field(name) for name in self.features)])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A task of a replay: scores its rows again and compares them. Yields one row: counts, and findings as JSON."""

    work: Work
    key: tuple[str, ...]
    columns: tuple[str, ...]
    scales: Mapping[str, Any]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        replay = Replay(run_id="", model="")
        for scored in self.work(batches):
            compare_batch(replay, scored, key=self.key, columns=self.columns, scales=self.scales)
        counts = [pa.array([getattr(replay, name)], pa.int64()) for name in COUNTS]
        findings = [json.dumps(asdict(finding)) for finding in replay.findings]
        yield pa.RecordBatch.from_arrays(
            [*counts, pa.array([findings], pa.list_(pa.string()))], names=[*COUNTS, "findings"]
        )


def _is_repeated() -> bool:
    """Return whether an earlier attempt at this task failed: its process may have died inside the model."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0


def as_list(kind: pa.DataType) -> pa.DataType:
    """Return the type with a list in place of a fixed-size array, which Spark does not read."""
    return pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind


def _with_lists(
    scored: pa.RecordBatch, features: list[pa.Array], names: tuple[str, ...]
) -> pa.RecordBatch:
    """Return the predictions, with lists in place of fixed-size arrays, plus the features."""
    columns = [column.cast(as_list(column.type)) for column in scored.columns]
    return pa.RecordBatch.from_arrays([*columns, *features], names=[*scored.schema.names, *names])
