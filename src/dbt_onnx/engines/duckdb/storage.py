"""What the tables of a ledger lie in: a database of DuckDB's own, or a DuckLake.

A lake keeps its rows in Parquet files, and says which they are in another database, its catalog. Several
processes may write to it at once. It has fewer types, and no sequences. What differs for these
reasons stands here.
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
"""A table with one row, which counts the runs of a schema where a sequence cannot."""


class Storage:
    """A database of DuckDB's own."""

    has_one_writer = True
    has_compression = True
    suffixes: tuple[str, ...] = ()
    """Of tables that a scoring model has here alone."""

    def type_of(self, sql_type: str) -> str:
        """The type of a column that keeps values of this one."""
        return sql_type

    def types(self, columns: Mapping[str, str]) -> dict[str, str]:
        """The same of several columns, {name: SQL type}."""
        return {name: self.type_of(kind) for name, kind in columns.items()}

    def retype(self, table: TableName, name: str, *, to: str, using: str) -> str:
        """SQL that gives a column another type."""
        return (
            f"alter table {table.sql} alter column {quote(name)} set data type {to} using {using}"
        )

    def runs_of(self, ledger: TableName) -> TableName:
        """The table with the run rows of a scoring model."""
        return ledger.beside(RUNS_TABLE)

    def prepare_runs(self, cursor: Cursor, ledger: TableName) -> None:
        """Make what the table of runs needs besides itself."""

    def last_number(self, cursor: Cursor, ledger: TableName) -> str:  # noqa: ARG002
        """SQL of the highest number that a run of the schema ever had, deleted ones included; 0 without any."""
        return f"""greatest(
            coalesce((select max({RUN}) from {ledger.beside(RUNS_TABLE).sql}), 0),
            coalesce((
                select max(last_value) from duckdb_sequences()
                where sequence_name = {literal(_SEQUENCE)} and database_name = {literal(ledger.database)}
                    and schema_name = {literal(ledger.schema)}
            ), 0)
        )"""

    def remember_number(self, cursor: Cursor, ledger: TableName, number: int) -> None:
        """Count on, so that a deleted run is missed. It is the last step of its transaction: what is undone
        after it leaves a number without a run.
        """
        sequence = ledger.beside(_SEQUENCE).sql
        cursor.execute(f"create sequence if not exists {sequence}")
        count = f"select nextval({literal(sequence)})"
        if cursor.rows(count) != [(number,)]:
            # tables that were copied or restored come without it
            cursor.execute(f"create or replace sequence {sequence} start with {number}")
            cursor.execute(count)


class CountedStorage(Storage):
    """A database of DuckDB 1.5, which does not know the last value of a sequence once it is opened again."""

    def prepare_runs(self, cursor: Cursor, ledger: TableName) -> None:
        counter, runs = ledger.beside(_COUNTER), ledger.beside(RUNS_TABLE)
        if not cursor.has(counter):
            last = f"select coalesce(max({RUN}), 0) as last_no from {runs.sql}"
            cursor.execute(f"create table {counter.sql} as {last}")

    def last_number(self, cursor: Cursor, ledger: TableName) -> str:
        counter = ledger.beside(_COUNTER)
        return f"(select max(last_no) from {counter.sql})" if cursor.has(counter) else "0"

    def remember_number(self, cursor: Cursor, ledger: TableName, number: int) -> None:
        # two processes that take the same number change the same table, and a lake refuses one
        cursor.execute(f"update {ledger.beside(_COUNTER).sql} set last_no = {number}")


class Lake(CountedStorage):
    """A DuckLake.

    Of two transactions it refuses the second, if both write to a table and one of them changes or deletes
    rows. So each scoring model has its run rows in a table of its own, over which `dbt_onnx_runs` is a view: runs
    of several models have no table in common but for an instant, in which they take their numbers.
    """

    has_one_writer = False
    has_compression = False
    suffixes = ("__runs",)

    def type_of(self, sql_type: str) -> str:
        element, lists = split(sql_type)
        kept = "VARCHAR" if element.startswith("ENUM") else element
        # lists of one length are lists
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
