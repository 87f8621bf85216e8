"""The storage of a ledger's tables: a native DuckDB database, or a DuckLake.

A DuckLake keeps its rows in Parquet files, and the list of these files in another database, its catalog.
Several processes can write to it at the same time. It has fewer types, and no sequences. This module
contains the code that differs for these reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.feature_types import split
from dbt_onnx.engines.duckdb.identifiers import literal, quote
from dbt_onnx.runs.tables import RUN, RUNS_TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.cursor import Cursor

_SEQUENCE = "dbt_onnx_run_no"
_COUNTER = "dbt_onnx_run_numbers"
"""A table with one row, which counts the runs of a schema in storage where a sequence cannot."""


class Storage:
    """A native DuckDB database."""

    has_one_writer = True
    has_compression = True
    suffixes: tuple[str, ...] = ()
    """The suffixes of tables that a scoring model has only in this storage."""

    def type_of(self, sql_type: str) -> str:
        """Return the type of a column that keeps values of `sql_type`."""
        return sql_type

    def types(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Return the column types for several columns, {name: SQL type}."""
        return {name: self.type_of(kind) for name, kind in columns.items()}

    def retype(self, table: TableName, name: str, *, to: str, using: str) -> str:
        """SQL that changes the type of a column; `using` is the SQL of the converted value."""
        return (
            f"alter table {table.sql} alter column {quote(name)} set data type {to} using {using}"
        )

    def runs_of(self, ledger: TableName) -> TableName:
        """Return the table with the run rows of a scoring model."""
        return ledger.beside(RUNS_TABLE)

    def prepare_runs(self, cursor: Cursor, ledger: TableName) -> None:
        """Create the relations that the table of runs needs."""

    def last_number(self, cursor: Cursor, ledger: TableName) -> str:  # noqa: ARG002
        """SQL of the highest number that a run of the schema ever had, deleted runs included; 0 without runs."""
        return f"""greatest(
            coalesce((select max({RUN}) from {ledger.beside(RUNS_TABLE).sql}), 0),
            coalesce((
                select max(last_value) from duckdb_sequences()
                where sequence_name = {literal(_SEQUENCE)} and database_name = {literal(ledger.database)}
                    and schema_name = {literal(ledger.schema)}
            ), 0)
        )"""

    def advance_run_counter(self, cursor: Cursor, ledger: TableName, number: int) -> None:
        """Advance the counter to `number`, so that a run that is deleted later leaves a visible gap. Call it as
        the last step of a transaction: a rollback after it would leave a number without a run.
        """
        sequence = ledger.beside(_SEQUENCE).sql
        cursor.execute(f"create sequence if not exists {sequence}")
        count = f"select nextval({literal(sequence)})"
        if cursor.rows(count) != [(number,)]:
            # tables that were copied or restored do not bring their sequence along
            cursor.execute(f"create or replace sequence {sequence} start with {number}")
            cursor.execute(count)


class CountedStorage(Storage):
    """A database of DuckDB 1.5, which forgets the last value of a sequence when the database is reopened."""

    def prepare_runs(self, cursor: Cursor, ledger: TableName) -> None:
        counter, runs = ledger.beside(_COUNTER), ledger.beside(RUNS_TABLE)
        if not cursor.has(counter):
            last = f"select coalesce(max({RUN}), 0) as last_no from {runs.sql}"
            cursor.execute(f"create table {counter.sql} as {last}")

    def last_number(self, cursor: Cursor, ledger: TableName) -> str:
        counter = ledger.beside(_COUNTER)
        return f"(select max(last_no) from {counter.sql})" if cursor.has(counter) else "0"

    def advance_run_counter(self, cursor: Cursor, ledger: TableName, number: int) -> None:
        # if two processes take the same number, both change this row, and a DuckLake refuses one of them
        cursor.execute(f"update {ledger.beside(_COUNTER).sql} set last_no = {number}")


class Lake(CountedStorage):
    """A DuckLake.

    If two transactions write to the same table and one of them changes or deletes rows, it refuses the second.
    So each scoring model has a separate table of run rows, and `dbt_onnx_runs` is a view over these tables.
    Then runs of several models share a table only for the moment in which they take their numbers.
    """

    has_one_writer = False
    has_compression = False
    suffixes = ("__runs",)

    def type_of(self, sql_type: str) -> str:
        element, lists = split(sql_type)
        kept = "VARCHAR" if element.startswith("ENUM") else element
        # a DuckLake stores arrays of a fixed length as lists
        return kept + "[]" * lists.count("[")

    def retype(self, table: TableName, name: str, *, to: str, using: str) -> str:
        replaced = f"select * replace (cast({using} as {to}) as {quote(name)}) from {table.sql}"
        return f"create or replace table {table.sql} as {replaced}"

    def runs_of(self, ledger: TableName) -> TableName:
        return ledger.beside(ledger.identifier + self.suffixes[0])

    def prepare_runs(self, cursor: Cursor, ledger: TableName) -> None:
        every = " union all by name ".join(
            f"select * from {quote(ledger.schema)}.{quote(name)}"
            for (name,) in cursor.rows(
                "select table_name from duckdb_columns() "
                f"where database_name = {literal(ledger.database)} and schema_name = {literal(ledger.schema)} "
                f"and ends_with(table_name, {literal(self.suffixes[0])}) "
                f"and column_name in ({literal(RUN)}, 'scoring_model', 'previous_fingerprint') "
                "group by table_name having count(*) = 3 order by table_name asc"
            )
        )
        cursor.execute(f"create or replace view {ledger.beside(RUNS_TABLE).sql} as {every}")
        super().prepare_runs(cursor, ledger)
