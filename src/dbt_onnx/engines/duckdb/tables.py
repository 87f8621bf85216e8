"""The tables of a scoring model on DuckDB: code that checks, creates and widens them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.artifacts.reference import MODEL_TYPES, REFERENCES_TABLE, REFERENCES_TYPES
from dbt_onnx.engines.duckdb import explanations, inputs, ledger
from dbt_onnx.engines.duckdb.explanations import EXPLANATIONS_SUFFIX
from dbt_onnx.engines.duckdb.feature_types import converted, widened
from dbt_onnx.engines.duckdb.identifiers import absent, quote, types_of
from dbt_onnx.engines.duckdb.inputs import INPUTS_SUFFIX
from dbt_onnx.engines.duckdb.ledger import LedgerShape, LedgerTables
from dbt_onnx.errors import ConfigError, ContractError, WarehouseError
from dbt_onnx.runs.plan import SCORE_REASONS
from dbt_onnx.runs.run import replaced_file
from dbt_onnx.runs.tables import (
    CURRENT_SUFFIX,
    ERASURES_TABLE,
    ERASURES_TYPES,
    HISTORY_SUFFIX,
    REQUEST_LOGS_TABLE,
    REQUEST_LOGS_TYPES,
    RUN,
    RUNS_TABLE,
    RUNS_TYPES,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import ModelVersion
    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.cursor import Cursor

# the columns of the runs table on which the next run depends
_DECIDING = (
    RUN, "run_id", "scoring_model", "status", "scope", "clock", "as_of", "scored_at", "key_columns",
    "model_name", "model_version",
)  # fmt: skip
_SUFFIXES = (
    CURRENT_SUFFIX, HISTORY_SUFFIX, ledger.PRESENCE_SUFFIX, INPUTS_SUFFIX, EXPLANATIONS_SUFFIX,
)  # fmt: skip
_SHARED_NAMES = (RUNS_TABLE, REFERENCES_TABLE, ERASURES_TABLE, REQUEST_LOGS_TABLE)


class ScoringTables(LedgerTables):
    """The ledger, kept inputs, explanations, runs, references and erasures of one scoring model."""

    @property
    def inputs(self) -> TableName:
        return self.ledger.beside(self.ledger.identifier + INPUTS_SUFFIX)

    @property
    def explanations(self) -> TableName:
        return self.ledger.beside(self.ledger.identifier + EXPLANATIONS_SUFFIX)

    @property
    def references(self) -> TableName:
        return self.ledger.beside(REFERENCES_TABLE)

    @property
    def erasures(self) -> TableName:
        return self.ledger.beside(ERASURES_TABLE)

    @property
    def request_logs(self) -> TableName:
        return self.ledger.beside(REQUEST_LOGS_TABLE)

    def check_runs(self, cursor: Cursor) -> None:
        """Raise WarehouseError if a shared table is not ours or was altered: no run can be recorded then."""
        self._refuse_older(cursor)
        _refuse_foreign(cursor, self.runs, _DECIDING, role="runs table")
        _refuse_foreign(
            cursor, self.references, MODEL_TYPES, role="references table", repairable=True
        )
        _refuse_foreign(cursor, self.erasures, ERASURES_TYPES, role="table of erasures")
        for table, types in self._shared():
            _refuse_retyped(cursor, table, types, hint=_restore(table))

    def check_runs_exist(self, cursor: Cursor) -> None:
        """Raise WarehouseError if there are predictions, but no runs table: the ledger would have no rows."""
        if cursor.has(self.runs):
            return
        for table in (self.current, self.history):
            if cursor.has(table) and cursor.rows(f"select 1 from {table.sql} limit 1"):
                raise WarehouseError(
                    f"{self.runs} is gone: it was dropped or renamed, and {table} has predictions of its runs",
                    hint="restore from a backup; to begin a new ledger, give the scoring model another alias",
                )

    def _shared(self) -> Sequence[tuple[TableName, Mapping[str, str]]]:
        """The tables that all scoring models of a schema share, with the types of their columns."""
        return (
            (self.runs, RUNS_TYPES),
            (self.references, REFERENCES_TYPES),
            (self.erasures, ERASURES_TYPES),
        )

    def _refuse_older(self, cursor: Cursor) -> None:
        """Raise WarehouseError if an older dbt_onnx, which did not number runs, wrote the table of runs."""
        found = cursor.columns_if_there(self.runs)
        if RUN in found or not {"run_id", "scoring_model", "status"} <= set(found):
            return
        latest = self.ledger.beside(self.ledger.identifier + "__latest")
        statements = "; ".join(
            f"alter table {table.sql} rename to {quote(table.identifier + '_before')}"
            for table in (self.runs, self.ledger, latest, self.inputs)
            if cursor.has(table)
        )
        raise WarehouseError(
            f"{self.runs} was written by an older dbt_onnx, which stored each prediction in two tables",
            hint=f"put its tables aside, and the next run begins new ones: {statements}; the same for the "
            "tables of each other scoring model of the schema (docs/upgrades.md)",
        )

    def check_names(self, cursor: Cursor) -> None:
        """Raise if a table belongs to somebody else, has lost a column, or is gone."""
        name = self.ledger.identifier.casefold()
        suffixes = (*_SUFFIXES, *self.storage.suffixes)
        if name in _SHARED_NAMES or name.endswith(suffixes):
            raise ConfigError(
                f"a scoring model cannot be called {self.ledger.identifier!r}: {', '.join(_SHARED_NAMES)}, and "
                f"names that end in {', '.join(suffixes)} are reserved for its other tables",
                hint="give the scoring model another name or alias",
            )
        row = ledger.ROW_TYPES
        _refuse_foreign(cursor, self.inputs, [RUN], role="table of kept inputs")
        _refuse_foreign(cursor, self.current, row, role="current table")
        _refuse_foreign(cursor, self.history, [*row, *ledger.HISTORY_TYPES], role="history table")
        _refuse_foreign(cursor, self.presence, ledger.PRESENCE_TYPES, role="table of presence")
        if cursor.has(self.ledger) and not cursor.is_view(self.ledger):
            raise WarehouseError(
                f"{self.ledger} is a table; the ledger of a scoring model is a view, over "
                f"{self.current} and {self.history}",
                hint="rename that table, or give the scoring model another alias",
            )
        self._refuse_older_presence(cursor)
        self._check_complete(cursor)

    def _refuse_older_presence(self, cursor: Cursor) -> None:
        """Raise WarehouseError if an older dbt_onnx wrote current, with the columns that presence has now."""
        older = ("confirmed_as_of", "last_seen_as_of")
        if absent(older, cursor.columns_if_there(self.current)):
            return
        key = ", ".join(quote(name) for name in self.key_columns(cursor) or ())
        current = self.current.sql
        raise WarehouseError(
            f"{self.current} was written by an older dbt_onnx, which stored in it until when each row was confirmed",
            hint=f"nothing is lost: create table {self.presence.sql} as select {key}, {RUN}, greatest(as_of, "
            f"confirmed_as_of) as confirmed_as_of, last_seen_as_of from {current} where confirmed_as_of > as_of "
            f"or last_seen_as_of is not null; alter table {current} drop column confirmed_as_of; alter table "
            f"{current} drop column last_seen_as_of; then run again (docs/upgrades.md)",
        )

    def key_columns(self, cursor: Cursor) -> list[str] | None:
        """Return the key that the ledger was written with; None before the first run."""
        if not cursor.has(self.runs):
            return None
        [(known,)] = cursor.rows(
            f"select arg_max(key_columns, scored_at) from {self.runs.sql} "
            "where scoring_model = $scoring_model and status = 'success' and scope <> 'empty'",
            {"scoring_model": self.ledger.identifier},
        )
        return known  # type: ignore[no-any-return]

    def _check_complete(self, cursor: Cursor) -> None:
        """Raise WarehouseError if a table is gone: each table has the only copy of its rows."""
        tables = (self.current, self.history, self.presence)
        gone = [str(table) for table in tables if not cursor.has(table)]
        if not gone:
            self._refuse_unlike(cursor)
            return
        has_scored = cursor.has(self.runs) and cursor.rows(
            f"select 1 from {self.runs.sql} where scoring_model = $scoring_model "
            "and status = 'success' and rows_scored + rows_rejected > 0 limit 1",
            {"scoring_model": self.ledger.identifier},
        )
        if len(gone) < len(tables) or has_scored:
            they_were = "it was" if len(gone) == 1 else "they were"
            raise WarehouseError(
                f"{' and '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone: {they_were} dropped or "
                "renamed, and no other table has these rows",
                hint="restore from a backup; to begin a new ledger, give the scoring model another alias",
            )
        if cursor.is_view(self.ledger):
            raise WarehouseError(
                f"the view {self.ledger} is not a ledger: its tables {self.current} and {self.history} "
                "do not exist",
                hint=f"drop or rename the view {self.ledger}, or give the scoring model another alias",
            )

    def _refuse_unlike(self, cursor: Cursor) -> None:
        """Raise WarehouseError if current and history differ in a column that both must have."""
        current, history = (cursor.columns_of(table.sql) for table in (self.current, self.history))
        lost = sorted((set(current) ^ set(history)) - set(ledger.HISTORY_TYPES))
        faults = [f"only one of them has column(s) {lost}"] if lost else []
        faults += [
            f"column {name!r} is {kind} in one and {history[name]} in the other"
            for name, kind in current.items()
            if history.get(name, kind) != kind
        ]
        if faults:
            raise WarehouseError(
                f"{self.current} and {self.history} were altered: {'; '.join(faults)}",
                hint=_restore(self.current),
            )

    def check_shape(self, cursor: Cursor, shape: LedgerShape) -> None:
        """Raise if an existing ledger cannot take rows of this shape."""
        columns = cursor.columns_if_there(self.current)
        if not columns:
            return
        found = types_of([*shape.key, *shape.outputs], columns)
        for name, kind in shape.key.items():
            if not found[name]:
                has = sorted(map(str.casefold, columns))
                raise WarehouseError(
                    f"{self.current} has no key column {name!r}; it has {has}",
                    hint=f"the key of a ledger never changes: {_restore(self.current)}",
                )
            if found[name] != kind:
                raise WarehouseError(
                    f"key column {name!r} is {kind} in the features and {found[name]} "
                    f"in {self.current}",
                    hint="cast the key in the features model to the ledger's type, or give the "
                    "scoring model another alias to start a new ledger",
                )
        for name, kind in shape.outputs.items():
            if found[name] not in {"", kind}:
                raise ContractError(
                    f"output column {name!r} is {kind} by the contract and {found[name]} "
                    f"in {self.current}",
                    hint="give the output another column name when exporting or registering the "
                    "model, or give the scoring model another alias to start a new ledger",
                )
        self._refuse_fewer_reasons(cursor)
        own = ledger.ROW_TYPES | ledger.PRESENCE_TYPES | ledger.HISTORY_TYPES
        for table in (self.current, self.history, self.presence):
            _refuse_retyped(cursor, table, own, hint=_restore(table))

    def _refuse_fewer_reasons(self, cursor: Cursor) -> None:
        """Raise WarehouseError if an older dbt_onnx, with fewer score reasons, wrote current or history."""
        wanted, older = ledger.ROW_TYPES["score_reason"], ledger.REASONS_BEFORE_REAL_TIME
        tables = (self.current, self.history)
        found = [t for t in tables if cursor.columns_of(t.sql)["score_reason"] == older]
        if not found:
            return
        statements = "; ".join(
            f"alter table {table.sql} alter column score_reason set data type {wanted}"
            for table in found
        )
        raise WarehouseError(
            f"{' and '.join(map(str, found))} {'was' if len(found) == 1 else 'were'} written by an older "
            f"dbt_onnx, which did not know the reason {SCORE_REASONS[-1]!r}",
            hint=f"nothing is lost: {statements}; then run again (docs/upgrades.md)",
        )

    def check_outputs(self, cursor: Cursor, shape: LedgerShape, model: ModelVersion) -> None:
        """Raise if the ledger lacks an output column of a version that has scored before.

        If the run added the column, it would stay NULL in all rows that do not change.
        """
        if not cursor.has(self.current):
            return
        missing = absent(shape.outputs, cursor.columns_of(self.current.sql))
        if missing and cursor.rows(
            f"select 1 from {self.runs.sql} where scoring_model = $scoring_model and rows_scored > 0 "
            "and status = 'success' and model_name = $model_name and model_version = $model_version limit 1",
            {
                "scoring_model": self.ledger.identifier,
                "model_name": model.name,
                "model_version": model.version,
            },
        ):
            raise WarehouseError(
                f"{self.ledger} holds predictions of '{model}' without "
                f"column(s) {missing}: they were dropped, or the card was changed",
                hint="restore the ledger from a backup; register a model with other outputs as "
                "a new version",
            )

    def check_file(self, cursor: Cursor, artifact: Artifact) -> None:
        """Raise ArtifactError if the version has scored with another file."""
        if "artifact_sha256" not in cursor.columns_if_there(self.runs):
            return
        [(other,)] = cursor.rows(
            f"select max(artifact_sha256) from {self.runs.sql} where scoring_model = $scoring_model "
            "and status = 'success' and rows_scored + rows_rejected > 0 and model_name = $model_name "
            "and model_version = $model_version and artifact_sha256 <> $sha256",
            {
                "scoring_model": self.ledger.identifier,
                "model_name": artifact.model_name,
                "model_version": artifact.model_version,
                "sha256": artifact.sha256,
            },
        )
        if other is not None:
            raise replaced_file(artifact, other)

    def create(self, cursor: Cursor, shape: LedgerShape) -> None:
        """Create missing tables, add the output columns of a new version, and replace the ledger's view."""
        _create(cursor, self.current, shape.row_columns, key=shape.key)
        _create(cursor, self.history, shape.history_columns, key=shape.key)
        _create(cursor, self.presence, shape.presence_columns)
        cursor.execute(ledger.create_ledger(self, self.whole_shape(cursor, shape.key)))

    def whole_shape(self, cursor: Cursor, key: Mapping[str, str]) -> LedgerShape:
        """Return the shape with the outputs of all versions that have ever scored."""
        columns = cursor.columns_of(self.current.sql)
        outputs = absent(columns, [*key, *ledger.ROW_TYPES])
        return LedgerShape(key=key, outputs={name: columns[name] for name in outputs})

    def create_inputs(
        self,
        cursor: Cursor,
        shape: LedgerShape,
        features: Mapping[str, str],
        *,
        with_moment: bool = False,
    ) -> dict[str, str]:
        """Create the table of kept inputs, or widen its columns so that they hold these features.

        Returns {column, in the spelling of this run: its SQL type}.
        """
        wanted = self.storage.types(inputs.input_columns(shape, features, with_moment=with_moment))
        kept = _create(cursor, self.inputs, wanted)
        types = {name: widened(kept[name], kind) for name, kind in wanted.items()}
        for name, kind in types.items():
            if kind != kept[name]:
                using = converted(quote(name), kept[name], kind)
                cursor.execute(self.storage.retype(self.inputs, name, to=kind, using=using))
        return types

    def create_runs(self, cursor: Cursor) -> None:
        """Create the tables that all scoring models of a schema share: runs, references and erasures.

        If the tables exist, add the columns that this version of dbt_onnx needs.
        """
        every = self.ledger.beside(RUNS_TABLE)
        is_whole = cursor.has(self.runs) and not absent(RUNS_TYPES, cursor.columns_if_there(every))
        for table, columns in self._shared():
            _create(cursor, table, columns)
        if not is_whole:
            self.storage.prepare_runs(cursor, self.ledger)

    def has_explanations(self, cursor: Cursor) -> bool:
        """Whether predictions were explained. Raises WarehouseError if the table belongs to somebody else."""
        types = explanations.EXPLANATION_TYPES
        _refuse_foreign(cursor, self.explanations, types, role="table of explanations")
        return cursor.has(self.explanations)

    def create_explanations(self, cursor: Cursor, key: Mapping[str, str]) -> dict[str, str]:
        """Create the table of explanations unless it exists, and return its columns with their types. Raises
        WarehouseError if a table with its name belongs to somebody else.
        """
        self.has_explanations(cursor)
        return dict(_create(cursor, self.explanations, explanations.explanation_columns(key)))

    def create_request_logs(self, cursor: Cursor) -> None:
        """Create the table that records how far the logs of services were read. Raises WarehouseError if a
        table with its name belongs to somebody else.
        """
        types = REQUEST_LOGS_TYPES
        _refuse_foreign(cursor, self.request_logs, types, role="table of request logs")
        _create(cursor, self.request_logs, types)


