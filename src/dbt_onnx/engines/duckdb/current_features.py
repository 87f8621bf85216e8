"""The features as they are now, for scoring that writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from dbt_onnx.engines import base
from dbt_onnx.engines.duckdb.cursor import duckdb_errors
from dbt_onnx.engines.duckdb.features import FeatureRelation, refuse_expressions
from dbt_onnx.engines.duckdb.identifiers import compared, not_null, quote
from dbt_onnx.kernel.contract import KEY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.base import Upstream
    from dbt_onnx.engines.duckdb.cursor import Cursor

BATCH_ROWS = 65_536


def open_features(reader: Cursor, relation: Upstream) -> FeatureRelation:
    """Open the feature relation that `dbt.ref()` would give to a run.

    Raises ConfigError if a run would refuse it, MissingFeaturesError if it is not in the warehouse.
    """
    refuse_expressions(features=f"select * from {relation.sql}")
    try:
        return FeatureRelation.of_table(reader, relation.sql)
    except duckdb.CatalogException as error:
        raise base.MissingFeaturesError(
            f"{relation} is not in the warehouse: {str(error).partition(chr(10))[0]}",
            hint=f"run `dbt build -s +{relation.selector}`",
        ) from error


class CurrentFeatures(base.CurrentFeatures):
    """The feature relation of a scoring model, on DuckDB."""

    @duckdb_errors()
    def check_contract(self, artifact: Artifact) -> None:
        self.relation.check_contract(self.connection, artifact.contract, model=str(artifact.model))

    @duckdb_errors()
    def sample(self, columns: Iterable[str], rows: int) -> list[pa.RecordBatch]:
        selected = [f'{quote(name)} as "{KEY_PREFIX}{i}"' for i, name in enumerate(self.key)]
        selected += [quote(name) for name in columns]
        by_bytes = [compared(name, self.relation.columns[name]) for name in self.key]
        order = ", ".join(
            f"{by} asc nulls last" for by in (f"hash({', '.join(by_bytes)})", *by_bytes)
        )
        with self.connection.stream(
            f"select {', '.join(selected)} from ({self.relation.sql}) as features "
            f"where {not_null(self.never_rejected)} order by {order} limit {int(rows)}",
            {},
            batch_rows=BATCH_ROWS,
        ) as stream:
            return list(stream)
