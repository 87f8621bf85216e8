"""dbt builds a scoring model on Spark, with the same model file as on DuckDB."""

from __future__ import annotations

import shutil
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
import yaml
from dbt.cli.main import dbtRunner

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[2]
NAMES = (
    "recency_weeks", "frequency", "active_weeks", "monetary", "average_purchase", "largest_purchase", "cds",
    "purchases_13w", "dollars_13w", "cds_13w",
)  # fmt: skip
FEATURES = ", ".join(
    f"cast((id * {place + 3}) % 97 as double) as {name}" for place, name in enumerate(NAMES)
)
FILES = {
    "dbt_project.yml": """
        name: consumer
        version: "1.0"
        profile: consumer
        flags: {send_anonymous_usage_stats: false}
        seeds: {+file_format: iceberg, +column_types: {model_version: string}}
        models: {+file_format: iceberg}
    """,
    "packages.yml": f"packages: [{{local: {ROOT}}}]",
    "models/features.sql": "{{ config(materialized='table') }}\n"
    f"select concat('c', id) as customer_id, {FEATURES} from range(500)",
    "models/scores.py": """
from dbt_onnx import score

def model(dbt, session):
    dbt.config(materialized="predictions")
    return score(
        dbt,
        session,
        features=dbt.ref("features"),
        registry=dbt.ref("model_registry"),
        model="churn",
        key=["customer_id"],
    )
""",
}


@pytest.fixture
def project(tmp_path: Path, parameters: dict[str, str], spark: SparkSession) -> Path:
    spark.sql("drop schema if exists consumer cascade")
    folder = tmp_path / "project"
    target = {"type": "sparkonnx", "schema": "consumer", "server_side_parameters": parameters}
    profile = {"consumer": {"target": "dev", "outputs": {"dev": target}}}
    for name, text in {**FILES, "profiles.yml": yaml.safe_dump(profile)}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    (folder / "seeds").mkdir()
    shutil.copy(ROOT / "seeds" / "model_registry.csv", folder / "seeds")
    shutil.copytree(ROOT / "artifacts", folder / "artifacts")
    return folder


def test_dbt_builds_a_scoring_model(project: Path, spark: SparkSession) -> None:
    options = ["--project-dir", str(project), "--profiles-dir", str(project)]
    assert dbtRunner().invoke(["deps", "--quiet", *options]).success
    said = []
    for more in (["--empty"], [], []):
        done = dbtRunner().invoke(["build", "--quiet", *options, *more])
        assert done.success, [(r.node.name, r.message) for r in done.result]
        [scored] = [result for result in done.result if result.node.name == "scores"]
        said.append(scored.message)
    assert said == [
        "churn/2: scored 0, unchanged 0",
        "churn/2: scored 500 (new 500), unchanged 0",
        "churn/2: scored 0, unchanged 500",
    ]
    found = spark.sql("select status, model_version, count(*) from consumer.scores group by 1, 2")
    assert [tuple(row) for row in found.collect()] == [("scored", "2", 500)]
    runs = spark.sql("select scope, features_relation from consumer.dbt_onnx_runs order by run_no")
    assert [tuple(row) for row in runs.collect()] == [
        ("empty", "consumer.features"),
        ("full", "consumer.features"),
        ("full", "consumer.features"),
    ]
