"""SQL identifiers and literals from outside, made safe to stand in a statement."""


def quote(name: str) -> str:
    """`a"b` -> `"a""b"`: any text becomes one SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def compared(name: str, sql_type: str, *, of: str | None = None) -> str:
    """A key column as it is compared, `of` a table's alias: text by its bytes, whatever collation the
    column or the session has. Elsewhere keys are hashed, which is by bytes, too.
    """
    column = quote(name) if of is None else f"{of}.{quote(name)}"
    return f'{column} collate "binary"' if sql_type == "VARCHAR" else column


def literal(text: str) -> str:
    """`it's` -> `'it''s'`: any text becomes one SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
