"""The command line, `dbt-onnx`. Each module has a group of related commands."""

# each module adds its commands to `main` when it is imported
from dbt_onnx.cli import (  # noqa: F401
    alert,
    backfill,
    importing,
    models,
    predictions,
    promotion,
    report,
    serving,
    status,
    watch,
)
from dbt_onnx.cli.options import main

__all__ = ["main"]
