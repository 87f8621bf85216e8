"""The command line, `dbt-onnx`. Each family of commands has a module of its own."""

# each adds its commands to `main`
from dbt_onnx.cli import backfill, models, predictions, promotion, serving, status, watch  # noqa: F401
from dbt_onnx.cli.options import main

__all__ = ["main"]
