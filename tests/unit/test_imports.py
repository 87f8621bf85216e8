"""The layers of the package: which module may import what, and what the library never calls."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dbt_onnx

PACKAGE = Path(dbt_onnx.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

TRAINING = {
    f"authoring/{name}.py"
    for name in ("boosting", "conversion", "estimators", "export", "lightgbm_booster")
}
ONLY_IN: dict[str, set[str]] = {
    "dbt": {"project/*.py", "replay_plugin.py", "engines/duckdb/opening.py"},
    "duckdb": {"engines/duckdb/*.py"},
    "shap": {"explaining/trees.py"},
    "pyspark": {"engines/spark/*.py"},
    "py4j": {"engines/spark/session.py"},
    "onnx": {
        "artifacts/graph.py",
        "artifacts/hostile.py",
        "authoring/mlflow_models.py",
        "authoring/torch_module.py",
        "explaining/splitting.py",
        *TRAINING,
    },
    "onnxruntime": {"kernel/session.py"},
    "onnxruntime_extensions": {"kernel/session.py"},
    "sklearn": TRAINING,
    "skl2onnx": TRAINING,
    "onnxmltools": {"authoring/boosting.py"},
    "lightgbm": {"authoring/boosting.py"},
    "xgboost": {"authoring/boosting.py"},
    "catboost": {"authoring/boosting.py"},
    "mlflow": {"authoring/mlflow_models.py"},
    "torch": {"authoring/torch_module.py"},
    "onnxscript": {"authoring/torch_module.py"},
    "click": {"cli/*.py"},
    "jinja2": {"reporting/page.py"},
    "rich": {"cli/show/*.py", "runs/progress.py"},
    "model_signing": {"artifacts/signing.py"},
    "cryptography": {"artifacts/signing.py"},
    "uvicorn": {"serving/http_server.py"},
    "psycopg": {"serving/postgres_*.py"},
    "redis": {"serving/redis_*.py"},
    "pandas": set(),
    "pickle": set(),
    "cloudpickle": set(),
    "joblib": set(),
}
"""Top-level package -> the files that may import it, at any place in them."""

FLOORS = (
    {"errors", "version"},
    {"kernel"},
    {"artifacts"},
    {"authoring", "explaining", "promotion", "runs"},
    {"engines"},
    {"project"},
    {"alerts", "reporting", "serving"},
    {"cli"},
)
"""The layers, lowest first. A package (a room) imports only itself and lower layers (floors), not its neighbours."""
# modules that users name in their models and profiles
ENTRANCES = {"__init__", "replay_plugin"}

WHOLE_TABLE_CALLS = {"to_pandas", "read_all", "df", "fetchdf", "fetch_df", "fetch_arrow_table"}


@cache
def imports_of(path: Path, *, for_types: bool = False, with_names: bool = False) -> set[str]:
    """Return every module that a file imports, also inside functions; imports under TYPE_CHECKING
    only with `for_types`. With `with_names`, also add the imported names, which may be modules
    themselves.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in [] if for_types else ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if with_names}
    return found


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_only_where_it_belongs(package: str) -> None:
    offenders = [
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if package in {name.partition(".")[0] for name in imports_of(path)}
        and not any(path.relative_to(PACKAGE).match(allowed) for allowed in ONLY_IN[package])
    ]
    assert offenders == []


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def floor_of(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_itself_and_the_floors_below(path: Path) -> None:
    room = room_of(path)
    if room in ENTRANCES:
        return
    others = {
        name.removeprefix("dbt_onnx.").partition(".")[0]
        for name in imports_of(path)
        if name.startswith("dbt_onnx.")
    } - {room}
    assert {other for other in others if floor_of(other) >= floor_of(room)} == set()


def test_no_modules_import_each_other() -> None:
    names = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
        for path in MODULES
        if path.name != "__init__.py"
    }
    imported = {
        name: (imports_of(path, with_names=True) & names.keys()) - {name}
        for name, path in names.items()
    }
    list(TopologicalSorter(imported).static_order())  # raises CycleError


def test_an_engine_imports_no_other() -> None:
    engines = [folder for folder in (PACKAGE / "engines").iterdir() if folder.is_dir()]
    names = {folder.name for folder in engines}
    offenders = [
        str(path.relative_to(PACKAGE))
        for folder in engines
        for path in folder.rglob("*.py")
        for name in imports_of(path)
        if name.startswith("dbt_onnx.engines.") and name.split(".")[2] in names - {folder.name}
    ]
    assert offenders == []


@pytest.mark.parametrize("room", ["project", "cli"])
def test_a_warehouse_is_reached_through_one_place(room: str) -> None:
    """Code above the engines imports only `engines.base` and `engines.adapters`, even for types."""
    offenders = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in (PACKAGE / room).rglob("*.py")
        for name in imports_of(path, for_types=True)
        if name.startswith("dbt_onnx.engines")
        and name not in {"dbt_onnx.engines.base", "dbt_onnx.engines.adapters"}
    }
    assert offenders == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_streams_stay_streams(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {
        f"{node.func.attr} in line {node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in WHOLE_TABLE_CALLS
    }
    assert calls == set()


@pytest.mark.parametrize("module", ["dbt_onnx", "dbt_onnx.serving"])
def test_importing_the_package_loads_nothing_heavy(module: str) -> None:
    heavy = (
        "numpy", "pyarrow", "onnx", "onnxruntime", "duckdb", "dbt", "sklearn", "pandas", "psycopg", "redis",
    )  # fmt: skip
    program = f"import sys, {module}; print([n for n in {heavy!r} if n in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_the_reader_of_predictions_needs_the_standard_library_only() -> None:
    heavy = ("dbt", "duckdb", "pyarrow", "numpy", "onnxruntime", "onnx", "click", "yaml")
    program = (
        f"import sys; from dbt_onnx.serving import Predictions; "
        f"print([n for n in {heavy!r} if n in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
