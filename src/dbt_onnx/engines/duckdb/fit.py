"""Whether a version fits the features and the tables. A run checks it, and so does the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.ledger import RUN, LedgerShape
from dbt_onnx.engines.duckdb.writing import output_types
from dbt_onnx.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.features import FeatureRelation
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.runs.request import Asked


def check_fit(
    cursor: Cursor,
    asked: Asked,
    artifact: Artifact,
    features: FeatureRelation,
    tables: ScoringTables,
) -> LedgerShape:
    """Check arguments, contract, features and tables against each other.

    Returns the columns of the ledger. Raises a DbtOnnxError where they do not go together.
    """
    model = str(artifact.model)
    features.check_columns(key=asked.key, as_of=asked.as_of)
    features.check_collation(cursor, key=asked.key)
    features.check_contract(cursor, artifact.contract, model=model)
    taken = [n for n in artifact.contract.feature_names if n.casefold() == RUN]
    if taken and asked.keep_inputs is not False:
        raise ConfigError(
            f"feature {taken[0]!r} of '{model}' has the name of a column of the kept inputs",
            hint="give the feature another name when exporting or registering the model, or set "
            "keep_inputs=False in score()",
        )
    outputs = output_types(artifact.contract.output_fields())
    collisions = {n.casefold() for n in asked.key} & {n.casefold() for n in outputs}
    if collisions:
        raise ContractError(
            f"output column(s) {sorted(collisions)} collide with the key {list(asked.key)}",
            hint="give the output another column name when exporting or registering the model",
        )
    shape = LedgerShape(key={name: features.columns[name] for name in asked.key}, outputs=outputs)
    tables.check_shape(cursor, shape)
    _check_key(cursor, asked, tables)
    tables.check_outputs(cursor, shape, artifact.model)
    return shape


def _check_key(cursor: Cursor, asked: Asked, tables: ScoringTables) -> None:
    """Raise ConfigError when the existing ledger was written with another key."""
    if not (cursor.has(tables.current) and cursor.has(tables.runs)):
        return
    [(known,)] = cursor.rows(
        f"select arg_max(key_columns, scored_at) from {tables.runs.sql} "
        "where scoring_model = $scoring_model and status = 'success' and scope <> 'empty'",
        {"scoring_model": tables.ledger.identifier},
    )
    if known is not None and known != list(asked.key):
        raise ConfigError(
            f"key is {list(asked.key)}; {tables.ledger} was written with key {known}",
            hint="the key of a ledger never changes: give score() that key again, or give the "
            "scoring model another alias to start a new ledger",
        )
