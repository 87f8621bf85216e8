"""The command line, `dbt-onnx`. Each family of commands has a module of its own."""

from dbt_onnx.cli import (  # noqa: F401, each adds its commands to `main`
    backfill,
    models,
    predictions,
    promotion,
    publications,
    serving,
    status,
    watch,
)
from dbt_onnx.cli.options import main

__all__ = ["main"]
