"""Predictions outside the warehouse: published, looked up, served.

`Predictions` is the reader. It needs the standard library only: neither dbt, DuckDB nor onnxruntime.
"""

from dbt_onnx.serving.lookup import Answer, Predictions

__all__ = ["Answer", "Predictions"]
