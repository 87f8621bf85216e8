"""The fastest hand-written stream without dbt: prefetch, encoding column by column, two workers for trees."""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import onnxruntime  # noqa: F401, imports are not measured
import pyarrow as pa
import pyarrow.compute

from benchmarks.measure import Stopwatch
from benchmarks.rivals import feeds, warehouse
from benchmarks.workloads import CHUNK_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import duckdb


def score(*, folder: str, workload: Mapping[str, Any]) -> dict[str, float]:
    """A task: write key, score and stamps into `scores`."""
    with Stopwatch() as watch:
        connection = warehouse.connect(folder, workload)
        connection.register("predictions", predictions(connection, workload))
        connection.execute(
            f"create table scores as select id, score, {warehouse.STAMPS} from predictions",
            warehouse.stamps(workload),
        )
    return watch.taken()


def predictions(
    connection: duckdb.DuckDBPyConnection, workload: Mapping[str, Any], *carried: str
) -> pa.RecordBatchReader:
    """Return a stream of `id`, the columns `carried` (SQL expressions with an alias), and `score`."""
    scorers = [feeds.session(workload, threads=1) for _ in range(workload["workers"])]
    columns = ", ".join(["id", *carried, *workload["columns"]])
    query = connection.cursor().query(f"select {columns} from source.features")
    reader = query.to_arrow_reader(CHUNK_ROWS)
    n_carried = 1 + len(carried)
    score_type = pa.list_(pa.float32(), 16) if workload["table"] == "array" else pa.float32()
    schema = pa.schema([*list(reader.schema)[:n_carried], pa.field("score", score_type)])

    def scored(batch: pa.RecordBatch) -> pa.RecordBatch:
        running = scorers.pop()
        try:
            found = feeds.infer(running, feeds.of_arrays(batch.columns[n_carried:], workload))
        finally:
            scorers.append(running)
        return pa.record_batch([*batch.columns[:n_carried], column_of(found)], schema=schema)

    batches = _in_order(_prefetched(reader), scored, workers=workload["workers"])
    return pa.RecordBatchReader.from_batches(schema, batches)


def _prefetched(reader: Any, ahead: int = 2) -> Iterator[pa.RecordBatch]:
    waiting: queue.Queue[pa.RecordBatch | None] = queue.Queue(ahead)

    def read() -> None:
        for batch in reader:
            waiting.put(batch)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (batch := waiting.get()) is not None:
        yield batch


def _in_order(
    batches: Iterator[pa.RecordBatch], work: Callable[[Any], Any], *, workers: int
) -> Iterator[pa.RecordBatch]:
    if workers == 1:
        yield from map(work, batches)
        return
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Any] = deque()
        for batch in batches:
            running.append(pool.submit(work, batch))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def column_of(found: Any) -> pa.Array:
    if found.ndim == 1:
        return pa.array(found)
    return pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), found.shape[1])
