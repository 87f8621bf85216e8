"""A DuckDB connection, and the translation of DuckDB's errors into dbt_onnx's errors."""

from __future__ import annotations

import random
import re
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import duckdb

from dbt_onnx.engines.duckdb.identifiers import literal, quote
from dbt_onnx.engines.duckdb.storage import CountedStorage, Lake, Storage
from dbt_onnx.errors import NoWarehouseError, WarehouseError, shortened
from dbt_onnx.kernel.native import RUNNING_WORK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dbt_onnx.engines.base import TableName

T = TypeVar("T")

_BYTES = {"bytes": 1, **{f"{prefix}iB": 2 ** (10 * n) for n, prefix in enumerate("KMGTPE", 1)}}

# measured: with 15 million rows, a join and a DELETE succeed in 512 MB. With 100 million rows, a join
# fails in 256 MB, and a DELETE fails in 1 GB
_BYTES_PER_ROW = 32
# eight processes that did a moment's work at the same time needed nine tries
_TRIES = 20
_MOST_SECONDS = 3.0
_IS_DUCKDB_1 = duckdb.__version__.startswith("1.")
_CONFLICT = re.compile("DuckLake transaction|DuckLake.* database is locked")


class Cursor:
    """One DuckDB connection of the process. A statement is bound only to the parameters that it names."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.raw = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection: one that stays open keeps the database file locked."""
        self.raw.close()

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.rows(sql, parameters)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement and fetch all of its rows.

        duckdb refuses more work on a cursor while a result is unfinished.
        """
        return self.raw.execute(sql, self._bound(sql, parameters)).fetchall()

    def records(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Run one statement and fetch all of its rows, each as {column: value}."""
        rows = self.rows(sql, parameters)
        names = [column[0] for column in self.raw.description or []]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def insert(self, table: TableName, values: Mapping[str, Any], **computed: str) -> None:
        """Insert one row of `values`. `computed` has SQL expressions for further columns."""
        names = ", ".join(map(quote, (*values, *computed)))
        given = ", ".join((*(f"${name}" for name in values), *computed.values()))
        self.execute(f"insert into {table.sql} ({names}) select {given}", values)

    def stream(self, sql: str, parameters: Mapping[str, Any], *, batch_rows: int) -> Any:
        """Return a `pyarrow.RecordBatchReader`, which the caller closes. It ends when this cursor runs another
        statement.
        """
        relation = self.raw.sql(sql, params=self._bound(sql, parameters))
        return relation.to_arrow_reader(batch_rows)

    def _bound(self, sql: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return only the parameters that the statement names, because duckdb refuses any others."""
        if not parameters:
            return {}
        wanted = self.raw.extract_statements(sql)[0].named_parameters
        return {name: parameters[name] for name in wanted}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.raw.begin()
        try:
            yield
        except BaseException:
            self.raw.rollback()
            raise
        self.raw.commit()

    def storage_of(self, table: TableName) -> Storage:
        """Return the kind of storage that the table is in."""
        if table.database.casefold() in self._lakes:
            return Lake()
        return CountedStorage() if _IS_DUCKDB_1 else Storage()

    @cached_property
    def _lakes(self) -> set[str]:
        found = self.rows(
            "select lower(database_name) from duckdb_databases() where type = 'ducklake'"
        )
        return {name for (name,) in found}

    def columns_of(self, relation_sql: str) -> dict[str, str]:
        """Return {column: SQL type} of a table, given by name, or of a query in parentheses."""
        # not `describe`: for a view that renames column a to "A", it returns "a" (duckdb 2.0.0)
        relation = self.raw.sql(f"select * from {relation_sql}")
        return dict(zip(relation.columns, map(str, relation.types), strict=True))

    def columns_if_there(self, table: TableName) -> dict[str, str]:
        """Return {column: SQL type} of a table or view; empty if it does not exist."""
        return self.columns_of(table.sql) if self.has(table) else {}

    def relation_or_empty(
        self, table: TableName, columns: Mapping[str, str], *, sql: str | None = None
    ) -> str:
        """Return SQL that reads the table: `sql` or the table's name. If no run has created the table yet,
        return a subquery without rows, with these columns and types.
        """
        if self.has(table):
            return sql or table.sql
        typed = ", ".join(
            f"cast(null as {kind}) as {quote(name)}" for name, kind in columns.items()
        )
        return f"(select {typed} where false)"

    def max_rows_held(self) -> int:
        """Return how many rows of a table one statement can hold within DuckDB's memory limit.

        A join holds keys and hashes. A DELETE of scattered rows holds a transaction id for each row near
        a deleted one.
        """
        number, unit = self.rows("select current_setting('memory_limit')")[0][0].split()
        return int(float(number) * _BYTES[unit]) // _BYTES_PER_ROW

    def has(self, table: TableName) -> bool:
        """Whether a table or a view has this name.

        `duckdb_tables()` would take 16 ms in a database with 3,000 tables, and a SELECT from a missing table
        may find a Python variable or a file instead.
        """
        if '"' in table.identifier + table.schema + table.database and _IS_DUCKDB_1:
            # its pragma_table_info() cannot find such a name
            return bool(
                self.rows(
                    f"select 1 from information_schema.tables where table_catalog = {literal(table.database)} "
                    f"and table_schema = {literal(table.schema)} "
                    f"and lower(table_name) = lower({literal(table.identifier)})"
                )
            )
        try:
            # bound but not executed, so that an error does not abort the transaction
            self.raw.sql(f"from pragma_table_info({literal(table.sql)})")
        except duckdb.CatalogException:
            return False
        return True

    def is_view(self, table: TableName) -> bool:
        """Whether a view has this name, ignoring case."""
        return bool(
            self.rows(
                f"select 1 from duckdb_views() where database_name = {literal(table.database)} "
                f"and schema_name = {literal(table.schema)} "
                f"and lower(view_name) = lower({literal(table.identifier)})"
            )
        )


class ConflictError(WarehouseError):
    """Another process has changed the same rows of a DuckLake. Nothing is written; the work can be retried."""


def with_retries(
    work: Callable[[], T], *, tries: int = _TRIES, log: Callable[[str], None] = lambda _: None
) -> T:
    """Do the work, and retry it if another process causes a conflict. Raises ConflictError after the last try.

    Only a DuckLake has conflicts: a native DuckDB database has one writer.
    """
    for number in range(1, tries):
        try:
            with duckdb_errors():
                return work()
        except ConflictError as error:
            log(f"{error.message}; tried again ({number} of {tries - 1})")
            # wait a random time, so that two processes in conflict do not collide again
            time.sleep(random.uniform(0, min(_MOST_SECONDS, 0.1 * 2**number)))  # noqa: S311
    with duckdb_errors():
        return work()


@contextmanager
def duckdb_errors() -> Iterator[None]:
    """Turn DuckDB's errors, and a lack of memory, into a WarehouseError.

    dbt would print the original errors with a traceback. DuckDB turns Ctrl-C during a query into a
    RuntimeError; this turns it back into a KeyboardInterrupt.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        if str(error) == "can't start new thread":
            raise _out_of_memory(str(error)) from error
        raise
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.Error as error:
        said = message_of(error)
        if "Connection already closed" in said:
            raise WarehouseError(
                "the connection was closed during the run, as dbt does when it is interrupted",
                hint="nothing is written: run again",
            ) from error
        if _CONFLICT.search(said):
            raise ConflictError(
                f"another process wrote to the lake at the same time: {shortened(said, 500)}",
                hint="nothing is written: run again, or let fewer processes write at once",
            ) from error
        hint = (
            "dbt_onnx makes its tables without constraints and indexes: drop what was added to them"
            if isinstance(error, duckdb.ConstraintException)
            else "if the message names a value or a column, fix the upstream model; otherwise check the "
            "warehouse: permissions, disk, memory"
        )
        raise WarehouseError(
            f"DuckDB stopped the run: {shortened(said, 500)}", hint=hint
        ) from error
    except MemoryError as error:
        raise _out_of_memory(str(error) or "Python could not allocate memory") from error


def _out_of_memory(said: str) -> WarehouseError:
    return WarehouseError(
        f"the process is out of memory: {said}",
        hint="give it more memory, or lower DuckDB's memory_limit or the number of threads",
    )


@contextmanager
def ended_with_process(name: str) -> Iterator[list[Cursor]]:
    """Yield a list for cursors. If the process ends inside this block, the statements of these cursors are
    first stopped and rolled back.

    dbt runs a model in a thread that does not keep the process alive: a second Ctrl-C ends the wait
    for it. If the process is ending, the thread blocks forever at the end of this block, because anything
    that it did next would disturb the shutdown.
    """
    cursors: list[Cursor] = []
    calls = 0

    def stop() -> None:
        nonlocal calls
        if not calls:
            sys.stderr.write(f"{name}: interrupted: the run is stopped, and writes nothing\n")
        # `end` calls this once a second: not interrupted at every call, because the run row still has to be closed on
        # one of these cursors
        if calls % 10 == 0:
            for cursor in cursors:
                with suppress(Exception):
                    cursor.raw.interrupt()
        calls += 1

    try:
        with RUNNING_WORK.entered(stop):
            yield cursors
    finally:
        if RUNNING_WORK.is_ending:
            threading.Event().wait()


def _cannot_open(path: str, said: str) -> WarehouseError:
    if "set lock" in said:
        return WarehouseError(
            f"the warehouse {path} is held by another process: {said}",
            hint="wait until it ends: DuckDB lets one process write, or many read",
        )
    if "does not exist" in said or path == ":memory:":
        return NoWarehouseError(
            f"there is no warehouse at {path}: {said}",
            hint="run `dbt build`; a relative path is relative to the project's folder",
        )
    return WarehouseError(
        f"the warehouse {path} cannot be opened: {said}",
        hint="run `dbt debug` for details",
    )


@contextmanager
def opening_errors(path: str | None = None) -> Iterator[None]:
    """Turn the errors of opening the database file at `path` into a WarehouseError. Without a path, do so
    with the errors of `dbt.ref()`, which opens the relation at once.
    """
    try:
        yield
    except duckdb.Error as error:
        if path is not None:
            raise _cannot_open(path, message_of(error)) from error
        raise WarehouseError(
            f"a relation that the model reads cannot be opened: {message_of(error)}",
            hint="build the upstream models first: `dbt build -s +MODEL`",
        ) from error


def message_of(error: Exception) -> str:
    """Return DuckDB's message on one line, without the statement."""
    return " ".join(str(error).partition("\nLINE ")[0].split())
