"""SQL text of identifiers and values from outside, quoted so that it is safe in a statement."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def quote(name: str) -> str:
    """`a"b` -> `"a""b"`: any text becomes one SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def by_bytes(value: str, sql_type: str) -> str:
    """SQL of a value that is to be compared or hashed by its bytes, whatever the collation.

    `=` follows the collation of the column or the session, and since DuckDB 2.0.1 `hash` does, too.
    Text inside lists is not changed.
    """
    if sql_type == "JSON":
        value = f"cast({value} as varchar)"
    return f'{value} collate "binary"' if sql_type in {"VARCHAR", "JSON"} else value


def compared(name: str, sql_type: str, *, of: str | None = None) -> str:
    """SQL of a key column for comparisons; `of` is a table's alias."""
    return by_bytes(quote(name) if of is None else f"{of}.{quote(name)}", sql_type)


def compared_key(key: Mapping[str, str], *, of: str | None = None) -> str:
    """SQL of the columns of a key, {name: SQL type}, for comparisons."""
    return ", ".join(compared(name, kind, of=of) for name, kind in key.items())


def same_key(key: Mapping[str, str], left: str, right: str) -> str:
    """SQL that is true if rows of two tables, given by alias, have the same key."""
    return " and ".join(
        f"{compared(name, kind, of=left)} = {compared(name, kind, of=right)}"
        for name, kind in key.items()
    )


def not_null(names: Iterable[str]) -> str:
    """SQL that is true if a row has a value in each of these columns."""
    return " and ".join(f"{quote(name)} is not null" for name in names)


def absent(names: Iterable[str], columns: Iterable[str]) -> list[str]:
    """Return the names that are not among the columns, ignoring case."""
    folded = {column.casefold() for column in columns}
    return [name for name in names if name.casefold() not in folded]


def types_of(names: Iterable[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the SQL types of some columns of a table, ignoring the case of their names.

    The type of a missing column is empty.
    """
    folded = {name.casefold(): kind for name, kind in columns.items()}
    return {name: folded.get(name.casefold(), "") for name in names}


def literal(text: str) -> str:
    """`it's` -> `'it''s'`: any text becomes one SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
