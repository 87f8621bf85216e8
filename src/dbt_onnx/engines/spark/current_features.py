"""The features as they are now, for scoring that writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbt_onnx.engines.base import MissingFeaturesError
from dbt_onnx.engines.spark.features import FeatureRelation
from dbt_onnx.engines.spark.session import spark_errors
from dbt_onnx.engines.spark.sql import not_null, quote
from dbt_onnx.kernel.contract import KEY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.base import Upstream
    from dbt_onnx.engines.spark.session import Spark


def open_features(spark: Spark, relation: Upstream) -> FeatureRelation:
    """What `dbt.ref()` gives a run. Raises MissingFeaturesError when it is not in the warehouse."""
    if not spark.has(relation.table):
        raise MissingFeaturesError(
            f"{relation} is not in the warehouse",
            hint=f"`dbt build -s +{relation.selector}` makes it",
        )
    return FeatureRelation.of(spark, relation.sql, name=str(relation))


@dataclass(frozen=True, kw_only=True)
class CurrentFeatures:
    """The feature relation of a scoring model, and how many rows it has now, see `base.CurrentFeatures`."""

    spark: Spark
    relation: FeatureRelation
    key: Sequence[str]
    as_of: str | None
    rows: int
    rejected: Mapping[str, int]

    @classmethod
    def count(
        cls, spark: Spark, relation: FeatureRelation, *, key: Sequence[str], as_of: str | None
    ) -> CurrentFeatures:
        """Raises DataError when there are no rows, or when a key occurs twice."""
        # the moments of the rows are not checked: the clock of the next run is not known
        null_as_of = "false" if as_of is None else f"{quote(as_of)} is null"
        [(rows, without_key, without_moment)] = spark.rows(
            f"select count(*), count_if(not ({not_null(key)})), "
            f"count_if({not_null(key)} and {null_as_of}) from {relation.sql} as features"
        )
        relation.check_not_empty(rows)
        relation.check_keys(spark, key=key)
        rejected = {"null_key": without_key, "null_as_of": without_moment}
        return cls(
            spark=spark, relation=relation, key=key, as_of=as_of, rows=rows, rejected=rejected
        )

    @property
    def name(self) -> str:
        return self.relation.name

    @spark_errors()
    def check_contract(self, artifact: Artifact) -> None:
        self.relation.check_contract(self.spark, artifact.contract, model=str(artifact.model))

    @spark_errors()
    def sample(self, columns: Iterable[str], rows: int) -> list[pa.RecordBatch]:
        """At most `rows` rows, held in memory, ready for `score_batches`: key and the `columns`.

        The hash of the key decides which rows: the same ones as long as the entities are the same.
        Rows that every version rejects are left out.
        """
        keys = [quote(name) for name in self.key]
        selected = [f"{name} as {quote(f'{KEY_PREFIX}{i}')}" for i, name in enumerate(keys)]
        selected += [quote(name) for name in columns]
        order = ", ".join((f"xxhash64({', '.join(keys)})", *keys))
        given = [*self.key, *([] if self.as_of is None else [self.as_of])]
        sample = self.spark.frame(
            f"select {', '.join(selected)} from {self.relation.sql} as features "
            f"where {not_null(given)} order by {order} limit {int(rows)}"
        )
        # what toPandas() reads, as batches: the types are those of `mapInArrow`
        batches: list[pa.RecordBatch] = sample._collect_as_arrow()  # noqa: SLF001
        return batches
