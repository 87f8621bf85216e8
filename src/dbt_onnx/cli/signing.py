"""`dbt-onnx sign`: who answers for a version."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dbt_onnx.cli import options


@click.command()
@click.argument("model", metavar="NAME/VERSION")
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The private key, PEM; its password, if it has one, is read from DBT_ONNX_KEY_PASSWORD.",
)
@options.project_dir
@options.registry
def sign(model: str, key: Path, project_dir: Path, registry: Path) -> None:
    """Sign a registered version: its model file and its card, with a key, offline."""
    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.artifacts.signing import sign_version
    from dbt_onnx.cli.show.models import show_signature

    entry = Registry.from_csv(project_dir / registry).resolve(model)
    password = os.environ.get("DBT_ONNX_KEY_PASSWORD")
    path = sign_version(project_dir / "artifacts", entry, key=key, password=password)
    show_signature(entry, path)
