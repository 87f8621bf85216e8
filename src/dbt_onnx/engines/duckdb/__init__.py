"""DuckDB: where to plan, stream and write there. The way in is `score_table`."""

from dbt_onnx.engines.duckdb.table_scoring import RunSummary, score_table

__all__ = ["RunSummary", "score_table"]
