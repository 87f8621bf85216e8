"""A value that a service stores as JSON is read back exactly as the model got it, to the last bit."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_onnx.kernel.json_values import type_of, type_text, value_of
from dbt_onnx.serving.kinds import as_json

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(),
    "float": st.floats(width=32),
    "bool": st.booleans(),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "decimal128(18, 2)": st.decimals(-(10**15), 10**15, places=2),
    "decimal128(38, 0)": st.decimals(-(10**37), 10**37, places=0),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
    "binary": st.binary(),
    "date32[day]": st.dates(),
    "time64[us]": st.times(),
    "timestamp[us]": st.datetimes(),
    "timestamp[us, tz=UTC]": st.datetimes(timezones=st.just(UTC)),
}


def bits(array: pa.Array) -> list[Any]:
    """Return values in which floats are compared by their bits: -0.0 differs from 0.0, and NaN equals NaN."""
    if pa.types.is_list(array.type):
        return [
            item if item is None else bits(pa.array(item, array.type.value_type))
            for item in array.to_pylist()
        ]
    if pa.types.is_floating(array.type):
        return [None if v is None else "nan" if v != v else v.hex() for v in array.to_pylist()]
    return list(array.to_pylist())


@pytest.mark.parametrize("text", VALUES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_value_comes_back_as_it_was(text: str, data: st.DataObject) -> None:
    one = st.none() | VALUES[text]
    for kind, values in (
        (type_of(text), st.lists(one, max_size=5)),
        (pa.list_(type_of(text)), st.lists(st.none() | st.lists(one, max_size=3), max_size=3)),
    ):
        assert type_of(type_text(kind)) == kind
        fed = pa.array(data.draw(values), kind)
        written = json.loads(json.dumps(as_json(fed.to_pylist()), allow_nan=False))
        back = pa.array([value_of(value, kind) for value in written], kind)
        assert bits(back) == bits(fed)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("double", "x"),
        ("int64", "1"),
        ("int8", 300),
        ("bool", 1),
        ("decimal128(18, 2)", "0.125"),
        ("decimal128(18, 2)", "x"),
        ("date32[day]", "2024-02-30"),
        ("timestamp[us]", 17),
        ("timestamp[ns]", "2024-01-01T00:00:00.123456789Z"),
        ("binary", "0g"),
        ("list<double>", 1),
        ("string", 1),
    ],
)
def test_what_is_no_value_of_the_type_is_refused(text: str, given: Any) -> None:
    kind = type_of(text)
    with pytest.raises((ArithmeticError, TypeError, ValueError)):
        pa.array([value_of(given, kind)], kind)


@pytest.mark.parametrize(
    "text", ["nonsense", "list<nonsense>", "decimal128(x, 2)", "timestamp[us, tz=a'b]"]
)
def test_a_text_that_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        type_of(text)
