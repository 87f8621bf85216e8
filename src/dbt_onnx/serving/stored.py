"""Converts batches of the warehouse to rows of stored values; for stored values, see `kinds`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from dbt_onnx.serving.kinds import Stored


def stored_rows(batch: pa.RecordBatch, kinds: Sequence[str]) -> Iterable[tuple[Stored, ...]]:
    """Return the rows of a batch as stored values. `kinds` are the kinds of its columns."""
    columns = (
        _stored_column(column, kind) for column, kind in zip(batch.columns, kinds, strict=True)
    )
    return zip(*columns, strict=True)


def _stored_column(column: Any, kind: str) -> Sequence[Stored]:
    if kind.startswith("vector_"):
        return [_packed(value) for value in column]
    values: list[Any] = column.to_pylist()
    if kind == "float" and pc.any(pc.is_nan(column)).as_py():
        # as text, because SQLite would store NaN as NULL
        return ["NaN" if value is not None and value != value else value for value in values]  # noqa: PLR0124
    return values


def _packed(vector: Any) -> Stored:
    """Return the numbers of a list as little-endian bytes; as JSON text if one of them is NULL."""
    if not vector.is_valid:
        return None
    if vector.values.null_count:
        return json.dumps(vector.as_py())
    return vector.values.to_numpy(zero_copy_only=False).tobytes()  # type: ignore[no-any-return]
