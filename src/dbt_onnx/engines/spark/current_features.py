"""Reads the current features, for scoring that writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.engines import base
from dbt_onnx.engines.spark.features import FeatureRelation
from dbt_onnx.engines.spark.session import spark_errors
from dbt_onnx.engines.spark.sql import not_null, quote
from dbt_onnx.kernel.contract import KEY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.base import Upstream
    from dbt_onnx.engines.spark.session import Spark


def open_features(spark: Spark, relation: Upstream) -> FeatureRelation:
    """Open the relation that `dbt.ref()` gives a run. Raises MissingFeaturesError if it is not in the warehouse."""
    if not spark.has(relation.table):
        raise base.MissingFeaturesError(
            f"{relation} is not in the warehouse",
            hint=f"run `dbt build -s +{relation.selector}`",
        )
    return FeatureRelation.of(spark, relation.sql, name=str(relation))


class CurrentFeatures(base.CurrentFeatures):
    """The feature relation of a scoring model, on Spark."""

    @spark_errors()
    def check_contract(self, artifact: Artifact) -> None:
        self.relation.check_contract(self.connection, artifact.contract, model=str(artifact.model))

    @spark_errors()
    def sample(self, columns: Iterable[str], rows: int) -> list[pa.RecordBatch]:
        keys = [quote(name) for name in self.key]
        selected = [f"{name} as {quote(f'{KEY_PREFIX}{i}')}" for i, name in enumerate(keys)]
        selected += [quote(name) for name in columns]
        order = ", ".join((f"xxhash64({', '.join(keys)})", *keys))
        sample = self.connection.frame(
            f"select {', '.join(selected)} from {self.relation.sql} as features "
            f"where {not_null(self.never_rejected)} order by {order} limit {int(rows)}"
        )
        # the batches that toPandas() would convert: they have the same types as those of `mapInArrow`
        batches: list[pa.RecordBatch] = sample._collect_as_arrow()  # noqa: SLF001
        return batches
