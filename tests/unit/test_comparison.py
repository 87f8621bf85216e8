"""How much two versions differ, compared with scipy and with figures computed by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dbt_onnx.promotion.compare import compare_columns, count_values, rank_correlation

FEW = st.lists(
    st.tuples(st.integers(-3, 3), st.floats(-1e3, 1e3, width=32)), min_size=2, max_size=60
)


@given(FEW)
def test_the_rank_correlation_is_scipys_ties_included(rows: list[tuple[int, float]]) -> None:
    a, b = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    found = rank_correlation(a, b)
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_one_row_has_no_rank() -> None:
    assert rank_correlation(np.array([1.0]), np.array([2.0])) is None


def probabilities(*values: float | None) -> pa.Array:
    return pa.array(values, pa.float32())


def test_a_probability_is_compared_by_rank_mean_and_side_of_the_threshold() -> None:
    new, old = probabilities(0.2, 0.4, 0.6, 0.8), probabilities(0.1, 0.6, 0.4, 0.9)
    (found,) = compare_columns({"p": new}, {"p": old}, {"p": "probabilities"})
    assert (found.rows, found.changed) == (4, 0.5)
    assert found.mean == pytest.approx(0.5)
    assert found.mean_before == pytest.approx(0.5)
    # one pair of neighbours is exchanged: 1 - 6 * (1 + 1) / (4 * 15)
    assert found.rank_correlation == pytest.approx(0.8)
    (higher,) = compare_columns({"p": new}, {"p": old}, {"p": "probabilities"}, threshold=0.85)
    assert higher.changed == 0.25


def test_a_value_decides_nothing() -> None:
    (found,) = compare_columns({"y": pa.array([1, 5])}, {"y": pa.array([2.0, 7.0])}, {"y": "value"})
    assert (found.mean, found.mean_before, found.rank_correlation) == (3, 4.5, 1)
    assert found.changed is None


def test_labels_are_the_same_or_not_whatever_their_type() -> None:
    new, old = pa.array(["1", "0", "1", "0"]), pa.array([1, 1, 1, 0])
    (found,) = compare_columns({"l": new}, {"l": old}, {"l": "label"})
    assert (found.changed, found.mean, found.rank_correlation) == (0.25, None, None)


def test_only_rows_that_both_have_scored_are_compared() -> None:
    new, old = pa.array([1.0, None, 3.0, 4.0]), pa.array([1.0, 2.0, None, 8.0])
    (found,) = compare_columns({"y": new}, {"y": old}, {"y": "value"})
    assert (found.rows, found.mean, found.mean_before) == (2, 2.5, 4.5)


def test_no_common_row_gives_no_figure() -> None:
    new, old = probabilities(0.5, None), probabilities(None, 0.5)
    (found,) = compare_columns({"p": new}, {"p": old}, {"p": "probabilities"})
    assert (found.rows, found.mean, found.rank_correlation, found.changed) == (0, None, None, None)
    labels = {"l": pa.array([1, None])}, {"l": pa.array([None, 1])}
    assert compare_columns(*labels, {"l": "label"})[0].changed is None


def test_what_cannot_be_compared_is_left_out() -> None:
    vectors = {"v": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))}
    assert compare_columns(vectors, vectors, {"v": "vector"}) == []
    assert compare_columns({"v": pa.array([1.0])}, vectors, {"v": "value"}) == []
    new, old = {"y": pa.array([1.0]), "z": pa.array([1.0])}, {"y": pa.array(["one"])}
    assert compare_columns(new, old, {"y": "value", "z": "value"}) == []


@pytest.mark.parametrize(
    ("column", "count"),
    [
        (pa.array([1.0, 1.0, None]), 1),
        (pa.array(["a", "b", "a"]), 2),
        (pa.array([[1.0, 2.0], None, [1.0, 2.0]], pa.list_(pa.float32(), 2)), 1),
        (pa.array([[1.0, 2.0], [2.0, 1.0]], pa.list_(pa.float32(), 2)), 2),
        (pa.array([], pa.float32()), 0),
    ],
)
def test_different_values_are_counted_and_null_is_none(column: pa.Array, count: int) -> None:
    assert count_values(column) == count
