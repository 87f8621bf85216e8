"""Distributions in a card from outside: which are valid, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_onnx.artifacts.card import parse_card
from dbt_onnx.artifacts.reference import MAX_BINS, reference_faults
from dbt_onnx.authoring.distributions import describe
from dbt_onnx.errors import ArtifactError

NUMBERS: dict[str, Any] = {
    "kind": "numeric", "rows": 4, "nulls": 0.25, "edges": [1, 2.5], "shares": [0.5, 0.25, 0.25],
}  # fmt: skip
TEXTS: dict[str, Any] = {
    "kind": "categorical", "rows": 4, "nulls": 0, "shares": {"x": 0.5, "客": 0.25}, "other": 0.25,
}  # fmt: skip


def card(described: Any) -> dict[str, Any]:
    return {"reference": {"a": described}}


@pytest.mark.parametrize("described", [NUMBERS, TEXTS, {**NUMBERS, "quantiles": [1], "new": 1}])
def test_a_distribution_is_let_through(described: dict[str, Any]) -> None:
    assert reference_faults(card(described)) == []


@pytest.mark.parametrize(
    ("described", "fault"),
    [
        (None, "a NoneType instead of a distribution"),
        ([], "a list instead of a distribution"),
        ({**NUMBERS, "kind": ["numeric"]}, "kind ['numeric'], which is neither"),
        ({**NUMBERS, "rows": True}, "rows True, which is not a number of rows"),
        ({**NUMBERS, "rows": 2**63}, "which is not a number of rows"),
        ({**NUMBERS, "rows": 4.5}, "rows 4.5"),
        ({**NUMBERS, "nulls": -0.1}, "nulls -0.1, which is not a share"),
        ({**NUMBERS, "nulls": None}, "nulls None"),
        ({**NUMBERS, "edges": None}, "edges None, which are not a list of numbers"),
        ({**NUMBERS, "edges": ["1", 2]}, "not a list of numbers"),
        ({**NUMBERS, "edges": [1, 10**400]}, "not a list of numbers"),
        ({**NUMBERS, "edges": [1, float("inf")]}, "not a list of numbers"),
        ({**NUMBERS, "edges": [1, 1]}, "edges that are not in ascending order"),
        ({**NUMBERS, "shares": [0.5, 0.25]}, "are not shares that add up to 1"),
        ({**NUMBERS, "shares": [0.5, 0.5]}, "2 shares for 2 edges; there must be one more share"),
        ({**NUMBERS, "shares": [1.5, -0.25, -0.25]}, "are not shares that add up to 1"),
        ({**NUMBERS, "shares": [0.5, 0.25, None]}, "are not shares that add up to 1"),
        ({**TEXTS, "shares": [1]}, "shares [1], which are not shares by category"),
        ({**TEXTS, "shares": {f"c{n}": 0 for n in range(MAX_BINS + 1)}}, "by category"),
        ({**TEXTS, "other": 0.5}, "are not shares that add up to 1"),
        ({**TEXTS, "other": None}, "are not shares that add up to 1"),
        ({**TEXTS, "shares": {"\ud800": 0.75}}, "a category that is not valid text"),
    ],
)
def test_what_is_no_distribution_is_refused(described: Any, fault: str) -> None:
    (found,) = reference_faults(card(described))
    assert found.startswith("reference of 'a' has ")
    assert fault in found


def test_too_many_bins_are_refused() -> None:
    edges = list(range(MAX_BINS))
    (fault,) = reference_faults(card({**NUMBERS, "edges": edges, "shares": [1] + [0] * MAX_BINS}))
    assert "10,001 shares for 10,000 edges" in fault


def test_a_card_names_the_first_of_many_columns_that_are_wrong() -> None:
    whole = {
        "format_version": 1,
        "model_name": "m",
        "model_version": "1",
        "sha256": "0",
        "contract": {},
        "reference_outputs": {f"c{n}": {} for n in range(7)},
    }
    with pytest.raises(ArtifactError, match=r"here describes its .* of 'c4' .*; and 2 more\n"):
        parse_card(json.dumps(whole).encode(), where="here")


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.none() | st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=40),
    st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=3), max_size=200),
)
def test_whatever_is_described_is_let_through_as_json(
    numbers: list[float | None], texts: list[str | None]
) -> None:
    for column in (pa.array(numbers, pa.float64()), pa.array(texts, pa.string())):
        described = json.loads(json.dumps(describe(column), allow_nan=False))
        assert reference_faults(card(described)) == []


def test_shares_of_numbers_are_counted_up_to_their_edge() -> None:
    values = np.array([1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 4.0, 5.0, 5.0, 9.0])
    described = describe(pa.array(values))
    ends = [-np.inf, *described["edges"], np.inf]
    for share, lower, upper in zip(described["shares"], ends, ends[1:], strict=False):
        assert share == np.mean((values > lower) & (values <= upper))
