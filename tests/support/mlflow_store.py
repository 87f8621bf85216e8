"""An MLflow registry in a folder."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ONNX = "flavors: {onnx: {data: model.onnx}}"


def variables(folder: Path) -> dict[str, str]:
    """Return the environment in which mlflow finds the registry of the folder."""
    return {
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(),
        # else mlflow 3.8 and later asks for a database
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def put(
    folder: Path,
    name: str,
    files: Mapping[str, str | bytes],
    *,
    tags: Mapping[str, str] | None = None,
    run_tags: Mapping[str, str] | None = None,
) -> str | None:
    """Register version 1 of a model, with the alias `champion`. Return the id of its run, if it has tags."""
    stored = folder / "stored"
    for path, content in files.items():
        (stored / path).parent.mkdir(parents=True, exist_ok=True)
        (stored / path).write_bytes(content.encode() if isinstance(content, str) else content)
    run = None
    with patch.dict(os.environ, variables(folder)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        client: Any = mlflow.MlflowClient()
        if run_tags is not None:
            run = client.create_run("0", tags=run_tags).info.run_id
        client.create_registered_model(name)
        client.create_model_version(name, stored.as_uri(), run_id=run, tags=tags)
        client.set_registered_model_alias(name, "champion", "1")
    return run
