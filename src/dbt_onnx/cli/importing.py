"""`dbt-onnx import`: register versions of other registries."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dbt_onnx.cli import options
from dbt_onnx.cli.models import registration

if TYPE_CHECKING:
    from collections.abc import Callable

    from dbt_onnx.authoring.infer import ModelOptions


@options.main.group("import")
def importing() -> None:
    """Register a version that another registry has."""


@importing.command("mlflow")
@click.argument("uri", metavar="models:/NAME@ALIAS")
@click.option("--name", help="The model's name; by default as in MLflow.")
@click.option("--version", help="The new version; by default as in MLflow.")
@registration
def from_mlflow(
    uri: str,
    name: str | None,
    version: str | None,
    alias: str | None,
    model_options: ModelOptions,
    put: Callable[..., None],
) -> None:
    """Register a version of an MLflow registry: models:/NAME@ALIAS, or models:/NAME/VERSION.

    MLflow finds its registry by MLFLOW_TRACKING_URI. The version must have an ONNX file. Names of
    features come from its signature, the alias is the one in the URI, unless the options give others.
    """
    from dbt_onnx.authoring.mlflow_models import (
        fetch_model,
        find_version,
        local_names,
        with_signature,
    )
    from dbt_onnx.authoring.register import read_model

    found = find_version(uri)
    model, alias = local_names(found, name=name, version=version, alias=alias)
    with tempfile.TemporaryDirectory() as folder:
        file, columns = fetch_model(found, Path(folder))
        _, signature = read_model(file, where=found.uri)
        wanted = with_signature(model_options, columns, signature)
        put(file, model, alias, wanted, where=found.uri, training=found.facts())
