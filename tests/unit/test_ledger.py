"""Column names of the tables that two modules must agree on."""

from __future__ import annotations

from dbt_onnx.engines.duckdb import ledger
from dbt_onnx.kernel import contract
from dbt_onnx.runs.plan import SCORE_REASONS
from dbt_onnx.runs.tables import LEDGER_TYPES, RUNS_TYPES


def test_outputs_cannot_take_the_name_of_a_column_of_the_tables() -> None:
    assert set(contract.LEDGER_COLUMNS) == set(LEDGER_TYPES)
    written = ledger.ROW_TYPES | ledger.PRESENCE_TYPES | ledger.HISTORY_TYPES
    assert set(LEDGER_TYPES) | set(written) <= contract.RESERVED_COLUMNS


def test_every_score_reason_has_its_column_in_the_runs() -> None:
    assert {f"rows_{reason}" for reason in SCORE_REASONS} <= set(RUNS_TYPES)
