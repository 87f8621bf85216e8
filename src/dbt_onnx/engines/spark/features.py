"""The feature relation on Spark: what it is called, what it holds, and whether it can be scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.spark import plan
from dbt_onnx.engines.spark.sql import literal, quote
from dbt_onnx.errors import ConfigError, DataError
from dbt_onnx.kernel.relation import check_relation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from pyspark.sql import DataFrame, SparkSession

    from dbt_onnx.engines.spark.session import Spark
    from dbt_onnx.kernel.contract import Contract
    from dbt_onnx.runs.plan import Snapshot

NAME = "dbt_onnx_relation"
"""The attribute of a data frame that tells which relation `dbt.ref()` has opened."""
_MOMENTS = {"date", "timestamp", "timestamp_ntz"}


def loader(session: SparkSession) -> Callable[[str], DataFrame]:
    """What `dbt.ref()` calls with a relation's name: a data frame that remembers it."""

    def load(name: str) -> DataFrame:
        # with --empty, dbt gives a query in parentheses
        frame = (
            session.sql(f"select * from {name}") if name.startswith("(") else session.table(name)
        )
        setattr(frame, NAME, name)
        return frame

    return load


@dataclass(frozen=True, kw_only=True)
class FeatureRelation:
    """Its SQL for a FROM clause, the name that users know it by, and the SQL types of its columns."""

    sql: str
    name: str
    columns: Mapping[str, str]

    @classmethod
    def open(cls, spark: Spark, relation: Any) -> FeatureRelation:
        """`relation` is the data frame of `dbt.ref()`."""
        return cls.of(spark, getattr(relation, NAME, ""), name=relation_name(relation))

    @classmethod
    def of(cls, spark: Spark, sql: str, *, name: str) -> FeatureRelation:
        return cls(sql=sql, name=name, columns=spark.columns_of(sql))

    def as_of_sql(self, column: str | None, *, clock: datetime) -> str:
        """SQL of the moment that a row describes: its `as_of` column in UTC, else the clock."""
        if column is None:
            return f"cast({literal(clock.isoformat(sep=' '))} as timestamp_ntz)"
        # the session's zone is UTC
        return f"cast({quote(column)} as timestamp_ntz)"

    def check_columns(self, *, key: Sequence[str], as_of: str | None) -> None:
        """Raise ConfigError when a column that `score()` names is missing or of a wrong type."""
        for role, names in (("key", key), ("as_of", [as_of] if as_of else [])):
            missing = [name for name in names if name not in self.columns]
            if missing:
                raise ConfigError(
                    f"{role} column(s) {missing} not found in {self.name}; it has "
                    f"{list(self.columns)}",
                    hint=f"add the column to the features model, or correct {role} in score()",
                )
        if as_of is not None and self.columns[as_of] not in _MOMENTS:
            raise ConfigError(
                f"as_of column {as_of!r} of {self.name} is {self.columns[as_of]}, not a DATE or "
                "TIMESTAMP",
                hint="cast it in the features model",
            )

    def check_contract(self, spark: Spark, contract: Contract, *, model: str) -> None:
        """Raise ContractError when the model cannot read these columns."""
        from pyspark.sql.pandas.types import to_arrow_type

        schema = spark.frame(f"select * from {self.sql} limit 0").schema
        present = {
            f.name: to_arrow_type(f.dataType) for f in schema if f.name in contract.feature_names
        }
        types = dict.fromkeys(self.columns) | present
        check_relation(contract, types, where=self.name, model=model, known_as=self.columns)

    def check_not_empty(self, rows: int) -> None:
        """Raise DataError when there are no rows."""
        if rows == 0:
            raise DataError(
                f"{self.name} has no rows: there is nothing to score",
                hint="check the model upstream; `dbt run --empty` builds the tables without rows",
            )

    def check_moments(self, given: Snapshot, *, as_of: str | None, clock: datetime) -> None:
        """Raise DataError when rows describe the future."""
        if given.newest is not None and given.newest > clock:
            raise DataError(
                f"{self.name} describes the future: the newest {as_of!r} is {given.newest}, and the "
                f"clock says {clock}",
                hint="correct the dates upstream, or set the variable dbt_onnx_clock",
            )

    def check_keys(self, spark: Spark, *, key: Sequence[str]) -> None:
        """Raise DataError when a key occurs twice."""
        repeated = spark.rows(plan.duplicate_keys(self.sql, dict.fromkeys(key, "")))
        if repeated:
            examples = "; ".join(
                f"{dict(zip(key, row[:-1], strict=True))} {row[-1]} times" for row in repeated
            )
            raise DataError(
                f"key {list(key)} is not unique in {self.name}: {examples}",
                hint="give the features model one row per key, or add the column that tells its "
                "rows apart to key",
            )


def relation_name(relation: Any) -> str:
    """`schema.name`, as users know it."""
    return str(getattr(relation, NAME, "the feature relation")).replace("`", "")


def refuse_expressions(**relations: Any) -> None:
    """Raise ConfigError when an argument of `score()` is not a table or view."""
    for argument, relation in relations.items():
        if not getattr(relation, NAME, ""):
            raise ConfigError(
                f"{argument} is an expression, not a table or view of the warehouse",
                hint="make it a model, and dbt.ref() that",
            )
