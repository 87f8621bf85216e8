"""The names and columns of a scoring model's tables, on every warehouse.

Types are DuckDB's; another engine maps them to its own types. Timestamps are naive UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbt_onnx.errors import ContractError
from dbt_onnx.kernel.contract import KEY_PREFIX
from dbt_onnx.runs.plan import SCORE_REASONS

if TYPE_CHECKING:
    from collections.abc import Mapping

CURRENT_SUFFIX = "__current"
HISTORY_SUFFIX = "__history"
RUNS_TABLE = "dbt_onnx_runs"
ERASURES_TABLE = "dbt_onnx_erasures"
REQUEST_LOGS_TABLE = "dbt_onnx_request_logs"

RUN = "run_no"

LEDGER_TYPES = {
    "as_of": "TIMESTAMP",
    "status": "VARCHAR",
    "rejected_reason": "VARCHAR",
    "score_reason": "VARCHAR",
    "is_late": "BOOLEAN",
    "model_name": "VARCHAR",
    "model_version": "VARCHAR",
    "run_id": "VARCHAR",
    "scored_at": "TIMESTAMP",
    "features_hash": "UBIGINT",
}
"""The columns of the ledger besides the key and the outputs."""

RUNS_TYPES = {
    RUN: "INTEGER",
    "run_id": "VARCHAR",
    "scoring_model": "VARCHAR",
    "status": "VARCHAR",
    "scope": "VARCHAR",
    "clock": "TIMESTAMP",
    "started_at": "TIMESTAMP",
    "ended_at": "TIMESTAMP",
    "as_of": "TIMESTAMP",
    "has_one_moment": "BOOLEAN",
    "scored_at": "TIMESTAMP",
    "rows_in": "BIGINT",
    "rows_scored": "BIGINT",
    "rows_rejected": "BIGINT",
    "rows_unchanged": "BIGINT",
    **{f"rows_{reason}": "BIGINT" for reason in SCORE_REASONS},
    "rows_inputs_kept": "BIGINT",
    "key_columns": "VARCHAR[]",
    "features_relation": "VARCHAR",
    "registry_relation": "VARCHAR",
    "features": "VARCHAR[]",
    "feature_types": "VARCHAR[]",
    "feature_precisions": "VARCHAR[]",
    "output_columns": "VARCHAR[]",
    "model_name": "VARCHAR",
    "model_version": "VARCHAR",
    "model_alias": "VARCHAR",
    "artifact_sha256": "VARCHAR",
    "card_sha256": "VARCHAR",
    "input_fingerprint": "UBIGINT",
    "ledger_fingerprint": "UBIGINT",
    "inputs_fingerprint": "UBIGINT",
    "features_hash_function": "VARCHAR",
    "onnxruntime_version": "VARCHAR",
    "provider": "VARCHAR",
    "threads": "INTEGER",
    "workers": "INTEGER",
    "batch_rows": "INTEGER",
    "in_child_process": "BOOLEAN",
    "dbt_onnx_version": "VARCHAR",
    "dbt_version": "VARCHAR",
    "warehouse_version": "VARCHAR",
    "error": "VARCHAR",
    "rejected_reasons": "VARCHAR[]",
    "previous_fingerprint": "VARCHAR",
    "fingerprint": "VARCHAR",
}
ERASURES_TYPES = {
    "scoring_model": "VARCHAR",
    "erased_at": "TIMESTAMP",
    "why": "VARCHAR",
    RUN: "INTEGER",
    "rows": "BIGINT",
    "rows_inputs": "BIGINT",
    "ledger_fingerprint": "UBIGINT",
    "inputs_fingerprint": "UBIGINT",
}
REQUEST_LOGS_TYPES = {
    "scoring_model": "VARCHAR",
    "name": "VARCHAR",
    "segment": "VARCHAR",
    "bytes_read": "BIGINT",
    "lines_left": "BIGINT[]",
    "read_at": "TIMESTAMP",
}


@dataclass(frozen=True, kw_only=True)
class LedgerColumns:
    """The columns that differ between scoring models, as {name: SQL type of the engine}."""

    key: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def carried_key(self) -> dict[str, str]:
        """{key column: its name in the plan and in streams}."""
        return {name: f"{KEY_PREFIX}{i}" for i, name in enumerate(self.key)}

    def check_names(self) -> None:
        """Raise ContractError if an output has the name of a key column."""
        collisions = {n.casefold() for n in self.key} & {n.casefold() for n in self.outputs}
        if collisions:
            raise ContractError(
                f"output column(s) {sorted(collisions)} collide with the key {list(self.key)}",
                hint="give the output another column name when exporting or registering the model",
            )
