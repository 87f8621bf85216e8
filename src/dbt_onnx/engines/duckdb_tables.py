"""The tables of a scoring model on DuckDB: looked at, created, widened, repaired."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dbt_onnx import ledger
from dbt_onnx.errors import ContractError, WarehouseError
from dbt_onnx.ledger import LATEST_SUFFIX, RUNS_TABLE, LedgerShape, TableName

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import duckdb

_RESTORE = "restore the table from a backup, or give the scoring model another name or alias"


class Cursor:
    """One DuckDB connection of the process, with named parameters bound where a statement has them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.raw = connection

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.rows(sql, parameters)

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement and fetch all of its rows: duckdb refuses more work on a cursor
        whose result is unfinished.
        """
        return self.raw.execute(sql, self._bound(sql, parameters)).fetchall()

    def stream(self, sql: str, parameters: Mapping[str, Any], *, batch_rows: int) -> Any:
        """A `pyarrow.RecordBatchReader`; it lives as long as this cursor runs nothing else."""
        relation = self.raw.sql(sql, params=self._bound(sql, parameters))
        return relation.to_arrow_reader(batch_rows)

    def _bound(self, sql: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        """The parameters that the statement names; duckdb refuses any other."""
        wanted = self.raw.extract_statements(sql)[0].named_parameters
        return {name: (parameters or {})[name] for name in wanted}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.raw.begin()
        try:
            yield
        except BaseException:
            self.raw.rollback()
            raise
        self.raw.commit()

    def columns_of(self, relation_sql: str) -> dict[str, str]:
        """SQL types by column name of a table name or a query in parentheses."""
        return {row[0]: row[1] for row in self.rows(f"describe select * from {relation_sql}")}

    def kind_of(self, table: TableName) -> str | None:
        """'table', 'view' or none."""
        found = self.rows(ledger.object_kind(table))
        return found[0][0] if found else None


class ScoringTables:
    """Ledger, latest and runs of one scoring model."""

    def __init__(self, name: TableName) -> None:
        self.ledger = name
        self.latest = name.beside(name.identifier + LATEST_SUFFIX)
        self.runs = name.beside(RUNS_TABLE)

    def check_names(self, cursor: Cursor) -> None:
        """Raise WarehouseError when one of the names belongs to somebody else."""
        owned: tuple[tuple[TableName, Collection[str], str], ...] = (
            (self.ledger, ledger.STAMP_TYPES, "ledger"),
            (self.latest, {**ledger.STAMP_TYPES, **ledger.LATEST_TYPES}, "latest table"),
            (self.runs, ("run_id", "scoring_model", "status"), "runs table"),
        )
        for table, expected, role in owned:
            kind = cursor.kind_of(table)
            if kind is None:
                continue
            if kind == "view":
                raise WarehouseError(
                    f"{table} is a view; the {role} of a scoring model must be a table of its own",
                    hint=f"drop or rename the view {table}, or give the scoring model another alias",
                )
            found = {name.casefold() for name in cursor.columns_of(table.sql)}
            missing = [name for name in expected if name.casefold() not in found]
            if len(missing) == len(expected):
                raise WarehouseError(
                    f"{table} is somebody else's table: it has none of a {role}'s columns; "
                    f"it has {sorted(found)}",
                    hint="rename that table, or give the scoring model another alias",
                )
            if missing and role != "latest table":
                raise WarehouseError(
                    f"{table} was altered: column(s) {missing} of the {role} are gone",
                    hint=_RESTORE,
                )

    def check_shape(self, cursor: Cursor, shape: LedgerShape) -> None:
        """Raise when an existing ledger cannot take rows of this shape."""
        if cursor.kind_of(self.ledger) is None:
            return
        found = {name.casefold(): kind for name, kind in cursor.columns_of(self.ledger.sql).items()}
        for name, kind in shape.key.items():
            if name.casefold() not in found:
                raise WarehouseError(
                    f"{self.ledger} has no key column {name!r}; it has {sorted(found)}",
                    hint=f"a ledger keeps its key for life: {_RESTORE}",
                )
            if found[name.casefold()] != kind:
                raise WarehouseError(
                    f"key column {name!r} is {kind} in the features and {found[name.casefold()]} "
                    f"in {self.ledger}",
                    hint="cast the key in the features model to the ledger's type, or give the "
                    "scoring model another alias to start a new ledger",
                )
        for name, kind in shape.outputs.items():
            if found.get(name.casefold(), kind) != kind:
                raise ContractError(
                    f"output column {name!r} is {kind} by the contract and "
                    f"{found[name.casefold()]} in {self.ledger}",
                    hint="give the output another column name when exporting or registering the "
                    "model, or give the scoring model another alias to start a new ledger",
                )
        stamps = {**ledger.STAMP_TYPES}
        for name, kind in stamps.items():
            if found[name] != kind:
                raise WarehouseError(
                    f"{self.ledger} was altered: column {name!r} is {found[name]}, not {kind}",
                    hint=_RESTORE,
                )

    def create(self, cursor: Cursor, shape: LedgerShape) -> None:
        """Create what is missing and add the output columns of a new model version."""
        for table, columns in (
            (self.ledger, shape.ledger_columns),
            (self.latest, shape.latest_columns),
        ):
            cursor.execute(ledger.create_table(table, columns))
            found = {name.casefold() for name in cursor.columns_of(table.sql)}
            for name, kind in columns.items():
                if name.casefold() not in found:
                    cursor.execute(ledger.add_column(table, name, kind))

    def repair_latest(self, cursor: Cursor, shape: LedgerShape) -> bool:
        """Rebuild a latest table that was dropped or altered. Returns whether it was needed."""
        if cursor.kind_of(self.ledger) is None:
            return False
        known = cursor.columns_of(self.ledger.sql)
        if cursor.kind_of(self.latest) is not None:
            found = cursor.columns_of(self.latest.sql)
            if set(found) == {*known, *ledger.LATEST_TYPES}:
                return False
        outputs = {n: k for n, k in known.items() if n not in (*shape.key, *ledger.STAMP_TYPES)}
        rebuilt = ledger.rebuild_latest(self.ledger, LedgerShape(key=shape.key, outputs=outputs))
        with cursor.transaction():
            cursor.execute(f"create or replace table {self.latest.sql} as {rebuilt}")
        return True

    def create_runs(self, cursor: Cursor) -> None:
        """Create the runs table, or add the columns that a newer dbt_onnx brings."""
        cursor.execute(ledger.create_table(self.runs, ledger.RUNS_TYPES))
        found = cursor.columns_of(self.runs.sql)
        for name, kind in ledger.RUNS_TYPES.items():
            if name not in found:
                cursor.execute(ledger.add_column(self.runs, name, kind))
