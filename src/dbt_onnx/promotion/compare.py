"""Measure how far the outputs of two versions differ on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.kernel.contract import OutputKind
    from dbt_onnx.kernel.tensors import Array


class ColumnComparison(NamedTuple):
    """The comparison of one output column that both versions have, over the rows that both have scored.

    mean, mean_before   of the new and of the old version; None for labels
    rank_correlation    Spearman's, between -1 and 1; None for labels, for a column that is constant
                        in one version, and for fewer than two rows
    changed             share of rows with a different decision: a different label, or a probability
                        on the other side of the threshold; None for values, which decide nothing

    All figures are None if `rows` is 0.
    """

    column: str
    rows: int
    mean: float | None = None
    mean_before: float | None = None
    rank_correlation: float | None = None
    changed: float | None = None


def compare_columns(
    new: Mapping[str, pa.Array],
    old: Mapping[str, pa.Array],
    kinds: Mapping[str, OutputKind],
    *,
    threshold: float = 0.5,
) -> list[ColumnComparison]:
    """Compare the columns that both versions have, row by row. NULL is a rejected row.

    `kinds` is {column: kind} of the new version. Vectors are not compared, and neither is a column of
    numbers with one of text or vectors.
    """
    compared = []
    for column, kind in kinds.items():
        if column not in old or kind == "vector":
            continue
        both = pc.and_(new[column].is_valid(), old[column].is_valid())
        a, b = new[column].filter(both), old[column].filter(both)
        if kind == "label":
            compared.append(_compare_labels(column, a, b))
        elif pa.types.is_primitive(a.type) and pa.types.is_primitive(b.type):
            cut = threshold if kind == "probabilities" else None
            compared.append(_compare_numbers(column, a, b, cut))
    return compared


def count_values(column: pa.Array) -> int:
    """Return the number of distinct values. NULL does not count."""
    if pa.types.is_fixed_size_list(column.type):
        rows = column.drop_null()
        matrix = rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
        return len({row.tobytes() for row in matrix})
    return int(pc.count_distinct(column, mode="only_valid").as_py())


def rank_correlation(a: Array, b: Array) -> float | None:
    """Return Spearman's rho: Pearson's correlation of the ranks. Equal values share their mean rank.

    None for fewer than two rows, or if either column is constant: then rho is not defined.
    Spearman, "The proof and measurement of association between two things" (1904).
    """
    if len(a) < 2:
        return None
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(np.clip((x @ y) / scale, -1, 1)) if scale > 0 else None


def _ranks(values: Array) -> Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)


def _compare_labels(column: str, a: pa.Array, b: pa.Array) -> ColumnComparison:
    # one version may give text and the other numbers: '1' is the same decision as 1
    other = pc.not_equal(a.cast(pa.string()), b.cast(pa.string()))
    return ColumnComparison(column=column, rows=len(a), changed=pc.mean(other).as_py())


def _compare_numbers(
    column: str, new: pa.Array, old: pa.Array, cut: float | None
) -> ColumnComparison:
    if not len(new):
        return ColumnComparison(column=column, rows=0)
    a, b = (x.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) for x in (new, old))
    return ColumnComparison(
        column=column,
        rows=len(a),
        mean=float(a.mean()),
        mean_before=float(b.mean()),
        rank_correlation=rank_correlation(a, b),
        changed=None if cut is None else float(((a >= cut) != (b >= cut)).mean()),
    )
