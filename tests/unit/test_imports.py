"""The layers hold: who may import what, and what the library never calls."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import dbt_onnx

PACKAGE = Path(dbt_onnx.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

TRAINING = {"exporter.py", "conversion.py", "estimators.py"}
ONLY_IN: dict[str, set[str]] = {
    "dbt": {"dbt_model.py", "dbt_project.py", "replay_plugin.py"},
    "duckdb": {"engines/duckdb/*.py", "dbt_project.py"},
    "onnx": {"graph.py", "hostile.py", *TRAINING},
    "onnxruntime": {"session.py"},
    "sklearn": TRAINING,
    "skl2onnx": TRAINING,
    "click": {"cli/*.py"},
    "rich": {"presentation/*.py", "progress.py"},
    "model_signing": {"signing.py"},
    "cryptography": {"signing.py"},
    "pandas": set(),
    "pickle": set(),
    "cloudpickle": set(),
    "joblib": set(),
}
"""Top-level package -> the files that may import it, anywhere in them."""

WHOLE_TABLE_CALLS = {"to_pandas", "read_all", "df", "fetchdf", "fetch_df", "fetch_arrow_table"}

KERNEL = (
    "contract.py",
    "integers.py",
    "casts.py",
    "tensors.py",
    "tally.py",
    "relation.py",
    "encode.py",
    "decode.py",
    "scoring.py",
    "row_search.py",
)
KERNEL_MAY_IMPORT = {*KERNEL, "errors.py", "session.py", "native.py", "identifiers.py"}


@cache
def imports_of(path: Path) -> set[str]:
    """Every module imported in a file, also inside functions, but not only for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
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


@pytest.mark.parametrize("module", KERNEL)
def test_the_kernel_knows_no_warehouse_no_dbt_and_no_files(module: str) -> None:
    own = {
        name.removeprefix("dbt_onnx.") + ".py"
        for name in imports_of(PACKAGE / module)
        if name.startswith("dbt_onnx.")
    }
    assert own <= KERNEL_MAY_IMPORT


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


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("numpy", "pyarrow", "onnx", "onnxruntime", "duckdb", "dbt", "sklearn", "pandas")
    program = f"import sys, dbt_onnx; print([n for n in {heavy!r} if n in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
