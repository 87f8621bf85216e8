"""The tables of a scoring model on DuckDB: checked, created, widened, repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.artifacts.reference import MODEL_TYPES, REFERENCES_TABLE, REFERENCES_TYPES
from dbt_onnx.engines.duckdb import inputs, ledger
from dbt_onnx.engines.duckdb.feature_types import converted, widened
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.engines.duckdb.inputs import INPUTS_SUFFIX
from dbt_onnx.engines.duckdb.ledger import LATEST_SUFFIX, RUNS_TABLE, LedgerShape
from dbt_onnx.errors import ConfigError, ContractError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from dbt_onnx.artifacts.registry import ModelVersion
    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.cursor import Cursor

_RESTORE = "restore the table from a backup, or give the scoring model another name or alias"
# the columns of the runs table on which the next run depends
_DECIDING = (
    "run_id", "scoring_model", "status", "scope", "clock", "as_of", "scored_at", "key_columns",
    "model_name", "model_version",
)  # fmt: skip
# the runs table has the same name for every scoring model of a schema
_WAY_OUT = {
    "ledger": "alias",
    "latest table": "alias",
    "table of kept inputs": "alias",
    "runs table": "schema",
    "references table": "schema",
}


class ScoringTables:
    """Ledger, latest, kept inputs and runs of one scoring model."""

    def __init__(self, name: TableName) -> None:
        self.ledger = name
        self.latest = name.beside(name.identifier + LATEST_SUFFIX)
        self.inputs = name.beside(name.identifier + INPUTS_SUFFIX)
        self.runs = name.beside(RUNS_TABLE)
        self.references = name.beside(REFERENCES_TABLE)

    def check_runs(self, cursor: Cursor) -> None:
        """Raise WarehouseError when the runs table is not ours, so that no run can be recorded."""
        _refuse_foreign(cursor, self.runs, _DECIDING, role="runs table")
        _refuse_foreign(
            cursor, self.references, MODEL_TYPES, role="references table", repairable=True
        )
        _refuse_retyped(cursor, self.runs, ledger.RUNS_TYPES, role="runs table")
        _refuse_retyped(cursor, self.references, REFERENCES_TYPES, role="references table")

    def check_names(self, cursor: Cursor) -> None:
        """Raise when ledger or latest table belongs to somebody else, or has lost a column."""
        name = self.ledger.identifier.casefold()
        if name in {RUNS_TABLE, REFERENCES_TABLE} or name.endswith((LATEST_SUFFIX, INPUTS_SUFFIX)):
            raise ConfigError(
                f"a scoring model cannot be called {self.ledger.identifier!r}: {RUNS_TABLE}, "
                f"{REFERENCES_TABLE} and names that end in {LATEST_SUFFIX} or {INPUTS_SUFFIX} are kept "
                "for its other tables",
                hint="give the scoring model another name or alias",
            )
        _refuse_foreign(cursor, self.ledger, ledger.STAMP_TYPES, role="ledger")
        _refuse_foreign(cursor, self.inputs, [inputs.RUN_COLUMN], role="table of kept inputs")
        _refuse_foreign(
            cursor,
            self.latest,
            (set(ledger.STAMP_TYPES) - set(ledger.LEDGER_ONLY)) | set(ledger.LATEST_TYPES),
            role="latest table",
            repairable=True,
        )
        if not cursor.has(self.latest):
            return
        if not cursor.has(self.ledger):
            raise WarehouseError(
                f"{self.latest} is there and {self.ledger} is not: the ledger was dropped or renamed",
                hint=f"restore the ledger from a backup; to start a new one, drop {self.latest}, too",
            )
        # a new column goes into the ledger first, so the ledger had whatever latest has
        known = {*map(str.casefold, cursor.columns_of(self.ledger.sql)), *ledger.LATEST_TYPES}
        gone = [n for n in cursor.columns_of(self.latest.sql) if n.casefold() not in known]
        if gone:
            raise WarehouseError(
                f"{self.ledger} was altered: column(s) {gone}, which {self.latest} has, are gone",
                hint=f"restore the ledger from a backup; if they are not needed, or were added to "
                f"{self.latest}, drop that: the next run rebuilds it from the ledger",
            )

    def check_shape(self, cursor: Cursor, shape: LedgerShape) -> None:
        """Raise when an existing ledger cannot take rows of this shape."""
        if not cursor.has(self.ledger):
            return
        found = {name.casefold(): kind for name, kind in cursor.columns_of(self.ledger.sql).items()}
        for name, kind in shape.key.items():
            if name.casefold() not in found:
                raise WarehouseError(
                    f"{self.ledger} has no key column {name!r}; it has {sorted(found)}",
                    hint=f"the key of a ledger never changes: {_RESTORE}",
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
        for name, kind in ledger.STAMP_TYPES.items():
            # an ENUM may have fewer values; an older ledger, or one loaded from a file, has text
            if found[name] != kind and not (ledger.is_text(kind) and ledger.is_text(found[name])):
                raise WarehouseError(
                    f"{self.ledger} was altered: column {name!r} is {found[name]}, not {kind}",
                    hint=_RESTORE,
                )

    def check_outputs(self, cursor: Cursor, shape: LedgerShape, model: ModelVersion) -> None:
        """Raise when the ledger lacks an output column of a version that has scored before.

        If the column were added, only rows that change would ever fill it.
        """
        if not cursor.has(self.ledger):
            return
        found = {name.casefold() for name in cursor.columns_of(self.ledger.sql)}
        missing = [name for name in shape.outputs if name.casefold() not in found]
        if missing and cursor.rows(
            f"select 1 from {self.ledger.sql} where status = 'scored' "
            "and model_name = $model_name and model_version = $model_version limit 1",
            {"model_name": model.name, "model_version": model.version},
        ):
            raise WarehouseError(
                f"{self.ledger} holds predictions of '{model}' without "
                f"column(s) {missing}: they were dropped, or the card was changed",
                hint="restore the ledger from a backup; a model whose outputs are others is a new "
                "version: register it as one",
            )

    def create(self, cursor: Cursor, shape: LedgerShape, *, model: ModelVersion) -> None:
        """Create what is missing.

        For a new `model`, add its output columns, and its name and version to the types of their
        columns.
        """
        cursor.execute(ledger.create_ledger(self.ledger, shape, model))
        cursor.execute(ledger.create_latest(self.latest, shape, model))
        for table, columns in (
            (self.ledger, shape.ledger_columns),
            (self.latest, shape.latest_columns),
        ):
            found = {n.casefold(): kind for n, kind in cursor.columns_of(table.sql).items()}
            for name, kind in columns.items():
                if name.casefold() not in found:
                    cursor.execute(ledger.add_column(table, name, kind))
            for name, value in zip(ledger.MODEL, model, strict=True):
                if found[name].startswith("ENUM"):
                    _add_value(cursor, table, name, value)

    def create_inputs(
        self, cursor: Cursor, shape: LedgerShape, features: Mapping[str, str]
    ) -> dict[str, str]:
        """Create the table of kept inputs, or widen its columns so that they hold these features.

        Returns {feature, as it is called now: the SQL type of its column}.
        """
        wanted = inputs.input_columns(shape, features)
        cursor.execute(ledger.create_table(self.inputs, wanted))
        found = {n.casefold(): kind for n, kind in cursor.columns_of(self.inputs.sql).items()}
        types = {}
        for name, kind in wanted.items():
            kept = found.get(name.casefold())
            types[name] = kind if kept is None else widened(kept, kind)
            if kept is None:
                cursor.execute(ledger.add_column(self.inputs, name, kind))
            elif types[name] != kept:
                using = converted(quote(name), kept, types[name])
                cursor.execute(ledger.retype_column(self.inputs, name, types[name], using=using))
        return types

    def repair_latest(self, cursor: Cursor, shape: LedgerShape) -> bool:
        """Rebuild the latest table if it was dropped or altered. Returns whether it was."""
        if not cursor.has(self.ledger):
            return False
        known = cursor.columns_of(self.ledger.sql)
        if cursor.has(self.latest):
            found = cursor.columns_of(self.latest.sql)
            wanted = {n: k for n, k in known.items() if n not in ledger.LEDGER_ONLY}
            if _plain(found) == _plain(wanted | ledger.LATEST_TYPES):
                return False
        outputs = {n: k for n, k in known.items() if n not in (*shape.key, *ledger.STAMP_TYPES)}
        rebuilt = ledger.rebuild_latest(self.ledger, LedgerShape(key=shape.key, outputs=outputs))
        with cursor.transaction():
            cursor.execute(f"create or replace table {self.latest.sql} as {rebuilt}")
        return True

    def create_runs(self, cursor: Cursor) -> None:
        """Create runs and references, which all scoring models of a schema share.

        Where they exist, add the columns that a newer dbt_onnx brings.
        """
        for table, columns in (
            (self.runs, ledger.RUNS_TYPES),
            (self.references, REFERENCES_TYPES),
        ):
            cursor.execute(ledger.create_table(table, columns))
            found = cursor.columns_of(table.sql)
            for name, kind in columns.items():
                if name not in found:
                    cursor.execute(ledger.add_column(table, name, kind))


def _add_value(cursor: Cursor, table: TableName, name: str, value: str) -> None:
    """Add a value to the ENUM of a column; a new one takes 0.2 s for 30 million rows."""
    [(values,)] = cursor.rows(ledger.values_of_enum(table, name))
    if value not in values:
        cursor.execute(
            ledger.retype_column(table, name, ledger.enum_type(sorted([*values, value])))
        )


def _plain(columns: Mapping[str, str]) -> dict[str, str]:
    """The types, with text in place of each ENUM, which may get more values."""
    return {n: "VARCHAR" if ledger.is_text(kind) else kind for n, kind in columns.items()}


def _refuse_retyped(
    cursor: Cursor, table: TableName, types: Mapping[str, str], *, role: str
) -> None:
    if not cursor.has(table):
        return
    found = cursor.columns_of(table.sql)
    faults = [
        f"column {name!r} is {found[name]}, not {kind}"
        for name, kind in types.items()
        if found.get(name, kind) != kind
    ]
    if faults:
        raise WarehouseError(
            f"{table} was altered: {'; '.join(faults)}",
            hint="restore the table from a backup, or give the scoring model another "
            f"{_WAY_OUT[role]}",
        )


def _refuse_foreign(
    cursor: Cursor,
    table: TableName,
    expected: Collection[str],
    *,
    role: str,
    repairable: bool = False,
) -> None:
    if cursor.is_view(table):
        raise WarehouseError(
            f"{table} is a view; the {role} of a scoring model must be a table of its own",
            hint=f"drop or rename the view {table}, or give the scoring model another {_WAY_OUT[role]}",
        )
    if not cursor.has(table):
        return
    found = {name.casefold() for name in cursor.columns_of(table.sql)}
    missing = [name for name in expected if name not in found]
    if len(missing) == len(expected):
        raise WarehouseError(
            f"{table} is somebody else's table: it has none of the columns of a {role}; "
            f"it has {sorted(found)}",
            hint=f"rename that table, or give the scoring model another {_WAY_OUT[role]}",
        )
    if missing and not repairable:
        raise WarehouseError(
            f"{table} was altered: column(s) {missing} of the {role} are gone",
            hint="restore the table from a backup, or give the scoring model another "
            f"{_WAY_OUT[role]}",
        )
