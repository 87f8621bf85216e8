"""Turns Arrow batches into the tensors that a model reads, with a reason for each row that is rejected.

Everything here is vectorised: no Python code runs per row.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_onnx.kernel.casts import Cast, cast_elements, either
from dbt_onnx.kernel.contract import CARRIED_PREFIX, Contract, Feature, Input
from dbt_onnx.kernel.tensors import Array, Mask, fill_value, numpy_dtype

REJECTED_COLUMN = CARRIED_PREFIX + "rejected_reason"
"""Column of a stream with the reason why the plan has already rejected a row; NULL if it has not."""


class Encoded(NamedTuple):
    """An encoded batch.

    feeds     {input: C-order tensor of the valid rows, in their order}
    valid     bool (rows,): whether the row is fed to the model
    reasons   text (rows,): why the row is rejected; NULL for a valid row
    """

    feeds: dict[str, Array]
    valid: Mask
    reasons: pa.StringArray


class _Verdicts:
    """The first reason to reject each row, collected while the features are encoded."""

    def __init__(self, n_rows: int) -> None:
        self._codes = np.zeros(n_rows, dtype=np.int32)
        self._labels: list[str | None] = [None]

    def reject(self, rows: Mask | None, reason: str) -> None:
        if rows is None or not rows.any():
            return
        self._codes[rows & (self._codes == 0)] = len(self._labels)
        self._labels.append(reason)

    def reject_planned(self, reasons: pa.Array) -> None:
        for reason in pc.unique(reasons.drop_null()).to_pylist():
            rows = pc.fill_null(pc.equal(reasons, reason), pa.scalar(value=False))
            self.reject(rows.to_numpy(zero_copy_only=False), reason)

    @property
    def valid(self) -> Mask:
        return cast("Mask", self._codes == 0)

    @property
    def reasons(self) -> pa.StringArray:
        return pa.array(self._labels, pa.string()).take(pa.array(self._codes))


def encode(batch: pa.RecordBatch, contract: Contract) -> Encoded:
    """Build the model's input tensors from the columns of `batch`, which may have further columns.

    A row is rejected if a feature has a NULL or NaN that its null policy does not allow, an infinity,
    a value that the tensor's type cannot hold, or a list of the wrong length. The reason is `null:`,
    `nan:`, `infinite:`, `lossy_cast:` or `wrong_length:` and the name of the first such feature, in the
    contract's order. A row with a `__dbt_onnx_rejected_reason` is rejected for that reason. The columns
    must have passed `check_relation`.
    """
    verdicts = _Verdicts(batch.num_rows)
    if REJECTED_COLUMN in batch.schema.names:
        verdicts.reject_planned(batch.column(REJECTED_COLUMN))
    tensors, slots = _layout(contract, batch.num_rows)
    for feature in contract.features:
        column = _Column.of(batch.column(feature.name), feature)
        verdicts.reject(column.wrong_length, f"wrong_length:{feature.name}")
        if feature.null_policy == "reject":
            verdicts.reject(_per_row(column.nulls, feature), f"null:{feature.name}")
        for tensor, position in slots[feature.name]:
            result = cast_elements(column.elements, dtype=tensor.dtype, feature=feature)
            _judge(result, column, feature, verdicts)
            values = _with_replacements(result, column, feature, tensor)
            if tensor.rank == 1:
                tensors[tensor.name][:] = values
            else:
                width = feature.width or 1
                tensors[tensor.name][:, position : position + width] = values.reshape(-1, width)
    valid = verdicts.valid
    if valid.all():
        return Encoded(tensors, valid, pa.nulls(batch.num_rows, pa.string()))
    fed = {name: values[valid] for name, values in tensors.items()}
    return Encoded(fed, valid, verdicts.reasons)


class _Column(NamedTuple):
    """The elements of a column, `width` elements for each row.

    The mask `nulls` marks elements, `wrong_length` marks rows. A mask is None if it marks nothing.
    """

    elements: pa.Array
    nulls: Mask | None
    wrong_length: Mask | None

    @classmethod
    def of(cls, column: pa.Array, feature: Feature) -> _Column:
        if feature.width is None:
            return cls(column, _null_mask(column), None)
        if pa.types.is_null(column.type):
            elements = pa.nulls(len(column) * feature.width)
            return cls(elements, _null_mask(elements), None)
        elements, absent, wrong_length = _flattened(column, feature.width)
        if absent is not None:
            absent = np.repeat(absent, feature.width)
        return cls(elements, either(_null_mask(elements), absent), wrong_length)


def _null_mask(values: pa.Array) -> Mask | None:
    return values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None


def _flattened(column: pa.Array, width: int) -> tuple[pa.Array, Mask | None, Mask | None]:
    """Return the elements (rows * width), a mask of NULL rows, and a mask of lists with another length."""
    absent = _null_mask(column)
    if pa.types.is_fixed_size_list(column.type):
        return column.values.slice(column.offset * width, len(column) * width), absent, None
    starts = column.offsets.to_numpy()[:-1].astype(np.int64)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    usable = lengths == width
    if usable.all():
        return column.values.slice(starts[0] if len(starts) else 0, len(column) * width), None, None
    index = (np.where(usable, starts, 0)[:, None] + np.arange(width)).ravel()
    elements = column.values
    if pa.types.is_string_view(elements.type):  # Arrow has no `take` for string views
        elements = pc.cast(elements, pa.large_string())
    elements = elements.take(pa.array(index, mask=np.repeat(~usable, width)))
    return elements, absent, ~usable if absent is None else ~usable & ~absent


def _per_row(mask: Mask | None, feature: Feature) -> Mask | None:
    if mask is None or feature.width is None:
        return mask
    return np.asarray(mask.reshape(-1, feature.width).any(axis=1))


def _judge(result: Cast, column: _Column, feature: Feature, verdicts: _Verdicts) -> None:
    """Reject the rows that have a NaN, an infinity or a lossy cast in an element that is not NULL."""
    nan = None if feature.null_policy == "nan" else result.nan
    for word, mask in (("nan", nan), ("infinite", result.infinite), ("lossy_cast", result.lossy)):
        if mask is not None and mask.any():
            present = mask if column.nulls is None else mask & ~column.nulls
            verdicts.reject(_per_row(present, feature), f"{word}:{feature.name}")


def _with_replacements(result: Cast, column: _Column, feature: Feature, tensor: Input) -> Array:
    """Return a feature's values in the tensor's type, with each NULL replaced by NaN or the fill."""
    if column.nulls is None or feature.null_policy == "reject":
        return result.values
    replacement = np.nan if feature.fill is None else fill_value(feature, tensor.dtype)
    values = np.where(column.nulls, replacement, result.values)
    return values.astype(numpy_dtype(tensor.dtype), copy=False)


def _layout(
    contract: Contract, n_rows: int
) -> tuple[dict[str, Array], dict[str, list[tuple[Input, int]]]]:
    """Return {input: its empty tensor} and the places of each feature in the tensors.

    The places are {feature: pairs of an input that reads it and the feature's first column there}.
    """
    widths = {feature.name: feature.width or 1 for feature in contract.features}
    tensors: dict[str, Array] = {}
    slots: dict[str, list[tuple[Input, int]]] = {name: [] for name in widths}
    for tensor in contract.inputs:
        position = 0
        for name in tensor.features:
            slots[name].append((tensor, position))
            position += widths[name]
        shape = (n_rows,) if tensor.rank == 1 else (n_rows, position)
        tensors[tensor.name] = np.empty(shape, dtype=numpy_dtype(tensor.dtype))
    return tensors, slots
