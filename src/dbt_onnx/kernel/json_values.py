"""Converts Arrow types to and from text, and JSON values to typed ones, for services that score on request."""

from __future__ import annotations

import re
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

_FINER_THAN_MICROSECONDS = re.compile(r"\.\d{7}")


def type_text(kind: pa.DataType) -> str:
    """Return an Arrow type as text, such as `double`, `decimal128(18, 2)` or `list<float>`."""
    if pa.types.is_dictionary(kind):  # an ENUM
        kind = kind.value_type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return f"list<{type_text(kind.value_type)}>"
    return str(kind)


def type_of(text: str) -> pa.DataType:
    """Return the Arrow type for a text from `type_text`. Raises ValueError for any other text."""
    if items := re.fullmatch(r"list<(.*)>", text):
        return pa.list_(type_of(items[1]))
    if decimal := re.fullmatch(r"decimal128\((\d+), (\d+)\)", text):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    if moment := re.fullmatch(r"timestamp\[(s|ms|us|ns), tz=([\w/+:-]+)\]", text):
        return pa.timestamp(moment[1], moment[2])
    return pa.type_for_alias(text)


def value_of(given: Any, kind: pa.DataType) -> Any:
    """Turn a JSON value from `as_json` of `dbt_onnx.serving.kinds` into a Python value for an Arrow array.

    Nothing is rounded. Raises ArithmeticError, TypeError or ValueError if the value cannot be of the type
    `kind`. Arrow refuses a value that passes here but does not fit, when the array is built.
    """
    if given is None:
        return None
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return [value_of(item, kind.value_type) for item in given]
    if pa.types.is_floating(kind):
        return float(given)  # JSON has no numbers for NaN and infinities, so these are text
    if pa.types.is_decimal(kind):
        return Decimal(given)
    if pa.types.is_timestamp(kind):
        if _FINER_THAN_MICROSECONDS.search(given):
            raise ValueError(f"{given} is finer than a microsecond")
        moment = datetime.fromisoformat(given)
        return moment if kind.tz else moment.replace(tzinfo=None)
    if pa.types.is_date(kind):
        return date.fromisoformat(given)
    if pa.types.is_time(kind):
        return time.fromisoformat(given)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return bytes.fromhex(given)
    return given
