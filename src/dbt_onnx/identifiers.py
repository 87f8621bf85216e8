"""SQL identifiers and literals from outside, made safe to stand in a statement."""


def quote(name: str) -> str:
    """`a"b` -> `"a""b"`: any text becomes one SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`it's` -> `'it''s'`: any text becomes one SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
