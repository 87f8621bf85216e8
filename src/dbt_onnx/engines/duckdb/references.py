"""`dbt_onnx_references` on DuckDB: a run writes the reference distributions of its card there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.artifacts.reference import MODEL_TYPES, REFERENCES_TYPES, references_of
from dbt_onnx.engines.duckdb.identifiers import quote

if TYPE_CHECKING:
    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.tables import ScoringTables


def write_references(writer: Cursor, tables: ScoringTables, artifact: Artifact) -> None:
    """Write what the card says, in the caller's transaction.

    Nothing is written when the table says it already, as on every night but the first of a version.
    Each row belongs to one scoring model, so two of them in one dbt run never write the same row.
    """
    table = tables.references.sql
    model = {
        "scoring_model": tables.ledger.identifier,
        "model_name": artifact.model_name,
        "model_version": artifact.model_version,
        "artifact_sha256": artifact.sha256,
    }
    own = " and ".join(f"{quote(name)} = ${name}" for name in MODEL_TYPES)
    described = {name: kind for name, kind in REFERENCES_TYPES.items() if name not in MODEL_TYPES}
    columns = ", ".join(map(quote, described))
    wanted = references_of(artifact)
    found = writer.rows(f"select {columns} from {table} where {own}", model)
    if sorted(found, key=repr) == sorted(wanted, key=repr):
        return
    writer.execute(f"delete from {table} where {own}", model)
    if not wanted:
        return
    columns_of_values = enumerate(zip(*wanted, strict=True))
    values = {f"values_{i}": list(column) for i, column in columns_of_values}
    unnested = [
        f"unnest(cast(${name} as {kind}[]))"
        for name, kind in zip(values, described.values(), strict=True)
    ]
    constants = [f"${name}" for name in MODEL_TYPES]
    writer.execute(
        f"insert into {table} ({', '.join(map(quote, MODEL_TYPES))}, {columns}) "
        f"select {', '.join([*constants, *unnested])}",
        {**model, **values},
    )
