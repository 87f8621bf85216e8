"""The interface between a warehouse and dbt's models and commands.

Each subfolder is the engine of one warehouse. A scoring run uses it through the protocol `Engine` in
`dbt_onnx.runs.run`. All other code uses it through the protocol `Warehouse` and the classes in this file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dbt_onnx.errors import ConfigError, DataError, RegistryError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path
    from typing import Self

    import pyarrow as pa

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import Registry, RegistryEntry
    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.history import Erasure, Explained, LedgerRow, RunRow
    from dbt_onnx.runs.replay import Finding, Replay
    from dbt_onnx.runs.request import RunSettings, ScoringRequest, TableArguments
    from dbt_onnx.runs.run import RunSummary


UNNAMED = "the feature relation"
"""The name in messages if the run row has none: older versions accepted expressions as features."""


@dataclass(frozen=True, kw_only=True)
class TableName:
    """The three-part name of a table, in the warehouse's spelling."""

    database: str
    schema: str
    identifier: str

    @property
    def sql(self) -> str:
        """The name as it appears in a statement, quoted as in standard SQL."""
        parts = (self.database, self.schema, self.identifier)
        return ".".join('"' + part.replace('"', '""') + '"' for part in parts)

    def __str__(self) -> str:
        return f"{self.schema}.{self.identifier}"

    def beside(self, identifier: str) -> TableName:
        return TableName(database=self.database, schema=self.schema, identifier=identifier)


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A relation that a scoring model reads.

    `sql` is its name in a statement, as dbt writes it; `selector` selects it in `dbt build -s`.
    """

    table: TableName
    sql: str
    selector: str

    def __str__(self) -> str:
        return str(self.table)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The recorded sources of a scoring model, see `Warehouse.recorded_sources`, looked up in the warehouse.

    `features` and `registry` are tables or views of the warehouse; None if they no longer exist.
    `features_name` and `registry_name` are their names in messages to users. `gone` lists the missing
    relations of the ledger. `is_broken` is true if the ledger's view exists but a table that it reads is
    missing: then the ledger cannot be read.
    """

    key: tuple[str, ...]
    features_name: str
    features: TableName | None
    registry_name: str
    registry: TableName | None
    gone: tuple[TableName, ...]
    is_broken: bool

    @classmethod
    def of_run(
        cls,
        recorded: Mapping[str, Any],
        ledger: TableName,
        *,
        find: Callable[[str], TableName | None],
        gone: Sequence[TableName],
    ) -> Sources:
        """Build from `recorded`, columns of a run row. `find` looks up a relation by its recorded name."""
        features, registry = recorded["features_relation"], recorded["registry_relation"]
        return cls(
            key=tuple(recorded["key_columns"]),
            features_name=features or UNNAMED,
            features=find(features or ""),
            registry_name=registry or "the registry",
            registry=find(registry or ""),
            gone=tuple(gone),
            is_broken=bool(gone) and ledger not in gone,
        )


class MissingFeaturesError(DataError):
    """The feature relation has not been built yet, or is gone."""


def missing_features(name: object, said: str | None = None) -> MissingFeaturesError:
    """Return the error for a feature relation that is gone, or that the warehouse cannot read.

    `said` is the warehouse's message if it cannot read the relation.
    """
    if said is None:
        return MissingFeaturesError(
            f"the feature relation {name} is not in the warehouse", hint="run `dbt build`"
        )
    return MissingFeaturesError(
        f"the feature relation {name} cannot be read: {said}", hint="run `dbt build` to rebuild it"
    )


def missing_registry(name: object, said: str | None = None) -> RegistryError:
    """Return the error for a registry that is gone or cannot be read, as `missing_features` does."""
    if said is None:
        return RegistryError(
            f"the model registry {name} is not in the warehouse", hint="`dbt seed` loads it"
        )
    return RegistryError(
        f"the model registry {name} cannot be read: {said}", hint="`dbt seed` loads it again"
    )


def no_registry_among(relations: Collection[TableName], columns: Iterable[str]) -> RegistryError:
    """Return the error for a scoring model that reads no relation with a registry's columns."""
    return RegistryError(
        "the model registry is not in the warehouse: none of "
        f"{', '.join(map(str, relations)) or 'the relations that the scoring model reads'} has "
        f"the columns {', '.join(columns)}",
        hint="`dbt seed` loads it",
    )


