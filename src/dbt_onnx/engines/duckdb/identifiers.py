"""SQL identifiers and literals from outside, made safe to stand in a statement."""


def quote(name: str) -> str:
    """`a"b` -> `"a""b"`: any text becomes one SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def by_bytes(value: str, sql_type: str) -> str:
    """SQL of a value to be compared, or hashed, by its bytes, whatever the collation.

    `=` follows the collation of the column or the session, and since DuckDB 2.0.1 `hash` does, too.
    Text inside lists stays as it is.
    """
    if sql_type == "JSON":
        value = f"cast({value} as varchar)"
    return f'{value} collate "binary"' if sql_type in {"VARCHAR", "JSON"} else value


def compared(name: str, sql_type: str, *, of: str | None = None) -> str:
    """SQL of a key column as it is compared; `of` is a table's alias."""
    return by_bytes(quote(name) if of is None else f"{of}.{quote(name)}", sql_type)


def literal(text: str) -> str:
    """`it's` -> `'it''s'`: any text becomes one SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
