"""Spark SQL text for names, literals, types and hashes.

A feature has changed if the value that the model reads has changed, see `docs/decisions/features-hash.md`. Spark's
`xxhash64` ignores NULLs, so each value is hashed together with whether it is NULL, and each list with its length.
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

# without the suffix, Spark reads a literal such as 0.5 as a DECIMAL
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
    """Return the quoted name of a table in the session's catalog."""
    return f"{quote(table.schema)}.{quote(table.identifier)}"


def not_null(names: Iterable[str]) -> str:
    """SQL condition: none of these columns is NULL."""
    return " and ".join(f"{quote(name)} is not null" for name in names)


def empty_relation(columns: Mapping[str, str]) -> str:
    """SQL for a FROM clause: a relation without rows that has these columns."""
    listed = ", ".join(f"cast(null as {kind}) as {quote(n)}" for n, kind in columns.items())
    return f"(select {listed} where false)"


def fingerprint(values: str) -> str:
    """SQL aggregate for a fingerprint of `hashable` values over all rows, in any order. NULL if there are no rows."""
    return f"bit_xor(xxhash64({values}))"


def hashable(columns: Mapping[str, str], *, of: str | None = None) -> str:
    """Return the SQL arguments with which `xxhash64` hashes columns, {name: SQL type}, exactly."""
    prefix = "" if of is None else f"{of}."
    return ", ".join(_hashable(prefix + quote(name), kind) for name, kind in columns.items())


def features_hash(columns: Mapping[str, str], precisions: Mapping[str, str]) -> str:
    """SQL hash of the columns that the model reads, {name: SQL type}."""
    values = (_hashed(quote(name), kind, precisions[name]) for name, kind in columns.items())
    return f"xxhash64({', '.join(values)})"


def _hashable(value: str, sql_type: str) -> str:
    if _LIST.fullmatch(sql_type):
        return f"isnull({value}), size({value}), transform({value}, x -> isnull(x)), {value}"
    return f"isnull({value}), {value}"


def _hashed(column: str, sql_type: str, precision: str) -> str:
    """SQL that prepares a column for hashing. It rounds as the encoder does, and widens the type, so that a column with
    a wider type has the same hash.
    """
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
