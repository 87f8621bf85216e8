"""What dbt's models and commands ask of a warehouse.

An engine is a folder beside this file. A run asks it as an `Engine`, see `dbt_onnx.runs.run`; whoever
is above the engines asks a `Warehouse`, and knows no more of it than stands here.
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
    from dbt_onnx.runs.history import Erasure, LedgerRow, RunRow
    from dbt_onnx.runs.replay import Finding, Replay
    from dbt_onnx.runs.request import RunSettings, ScoringRequest, TableArguments
    from dbt_onnx.runs.run import RunSummary


UNNAMED = "the feature relation"
"""Its name in messages where a run row has none; older versions accepted expressions."""


@dataclass(frozen=True, kw_only=True)
class TableName:
    """A table by its three parts, as the warehouse spells them."""

    database: str
    schema: str
    identifier: str

    @property
    def sql(self) -> str:
        """The name in a statement, quoted as standard SQL has it."""
        parts = (self.database, self.schema, self.identifier)
        return ".".join('"' + part.replace('"', '""') + '"' for part in parts)

    def __str__(self) -> str:
        return f"{self.schema}.{self.identifier}"

    def beside(self, identifier: str) -> TableName:
        return TableName(database=self.database, schema=self.schema, identifier=identifier)


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """A relation that a scoring model reads.

    `sql` names it in a statement, as dbt writes it; `selector` is what `dbt build -s` takes.
    """

    table: TableName
    sql: str
    selector: str

    def __str__(self) -> str:
        return str(self.table)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the newest run of a scoring model read.

    `features` and `registry` are tables or views of the warehouse, none when they are gone. Their
    names are those that users know. `gone` are the relations of the ledger that are not there; it is torn,
    and cannot be read, when the view is there and what it reads is not.
    """

    key: tuple[str, ...]
    features_name: str
    features: TableName | None
    registry_name: str
    registry: TableName | None
    gone: tuple[TableName, ...]
    is_torn: bool

    @classmethod
    def of_run(
        cls,
        account: Mapping[str, Any],
        ledger: TableName,
        *,
        find: Callable[[str], TableName | None],
        gone: Sequence[TableName],
    ) -> Sources:
        """`account` is what a run has recorded of itself; `find` gives the relation of a recorded name."""
        features, registry = account["features_relation"], account["registry_relation"]
        return cls(
            key=tuple(account["key_columns"]),
            features_name=features or UNNAMED,
            features=find(features or ""),
            registry_name=registry or "the registry",
            registry=find(registry or ""),
            gone=tuple(gone),
            is_torn=bool(gone) and ledger not in gone,
        )


class MissingFeaturesError(DataError):
    """The feature relation has not been built yet, or is gone."""


def missing_features(name: object, said: str | None = None) -> MissingFeaturesError:
    """A feature relation that is gone, or of which the warehouse says that it cannot be read."""
    if said is None:
        return MissingFeaturesError(
            f"the feature relation {name} is not in the warehouse", hint="`dbt build` makes it"
        )
    return MissingFeaturesError(
        f"the feature relation {name} cannot be read: {said}", hint="`dbt build` makes it again"
    )


def missing_registry(name: object, said: str | None = None) -> RegistryError:
    """The same of a registry."""
    if said is None:
        return RegistryError(
            f"the model registry {name} is not in the warehouse", hint="`dbt seed` loads it"
        )
    return RegistryError(
        f"the model registry {name} cannot be read: {said}", hint="`dbt seed` loads it again"
    )


def no_registry_among(relations: Collection[TableName], columns: Iterable[str]) -> RegistryError:
    """No relation that a scoring model reads has the columns of a registry."""
    return RegistryError(
        "the model registry is not in the warehouse: none of "
        f"{', '.join(map(str, relations)) or 'the relations that the scoring model reads'} has "
        f"the columns {', '.join(columns)}",
        hint="`dbt seed` loads it",
    )


def missing_columns(names: Sequence[str], features: object) -> ConfigError:
    """Features that a version reads and the warehouse does not have."""
    return ConfigError(
        f"column(s) {names} not found in {features}",
        hint="the version that serves reads them: build its features, and score, first",
    )


def no_answer(said: str) -> WarehouseError:
    """A query that dbt has made, and that the warehouse refuses."""
    return WarehouseError(
        f"the warehouse cannot answer: {said}",
        hint="a table was dropped or altered: `dbt build` makes what is missing",
    )


