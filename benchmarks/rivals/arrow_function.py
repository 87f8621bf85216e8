"""A scalar function over Arrow vectors that calls onnxruntime, as DuckDB extensions do."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

import onnxruntime  # noqa: F401, imports are not measured
import pyarrow as pa
import pyarrow.compute

from benchmarks.measure import Stopwatch
from benchmarks.rivals import feeds, warehouse
from benchmarks.rivals.stream import column_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_TYPES = {"f": "FLOAT", "s": "VARCHAR", "i": "BIGINT", "d": "DOUBLE", "e": "FLOAT[64]"}


def score(*, folder: str, workload: Mapping[str, Any]) -> dict[str, float]:
    """A task: write key, score and stamps into `scores`."""
    columns = workload["columns"]
    with Stopwatch() as watch:
        connection = warehouse.connect(folder, workload)
        # DuckDB calls the function from all its threads
        running = feeds.session(workload, threads=1)

        def predict(*arrays: pa.ChunkedArray) -> pa.Array:
            whole = [_whole(array) for array in arrays]
            return column_of(feeds.infer(running, feeds.of_arrays(whole, workload)))

        predict.__signature__ = Signature(  # type: ignore[attr-defined]
            [Parameter(name, Parameter.POSITIONAL_ONLY) for name in columns]
        )
        connection.create_function(
            "predict",
            predict,
            [_TYPES[name[0]] for name in columns],
            "FLOAT[16]" if workload["table"] == "array" else "FLOAT",
            type="arrow",
            null_handling="special",
        )
        connection.execute(
            f"create table scores as select id, predict({', '.join(columns)}) as score, "
            f"{warehouse.STAMPS} from source.features",
            warehouse.stamps(workload),
        )
    return watch.taken()


def _whole(array: Any) -> pa.Array:
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
