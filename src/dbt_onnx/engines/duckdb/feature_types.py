"""The SQL types that a model can read: how their values are hashed, and how they are kept.

A feature has changed if the value that reaches the model has changed. So the value is hashed as the
contract encodes it, at a precision from `dbt_onnx.runs.precisions`. For example, the last digits of a sum of
doubles depend on the order in which DuckDB's threads finish, and float32 drops them.

A wider type is no change for the model. So all integers are hashed as BIGINT, or as text if they do not
fit, all floats as DOUBLE, and ENUMs as text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.identifiers import by_bytes, quote
from dbt_onnx.engines.rounding import Rounding
from dbt_onnx.runs.precisions import EXACT, NORMAL_RANGE

if TYPE_CHECKING:
    from collections.abc import Mapping


_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_UNSIGNED = ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
WHOLE_TYPES = frozenset({*_SIGNED[:-1], *_UNSIGNED[:-1]})
"""Integers that a BIGINT holds."""

_LISTS = re.compile(r"(?P<element>.*?)(?P<lists>(\[\d*\])*)", re.DOTALL)
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
# the form of a type from outside that may become part of a statement
TYPE = re.compile(r"[A-Z][A-Z0-9_ ]*(\(\d+(, ?\d+)?\))?(\[\d*\])*")
_ELEMENT = "__dbt_onnx_element"
# the types of timestamps with a time zone, and SQL that makes them naive UTC timestamps
_IN_UTC = {
    "TIMESTAMP WITH TIME ZONE": "make_timestamp(epoch_us({}))",
    "TIMESTAMPTZ_NS": "make_timestamp_ns(epoch_ns({}))",
}

_DIGITS_OF_64_BITS = 18
# no suffix: DuckDB reads a number with an exponent as a DOUBLE, and one without as a DECIMAL
_ROUNDING = Rounding(double_suffix="", nearest="round({})", half_even="round_even({}, 0)")
_OF_128_BITS = frozenset({"HUGEINT", "UHUGEINT", "UUID"})


def hashed(name: str, sql_type: str, precision: str) -> str:
    """SQL of a column's value in the form that is hashed for the features hash."""
    column = quote(name)
    element, lists = split(sql_type)
    decimal = _DECIMAL.fullmatch(element)
    if element in WHOLE_TYPES or (element.endswith(",0)") and _is_64_bits(element)):
        return _cast(column, "BIGINT", lists)
    is_text = element.startswith("ENUM") or element in _OF_128_BITS
    if is_text or (decimal and (precision == EXACT or decimal[2] == "0")):
        return _by_bytes(_cast(column, "VARCHAR", lists), "VARCHAR", lists)
    if not decimal and element not in {"FLOAT", "DOUBLE"}:
        return _by_bytes(column, element, lists)
    is_narrow = element == "FLOAT" and precision == "float32"
    if precision == EXACT or is_narrow or (decimal and precision not in NORMAL_RANGE):
        return _cast(column, "DOUBLE", lists)
    if not lists:
        return _ROUNDING.of(
            f"cast({column} as double)" if element != "DOUBLE" else column, precision
        )
    rounded = _ROUNDING.of(f"cast({_ELEMENT} as double)", precision)
    return f"list_transform({column}, lambda {_ELEMENT}: {rounded})"


def hashable(column: str, sql_type: str) -> str:
    """SQL of a column for an exact hash.

    Values of 128 bits become text, because DuckDB hashes them as the exclusive or of two halves, and 0 and -1
    would have the same hash.
    """
    element, lists = split(sql_type)
    is_wide = _DECIMAL.fullmatch(element) and not _is_64_bits(element)
    if is_wide or element in _OF_128_BITS:
        column, element = _cast(column, "VARCHAR", lists), "VARCHAR"
    return _by_bytes(column, element, lists)


def hashable_columns(columns: Mapping[str, str]) -> str:
    """SQL of several columns, {name: SQL type}, for an exact hash."""
    return ", ".join(hashable(quote(name), kind) for name, kind in columns.items())


def _by_bytes(value: str, element: str, lists: str) -> str:
    if lists == "" or element not in {"VARCHAR", "JSON"}:
        return by_bytes(value, element + lists)
    # the bytes of a text have the same hash as the text
    return f"list_transform({value}, lambda {_ELEMENT}: encode(cast({_ELEMENT} as varchar)))"


def _is_64_bits(decimal: str) -> bool:
    match = _DECIMAL.fullmatch(decimal)
    return match is not None and int(match[1]) <= _DIGITS_OF_64_BITS


def split(sql_type: str) -> tuple[str, str]:
    """`DECIMAL(9,2)[3]` -> `DECIMAL(9,2)` and `[3]`."""
    match = _LISTS.fullmatch(sql_type)
    assert match is not None
    return match["element"], match["lists"]


def _cast(column: str, element: str, lists: str) -> str:
    # a list and an array with the same values are equal for the model
    return f"cast({column} as {element}{'[]' if lists else ''})"


def read_as(name: str, sql_type: str) -> str:
    """SQL of a column for a stream. Arrays of an ENUM become text, because DuckDB would read them back from
    Arrow as the numbers of their categories.
    """
    element, lists = split(sql_type)
    return f"cast({name} as {kept_as(sql_type)})" if lists and element.startswith("ENUM") else name


def kept_as(sql_type: str) -> str:
    """Return the type in which values are kept: text for an ENUM, otherwise their own type."""
    element, lists = split(sql_type)
    if element.startswith("ENUM"):
        return f"VARCHAR{lists}"
    # the type "NULL" is that of a column that is NULL in every row
    return f"INTEGER{lists}" if element == '"NULL"' else sql_type


def widened(kept: str, given: str) -> str:
    """Return the type for a column that holds `kept` values and must now hold `given` values, too.

    Nothing is lost: the run row has the original type of the values, and text reads back to the same
    value. For two lists, the type of their elements is widened, because the text of a whole list does
    not read back to the same value if it contains JSON.
    """
    if kept == given:
        return kept
    (element, lists), (other, others) = split(kept), split(given)
    if lists and others:
        return f"{widened(element, other)}{lists if lists == others else '[]'}"
    if kept in _SIGNED and given in _SIGNED:
        return max(kept, given, key=_SIGNED.index)
    if {kept, given} <= {*_SIGNED, *_UNSIGNED}:
        return "HUGEINT"
    return "VARCHAR"


def converted(column: str, given: str, kept: str) -> str:
    """SQL of a column of type `given` as a value of type `kept`.

    A timestamp with a time zone becomes text in UTC. In the session's time zone it could lose seconds,
    because historical offsets have seconds.
    """
    element, lists = split(given)
    if given == kept or element not in _IN_UTC:
        return f"cast({column} as {kept})"
    if not lists:
        return _utc_text(column, element)
    return f"cast(list_transform({column}, lambda {_ELEMENT}: {_utc_text(_ELEMENT, element)}) as {kept})"


def _utc_text(moment: str, element: str) -> str:
    # the count of microseconds is NULL for infinity, so infinity is cast as it is
    return f"coalesce(cast({_IN_UTC[element].format(moment)} as varchar) || '+00', cast({moment} as varchar))"


def features_hash(columns: Mapping[str, str], precisions: Mapping[str, str]) -> str:
    """SQL of the hash of the columns that the model reads, {name: SQL type}."""
    values = (hashed(name, kind, precisions[name]) for name, kind in columns.items())
    return f"hash({', '.join(values)})"
