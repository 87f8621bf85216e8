"""What a macro asks the warehouse while dbt renders it: noted, to find out later whether it would
render the same again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import duckdb

if TYPE_CHECKING:
    from collections.abc import Mapping


class NotingConnection:
    """A connection that notes in `answers` what it is asked: {SQL: digest of the answer}.

    The digest is empty for what can be asked only once: a statement that is no query, or has
    parameters.
    """

    def __init__(self, raw: Any, answers: dict[str, str]) -> None:
        self._raw = raw
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def cursor(self) -> NotingConnection:
        return NotingConnection(self._raw.cursor(), self._answers)

    def execute(self, sql: str, *parameters: Any) -> Any:
        kinds = _kinds(self._raw, sql)
        if not kinds <= {"TRANSACTION", "SET"}:
            self._answers[sql] = ""
            if kinds == {"SELECT"} and not parameters:
                self._answers[sql] = _answer(self._raw, sql)
        return self._raw.execute(sql, *parameters)


def has_same_answers(connection: duckdb.DuckDBPyConnection, answers: Mapping[str, str]) -> bool:
    """Whether the warehouse gives every answer that was noted."""
    try:
        return all(
            answer and _kinds(connection, sql) == {"SELECT"} and _answer(connection, sql) == answer
            for sql, answer in answers.items()
        )
    except duckdb.Error:
        return False


def _kinds(connection: Any, sql: str) -> set[str]:
    return {statement.type.name for statement in connection.extract_statements(sql)}


def _answer(connection: Any, sql: str) -> str:
    return hashlib.sha256(repr(connection.execute(sql).fetchall()).encode()).hexdigest()
