"""A DuckDB connection of the process, and DuckDB's errors as ours."""

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
from dbt_onnx.errors import WarehouseError
from dbt_onnx.kernel.native import RUNNING_WORK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dbt_onnx.engines.base import TableName

T = TypeVar("T")

_BYTES = {"bytes": 1, **{f"{prefix}iB": 2 ** (10 * n) for n, prefix in enumerate("KMGTPE", 1)}}

# measured: 15 million rows can be joined, and deleted from, in 512 MB. 100 million fail to join in
# 256 MB, and to be deleted from in 1 GB
_BYTES_PER_ROW = 32
# of an instant's work eight processes at once needed nine
_TRIES = 20
_MOST_SECONDS = 3.0
_CONFLICT = re.compile("DuckLake transaction|DuckLake.* database is locked")


class Cursor:
    """One DuckDB connection of the process. A statement gets the named parameters that it mentions."""

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
        """The same rows, by column name."""
        rows = self.rows(sql, parameters)
        names = [column[0] for column in self.raw.description or []]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def insert(self, table: TableName, values: Mapping[str, Any], **computed: str) -> None:
        """Insert a row of these values, and of columns that are `computed` by SQL."""
        names = ", ".join(map(quote, (*values, *computed)))
        given = ", ".join((*(f"${name}" for name in values), *computed.values()))
        self.execute(f"insert into {table.sql} ({names}) select {given}", values)

    def stream(self, sql: str, parameters: Mapping[str, Any], *, batch_rows: int) -> Any:
        """A `pyarrow.RecordBatchReader`, to be closed. It ends when this cursor runs another statement."""
        relation = self.raw.sql(sql, params=self._bound(sql, parameters))
        return relation.to_arrow_reader(batch_rows)

    def _bound(self, sql: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        """The parameters that the statement names: duckdb refuses a call with others."""
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
        """What the table lies in."""
        if table.database.casefold() in self._lakes:
            return Lake()
        return CountedStorage() if duckdb.__version__.startswith("1.") else Storage()

    @cached_property
    def _lakes(self) -> set[str]:
        found = self.rows(
            "select lower(database_name) from duckdb_databases() where type = 'ducklake'"
        )
        return {name for (name,) in found}

    def columns_of(self, relation_sql: str) -> dict[str, str]:
        """SQL types by column name of a table name or a query in parentheses."""
        # `describe` would say "a" of a view that renames column a to "A" (duckdb 2.0.0)
        relation = self.raw.sql(f"select * from {relation_sql}")
        return dict(zip(relation.columns, map(str, relation.types), strict=True))

    def columns_if_there(self, table: TableName) -> dict[str, str]:
        """The same of a table or view; empty where there is none of this name."""
        return self.columns_of(table.sql) if self.has(table) else {}

    def relation_or_empty(
        self, table: TableName, columns: Mapping[str, str], *, sql: str | None = None
    ) -> str:
        """The table, or `sql`, which reads it; a typed relation without rows before the first run has
        created the table.
        """
        if self.has(table):
            return sql or table.sql
        typed = ", ".join(
            f"cast(null as {kind}) as {quote(name)}" for name, kind in columns.items()
        )
        return f"(select {typed} where false)"

    def max_rows_held(self) -> int:
        """How many rows of a table one statement can hold within DuckDB's memory limit.

        What it holds are keys and hashes for a join, or the transactions of all rows beside scattered
        ones that are deleted.
        """
        number, unit = self.rows("select current_setting('memory_limit')")[0][0].split()
        return int(float(number) * _BYTES[unit]) // _BYTES_PER_ROW

    def has(self, table: TableName) -> bool:
        """Whether there is a table or a view of this name.

        `duckdb_tables()` takes 16 ms where there are 3,000. A SELECT from a table that is missing may
        find a Python variable or a file instead.
        """
        try:
            # bound and not executed: then an error does not abort the transaction
            self.raw.sql(f"from pragma_table_info({literal(table.sql)})")
        except duckdb.CatalogException:
            return False
        return True

    def is_view(self, table: TableName) -> bool:
        """Whether a view has this name, in whatever case."""
        return bool(
            self.rows(
                f"select 1 from duckdb_views() where database_name = {literal(table.database)} "
                f"and schema_name = {literal(table.schema)} "
                f"and lower(view_name) = lower({literal(table.identifier)})"
            )
        )


class ConflictError(WarehouseError):
    """Another process has changed the same rows of a lake. Nothing is written, and it can be tried again."""


def repeated(
    work: Callable[[], T], *, tries: int = _TRIES, log: Callable[[str], None] = lambda _: None
) -> T:
    """Do the work, again when another process came between. Raises ConflictError after the last try.

    A database of DuckDB's own has one writer, and no conflicts.
    """
    for number in range(1, tries):
        try:
            with duckdb_errors():
                return work()
        except ConflictError as error:
            log(f"{error.message}; tried again ({number} of {tries - 1})")
            # for a random time, so that two that have met do not meet again
            time.sleep(random.uniform(0, min(_MOST_SECONDS, 0.1 * 2**number)))  # noqa: S311
    with duckdb_errors():
        return work()


@contextmanager
def duckdb_errors() -> Iterator[None]:
    """Turn DuckDB's errors, and a lack of memory, into a WarehouseError.

    dbt would print them with their traceback. Ctrl-C during a query is a RuntimeError of DuckDB; it
    becomes a KeyboardInterrupt again.
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
        said = said_by(error)
        if "Connection already closed" in said:
            raise WarehouseError(
                "the connection was closed during the run, as dbt does when it is interrupted",
                hint="nothing is written: run again",
            ) from error
        if _CONFLICT.search(said):
            raise ConflictError(
                f"another process wrote to the lake at the same time: {_shortened(said)}",
                hint="nothing is written: run again, or let fewer processes write at once",
            ) from error
        hint = (
            "dbt_onnx makes its tables without constraints and indexes: drop what was added to them"
            if isinstance(error, duckdb.ConstraintException)
            else "if it speaks of a value or a column, mend the model upstream that gives it; else "
            "look at the warehouse: its rights, disk and memory"
        )
        raise WarehouseError(f"DuckDB stopped the run: {_shortened(said)}", hint=hint) from error
    except MemoryError as error:
        raise _out_of_memory(str(error) or "Python was given none") from error


def _shortened(said: str) -> str:
    return said if len(said) <= 500 else said[:497] + "..."


def _out_of_memory(said: str) -> WarehouseError:
    return WarehouseError(
        f"the process has no more memory: {said}",
        hint="give it more, or leave it some: lower DuckDB's memory_limit or the threads",
    )


@contextmanager
def ended_with_process(name: str) -> Iterator[list[Cursor]]:
    """Within, the end of the process first stops and rolls back what the cursors in the list do.

    dbt runs a model in a thread that does not keep the process alive: a second Ctrl-C ends the wait
    for it. After this block the thread stands still when the process is ending, since whatever it did
    next would disturb the end.
    """
    cursors: list[Cursor] = []
    asked = 0

    def stop() -> None:
        nonlocal asked
        if not asked:
            sys.stderr.write(f"{name}: interrupted: the run is stopped, and writes nothing\n")
        # not at every call: the run row still has to be closed on one of these cursors
        if asked % 10 == 0:
            for cursor in cursors:
                with suppress(Exception):
                    cursor.raw.interrupt()
        asked += 1

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
        return WarehouseError(
            f"there is no warehouse at {path}: {said}",
            hint="`dbt build` makes it; a relative path is one in the project's folder",
        )
    return WarehouseError(
        f"the warehouse {path} cannot be opened: {said}",
        hint="`dbt debug` tries the same and says more",
    )


@contextmanager
def opening_errors(path: str | None = None) -> Iterator[None]:
    """Turn the errors of opening a database file into a WarehouseError; without a path, those of
    `dbt.ref()`, which opens the relation at once.
    """
    try:
        yield
    except duckdb.Error as error:
        if path is not None:
            raise _cannot_open(path, said_by(error)) from error
        raise WarehouseError(
            f"what the model reads cannot be opened: {said_by(error)}",
            hint="build what is upstream first: `dbt build -s +MODEL`",
        ) from error


def said_by(error: Exception) -> str:
    """What DuckDB says, in one line and without the statement."""
    return " ".join(str(error).partition("\nLINE ")[0].split())
