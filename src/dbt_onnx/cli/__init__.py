"""The command line, `dbt-onnx`. Each family of commands has a module of its own."""

from __future__ import annotations

from typing import Any

import click

from dbt_onnx.cli import (
    backfill,
    models,
    predictions,
    promotion,
    publications,
    serving,
    status,
    watch,
)
from dbt_onnx.cli.options import MISUSED, WRONG
from dbt_onnx.errors import ConfigError, DbtOnnxError, RegistryError
from dbt_onnx.version import __version__


class _Group(click.Group):
    """A group whose commands end with one message and a hint, never with a traceback.

    Exit codes: 1 when a model, a card or a check is wrong, 2 when the call or the registry is.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DbtOnnxError as error:
            from dbt_onnx.cli.show.console import show_error

            show_error(error.message, error.hint)
            ctx.exit(MISUSED if isinstance(error, ConfigError | RegistryError) else WRONG)


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="dbt-onnx")
def main() -> None:
    """Register and verify ONNX models, and answer for their predictions, in a dbt project."""


for command in (
    models.inspect,
    models.register,
    models.verify,
    models.sign,
    backfill.backfill,
    predictions.runs,
    predictions.history,
    predictions.replay,
    predictions.forget,
    predictions.prune,
    promotion.promote,
    promotion.rollback,
    publications.published,
    publications.unpublish,
    serving.serve,
    status.status,
    watch.watch,
):
    main.add_command(command)