def missing_columns(names: Sequence[str], features: object) -> ConfigError:
    """Return the error for features that a version reads and the feature relation lacks."""
    return ConfigError(
        f"column(s) {names} not found in {features}",
        hint="the serving version reads these columns: build its features and run the scoring model first",
    )


def no_answer(said: str) -> WarehouseError:
    """Return the error for a query, rendered by dbt, that the warehouse refuses."""
    return WarehouseError(
        f"the warehouse cannot answer: {said}",
        hint="a table was dropped or altered: `dbt build` makes what is missing",
    )


@dataclass(frozen=True, kw_only=True)
class CurrentFeatures(ABC):
    """The features of a scoring model as they are now, and the number of their rows.

    `rejected` counts, by reason, the rows that every version rejects because the key or `as_of` is NULL.
    `connection` and `relation` have types of the engine.
    """

    connection: Any
    relation: Any
    key: Sequence[str]
    as_of: str | None
    rows: int
    rejected: Mapping[str, int]

    @classmethod
    def checked(
        cls,
        connection: Any,
        relation: Any,
        *,
        source: str,
        key: Sequence[str],
        as_of: str | None,
        not_null: Callable[[Iterable[str]], str],
    ) -> Self:
        """Return the features after counting the rows of `source`, the text of a FROM clause.

        Raises DataError if there are no rows, or if a key occurs twice.
        """
        # `as_of` is not compared with the clock: the clock of the next run is not known yet
        has_key, has_moment = not_null(key), not_null([as_of]) if as_of else "true"
        [(rows, without_key, without_moment)] = connection.rows(
            f"select count(*), count_if(not ({has_key})), count_if({has_key} and not ({has_moment})) "
            f"from {source} as features"
        )
        relation.check_not_empty(rows)
        relation.check_keys(connection, key=key)
        rejected = {"null_key": without_key, "null_as_of": without_moment}
        return cls(
            connection=connection,
            relation=relation,
            key=key,
            as_of=as_of,
            rows=rows,
            rejected=rejected,
        )

    @property
    def name(self) -> str:
        return str(self.relation.name)

    @property
    def never_rejected(self) -> list[str]:
        """The columns that must have a value: every version rejects a row with a NULL in one of them."""
        return [*self.key, *([] if self.as_of is None else [self.as_of])]

    @abstractmethod
    def check_contract(self, artifact: Artifact) -> None:
        """Raise ContractError if the model cannot read these columns."""

    @abstractmethod
    def sample(self, columns: Iterable[str], rows: int) -> list[pa.RecordBatch]:
        """Return at most `rows` rows, held in memory and ready for `score_batches`: the key and `columns`.

        Rows are chosen by the hash of the key, so the sample stays the same while the entities do.
        Rows that every version rejects are left out.
        """


STAMPS = (
    "as_of", "scored_at", "fresh_as_of", "model_name", "model_version", "run_id", "status",
    "rejected_reason", "served_from",
)  # fmt: skip
"""The columns of `current_predictions` that describe a prediction. They are published with its outputs."""


class RowsToPublish(Protocol):
    """The rows of a relation to publish, read once, in the form that a publication stores.

    `key`, `outputs` and `stamps` are {column: kind}, see `dbt_onnx.serving.kinds`. `of_origin` lists the
    stamps that many rows share. They are stored once, as an origin, and rows refer to it by number.
    """

    relation: str
    rows: int
    rows_changed: int
    rows_removed: int

    @property
    def key(self) -> Mapping[str, str]: ...
    @property
    def outputs(self) -> Mapping[str, str]: ...
    @property
    def stamps(self) -> Mapping[str, str]: ...
    @property
    def of_origin(self) -> Sequence[str]: ...

    def last_publication(self) -> str | None:
        """Return the id of the publication that `compare` can compare with; None if there is none."""

    def compare(self, *, with_last: bool) -> None:
        """Find the rows that changed since the last publication, and the rows that are gone. Without
        `with_last`, all rows count as changed.
        """

    def origins(self) -> list[tuple[Any, ...]]:
        """Return one tuple per origin: its number, then its values in the order of `of_origin`."""

    def served(self) -> list[dict[str, Any]]:
        """Return the number of rows for each model version, `served_from` and `status`."""

    def changed(self) -> pa.RecordBatchReader:
        """Return the changed rows in the order of the key: the key, the outputs, the stamps outside
        `of_origin`, and the number of the origin. Read them before calling another method.
        """

    def removed(self) -> pa.RecordBatchReader:
        """Return the keys that are gone. Read them before calling another method."""

    def clock(self, clock_sql: str) -> datetime:
        """Return the project's clock, the value of the expression `clock_sql`."""

    def recorded(self, target: str) -> set[tuple[str, datetime]]:
        """Return the switches that the warehouse has recorded for a target, as (publication, served since).

        A switch is a change of the publication that the target serves.
        """

    def record(self, switches: Sequence[Mapping[str, Any]]) -> None:
        """Store which rows were published, and `switches` by column, in one transaction."""