@dataclass(frozen=True, kw_only=True)
class CurrentFeatures(ABC):
    """The features of a scoring model as they are now, and how many rows they have.

    `rejected` are the rows that every version rejects, by reason: they have no key, or no moment.
    `asked` and `relation` are the engine's own.
    """

    asked: Any
    relation: Any
    key: Sequence[str]
    as_of: str | None
    rows: int
    rejected: Mapping[str, int]

    @classmethod
    def count(
        cls,
        asked: Any,
        relation: Any,
        *,
        source: str,
        key: Sequence[str],
        as_of: str | None,
        not_null: Callable[[Iterable[str]], str],
    ) -> Self:
        """`source` stands after FROM. Raises DataError without rows, or when a key occurs twice."""
        # the moments of the rows are not checked: the clock of the next run is not known
        has_key, has_moment = not_null(key), not_null([as_of]) if as_of else "true"
        [(rows, without_key, without_moment)] = asked.rows(
            f"select count(*), count_if(not ({has_key})), count_if({has_key} and not ({has_moment})) "
            f"from {source} as features"
        )
        relation.check_not_empty(rows)
        relation.check_keys(asked, key=key)
        rejected = {"null_key": without_key, "null_as_of": without_moment}
        return cls(
            asked=asked, relation=relation, key=key, as_of=as_of, rows=rows, rejected=rejected
        )

    @property
    def name(self) -> str:
        return str(self.relation.name)

    @property
    def never_rejected(self) -> list[str]:
        """The columns in which a row has a value unless every version rejects it."""
        return [*self.key, *([] if self.as_of is None else [self.as_of])]

    @abstractmethod
    def check_contract(self, artifact: Artifact) -> None:
        """Raise ContractError when the model cannot read these columns."""

    @abstractmethod
    def sample(self, columns: Iterable[str], rows: int) -> list[pa.RecordBatch]:
        """At most `rows` rows, held in memory, ready for `score_batches`: key and the `columns`.

        The hash of the key decides which rows: the same ones as long as the entities are the same.
        Rows that every version rejects are left out.
        """


STAMPS = (
    "as_of", "scored_at", "fresh_as_of", "model_name", "model_version", "run_id", "status",
    "rejected_reason", "served_from",
)  # fmt: skip
"""The columns of `current_predictions` that tell of a prediction, and are published beside its outputs."""


class RowsToPublish(Protocol):
    """The rows of a relation, read once, as a publication stores them.

    `key`, `outputs` and `stamps` are {column: kind}, see `dbt_onnx.serving.kinds`. `of_origin` are the
    stamps that many rows have in common: these rows refer to an origin by its number.
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
        """The id of the publication with which `compare` can compare; none when it cannot."""

    def compare(self, *, with_last: bool) -> None:
        """Find the rows that changed since the last publication, and those that are gone. Without it, all
        rows have changed.
        """

    def origins(self) -> list[tuple[Any, ...]]:
        """The number of each origin, and its values, in the order of `of_origin`."""

    def served(self) -> list[dict[str, Any]]:
        """How many rows are by which version, from where and with what status."""

    def changed(self) -> pa.RecordBatchReader:
        """The changed rows, by key: the key, the outputs, the stamps that are not `of_origin`, and the
        number of the origin. To be read before anything else is asked.
        """

    def removed(self) -> pa.RecordBatchReader:
        """The keys that are gone. To be read before anything else is asked."""

    def clock(self, clock_sql: str) -> datetime:
        """The project's clock."""

    def recorded(self, target: str) -> set[tuple[str, datetime]]:
        """The switches of a target that the warehouse knows: the publication, and since when it is
        served.
        """

    def record(self, switches: Sequence[Mapping[str, Any]]) -> None:
        """Keep which rows were published, and these switches, by column, in one transaction."""


