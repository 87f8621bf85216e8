"""The SQL types that a model can read: how values of each are hashed, and how they are kept.

A value has changed when what reaches the model has changed. So what is hashed is the value as the
contract encodes it; `dbt_onnx.runs.precisions` says how exactly.

The last digits of a sum of doubles depend on the order in which DuckDB's threads come. float32 does
not keep them. A wider type is no change for the model: all integers are hashed as BIGINT, or as text
where they are longer, all floats as DOUBLE, an ENUM as text.
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
# what a text from outside is that may stand in a statement
TYPE = re.compile(r"[A-Z][A-Z0-9_ ]*(\(\d+(, ?\d+)?\))?(\[\d*\])*")
_ELEMENT = "__dbt_onnx_element"
# types of moments with a time zone, and how they become moments without one
_IN_UTC = {
    "TIMESTAMP WITH TIME ZONE": "make_timestamp(epoch_us({}))",
    "TIMESTAMPTZ_NS": "make_timestamp_ns(epoch_ns({}))",
}

_DIGITS_OF_64_BITS = 18
# a number without an exponent would be a DECIMAL
_ROUNDING = Rounding(double_suffix="", nearest="round({})", half_even="round_even({}, 0)")
_OF_128_BITS = frozenset({"HUGEINT", "UHUGEINT", "UUID"})


def hashed(name: str, sql_type: str, precision: str) -> str:
    """SQL of the value of a column as it is hashed."""
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

    Values of 128 bits become text: DuckDB hashes them as the exclusive or of two halves, which is
    the same for 0 and -1.
    """
    element, lists = split(sql_type)
    is_wide = _DECIMAL.fullmatch(element) and not _is_64_bits(element)
    if is_wide or element in _OF_128_BITS:
        column, element = _cast(column, "VARCHAR", lists), "VARCHAR"
    return _by_bytes(column, element, lists)


def hashable_columns(columns: Mapping[str, str]) -> str:
    """The same of several columns, {name: SQL type}."""
    return ", ".join(hashable(quote(name), kind) for name, kind in columns.items())


def _by_bytes(value: str, element: str, lists: str) -> str:
    if lists == "" or element not in {"VARCHAR", "JSON"}:
        return by_bytes(value, element + lists)
    # bytes have the hash of their text
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
    # a list and an array of the same values are the same for the model
    return f"cast({column} as {element}{'[]' if lists else ''})"


def read_as(name: str, sql_type: str) -> str:
    """SQL of a column for a stream. Arrays of an ENUM become text.

    DuckDB would read them back from Arrow as the numbers of the categories.
    """
    element, lists = split(sql_type)
    return f"cast({name} as {kept_as(sql_type)})" if lists and element.startswith("ENUM") else name


def kept_as(sql_type: str) -> str:
    """The type in which values are kept: an ENUM's values as text, all others as they are."""
    element, lists = split(sql_type)
    if element.startswith("ENUM"):
        return f"VARCHAR{lists}"
    # a column that is NULL in every row
    return f"INTEGER{lists}" if element == '"NULL"' else sql_type


def widened(kept: str, given: str) -> str:
    """The type for a column that holds `kept` values and must now hold `given` values, too.

    Nothing is lost: the run row has the type that the values had, and text reads back to the same
    value. For two lists the type of their elements is widened, since the text of a whole list does
    not read back the same where it holds JSON.
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

    A moment with a zone becomes text in UTC. In the session's zone it would lose seconds, which the
    offsets of long ago have.
    """
    element, lists = split(given)
    if given == kept or element not in _IN_UTC:
        return f"cast({column} as {kept})"
    if not lists:
        return _utc_text(column, element)
    return f"cast(list_transform({column}, lambda {_ELEMENT}: {_utc_text(_ELEMENT, element)}) as {kept})"


def _utc_text(moment: str, element: str) -> str:
    # DuckDB cannot count the microseconds of infinity
    return f"coalesce(cast({_IN_UTC[element].format(moment)} as varchar) || '+00', cast({moment} as varchar))"


def features_hash(columns: Mapping[str, str], precisions: Mapping[str, str]) -> str:
    """SQL of the hash over the columns that the model reads, {name: SQL type}."""
    values = (hashed(name, kind, precisions[name]) for name, kind in columns.items())
    return f"hash({', '.join(values)})"
