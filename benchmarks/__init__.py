"""How fast dbt_onnx scores, against its rivals and against the limit. See README.md beside this."""
