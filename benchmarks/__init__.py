"""The speed of dbt_onnx compared with its rivals and with onnxruntime alone. See README.md in this folder."""
