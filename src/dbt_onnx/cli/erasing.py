"""`dbt-onnx forget`, `prune`: take rows out of the tables, and keep that they were there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dbt_onnx.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_dry_run = click.option("--dry-run", is_flag=True, help="Count the rows; erase nothing.")


@click.command()
@click.argument("model")
@click.argument("key", nargs=-1, required=True)
@click.option("--why", required=True, help="Kept beside the numbers of rows; name nobody in it.")
@_dry_run
@options.project
def forget(project: Any, model: str, key: Sequence[str], why: str, dry_run: bool) -> None:  # noqa: FBT001
    """Erase all that the scoring model MODEL has of the entity KEY: predictions and kept inputs.

    KEY is one value for each key column. Take the entity out of the features first: the next run scores
    whoever is in them.
    """
    from dbt_onnx.cli.show.predictions import show_erasure

    scoring_model = project.scoring_model(model)
    with project.warehouse(read_only=dry_run) as warehouse:
        erasure = warehouse.forget(scoring_model.table, key, why=why, dry_run=dry_run)
    show_erasure(model, erasure, dry_run=dry_run)


@click.command()
@click.argument("model")
@click.option(
    "--before", required=True, type=options.MOMENT, help="UTC; rows that were scored before it."
)
@click.option("--why", default="retention", show_default=True, help="Kept beside the numbers.")
@_dry_run
@options.project
def prune(project: Any, model: str, before: datetime, why: str, dry_run: bool) -> None:  # noqa: FBT001
    """Erase predictions of the scoring model MODEL that were superseded, or late, and their inputs.

    What is served now is never erased.
    """
    from dbt_onnx.cli.show.predictions import show_erasure

    scoring_model = project.scoring_model(model)
    with project.warehouse(read_only=dry_run) as warehouse:
        erasure = warehouse.prune(scoring_model.table, before=before, why=why, dry_run=dry_run)
    show_erasure(model, erasure, dry_run=dry_run)
