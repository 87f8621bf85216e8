"""Checks, creates and widens the tables of a scoring model on Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.artifacts.reference import REFERENCES_TYPES, references_of
from dbt_onnx.engines.spark import ledger
from dbt_onnx.engines.spark.ledger import INPUTS, LedgerShape, LedgerTables
from dbt_onnx.engines.spark.sql import named, quote
from dbt_onnx.errors import ContractError, WarehouseError
from dbt_onnx.runs.run import replaced_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.spark.session import Spark

_RESTORE = "roll the table back to an earlier snapshot, or give the scoring model another alias"


class ScoringTables(LedgerTables):
    """The tables of one scoring model, with the statements that check, create and widen them."""

    def check_runs(self, spark: Spark) -> None:
        """Raise WarehouseError if the runs table does not have the columns that dbt_onnx created, or if it is gone."""
        if not spark.has(self.runs):
            if spark.has(self.rows) and spark.rows(f"select 1 from {named(self.rows)} limit 1"):
                raise WarehouseError(
                    f"{self.runs} is gone: it was dropped or renamed, and {self.rows} has predictions of its runs",
                    hint="restore from a backup; to begin a new ledger, give the scoring model another alias",
                )
            return
        found = spark.columns_of(named(self.runs))
        faults = [
            f"column {name!r} is {found.get(name, 'missing')}, not {kind}"
            for name, kind in ledger.RUNS_TYPES.items()
            if found.get(name) != kind
        ]
        if faults:
            raise WarehouseError(f"{self.runs} was altered: {'; '.join(faults)}", hint=_RESTORE)

    def check_complete(self, spark: Spark) -> None:
        """Raise WarehouseError if `__rows`, which has the only copy of the predictions, is gone."""
        if spark.has(self.rows) or not spark.has(self.runs):
            return
        if spark.rows(
            f"select 1 from {ledger.committed(self)} as runs where rows_scored + rows_rejected > 0 limit 1"
        ):
            raise WarehouseError(
                f"{self.rows} was dropped or renamed; it had the only copy of its rows",
                hint="restore from a backup; to begin a new ledger, give the scoring model another alias",
            )

    def check_shape(self, spark: Spark, shape: LedgerShape) -> None:
        """Raise WarehouseError or ContractError if an existing ledger cannot take rows of this shape."""
        if not spark.has(self.rows):
            return
        found = spark.columns_of(named(self.rows))
        for name, kind in shape.key.items():
            if found.get(name) != kind:
                raise WarehouseError(
                    f"key column {name!r} is {kind} in the features and {found.get(name, 'missing')} "
                    f"in {self.rows}",
                    hint="cast the key in the features model to the ledger's type, or give the "
                    "scoring model another alias to start a new ledger",
                )
        for name, kind in shape.outputs.items():
            if found.get(name, kind) != kind:
                raise ContractError(
                    f"output column {name!r} is {kind} by the contract and {found[name]} in {self.rows}",
                    hint="give the output another column name when exporting or registering the "
                    "model, or give the scoring model another alias to start a new ledger",
                )

    def check_file(self, spark: Spark, artifact: Artifact) -> None:
        """Raise ArtifactError if the version has scored with another file."""
        if not spark.has(self.runs):
            return
        [(other,)] = spark.rows(
            f"select max(artifact_sha256) from {ledger.committed(self)} as runs "
            "where rows_scored + rows_rejected > 0 and model_name = :model_name "
            "and model_version = :model_version and artifact_sha256 <> :sha256",
            {
                "model_name": artifact.model_name,
                "model_version": artifact.model_version,
                "sha256": artifact.sha256,
            },
        )
        if other is not None:
            raise replaced_file(artifact, other)

    def create_runs(self, spark: Spark) -> None:
        for table, types in (
            (self.runs, ledger.RUNS_TYPES),
            (self.references, ledger.spark_types(REFERENCES_TYPES)),
        ):
            if not spark.has(table):
                spark.change(ledger.create_shared(table, types))

    def create(self, spark: Spark, shape: LedgerShape, features: Mapping[str, str]) -> None:
        """Create the missing tables and views, and add the columns of a new version."""
        # retried as a whole: another driver may create the same tables at the same time
        spark.with_retries(lambda: self._create(spark, shape, features))

    def _create(self, spark: Spark, shape: LedgerShape, features: Mapping[str, str]) -> None:
        if not spark.has(self.rows):
            spark.frame(ledger.create_rows(self, shape, features))
        if not spark.has(self.superseded):
            spark.frame(ledger.create_superseded(self, shape))
        self._widen(spark, shape, features)
        for view, text in ledger.views_of(self, self.whole_shape(spark, shape.key)).items():
            self._make_view(spark, view, text)

    def _make_view(self, spark: Spark, view: TableName, text: str) -> None:
        """Create a view unless it has this text. A view with another text is dropped first: in a Hive metastore,
        Iceberg before 1.11 replaces only its own record of a view, and not the text that Spark reads.
        """
        if spark.has(view):
            properties = dict(spark.rows(f"show tblproperties {named(view)}"))
            if properties.get(ledger.VIEW_PROPERTY) == ledger.digest_of_view(text):
                return
            spark.frame(f"drop view if exists {named(view)}")
        spark.frame(ledger.create_view(view, text))

    def _widen(self, spark: Spark, shape: LedgerShape, features: Mapping[str, str]) -> None:
        rows = named(self.rows)
        found = spark.columns_of(rows)
        for name, kind in shape.outputs.items():
            if name not in found:
                spark.frame(f"alter table {rows} add column {quote(name)} {kind}")
        kept = self.kept_types(spark)
        for name, kind in features.items():
            column = f"{INPUTS}.{quote(name)}"
            if name not in kept:
                spark.frame(f"alter table {rows} add column {column} {kind}")
            elif kept[name] != kind:
                spark.frame(f"alter table {rows} alter column {column} type {kind}")

    def kept_types(self, spark: Spark) -> dict[str, str]:
        """Return the SQL types, by name, of all features for which `__rows` keeps inputs, of all versions."""
        return spark.columns_of(f"(select {INPUTS}.* from {named(self.rows)})")

    def whole_shape(self, spark: Spark, key: Mapping[str, str]) -> LedgerShape:
        """Return the shape with this key and the outputs of all versions that have ever scored."""
        own = LedgerShape(key=key, outputs={}).columns
        found = spark.columns_of(named(self.rows))
        outputs = {n: kind for n, kind in found.items() if n not in own and n != INPUTS}
        return LedgerShape(key=key, outputs=outputs)

    def shape_of(self, spark: Spark, key: Sequence[str]) -> LedgerShape:
        """Return the whole shape for the key columns of a run row. Raises WarehouseError if a key column is gone."""
        found = spark.columns_of(named(self.rows))
        if gone := [name for name in key if name not in found]:
            raise WarehouseError(f"{self.rows} was altered: it has no column {gone}", hint=_RESTORE)
        return self.whole_shape(spark, {name: found[name] for name in key})

    def write_references(self, spark: Spark, artifact: Artifact) -> None:
        """Write the reference distributions of the model card, unless the table already contains them."""
        types = ledger.spark_types(REFERENCES_TYPES)
        table = named(self.references)
        model = {
            "scoring_model": self.ledger.identifier,
            "model_name": artifact.model_name,
            "model_version": artifact.model_version,
            "artifact_sha256": artifact.sha256,
        }
        own = " and ".join(f"{quote(name)} = :{name}" for name in model)
        described = [name for name in types if name not in model]
        columns = ", ".join(map(quote, described))
        wanted = references_of(artifact)
        found = spark.rows(f"select {columns} from {table} where {own}", model)
        if sorted(map(repr, found)) == sorted(map(repr, wanted)):
            return
        if found:
            spark.change(f"delete from {table} where {own}", model)
        if not wanted:
            return
        schema = ", ".join(f"{quote(name)} {kind}" for name, kind in types.items())
        rows = [(*model.values(), *row) for row in wanted]
        spark.raw.createDataFrame(rows, schema).writeTo(table).append()
