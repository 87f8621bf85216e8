"""SQL of a value in the form that a publication stores, for each type of DuckDB."""

from __future__ import annotations

import re

from dbt_onnx.engines.duckdb.identifiers import literal

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_LARGE_INTEGERS = {"UBIGINT", "HUGEINT", "UHUGEINT", "BIGNUM"}
_MOMENTS = {"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS"}
_NESTED = re.compile(r"(STRUCT|MAP|UNION)\(.*\)|.*\[\d*\]")
_VECTOR = re.compile(r"(FLOAT|DOUBLE)\[\d*\]")


def stored_kind(value: str, sql_type: str) -> tuple[str, str]:
    """Return the kind of a column, see `dbt_onnx.serving.kinds`, and the SQL of its stored value.

    Lists of floats stay lists: the code that streams the rows packs them. Dates and timestamps outside the
    years 1 to 9999, infinity included, raise an error when they are read, because Python cannot hold them.
    """
    text = f"cast({value} as varchar)"
    if sql_type == "BOOLEAN":
        return "boolean", f"cast({value} as tinyint)"
    if sql_type in _INTEGERS:
        return "integer", value
    if sql_type in _LARGE_INTEGERS:
        return "large_integer", text
    if sql_type in {"FLOAT", "DOUBLE"}:
        return "float", value
    if decimal := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", sql_type):
        if decimal[1] == decimal[2]:
            # DuckDB writes 0.5 as .5 if the type has no digits before the point
            text = f"regexp_replace({text}, '^(-?)\\.', '\\10.')"
        return f"decimal({decimal[2]})", text
    if sql_type == "BLOB":
        return "bytes", value
    if sql_type == "DATE":
        return "date", _in_calendar(value, f"strftime({value}, '%Y-%m-%d')")
    if sql_type == "TIME":
        said = literal("24:00:00 is not a valid time of day and cannot be published")
        return (
            "time",
            f"case when {value} = time '24:00:00' then error({said}) else epoch_us({value}) end",
        )
    if sql_type in _MOMENTS:
        moment = f"cast({value} as timestamp)"
        return "timestamp", _in_calendar(moment, f"epoch_us({moment})")
    if sql_type == "TIMESTAMP WITH TIME ZONE":
        moment = f"make_timestamp(epoch_us({value}))"
        return "timestamp_tz", (
            f"case when isfinite({value}) then {_in_calendar(moment, f'epoch_us({value})')} "
            f"when {value} is not null then {_error(value)} end"
        )
    if sql_type == "UUID":
        return "uuid", text
    if vector := _VECTOR.fullmatch(sql_type):
        bits = 32 if vector[1] == "FLOAT" else 64
        return f"vector_float{bits}", f"cast({value} as {vector[1]}[])"
    if sql_type == "JSON":
        return "json", text
    if _NESTED.fullmatch(sql_type):
        return "json", f"cast(to_json({value}) as varchar)"
    return "text", value if sql_type == "VARCHAR" else text


def _in_calendar(moment: str, stored: str) -> str:
    return (
        f"case when year({moment}) between 1 and 9999 then {stored} "
        f"when {moment} is not null then {_error(moment)} end"
    )


def _error(moment: str) -> str:
    said = literal(" is outside the years 1 to 9999, and cannot be published")
    return f"error(cast({moment} as varchar) || {said})"
