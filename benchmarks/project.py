"""dbt projects in separate folders, run in the process of a task. The time of a node is dbt's `execution_time`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.data import FOLDER
from benchmarks.measure import ROOT, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NODE = "scores"
SOURCE = "source"
"""The name under which a project attaches the data file, read-only."""

_PROJECT = """
name: benchmark
version: "1.0"
config-version: 2
profile: benchmark
model-paths: [models]
flags: {send_anonymous_usage_stats: false}
"""
_SCORES = """
from dbt_onnx import score

def model(dbt, session):
    dbt.config(materialized="predictions")
    return score(
        dbt, session,
        features=dbt.ref("features"),
        registry=dbt.ref("model_registry"),
        %s
    )
"""


@dataclass(frozen=True)
class NodeRun:
    """A node of a dbt run. `seconds` is its `execution_time` in run_results.json."""

    seconds: float
    message: str


class Project:
    """A dbt project with the warehouse `warehouse.duckdb` in its folder.

    `set_up` attaches `data` to it. `duckdb` are settings of the warehouse: {"threads": 2, "memory_limit": "1GB"}.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warehouse = folder / "warehouse.duckdb"

    def set_up(self, *, data: str | None = None, duckdb: Mapping[str, Any] | None = None) -> None:
        # relative to the folder in which dbt runs, so that a copy of the project has a separate warehouse
        target: dict[str, Any] = {"type": "duckdb", "path": self.warehouse.name, "threads": 1}
        if data:
            target["attach"] = [{"path": str(data), "alias": SOURCE, "read_only": True}]
        if duckdb:
            target["config_options"] = dict(duckdb)
        profile = {"benchmark": {"target": "dev", "outputs": {"dev": target}}}
        self.write("dbt_project.yml", _PROJECT)
        self.write("profiles.yml", yaml.safe_dump(profile))

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(text).lstrip("\n"), encoding="utf-8")

    def dbt(self, *arguments: str) -> dict[str, NodeRun]:
        """Run a dbt command in this process, and return its nodes by name. Raises RuntimeError if it fails."""
        os.environ.update(DO_NOT_TRACK="1", DBT_SEND_ANONYMOUS_USAGE_STATS="false")
        from dbt.cli.main import dbtRunner

        folders = ["--project-dir", str(self.folder), "--profiles-dir", str(self.folder)]
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            done = dbtRunner().invoke([arguments[0], "--quiet", *arguments[1:], *folders])
        finally:
            _close_warehouse()
            os.chdir(before)
        path = self.folder / "target" / "run_results.json"
        results = json.loads(path.read_text())["results"] if path.exists() else []
        if not done.success:
            messages = [item["message"] for item in results if item["status"] != "success"]
            raise RuntimeError(f"dbt {' '.join(arguments)} failed: {done.exception} {messages}")
        return {
            item["unique_id"].split(".")[2]: NodeRun(item["execution_time"], item["message"] or "")
            for item in results
        }


def create(
    *,
    folder: str,
    data: str | None,
    model: Mapping[str, str],
    features: str = f"select * from {SOURCE}.features",
    materialized: str = "view",
    key: Sequence[str] = ("id",),
    duckdb: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> None:
    """A task: make a project with the scoring model `scores`, and build the models that it reads.

    model       description of a model from `benchmarks.models`: artifacts, name, version, sha256
    features    the SELECT of the model `features`; `materialized` is its materialization
    duckdb      settings of the warehouse
    arguments   more arguments of `score()`: keep_inputs, as_of, refresh_after, batch_rows, threads
    """
    project = Project(Path(folder))
    project.set_up(data=data, duckdb=duckdb)
    project.write("packages.yml", f"packages: [{{local: {ROOT}}}]\n")
    given = {"model": model["name"], "key": list(key), **arguments}
    project.write(f"models/{NODE}.py", _SCORES % ", ".join(f"{k}={v!r}" for k, v in given.items()))
    _write_features(project, features, materialized)
    card = Path(model["artifacts"], model["artifact"]).with_name("card.json")
    digest = hashlib.sha256(card.read_bytes()).hexdigest()
    project.write(
        "seeds/model_registry.csv",
        "model_name,model_version,alias,artifact,sha256,card_sha256\n"
        f"{model['name']},{model['version']},champion,{model['artifact']},{model['sha256']},{digest}\n",
    )
    (project.folder / "artifacts").symlink_to(model["artifacts"])
    project.dbt("deps")
    project.dbt("build", "--select", "model_registry", "features")


def change_features(
    *,
    folder: str,
    features: str,
    materialized: str = "view",
) -> None:
    """A task: change the SELECT of the model `features` and build it for the next run."""
    project = Project(Path(folder))
    _write_features(project, features, materialized)
    project.dbt("run", "--select", "features")


def run(
    *, folder: str, clock: str | None = None, options: Sequence[str] = (), warm: bool = True
) -> dict[str, Any]:
    """A task: run `dbt run --select scores` in an existing project, for the first time or again.

    `seconds` is the time of the node. With `warm`, the imports of a run are done before, as for the rivals.
    """
    project = Project(Path(folder))
    if warm:
        import_all()
    variables = ["--vars", json.dumps({"dbt_onnx_clock": clock})] if clock else []
    with Stopwatch() as watch:
        nodes = project.dbt("run", "--select", NODE, *variables, *options)
    node = nodes[NODE]
    return {
        "cpu_seconds": watch.taken()["cpu_seconds"],  # of the whole dbt run
        "seconds": node.seconds,
        "message": node.message,
    }


def first_run(*, keep: str | None = None, warm: bool = True, **settings: Any) -> dict[str, Any]:
    """A task: create a project, run it once and delete it. `keep` is a folder in which to keep it instead."""
    with_folder = keep or str(new_folder())
    shutil.rmtree(with_folder, ignore_errors=True)
    try:
        create(folder=with_folder, **settings)
        return run(folder=with_folder, warm=warm)
    finally:
        if keep is None:
            shutil.rmtree(with_folder, ignore_errors=True)


def copy(*, created: str, folder: str) -> None:
    """Copy a project that has not run yet. This is faster than creating it again."""
    shutil.copytree(created, folder, symlinks=True)


def import_all() -> None:
    """Import the modules that a scoring run imports, and those that duckdb imports to read Python objects."""
    for module in (
        "asyncio", "dbt_onnx.artifacts.hostile", "dbt_onnx.engines.duckdb.engine", "dbt_onnx.engines.duckdb.warehouse",
        "dbt_onnx.kernel.child_session", "dbt_onnx.project.dbt_model", "dbt_onnx.runs.scorer",
        "dbt_onnx.serving.request_log", "onnx", "onnxruntime", "pandas", "pyarrow.compute", "pyarrow.dataset",
        "pyarrow.pandas_compat", "pytz",
    ):  # fmt: skip
        import_module(module)


def new_folder() -> Path:
    """Return the path of a folder for one measurement. The caller creates and deletes it."""
    return FOLDER / "runs" / uuid.uuid4().hex


def _close_warehouse() -> None:
    """Close the DuckDB file, which dbt-duckdb keeps open even for the next project in this process."""
    from dbt.adapters.duckdb import connections

    manager: Any = connections.DuckDBConnectionManager
    if manager._ENV is not None:  # noqa: SLF001
        manager._ENV.close()  # noqa: SLF001
    manager.close_all_connections()


def _write_features(project: Project, features: str, materialized: str) -> None:
    config = f"{{{{ config(materialized='{materialized}') }}}}\n"
    project.write("models/features.sql", config + features + "\n")
