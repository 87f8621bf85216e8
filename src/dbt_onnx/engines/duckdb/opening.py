"""Opening a DuckDB warehouse: as dbt-duckdb does, or without dbt if the target is only a file."""

from __future__ import annotations

import copy
import gc
import hashlib
import re
import sys
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import duckdb

from dbt_onnx.engines.duckdb.cursor import opening_errors
from dbt_onnx.engines.duckdb.identifiers import literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# only dbt-duckdb can open a target with any other options, such as attached databases
_PLAIN = {"database", "schema", "path", "config_options", "settings", "plugins"}
_NOT_OF_OPENING = {"external_root", "disable_transactions", "keep_open", "retries", "flights"}
_UNUSED_PLUGIN = "dbt_onnx.replay_plugin"  # only a dbt test calls its function, no command does
_SECRET = re.compile("secret|token|password|key|credential|connection|proxy", re.IGNORECASE)


@contextmanager
def opened(credentials: Any, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection as dbt-duckdb does, and close it at the end. Raises WarehouseError if the file does
    not exist, is not a database, or is locked by another process.
    """
    from dbt.adapters.duckdb.environments import Environment

    connection, opening, plugins = _open(credentials, read_only=read_only)
    with closing(connection), connection.cursor() as cursor:
        yield Environment.initialize_cursor(opening, cursor, plugins)


def _open(credentials: Any, *, read_only: bool) -> tuple[duckdb.DuckDBPyConnection, Any, Any]:
    """Return a connection, the credentials that it was opened with, and dbt-duckdb's plugins."""
    from dbt.adapters.duckdb.environments import Environment

    close_idle_connections()
    is_attached = credentials.path == ":memory:" and bool(credentials.attach)
    with opening_errors(credentials.database if is_attached else credentials.path):
        plugins = Environment.initialize_plugins(credentials)
        opening = copy.copy(credentials)
        if read_only and is_attached:
            # DuckDB cannot open an in-memory database read-only, but it can attach read-only
            opening.attach = [replace(item, read_only=True) for item in credentials.attach]
        elif read_only:
            options = {**(credentials.config_options or {}), "access_mode": "read_only"}
            opening.config_options = options
        opening.retries = None
        return Environment.initialize_db(opening, plugins), opening, plugins


def how_to_reopen(credentials: Any) -> dict[str, Any] | None:
    """Return what `reopened` needs. None if the warehouse is more than a file, or if the result might
    contain a secret, because the caller stores it.
    """
    given = {item.name for item in fields(credentials) if getattr(credentials, item.name)}
    options, settings = credentials.config_options or {}, credentials.settings or {}
    values = [*options.items(), *settings.items()]
    is_plain = (
        ":" not in credentials.path
        and given <= _PLAIN | _NOT_OF_OPENING
        and all(p.module == _UNUSED_PLUGIN and not p.config for p in credentials.plugins or [])
        and all(isinstance(value, str | int | float) for _, value in values)
        and not any(_SECRET.search(name) for name, _ in values)
    )
    if not is_plain:
        return None
    return {"path": credentials.path, "config_options": options, "settings": settings}


@contextmanager
def reopened(how: Mapping[str, Any]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a read-only connection with the settings of the target."""
    close_idle_connections()
    path, options = how["path"], how["config_options"]
    with opening_errors(path):
        connection = duckdb.connect(path, config={**options, "access_mode": "read_only"})
    with closing(connection), connection.cursor() as cursor:
        for name, value in how["settings"].items():
            # as dbt-duckdb sets them
            cursor.execute(f"SET {name} = {literal(str(value))}")
        yield cursor


@contextmanager
def rendering(credentials: Any) -> Iterator[dict[str, str]]:
    """Give the next invocation of dbt in this process a read-only connection that notes its queries and their
    answers. The invocation closes the connection.
    """
    from dbt.adapters.duckdb import environments
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    manager: Any = DuckDBConnectionManager
    environment: Any = environments.create(credentials)
    connection, _, _ = _open(credentials, read_only=True)
    answers: dict[str, str] = {}
    environment.conn = _NotingConnection(connection, answers)
    environment.handle()  # without a handle, the environment would close, and reopen for writing
    manager._ENV = environment  # noqa: SLF001
    yield answers


class _NotingConnection:
    """A connection that notes its queries in `answers`: {SQL: digest of the answer}.

    The digest is empty for a statement that cannot be repeated: it is not a SELECT, or it has parameters.
    """

    def __init__(self, raw: Any, answers: dict[str, str]) -> None:
        self._raw = raw
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def cursor(self) -> _NotingConnection:
        return _NotingConnection(self._raw.cursor(), self._answers)

    def execute(self, sql: str, *parameters: Any) -> Any:
        kinds = _kinds(self._raw, sql)
        if not kinds <= {"TRANSACTION", "SET"}:
            self._answers[sql] = ""
            if kinds == {"SELECT"} and not parameters:
                self._answers[sql] = _answer(self._raw, sql)
        return self._raw.execute(sql, *parameters)


def has_same_answers(connection: duckdb.DuckDBPyConnection, answers: Mapping[str, str]) -> bool:
    """Whether the warehouse still gives every answer in `answers`."""
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


def close_idle_connections() -> None:
    """Close the connections that dbt-duckdb keeps open between invocations. While they are open, no other
    process can write, and this process cannot open the file in another mode.
    """
    connections = sys.modules.get("dbt.adapters.duckdb.connections")
    if connections is None:
        return
    manager: Any = connections.DuckDBConnectionManager
    if manager._ENV is not None:  # noqa: SLF001
        manager._ENV.close()  # noqa: SLF001
    manager.close_all_connections()
    gc.collect()  # unreferenced cursors, too, keep the database open until they are collected
