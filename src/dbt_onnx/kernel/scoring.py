"""The entry point of the kernel: turns a stream of feature rows into a stream of predictions."""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_onnx.errors import ScoringError, shortened
from dbt_onnx.kernel.contract import CARRIED_PREFIX, KEY_PREFIX
from dbt_onnx.kernel.decode import decode
from dbt_onnx.kernel.encode import REJECTED_COLUMN, encode
from dbt_onnx.kernel.native import RUNNING_WORK
from dbt_onnx.kernel.relation import check_relation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from dbt_onnx.kernel.contract import Contract
    from dbt_onnx.kernel.row_search import RowSearch
    from dbt_onnx.kernel.session import Scorer
    from dbt_onnx.kernel.tensors import Array

PART_ROWS = 122_880  # a row group of DuckDB


def prediction_schema(carried: pa.Schema, contract: Contract) -> pa.Schema:
    """Return the schema of the predictions for a stream with the schema `carried`.

    `carried` needs only the carried columns (`__dbt_onnx_...`). Feature columns in it are ignored.
    """
    return pa.schema(
        [
            *(carried.field(name) for name in _carried_names(carried)),
            *contract.output_fields(),
            pa.field("rejected_reason", pa.string()),
        ]
    )


def score_batches(
    batches: Iterable[pa.RecordBatch],
    scorer: Scorer,
    *,
    contract: Contract,
    workers: int = 1,
    part_rows: int = PART_ROWS,
    on_progress: Callable[[int], None] | None = None,
    search: RowSearch | None = None,
    examples: dict[str, str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Score a stream: yield one row for each input row, in the same order, for input batches of any size.

    An input batch has the carried columns (`__dbt_onnx_...`) and the contract's features. An output
    batch has at most `part_rows` rows with the schema `prediction_schema`. A rejected row has NULL
    outputs and a `rejected_reason`; a scored row has a NULL `rejected_reason`. An empty stream or an
    empty batch yields no batch. The caller closes the stream and the scorer.

    `examples` receives the first row of each reason as text, for messages. `on_progress` is called
    before each output batch with its number of rows.

    `workers` threads score while the caller writes the previous batch and the next one is read: numpy,
    Arrow and onnxruntime release the GIL. The number of threads does not change the output.

    With `search`, a row on which the model fails is rejected. Without it, the first failing row ends
    the run.

    Raises ContractError if the columns do not match the contract. Raises ScoringError, with the range
    of rows, if the model fails or its outputs do not match the contract. Raises DataError if `search` does.
    """
    done = 0
    waiting: deque[tuple[pa.RecordBatch, Future[pa.RecordBatch]]] = deque()

    def finish() -> pa.RecordBatch:
        nonlocal done
        part, future = waiting.popleft()
        try:
            predictions = future.result()
        except ScoringError as error:
            raise ScoringError(
                f"rows {done + 1:,} to {done + part.num_rows:,}: {error.message}", hint=error.hint
            ) from error
        done += part.num_rows
        found = predictions.column("rejected_reason")
        if examples is not None and found.null_count < part.num_rows:
            for reason in found.drop_null().unique().to_pylist():
                if reason not in examples:
                    row = found.index(reason).as_py()
                    examples[reason] = _example(part, row, reason, contract)
        if on_progress is not None:
            on_progress(part.num_rows)
        return predictions

    with ThreadPoolExecutor(workers) as pool:
        try:
            for part in _parts(batches, contract, part_rows):
                waiting.append((part, pool.submit(score_batch, part, scorer, contract, search)))
                if len(waiting) > workers:
                    yield finish()
            while waiting:
                yield finish()
        finally:
            for _, future in waiting:
                future.cancel()


def _parts(
    batches: Iterable[pa.RecordBatch], contract: Contract, part_rows: int
) -> Iterator[pa.RecordBatch]:
    checked: pa.Schema | None = None
    for batch in batches:
        if checked is None or not batch.schema.equals(checked):
            columns = dict(zip(batch.schema.names, batch.schema.types, strict=True))
            check_relation(contract, columns, where="the stream of features", model="to be scored")
            checked = batch.schema
        for start in range(0, batch.num_rows, part_rows):
            yield batch.slice(start, part_rows)


# numpy and Arrow run here in threads for which Python does not wait after a second Ctrl-C: RUNNING_WORK waits
@RUNNING_WORK.entered(lambda: None)
def score_batch(
    batch: pa.RecordBatch, scorer: Scorer, contract: Contract, search: RowSearch | None = None
) -> pa.RecordBatch:
    """Score one batch in the calling thread, as `score_batches` does in its worker threads.

    The caller must have checked the columns with `check_relation`. Raises ScoringError if the model
    fails or its outputs do not match the contract, and DataError if `search` raises it.
    """
    encoded = encode(batch, contract)
    fed = np.flatnonzero(encoded.valid)
    schema = prediction_schema(batch.schema, contract)
    reasons = encoded.reasons
    tensors: list[Any] = []
    if len(fed):
        if search is None:
            tensors = scorer.run(encoded.feeds)
        else:
            tensors, failed = search.run(scorer, encoded.feeds)
            if failed:
                reasons = _with_failures(reasons, failed, fed)
                fed = np.delete(fed, list(failed))
    if len(fed):
        decoded = decode(tensors, contract, len(fed))
        outputs = decoded.columns
        if decoded.faults:
            reasons = _with_faults(reasons, decoded.faults, fed)
        if reasons.null_count < len(reasons):
            output_row = np.zeros(batch.num_rows, dtype=np.int64)
            output_row[fed] = np.arange(len(fed))
            is_rejected = reasons.is_valid().to_numpy(zero_copy_only=False)
            outputs = [column.take(pa.array(output_row, mask=is_rejected)) for column in outputs]
    else:
        outputs = [pa.nulls(batch.num_rows, f.type) for f in contract.output_fields()]
    carried = [batch.column(name) for name in _carried_names(batch.schema)]
    return pa.RecordBatch.from_arrays([*carried, *outputs, reasons], schema=schema)


def _carried_names(schema: pa.Schema) -> list[str]:
    return [n for n in schema.names if n.startswith(CARRIED_PREFIX) and n != REJECTED_COLUMN]


def _with_failures(
    reasons: pa.StringArray, failed: Mapping[int, str], fed: Array
) -> pa.StringArray:
    row_reasons = np.full(len(reasons), None, dtype=object)
    row_reasons[fed[list(failed)]] = list(failed.values())
    return pc.coalesce(reasons, pa.array(row_reasons, pa.string()))


def _with_faults(reasons: pa.StringArray, faults: dict[str, Array], fed: Array) -> pa.StringArray:
    codes = np.zeros(len(fed), dtype=np.int64)
    for code, rows in enumerate(faults.values(), start=1):
        codes[rows & (codes == 0)] = code
    row_codes = np.zeros(len(reasons), dtype=np.int64)
    row_codes[fed] = codes
    labels = pa.array([None, *faults], pa.string()).take(pa.array(row_codes))
    return pc.coalesce(reasons, labels)


def count_reasons(predictions: Iterable[pa.RecordBatch]) -> Counter[str]:
    """Count the rejected rows in the output of `score_batches`, by reason."""
    counts: Counter[str] = Counter()
    for batch in predictions:
        for count in batch.column("rejected_reason").drop_null().value_counts().to_pylist():
            counts[count["values"]] += count["counts"]
    return counts


def _example(batch: pa.RecordBatch, row: int, reason: str, contract: Contract) -> str:
    """Return a row's key as text, such as `000123`, or `000123 (amount = 16777217)` if a feature is to blame."""
    keys = [name for name in batch.schema.names if name.startswith(KEY_PREFIX)]
    text = ", ".join(_shown(batch.column(name)[row]) for name in keys)
    feature = reason.partition(":")[2]
    if feature in contract.feature_names:
        value = f"{feature} = {_shown(batch.column(feature)[row])}"
        text = f"{text} ({value})" if text else value
    return text


def _shown(scalar: pa.Scalar) -> str:
    try:
        value = scalar.as_py()
    except (OverflowError, ValueError):  # a date outside Python's calendar, or infinity
        value = scalar.cast(pa.string()).as_py()
    text = "NULL" if value is None else str(value)
    return shortened(text, 60)
