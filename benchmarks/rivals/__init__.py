"""What dbt_onnx is compared with: each module is one way to score a DuckDB table."""
