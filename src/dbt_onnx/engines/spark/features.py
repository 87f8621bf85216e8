"""The feature relation on Spark: its name, its columns, and the checks that it can be scored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.feature_columns import FeatureColumns
from dbt_onnx.engines.spark import plan
from dbt_onnx.engines.spark.sql import literal, quote
from dbt_onnx.errors import ConfigError
from dbt_onnx.kernel.relation import check_relation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from pyspark.sql import DataFrame, SparkSession

    from dbt_onnx.engines.spark.session import Spark
    from dbt_onnx.kernel.contract import Contract
    from dbt_onnx.runs.plan import Snapshot

RELATION_ATTRIBUTE = "dbt_onnx_relation"
"""The attribute of a data frame that stores the name of the relation that `dbt.ref()` opened."""
_MOMENTS = re.compile("date|timestamp|timestamp_ntz")


def loader(session: SparkSession) -> Callable[[str], DataFrame]:
    """Return the function that `dbt.ref()` calls with a relation's name. Its data frames store that name."""

    def load(name: str) -> DataFrame:
        # with --empty, dbt gives a query in parentheses
        frame = (
            session.sql(f"select * from {name}") if name.startswith("(") else session.table(name)
        )
        setattr(frame, RELATION_ATTRIBUTE, name)
        return frame

    return load


class FeatureRelation(FeatureColumns):
    """The feature relation, a table or view on Spark. `sql` is SQL for a FROM clause."""

    @classmethod
    def open(cls, spark: Spark, relation: Any) -> FeatureRelation:
        """Open the relation of a data frame that `dbt.ref()` returned."""
        return cls.of(
            spark, getattr(relation, RELATION_ATTRIBUTE, ""), name=relation_name(relation)
        )

    @classmethod
    def of(cls, spark: Spark, sql: str, *, name: str) -> FeatureRelation:
        return cls(sql=sql, name=name, columns=spark.columns_of(sql))

    def as_of_sql(self, column: str | None, *, clock: datetime) -> str:
        """SQL of the time that a row describes: its `as_of` column in UTC, or the clock if `column` is None."""
        if column is None:
            return f"cast({literal(clock.isoformat(sep=' '))} as timestamp_ntz)"
        # the session's zone is UTC
        return f"cast({quote(column)} as timestamp_ntz)"

    def check_columns(self, *, key: Sequence[str], as_of: str | None) -> None:
        """Raise ConfigError if a column that `score()` names is missing or has a wrong type."""
        self.check_names(key=key, as_of=as_of)
        self.check_moment(as_of, types=_MOMENTS)

    def check_contract(self, spark: Spark, contract: Contract, *, model: str) -> None:
        """Raise ContractError when the model cannot read these columns."""
        from pyspark.sql.pandas.types import to_arrow_type

        schema = spark.frame(f"select * from {self.sql} limit 0").schema
        present = {
            f.name: to_arrow_type(f.dataType) for f in schema if f.name in contract.feature_names
        }
        types = dict.fromkeys(self.columns) | present
        check_relation(contract, types, where=self.name, model=model, known_as=self.columns)

    def check_moments(self, given: Snapshot, *, as_of: str | None, clock: datetime) -> None:
        """Raise DataError when rows describe the future."""
        self.check_not_future(given, as_of=as_of, clock=clock)

    def check_keys(self, spark: Spark, *, key: Sequence[str]) -> None:
        """Raise DataError when a key occurs twice."""
        repeated = spark.rows(plan.duplicate_keys(self.sql, dict.fromkeys(key, "")))
        if repeated:
            raise self.not_unique(key, repeated)


def relation_name(relation: Any) -> str:
    """Return `schema.name`, the name that users know."""
    return str(getattr(relation, RELATION_ATTRIBUTE, "the feature relation")).replace("`", "")


def refuse_expressions(**relations: Any) -> None:
    """Raise ConfigError when an argument of `score()` is not a table or view."""
    for argument, relation in relations.items():
        if not getattr(relation, RELATION_ATTRIBUTE, ""):
            raise ConfigError(
                f"{argument} is an expression, not a table or view of the warehouse",
                hint="make it a model, and dbt.ref() that",
            )
