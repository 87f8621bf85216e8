"""The reference distribution of a column. Later data is compared with it to detect drift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_onnx.kernel.casts import decimals_to_floats

if TYPE_CHECKING:
    from dbt_onnx.kernel.tensors import Array

BINS = 10
MAX_CATEGORIES = 100
_DIGITS = 6


def describe(column: pa.Array, *, categorical: bool = False) -> dict[str, Any]:
    """Return the distribution of a column as JSON types, ready for a population stability index.

    Numbers: {"kind": "numeric", "rows", "nulls", "quantiles": BINS + 1 values from the smallest to
    the largest, "edges", "shares"}. shares[i] is the share of the values in
    (edges[i - 1], edges[i]]. The first and the last bin are open, so there is one more share than
    there are edges. The edges are the inner quantiles without duplicates. If there are duplicates,
    the smallest value is an edge, too: else a flag with 95 % ones and 5 % zeros would be one bin.

    Text, or `categorical` numbers: {"kind": "categorical", "rows", "nulls", "shares": {value:
    share}, "other"}, with the MAX_CATEGORIES most frequent values; "other" is the share of the rest.

    `nulls` is the share of NULL and NaN among `rows`. All other shares ignore NULL and NaN. In a
    list column each element counts as a row.
    """
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    if categorical or not is_number(column.type):
        return _categories(column)
    numbers = to_floats(column)
    known = numbers[~np.isnan(numbers)]
    quantiles = np.quantile(known, np.linspace(0, 1, BINS + 1)) if len(known) else np.empty(0)
    edges = np.unique(quantiles[1:-1])
    if len(edges) < BINS - 1:
        edges = np.unique(quantiles[:-1])
    counts = np.bincount(np.searchsorted(edges, known, side="left"), minlength=len(edges) + 1)
    return {
        "kind": "numeric",
        "rows": len(column),
        "nulls": _share(len(column) - len(known), len(column)),
        "quantiles": [float(value) for value in quantiles],
        "edges": [float(value) for value in edges],
        "shares": [_share(count, len(known)) for count in counts],
    }


def to_floats(column: pa.Array) -> Array:
    """Return the column as float64 (rows,). NULL becomes NaN, a decimal becomes the nearest float."""
    if not pa.types.is_decimal(column.type):
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    return np.where(
        column.is_null().to_numpy(zero_copy_only=False), np.nan, decimals_to_floats(column)
    )


def _categories(column: pa.Array) -> dict[str, Any]:
    known = column.drop_null()
    counts = {str(item["values"]): item["counts"] for item in pc.value_counts(known).to_pylist()}
    # equally frequent values are sorted by name, so that the same data gives the same card
    kept = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_CATEGORIES]
    return {
        "kind": "categorical",
        "rows": len(column),
        "nulls": _share(column.null_count, len(column)),
        "shares": {value: _share(counts[value], len(known)) for value in kept},
        "other": _share(len(known) - sum(counts[value] for value in kept), len(known)),
    }


def is_number(dtype: pa.DataType) -> bool:
    """Return whether a column of this type contains numbers. Booleans are not numbers."""
    types = pa.types
    return bool(types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype))


def is_text(dtype: pa.DataType) -> bool:
    """Return whether a column of this type contains text."""
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype))


def _share(count: Any, total: int) -> float:
    return round(int(count) / total, _DIGITS) if total else 0.0
