"""The features as they are now, for scoring that writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from dbt_onnx.engines.base import MissingFeaturesError
from dbt_onnx.engines.duckdb.cursor import duckdb_errors
from dbt_onnx.engines.duckdb.features import FeatureRelation, refuse_expressions
from dbt_onnx.engines.duckdb.identifiers import compared, not_null, quote
from dbt_onnx.kernel.contract import KEY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.base import Upstream
    from dbt_onnx.engines.duckdb.cursor import Cursor

BATCH_ROWS = 65_536


def open_features(reader: Cursor, relation: Upstream) -> FeatureRelation:
    """What `dbt.ref()` gives a run.

    Raises ConfigError when a run refuses it, MissingFeaturesError when it is not in the warehouse.
    """
    refuse_expressions(features=f"select * from {relation.sql}")
    try:
        return FeatureRelation.of_table(reader, relation.sql)
    except duckdb.CatalogException as error:
        raise MissingFeaturesError(
            f"{relation} is not in the warehouse: {str(error).partition(chr(10))[0]}",
            hint=f"`dbt build -s +{relation.selector}` makes it",
        ) from error


@dataclass(frozen=True, kw_only=True)
class CurrentFeatures:
    """The feature relation of a scoring model, and how many rows it has now, see `base.CurrentFeatures`."""

    reader: Cursor
    relation: FeatureRelation
    key: Sequence[str]
    as_of: str | None
    rows: int
    rejected: Mapping[str, int]

    @classmethod
    def count(
        cls, reader: Cursor, relation: FeatureRelation, *, key: Sequence[str], as_of: str | None
    ) -> CurrentFeatures:
        """Raises DataError when there are no rows, or when a key occurs twice."""
        # the moments of the rows are not checked: the clock of the next run is not known
        null_as_of = "false" if as_of is None else f"{quote(as_of)} is null"
        [(rows, without_key, without_moment)] = reader.rows(
            f"select count(*), count(*) filter (not ({not_null(key)})), "
            f"count(*) filter ({not_null(key)} and {null_as_of}) from ({relation.sql}) as features"
        )
        relation.check_not_empty(rows)
        relation.check_keys(reader, key=key)
        rejected = {"null_key": without_key, "null_as_of": without_moment}
        return cls(
            reader=reader, relation=relation, key=key, as_of=as_of, rows=rows, rejected=rejected
        )

    @property
    def name(self) -> str:
        return self.relation.name

    @duckdb_errors()
    def check_contract(self, artifact: Artifact) -> None:
        self.relation.check_contract(self.reader, artifact.contract, model=str(artifact.model))

    @duckdb_errors()
    def sample(self, columns: Iterable[str], rows: int) -> list[pa.RecordBatch]:
        """At most `rows` rows, held in memory, ready for `score_batches`: key and the `columns`.

        The hash of the key decides which rows: the same ones as long as the entities are the same.
        Rows that every version rejects are left out.
        """
        keys = [quote(name) for name in self.key]
        selected = [f'{name} as "{KEY_PREFIX}{place}"' for place, name in enumerate(keys)]
        selected += [quote(name) for name in columns]
        by_bytes = [compared(name, self.relation.columns[name]) for name in self.key]
        order = ", ".join(
            f"{by} asc nulls last" for by in (f"hash({', '.join(by_bytes)})", *by_bytes)
        )
        given = [*self.key, *([] if self.as_of is None else [self.as_of])]
        with self.reader.stream(
            f"select {', '.join(selected)} from ({self.relation.sql}) as features "
            f"where {not_null(given)} order by {order} limit {int(rows)}",
            {},
            batch_rows=BATCH_ROWS,
        ) as stream:
            return list(stream)