class Warehouse(Protocol):
    """A warehouse on a connection of dbt's adapter, which whoever opened it closes.

    Errors are DbtOnnxErrors. Only `score`, `rows_to_publish`, `leave_outcome`, `forget`,
    `prune`, `renew_scratch` and `drop_scratch` write.
    """

    def __init__(self, connection: Any) -> None: ...

    def has_one_writer(self, ledger: TableName) -> bool:
        """Whether who writes has the ledger alone, so that a run which is `running` for who reads is dead."""

    @staticmethod
    def opened(credentials: Any, /, *, read_only: bool) -> AbstractContextManager[Any]:
        """A connection of the target with these credentials of dbt, as dbt's adapter opens it."""

    @staticmethod
    def how_to_reopen(credentials: Any, /) -> dict[str, Any] | None:
        """What `reopened` needs, as JSON has it; none where only dbt can open the warehouse."""

    @staticmethod
    def reopened(how: Mapping[str, Any], /) -> AbstractContextManager[Any]:
        """The same connection, for reading, without dbt."""

    @staticmethod
    def rendering(credentials: Any, /) -> AbstractContextManager[dict[str, str]]:
        """Within, dbt renders a template, and what its macros ask is asked for reading only. Gives what they
        have asked, with a digest of each answer.
        """

    @staticmethod
    def answers_alike(connection: Any, answers: Mapping[str, str], /) -> bool:
        """Whether the warehouse gives every answer that was noted."""

    @staticmethod
    def let_go() -> None:
        """Close what dbt's adapter keeps open between invocations."""

    @staticmethod
    def opening_errors() -> AbstractContextManager[None]:
        """Within, a model opens what it reads."""

    def score(
        self,
        request: ScoringRequest,
        settings: RunSettings,
        *,
        artifacts: Path,
        log: Callable[[str], None],
        logs: AnswerLogs | None = None,
    ) -> RunSummary:
        """`score_table` on this warehouse."""

    def rows_to_publish(
        self, relation: Any, *, key: Sequence[str], model: TableName
    ) -> AbstractContextManager[RowsToPublish]:
        """Read what is to be published by a model, whose table keeps what was published before."""

    def registry_of(self, relation: Any) -> Registry:
        """The registry in a relation of a model. Raises RegistryError when it is wrong."""

    def feature_types(self, ledger: TableName, names: Sequence[str]) -> dict[str, pa.DataType]:
        """The Arrow types of columns of the features of a scoring model. Raises MissingFeaturesError when
        they are gone, and ConfigError when a column is.
        """

    def leave_outcome(self, outcome: str) -> None:
        """Leave a text where the materialization finds it after the run."""

    def examine(
        self, ledger: TableName, arguments: TableArguments, artifact: Artifact
    ) -> CurrentFeatures:
        """Raise what a run of this version would raise before it scores; else give the features.

        Raises MissingFeaturesError when they have not been built.
        """

    def last_account(self, ledger: TableName) -> Mapping[str, Any]:
        """What the last run of a scoring model read, and its version; empty before the first."""

    def sources(self, ledger: TableName) -> Sources | None:
        """What the newest run of a scoring model read; none if no run has ever come so far."""

    def check_features(self, sources: Sources) -> None:
        """Raise when the next run cannot find each entity in the feature relation."""

    def registry(self, sources: Sources) -> Registry:
        """The registry as a run reads it. Raises RegistryError when it is gone or wrong."""

    def registry_among(self, relations: Collection[TableName]) -> Registry:
        """The first of the relations that has a registry's columns, as a run reads it. Raises
        RegistryError when none has them, or when it is wrong.
        """

    def answer(self, query: str) -> dict[str, Any]:
        """The one row, by column, of a query that dbt has made."""

    def runs(self, ledger: TableName, *, limit: int | None = None) -> list[RunRow]:
        """The runs of a scoring model, newest first."""

    def history(self, ledger: TableName, key: Sequence[str]) -> list[LedgerRow]:
        """All predictions about one entity, in the order in which they were made."""

    def publications(self, ledger: TableName) -> list[dict[str, Any]]:
        """The rows of `dbt_onnx_publications` about a scoring model, oldest first, with `served_until`."""

    def replay(
        self,
        ledger: TableName,
        run_id: str,
        *,
        registry: Registry,
        artifacts: Path,
        sample: int | None = None,
    ) -> Replay:
        """Score the kept inputs of a run again, with the model and the settings that it had.

        `sample` rows are scored, all of them when it is none. Before that, the rows of the run in ledger
        and kept inputs are compared with the run row: their number, their fingerprint, their stamps, and
        the hash of each row's inputs. What is wrong is in the result; nothing is written.

        Raises ConfigError when there is no such run, or nothing of it to replay; WarehouseError when
        the tables are not there or not ours.
        """

    def prove(self, ledger: TableName, *, with_values: bool) -> list[Finding]:
        """What is not as the runs left it. `with_values`: the values of all rows are looked at, too, and
        not only how many there are. Nothing is written.

        Raises WarehouseError when the tables are not there or not ours.
        """

    def forget(self, ledger: TableName, key: Sequence[str], *, why: str, dry_run: bool) -> Erasure:
        """Erase all predictions and kept inputs of the entity with this key, given as texts."""

    def prune(self, ledger: TableName, *, before: datetime, why: str, dry_run: bool) -> Erasure:
        """Erase what was superseded, or late, and scored before a moment (UTC), with its inputs."""

    def scored_clocks(self, ledger: TableName, version: RegistryEntry | None) -> set[datetime]:
        """The clocks of a scoring model's successful runs, by one model version or by any; empty
        before the first run.
        """

    def count_rows(self, relation: TableName) -> int:
        """The rows of a relation."""

    def renew_scratch(self, relations: Iterable[TableName]) -> None:
        """Make the schemas of these relations anew, marked as a backfill's. What an earlier backfill
        left there is dropped. Raises WarehouseError when a schema has no such mark, or holds more.
        """

    def drop_scratch(self, relations: Iterable[TableName]) -> None:
        """Drop the schemas of these relations. Raises WarehouseError when one has no such mark."""
