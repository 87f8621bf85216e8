"""Publishes predictions outside the warehouse, looks them up, and serves them over HTTP.

`Predictions` is the reader. It needs only the standard library: neither dbt, DuckDB nor onnxruntime.
"""

from dbt_onnx.serving.lookup import Answer, Predictions

__all__ = ["Answer", "Predictions"]
