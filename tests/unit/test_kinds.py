"""The kinds of keys and values in a publication: store, read and parse are inverse, and JSON output is valid."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_onnx.serving.kinds import UnreadableKeyError, as_json, is_key_kind, kind_of

settings.register_profile("small", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("small")

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "large_integer": st.integers(-(2**127), 2**128 - 1),
    "float": st.floats(allow_nan=False),
    "text": TEXT,
    "bytes": st.binary(),
    "date": st.dates(),
    "time": st.times(),
    "timestamp": st.datetimes(),
    "timestamp_tz": st.datetimes(timezones=st.just(UTC)),
    "uuid": st.uuids(),
    "decimal(0)": st.integers(-(10**38) + 1, 10**38 - 1).map(Decimal),
    "decimal(10)": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(f"{n}e-10")),
}
NO_KEYS = ("json", "vector_float32", "vector_float64")


def as_text(value: Any) -> str:
    """Return a value as it is written in a URL."""
    found = as_json(value)
    return found if isinstance(found, str) else json.dumps(found)


@pytest.mark.parametrize("name", KEYS)
def test_what_is_stored_is_read_and_parsed_as_it_was(name: str) -> None:
    kind = kind_of(name)

    @given(KEYS[name])
    def holds(value: Any) -> None:
        stored = kind.store(value)
        assert isinstance(stored, int | float | str | bytes)
        assert kind.read(stored) == value
        assert type(kind.read(stored)) is type(value)
        parsed = kind.parse(as_text(value))
        assert parsed == value
        assert kind.store(parsed) == stored

    holds()


def test_a_nan_is_a_key_of_its_own() -> None:
    kind = kind_of("float")
    assert kind.store(math.nan) == kind.store(kind.parse("NaN")) == "NaN"
    assert math.isnan(kind.read("NaN"))


def test_kinds_are_those_of_keys_and_those_that_are_none() -> None:
    assert [name for name in KEYS if not is_key_kind(name)] == []
    for name in NO_KEYS:
        assert not is_key_kind(name)
        for refuse in (kind_of(name).store, kind_of(name).parse):
            with pytest.raises(UnreadableKeyError):
                refuse("1")
    for name in ("", "INTEGER", "decimal", "decimal(-1)", "decimal(1)x"):
        with pytest.raises(KeyError):
            kind_of(name)


ALIEN: list[Any] = [
    None, True, 1, 1.5, "1", b"1", date(2024, 1, 1), datetime(2024, 1, 1), time(1), UUID(int=1), Decimal("0.5"),
    [1], {"a": 1}, object(),
]  # fmt: skip
TAKEN: dict[str, tuple[type, ...]] = {
    "boolean": (bool,), "integer": (int,), "large_integer": (int,), "float": (float, int), "text": (str,),
    "bytes": (bytes,), "date": (date,), "time": (time,), "timestamp": (datetime,), "timestamp_tz": (datetime,),
    "uuid": (UUID,), "decimal(10)": (Decimal, int),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_a_value_of_another_type_is_no_key(name: str) -> None:
    for value in ALIEN:
        if type(value) in TAKEN[name]:
            kind_of(name).store(value)
            continue
        with pytest.raises(UnreadableKeyError):
            kind_of(name).store(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("integer", 2**63),
        ("integer", -(2**63) - 1),
        ("float", 10**400),
        ("text", "\ud800"),
        ("decimal(2)", Decimal("0.001")),
        ("decimal(2)", Decimal("NaN")),
        ("decimal(2)", Decimal("sNaN")),
        ("decimal(2)", Decimal("Infinity")),
        ("decimal(2)", 10**200),
        ("time", time(1, tzinfo=UTC)),
        ("timestamp", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
    ],
)
def test_a_value_that_its_column_cannot_hold_is_no_key(name: str, value: Any) -> None:
    with pytest.raises(UnreadableKeyError):
        kind_of(name).store(value)


@pytest.mark.parametrize("name", [*KEYS, *NO_KEYS])
def test_any_text_is_a_key_or_an_error_of_keys(name: str) -> None:
    kind = kind_of(name)

    @given(st.one_of(TEXT, st.text("0123456789+-_.:TZeE{} "), st.text()))
    def holds(text: str) -> None:
        try:
            kind.store(kind.parse(text))
        except UnreadableKeyError:
            return

    holds()


@pytest.mark.parametrize("text", ["1_000", " 1", "1 ", "٣", "", "1.0", "9" * 5000])
def test_a_whole_number_has_digits_only(text: str) -> None:
    with pytest.raises(UnreadableKeyError):
        kind_of("integer").parse(text)


def test_zero_has_no_sign_in_a_decimal() -> None:
    assert kind_of("decimal(2)").store(Decimal("-0")) == "0.00"


def test_a_moment_with_a_zone_is_the_same_one_in_utc() -> None:
    elsewhere = datetime(2024, 1, 1, 14, tzinfo=timezone(timedelta(hours=14)))
    for name in ("timestamp", "timestamp_tz"):
        assert kind_of(name).store(elsewhere) == kind_of(name).store(datetime(2024, 1, 1))


VALUES = st.one_of(st.none(), st.floats(), *KEYS.values())


@given(
    st.recursive(
        VALUES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.one_of(TEXT, st.integers()), inner, max_size=3),
        ),
    )
)
def test_every_value_becomes_json_that_any_language_reads(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = json.dumps(as_json(value), allow_nan=False)
    assert json.loads(text, parse_constant=refuse) == as_json(value)


def test_json_has_numbers_where_it_can_and_text_where_it_cannot() -> None:
    assert as_json([1, 0.5, True, None, "a"]) == [1, 0.5, True, None, "a"]
    assert as_json([math.nan, math.inf, -math.inf]) == ["NaN", "Infinity", "-Infinity"]
    assert as_json(Decimal("0E-10")) == "0.0000000000"
    assert as_json(datetime(2024, 1, 1)) == "2024-01-01T00:00:00Z"
    assert as_json(datetime(2024, 1, 1, tzinfo=UTC)) == "2024-01-01T00:00:00+00:00"
    assert as_json({1: b"\x00\xff"}) == {"1": "00ff"}