class Warehouse(Protocol):
    """A warehouse on a connection of dbt's adapter. The caller opens and closes the connection.

    Methods raise DbtOnnxErrors. Only `score`, `rows_to_publish`, `leave_outcome`, `explain`, `forget`,
    `prune`, `renew_scratch` and `drop_scratch` write.
    """

    def __init__(self, connection: Any) -> None: ...

    def has_one_writer(self, ledger: TableName) -> bool:
        """Whether no other process can read the ledger while a run writes to it. If so, a run that is read with
        the status `running` is dead.
        """

    @staticmethod
    def opened(credentials: Any, /, *, read_only: bool) -> AbstractContextManager[Any]:
        """Open a connection with dbt's credentials of the target, as dbt's adapter does."""

    @staticmethod
    def how_to_reopen(credentials: Any, /) -> dict[str, Any] | None:
        """Return what `reopened` needs, as JSON values; None if only dbt can open the warehouse."""

    @staticmethod
    def reopened(how: Mapping[str, Any], /) -> AbstractContextManager[Any]:
        """Open the connection that `how_to_reopen` describes, read-only and without dbt."""

    @staticmethod
    def rendering(credentials: Any, /) -> AbstractContextManager[dict[str, str]]:
        """Return a context manager in which dbt renders a template on a read-only connection. It yields the
        queries that the template's macros run, each with a digest of its answer.
        """

    @staticmethod
    def has_same_answers(connection: Any, answers: Mapping[str, str], /) -> bool:
        """Whether the warehouse still gives each of the `answers` that `rendering` yielded."""

    @staticmethod
    def close_idle_connections() -> None:
        """Close the connections that dbt's adapter keeps open between invocations."""

    @staticmethod
    def opening_errors() -> AbstractContextManager[None]:
        """Return a context manager that raises a WarehouseError if a model cannot open what it reads."""

    def score(
        self,
        request: ScoringRequest,
        settings: RunSettings,
        *,
        artifacts: Path,
        log: Callable[[str], None],
        logs: AnswerLogs | None = None,
    ) -> RunSummary:
        """Run `score_table` on this warehouse."""

    def rows_to_publish(
        self, relation: Any, *, key: Sequence[str], model: TableName
    ) -> AbstractContextManager[RowsToPublish]:
        """Read the rows of `relation` that `model` is to publish. The model's table stores which rows its
        newest publication has.
        """

    def registry_of(self, relation: Any) -> Registry:
        """Return the registry in a relation that a model reads. Raises RegistryError if it is invalid."""

    def feature_types(self, ledger: TableName, names: Sequence[str]) -> dict[str, pa.DataType]:
        """Return the Arrow types of the feature columns `names` of a scoring model. Raises
        MissingFeaturesError if the features are gone, and ConfigError if a column is gone.
        """

    def leave_outcome(self, outcome: str) -> None:
        """Store a text where the materialization finds it after the run."""

    def examine(
        self, ledger: TableName, arguments: TableArguments, artifact: Artifact
    ) -> CurrentFeatures:
        """Make the checks that a run of this version makes before it scores, and return the features.

        Raises what the run would raise, and MissingFeaturesError if the features have not been built.
        """

    def recorded_sources(self, ledger: TableName) -> Mapping[str, Any]:
        """Return the relations and the model version that the newest full run has recorded, or the newest run
        if no full run has; empty before that.
        """

    def sources(self, ledger: TableName) -> Sources | None:
        """Return the same as `Sources`; None if nothing is recorded yet."""

    def check_features(self, sources: Sources) -> None:
        """Raise if the feature relation is unknown, is gone or cannot be read, or lacks a key column."""

    def registry(self, sources: Sources) -> Registry:
        """Return the registry as a run reads it. Raises RegistryError if it is gone or invalid."""

    def registry_among(self, relations: Collection[TableName]) -> Registry:
        """Return the registry in the first of the relations that has a registry's columns. Raises
        RegistryError if no relation has them, or if the registry is invalid.
        """

    def answer(self, query: str) -> dict[str, Any]:
        """Run a query that dbt has rendered, and return its one row, by column name."""

    def answers(self, query: str) -> list[dict[str, Any]]:
        """Run a query that dbt has rendered, and return all of its rows, each by column name."""

    def runs(self, ledger: TableName, *, limit: int | None = None) -> list[RunRow]:
        """Return the runs of a scoring model, newest first."""

    def history(self, ledger: TableName, key: Sequence[str]) -> list[LedgerRow]:
        """Return all predictions about one entity, in the order in which they were made."""

    def publications(self, ledger: TableName) -> list[dict[str, Any]]:
        """Return the rows of `dbt_onnx_publications` about a scoring model, oldest first, with a column
        `served_until`.
        """

    def replay(
        self,
        ledger: TableName,
        run_id: str,
        *,
        registry: Registry,
        artifacts: Path,
        sample: int | None = None,
    ) -> Replay:
        """Score the kept inputs of a run again, with the model and the settings of that run.

        Scores `sample` rows, or all rows if it is None. Before that, compares the run's rows in the ledger
        and the kept inputs with the run row: their number, their fingerprint, their stamps, and the hash
        of each row's inputs. The result has all differences; nothing is written.

        Raises ConfigError if there is no such run, or if it has nothing to replay; WarehouseError if the
        tables are missing or are not dbt_onnx's.
        """

    def explain(
        self,
        ledger: TableName,
        *,
        registry: Registry,
        artifacts: Path,
        key: Sequence[str] | None = None,
        run_id: str | None = None,
        sample: int | None = None,
    ) -> Explained:
        """Explain the score of the entity `key` that is served now, or the scores of a run: all of them, or those of
        `sample` rows. Stores the contributions of the features; rows with stored contributions are left alone.

        Raises ConfigError if there is no such entity or run, if its inputs are not kept, or if its model cannot
        be explained; ArtifactError if the model is gone or changed; WarehouseError if the kept inputs no longer
        give the predictions.
        """

    def prove(self, ledger: TableName, *, with_values: bool) -> list[Finding]:
        """Return the differences between the tables and what the runs wrote. With `with_values`, compare
        the values of all rows as well as their number. Nothing is written.

        Raises WarehouseError if the tables are missing or are not dbt_onnx's.
        """

    def forget(self, ledger: TableName, key: Sequence[str], *, why: str, dry_run: bool) -> Erasure:
        """Erase all predictions and kept inputs of the entity with this key, given as text values."""

    def prune(self, ledger: TableName, *, before: datetime, why: str, dry_run: bool) -> Erasure:
        """Erase predictions that are superseded or late and were scored before a moment (UTC), with their
        inputs.
        """

    def scored_clocks(self, ledger: TableName, version: RegistryEntry | None) -> set[datetime]:
        """Return the clocks of a scoring model's successful runs, with `version` or, if it is None, with any
        version; empty before the first run.
        """

    def count_rows(self, relation: TableName) -> int:
        """Return the number of rows of a relation."""

    def renew_scratch(self, relations: Iterable[TableName]) -> None:
        """Drop and create the schemas of these relations, marked as belonging to a backfill. Relations of an
        earlier backfill are dropped. Raises WarehouseError if a schema lacks the mark, or contains more.
        """

    def drop_scratch(self, relations: Iterable[TableName]) -> None:
        """Drop the schemas of these relations. Raises WarehouseError if a schema lacks the mark."""
