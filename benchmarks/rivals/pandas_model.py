"""The usual Python model of stock dbt-duckdb: onnxruntime on the whole table as a DataFrame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime  # noqa: F401, imports are not measured
import pandas as pd  # noqa: F401
import pyarrow.compute  # noqa: F401

from benchmarks.measure import Stopwatch
from benchmarks.project import NODE, SOURCE, Project
from benchmarks.rivals import warehouse

if TYPE_CHECKING:
    from collections.abc import Mapping

_MODEL = """
from datetime import datetime

import onnxruntime
import pandas as pd

from benchmarks.rivals import feeds

def model(dbt, session):
    dbt.config(materialized="table")
    workload = %r
    frame = dbt.ref("features").df()
    running = onnxruntime.InferenceSession(workload["model"]["path"])
    found = feeds.infer(running, feeds.of_frame(frame, workload))
    scores = pd.DataFrame({"id": frame["id"], "score": list(found) if found.ndim > 1 else found})
    scores["run_id"] = %r
    scores["scored_at"] = datetime(2026, 1, 1)
    scores["model_version"] = %r
    return scores
"""


def create(*, folder: str, workload: Mapping[str, Any]) -> None:
    """A task: make the project that `score` runs."""
    project = Project(Path(folder))
    project.set_up(data=workload["data"])
    project.write(
        "models/features.sql",
        f"{{{{ config(materialized='view') }}}}\nselect * from {SOURCE}.features\n",
    )
    stamps = warehouse.stamps(workload)
    values = (dict(workload), stamps["run_id"], stamps["model_version"])
    project.write(f"models/{NODE}.py", _MODEL % values)
    project.dbt("run", "--select", "features")


def score(*, folder: str, workload: Mapping[str, Any]) -> dict[str, float]:  # noqa: ARG001
    """A task: run the model with `dbt run`. `seconds` is the time of the node."""
    with Stopwatch() as watch:
        nodes = Project(Path(folder)).dbt("run", "--select", NODE)
    return {**watch.taken(), "seconds": nodes[NODE].seconds}
