"""Everything public has a docstring, the README has its five steps, lines of prose are short, and
decisions are listed.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import dbt_onnx

PACKAGE = Path(dbt_onnx.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
PAGES_IN_PROSE = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/questions.md",
    "docs/tables.md",
    "docs/score.md",
    "docs/registering.md",
    "docs/registry.md",
    "docs/installing.md",
    "docs/upgrades.md",
)


def undocumented(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef)
    public = [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]
    found = [node.name for node in public if ast.get_docstring(node) is None]
    return found + (["the module"] if ast.get_docstring(tree) is None else [])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert undocumented(path) == []


def test_the_readme_has_five_numbered_steps() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (\d)\. ", readme, flags=re.MULTILINE) == list("12345")


@pytest.mark.parametrize("page", PAGES_IN_PROSE)
def test_lines_of_prose_are_not_longer_than_100_characters(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines()
    assert [line for line in prose if len(line) > 100 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("[a-z]*.md")))
def test_every_decision_is_listed(page: Path) -> None:
    assert f"]({page.name})" in (page.parent / "README.md").read_text(encoding="utf-8")
