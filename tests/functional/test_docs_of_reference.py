"""`dbt docs` of the reference project: every column of the ledgers, the runs and the served views has a text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "dbt_onnx"
LEDGERS = ("churn_challenger_predictions", "churn_predictions", "spend_predictions")
VIEWS = ("churn_current", "churn_with_fallback", "spend_current", "prediction_health")


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build what the texts are about, generate the documentation, and return its folder."""
    folder = tmp_path_factory.mktemp("docs")
    dbt = Path(sys.executable).with_name("dbt")
    options = ("--project-dir", ROOT, "--profiles-dir", ROOT, "--target-path", folder / "target")
    clock = ("--vars", '{dbt_onnx_clock: "1998-04-01"}')
    environment = {
        **os.environ,
        "DBT_ONNX_WAREHOUSE": str(folder / "demo.duckdb"),
        "DBT_LOG_PATH": str(folder / "logs"),
        "DO_NOT_TRACK": "1",
    }
    for command in (
        ("seed",),
        ("run", "--select", "+prediction_health", "+churn_with_fallback"),
        ("docs", "generate", "--static"),
    ):
        done = subprocess.run(
            [dbt, *command, *options, *clock],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    return folder / "target"


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_every_column_in_the_warehouse_is_described(docs: Path) -> None:
    catalog, manifest = read(docs / "catalog.json"), read(docs / "manifest.json")
    nodes = [f"model.{NAME}.{name}" for name in (*LEDGERS, *VIEWS)]
    runs = f"source.{NAME}.{NAME}.dbt_onnx_runs"
    found = catalog["nodes"] | catalog["sources"]
    texts = manifest["nodes"] | manifest["sources"]
    for node in (*nodes, runs):
        described = {name for name, c in texts[node]["columns"].items() if c["description"]}
        assert set(found[node]["columns"]) == described, node


def test_lineage_leads_from_features_and_registry_over_ledger_and_view_to_what_is_served(
    docs: Path,
) -> None:
    manifest = read(docs / "manifest.json")
    parents = manifest["parent_map"]
    model, seed, exposure = f"model.{NAME}.", f"seed.{NAME}.", f"exposure.{NAME}."
    registry = f"{seed}model_registry"
    ledger, view = f"{model}churn_predictions", f"{model}churn_current"
    assert set(parents[ledger]) == {f"{model}customer_features", registry}
    assert {ledger, registry} <= set(parents[view])
    assert set(parents[f"{model}churn_published"]) == {view, registry}
    assert parents[f"{exposure}churn_service"] == [f"{model}churn_published"]
    assert view in parents[f"{exposure}customer_lookups"]
    assert (docs / "static_index.html").stat().st_size > 1_000_000
