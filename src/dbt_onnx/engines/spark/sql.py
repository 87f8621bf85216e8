"""Text for Spark SQL: names, literals, types, and what a value is hashed as.

A value has changed when what reaches the model has changed, see `docs/decisions/features-hash.md`. Spark's
`xxhash64` passes over NULLs, so each value is hashed with whether it is one, and a list with its length.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dbt_onnx.engines.rounding import Rounding
from dbt_onnx.runs.precisions import EXACT, NORMAL_RANGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dbt_onnx.engines.base import TableName

HASH_FUNCTION = "spark.xxhash64/1"
WHOLE_TYPES = frozenset({"tinyint", "smallint", "int", "bigint"})

# a number without a suffix would be a DECIMAL
_ROUNDING = Rounding(double_suffix="d", nearest="rint({})", half_even="rint({})")
_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
_LIST = re.compile(r"array<(.*)>", re.DOTALL)
_DIGITS_OF_64_BITS = 18


def quote(name: str) -> str:
    """``a`b`` -> `` `a``b` ``: any text becomes one SQL identifier."""
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    r"""`it's` -> `'it\'s'`: any text becomes one SQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def named(table: TableName) -> str:
    """A table in the session's catalog."""
    return f"{quote(table.schema)}.{quote(table.identifier)}"


def not_null(names: Iterable[str]) -> str:
    """SQL of whether a row has a value in each of these columns."""
    return " and ".join(f"{quote(name)} is not null" for name in names)


def typed_nothing(columns: Mapping[str, str]) -> str:
    """A relation without rows, which has these columns."""
    listed = ", ".join(f"cast(null as {kind}) as {quote(n)}" for n, kind in columns.items())
    return f"(select {listed} where false)"


def fingerprint(values: str) -> str:
    """SQL of a number for all rows of some hashable values, in any order; NULL without rows."""
    return f"bit_xor(xxhash64({values}))"


def hashable(columns: Mapping[str, str], *, of: str | None = None) -> str:
    """Columns, {name: SQL type}, for an exact hash of several."""
    prefix = "" if of is None else f"{of}."
    return ", ".join(_hashable(prefix + quote(name), kind) for name, kind in columns.items())


def features_hash(columns: Mapping[str, str], precisions: Mapping[str, str]) -> str:
    """SQL of the hash over the columns that the model reads, {name: SQL type}."""
    values = (_hashed(quote(name), kind, precisions[name]) for name, kind in columns.items())
    return f"xxhash64({', '.join(values)})"


def _hashable(value: str, sql_type: str) -> str:
    if _LIST.fullmatch(sql_type):
        return f"isnull({value}), size({value}), transform({value}, x -> isnull(x)), {value}"
    return f"isnull({value}), {value}"


def _hashed(column: str, sql_type: str, precision: str) -> str:
    """A column as it is hashed: rounded as the encoder rounds it, and of a type that a wider one shares."""
    is_list = _LIST.fullmatch(sql_type)
    element = is_list[1] if is_list else sql_type
    value = _as_read("x" if is_list else column, element, precision)
    if not is_list:
        return _hashable(value, element)
    return _hashable(f"transform({column}, x -> {value})", sql_type)


def _as_read(value: str, element: str, precision: str) -> str:
    decimal = _DECIMAL.fullmatch(element)
    if element in WHOLE_TYPES:
        return f"cast({value} as bigint)"
    if decimal and decimal[2] == "0" and int(decimal[1]) <= _DIGITS_OF_64_BITS:
        return f"cast({value} as bigint)"
    if decimal and (precision == EXACT or decimal[2] == "0"):
        return f"cast({value} as string)"
    if not decimal and element not in {"float", "double"}:
        return value
    number = f"cast({value} as double)"
    if precision == EXACT or (decimal and precision not in NORMAL_RANGE):
        return number
    return _ROUNDING.of(number, precision)