def _create(
    cursor: Cursor, table: TableName, columns: Mapping[str, str], *, key: Collection[str] = ()
) -> Mapping[str, str]:
    """Create a table, or add the columns that it lacks. Returns the types that the columns have now."""
    storage = cursor.storage_of(table)
    columns = storage.types(columns)
    cursor.execute(ledger.create_table(table, columns, key=key if storage.has_compression else ()))
    found = types_of(columns, cursor.columns_of(table.sql))
    for name, kind in columns.items():
        if not found[name]:
            cursor.execute(f"alter table {table.sql} add column {quote(name)} {kind}")
            found[name] = kind
    return found


def _way_out(table: TableName) -> str:
    # another alias does not help with a shared table, which has one name per schema
    part = "schema" if table.identifier in _SHARED_NAMES else "alias"
    return f"give the scoring model another {part}"


def _restore(table: TableName) -> str:
    return f"restore the table from a backup, or {_way_out(table)}"


def _refuse_retyped(
    cursor: Cursor, table: TableName, types: Mapping[str, str], *, hint: str
) -> None:
    found = cursor.columns_if_there(table)
    faults = [
        f"column {name!r} is {found[name]}, not {kind}"
        for name, kind in cursor.storage_of(table).types(types).items()
        if found.get(name, kind) != kind
    ]
    if faults:
        raise WarehouseError(f"{table} was altered: {'; '.join(faults)}", hint=hint)


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
            hint=f"drop or rename the view {table}, or {_way_out(table)}",
        )
    found = cursor.columns_if_there(table)
    if not found:
        return
    missing = absent(expected, found)
    if len(missing) == len(expected):
        raise WarehouseError(
            f"{table} was not created by dbt_onnx: it has none of the columns of a {role}; "
            f"it has {sorted(map(str.casefold, found))}",
            hint=f"rename that table, or {_way_out(table)}",
        )
    if missing and not repairable:
        raise WarehouseError(
            f"{table} was altered: column(s) {missing} of the {role} are gone", hint=_restore(table)
        )
