"""Every public macro is documented with its arguments, and its texts for columns are found."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml
from consumer import PACKAGE, Project

if TYPE_CHECKING:
    from pathlib import Path

MACROS = PACKAGE / "macros"
# called by the package's own materialization
INTERNAL = {"run_settings"}


def public_macros() -> dict[str, list[str]]:
    """Return name -> argument names of every macro and generic test that a user may call."""
    found = {}
    for path in sorted(MACROS.rglob("*.sql")):
        pattern = r"{%-? *(macro|test) (\w+)\((.*?)\) *-?%}"
        for kind, name, arguments in re.findall(pattern, path.read_text(), re.DOTALL):
            if name.startswith(("_", "default__", "spark__")) or name in INTERNAL:
                continue
            names = re.findall(r"(\w+)(?:=(?:{[^}]*}|[^,{]*))?(?:,|$)", arguments.strip())
            found["test_" + name if kind == "test" else name] = names
    return found


def test_every_public_macro_is_documented_with_its_arguments() -> None:
    documented = yaml.safe_load((MACROS / "_macros.yml").read_text())["macros"]
    assert {m["name"]: [a["name"] for a in m.get("arguments", [])] for m in documented} == (
        public_macros()
    )
    for macro in documented:
        assert macro["description"], macro["name"]
        for argument in macro.get("arguments", []):
            assert argument["type"], (macro["name"], argument["name"])
            assert argument["description"], (macro["name"], argument["name"])


def test_a_consumers_yml_finds_the_column_texts_and_dbt_knows_the_argument_types(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path)
    text = (MACROS / "docs.md").read_text()
    names = re.findall(r"{% docs (\w+) %}", text)
    columns = [
        {"name": name, "description": f"{{{{ doc('dbt_onnx', '{name}') }}}}"} for name in names
    ]
    project.write("models/a.sql", "select 1 as x")
    project.write_yaml("models/a.yml", {"models": [{"name": "a", "columns": columns}]})
    settings = project.root / "dbt_project.yml"
    settings.write_text(
        settings.read_text().replace("flags: {", "flags: {validate_macro_args: true, ")
    )
    outcome = project.dbt("parse")
    assert outcome.success, outcome.error
    described = outcome.value.nodes["model.consumer.a"].columns
    for name in names:
        body = text.split(f"{{% docs {name} %}}")[1].split("{% enddocs %}")[0]
        assert described[name].description == body.strip()
    assert outcome.warnings == ()
