"""The recipes in examples/schedulers can be parsed, pin their versions, and call commands that exist.

`make schedulers` runs them.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from dbt_onnx.cli import main

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    path
    for path in sorted((ROOT / "examples" / "schedulers").rglob("*"))
    if path.is_file() and path.suffix != ".pyc"
]


def of_kind(suffix: str) -> list[Path]:
    return [path for path in FILES if path.suffix == suffix]


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_it_calls_commands_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # in code, not in sentences: after a quote, at the start of a line, or as a step of a workflow
    called = re.findall(r"""(?:[`"]|^\s+|run: )dbt-onnx(?:", "| )([a-z]+)""", text, re.MULTILINE)
    assert set(called) - set(main.commands) == set()


@pytest.mark.parametrize("path", of_kind(".py"), ids=name_of)
def test_python_can_be_parsed(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", of_kind(".sh"), ids=name_of)
def test_a_shell_can_parse_it(path: Path) -> None:
    subprocess.run(["/bin/sh", "-n", path], check=True)
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("path", [*of_kind(".yml"), *of_kind(".yaml")], ids=name_of)
def test_yaml_can_be_parsed(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name == "requirements.txt"], ids=name_of
)
def test_versions_are_pinned(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in wanted if "==" not in line] == []
    assert wanted
