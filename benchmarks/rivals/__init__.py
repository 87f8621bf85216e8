"""The rivals of dbt_onnx: each module is one way to score a DuckDB table."""
