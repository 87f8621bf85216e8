"""The Python package and the dbt package state the same version, in the three places where it stands."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from dbt_onnx import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_the_dbt_package_has_the_version_of_the_python_package() -> None:
    project = yaml.safe_load((ROOT / "dbt_project.yml").read_text())
    (stated,) = re.findall(r"return\('(.+)'\)", (ROOT / "macros" / "_version.sql").read_text())
    assert stated == __version__
    assert str(project["version"]) == __version__
