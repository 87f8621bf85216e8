"""DuckDB: how to plan, stream and write there, and how to ask what was written."""

from dbt_onnx.engines.duckdb.history import RunRow, Said, read_history, read_runs
from dbt_onnx.engines.duckdb.kept_run import replayable_runs
from dbt_onnx.engines.duckdb.replaying import replay_run
from dbt_onnx.engines.duckdb.table_scoring import RunSummary, score_table

__all__ = [
    "RunRow",
    "RunSummary",
    "Said",
    "read_history",
    "read_runs",
    "replay_run",
    "replayable_runs",
    "score_table",
]
