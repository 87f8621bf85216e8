"""`dbt-onnx published`, `unpublish`: what is served outside the warehouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dbt_onnx.cli import options

if TYPE_CHECKING:
    from pathlib import Path

_target = click.option(
    "--target",
    "-t",
    default="files",
    help="A target of publish(); DBT_ONNX_SERVING_<NAME> says where it is.",
)


@options.main.command()
@click.argument("name", required=False)
@_target
@options.project_dir
def published(name: str | None, target: str, project_dir: Path) -> None:
    """Print what is published as NAME, or as anything, and which of it is served."""
    from dbt_onnx.cli.show.publications import show_publications
    from dbt_onnx.serving.targets import names_at, publications_of

    names = [name] if name else names_at(target, project=project_dir)
    show_publications([publications_of(target, each, project=project_dir) for each in names])


@options.main.command()
@click.argument("name")
@_target
@options.project_dir
def unpublish(name: str, target: str, project_dir: Path) -> None:
    """Serve the publication of NAME before the one that is served. Nothing is scored or built.

    The next `dbt build` publishes again: mend, or roll back, what it would publish first.
    """
    from dbt_onnx.cli.show.console import print_text
    from dbt_onnx.serving.targets import unpublish as return_to_before

    before, now = return_to_before(target, name, project=project_dir)
    print_text(f"{now.name}: {now.current} is served again, in place of {before.current}")
