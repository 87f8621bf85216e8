"""Convert rows to the tensors of a workload's model, as a careful author would write it by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.models import MISSING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]


def session(workload: Mapping[str, Any], *, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(
        workload["model"]["path"], options, providers=["CPUExecutionProvider"]
    )


def infer(running: Any, feeds: Feeds) -> Array:
    """Run the model, and return the probability of the second class, or the vector."""
    outputs = [output.name for output in running.get_outputs()]
    found: Array = running.run(outputs[-1:], feeds)[0]
    return found if len(outputs) == 1 else found[:, 1]


def of_arrays(arrays: Sequence[pa.Array], workload: Mapping[str, Any]) -> Feeds:
    """Convert Arrow columns, in the order of the model, column by column."""
    if workload["table"] == "array":
        (column,) = arrays
        return {_only_input(workload): column.flatten().to_numpy().reshape(len(column), -1)}
    if workload["table"] == "floats":
        matrix = np.empty((len(arrays[0]), len(arrays)), dtype=np.float32)
        for position, column in enumerate(arrays):
            matrix[:, position] = column.to_numpy(zero_copy_only=False)
        return {_only_input(workload): matrix}
    return {
        name: (_texts(column) if name.startswith("s") else _numbers(column)).reshape(-1, 1)
        for name, column in zip(workload["columns"], arrays, strict=True)
    }


def of_frame(frame: pd.DataFrame, workload: Mapping[str, Any]) -> Feeds:
    """Convert a pandas DataFrame."""
    if workload["table"] == "array":
        return {_only_input(workload): np.stack(frame["embedding"].to_numpy())}
    if workload["table"] == "floats":
        return {_only_input(workload): frame[workload["columns"]].to_numpy(dtype=np.float32)}
    return {
        name: (
            frame[name].fillna(MISSING).to_numpy(dtype=object)
            if name.startswith("s")
            else frame[name].to_numpy(dtype=np.float32, na_value=np.nan)
        ).reshape(-1, 1)
        for name in workload["columns"]
    }


def _texts(column: pa.Array) -> Array:
    # one Python string per distinct value, not per row
    encoded = column.fill_null(MISSING).dictionary_encode()
    values: Array = encoded.dictionary.to_numpy(zero_copy_only=False)
    return values[encoded.indices.to_numpy()]


def _numbers(column: pa.Array) -> Array:
    values: Array = column.to_numpy(zero_copy_only=False)
    return values.astype(np.float32)


def _only_input(workload: Mapping[str, Any]) -> str:
    return "X" if workload["table"] == "array" else "features"
