"""onnxruntime on a matrix that is already in memory: no reading, no encoding, no writing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import Stopwatch
from benchmarks.rivals import feeds, warehouse

if TYPE_CHECKING:
    from collections.abc import Mapping

CALL_ROWS = 65_536


def score(*, folder: str, workload: Mapping[str, Any], workers: int = 2) -> dict[str, float]:
    """A task: score with `workers` threads, each with a single-threaded session.

    The scores are written afterwards for comparison; this is not measured.
    """
    connection = warehouse.connect(folder, workload)
    rows = connection.sql(warehouse.select(workload)).to_arrow_table().combine_chunks()
    arrays = [column.combine_chunks() for column in rows.columns]
    matrices = feeds.of_arrays(arrays[1:], workload)
    with Stopwatch() as watch:
        sessions = [feeds.session(workload, threads=1) for _ in range(workers)]
        starts = range(0, len(rows), CALL_ROWS)

        def call(worker: int) -> list[np.ndarray]:
            return [
                feeds.infer(
                    sessions[worker], {k: m[i : i + CALL_ROWS] for k, m in matrices.items()}
                )
                for i in starts[worker::workers]
            ]

        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(call, range(workers)))
    found = np.concatenate([parts[i % workers][i // workers] for i in range(len(starts))])
    _write(connection, arrays[0], found)
    return watch.taken()


def _write(connection: Any, keys: Any, found: np.ndarray) -> None:
    import pyarrow as pa

    from benchmarks.rivals.stream import column_of

    connection.register("predictions", pa.table({"id": keys, "score": column_of(found)}))
    connection.execute("create table scores as from predictions")
