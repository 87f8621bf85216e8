"""The parts of a card that describe real rows: their sample, and the distribution of each column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from dbt_onnx.authoring.distributions import describe
from dbt_onnx.kernel.casts import cast_elements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.authoring.parity import Parity
    from dbt_onnx.kernel.contract import Contract

SAMPLE_ROWS = 64


def card_parts(
    columns: Mapping[str, pa.Array],
    predictions: pa.Table,
    parity: Parity,
    contract: Contract,
    *,
    tolerance: float,
    sample_rows: int = SAMPLE_ROWS,
) -> dict[str, Any]:
    """Return the parts `parity`, `reference` and `reference_outputs` of a card.

    `columns` are the features, `predictions` the outputs for the same rows. The sample is
    `sample_rows` of them, evenly spaced.
    """
    n_rows = predictions.num_rows
    kept = np.unique(np.linspace(0, n_rows - 1, num=min(sample_rows, n_rows), dtype=np.int64))
    return {
        "parity": {
            "features": {key: _json(column.take(kept)) for key, column in columns.items()},
            "outputs": {key: values[kept].tolist() for key, values in parity.expected.items()},
            "tolerance": tolerance,
            "scales": {key: size.tolist() for key, size in parity.scales.items()},
            "max_abs_difference": parity.max_abs_difference,
            "rows_compared": n_rows,
        },
        "reference": {
            key: _describe_feature(column, contract, key) for key, column in columns.items()
        },
        "reference_outputs": {
            key: describe(predictions.column(key).combine_chunks(), categorical=kind == "label")
            for key, kind in contract.column_kinds.items()
        },
    }


def _describe_feature(column: pa.Array, contract: Contract, name: str) -> dict[str, Any]:
    feature = contract.feature(name)
    if feature.time_unit is not None:
        units = cast_elements(column, dtype="float64", feature=feature).values
        column = pa.array(units, mask=column.is_null().to_numpy(zero_copy_only=False))
    return describe(column, categorical=pa.types.is_boolean(column.type))


def _json(column: pa.Array) -> list[Any]:
    if pa.types.is_temporal(column.type):
        # a time with a zone becomes the same moment in UTC, without a zone
        times = column.cast(pa.timestamp("us")).to_pylist()
        return [None if time is None else time.isoformat() for time in times]
    values = column.to_pylist()
    if pa.types.is_decimal(column.type):
        return [None if value is None else float(value) for value in values]
    return cast("list[Any]", values)
