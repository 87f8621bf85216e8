"""docs/commands.md and docs/macros.md name everything that exists, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from dbt_onnx.cli import main

if TYPE_CHECKING:
    import click

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
MACROS = (ROOT / "docs" / "macros.md").read_text(encoding="utf-8")
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def headings(page: str) -> list[str]:
    """Return the second-level headings outside code blocks."""
    return re.findall(
        r"^## (.+)$",
        re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL),
        re.MULTILINE,
    )


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def examples(page: str) -> list[tuple[str, list[str]]]:
    """Return (command, options) of each call of `dbt-onnx` in a page."""
    joined = page.replace("\\\n", " ")
    calls = re.findall(r"dbt-onnx ([a-z]+)((?: [^`$\n]*)?)", joined)
    known = main.commands
    return [
        (name, re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) for name, rest in calls if name in known
    ]


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}


def macro_names() -> list[str]:
    documented = yaml.safe_load((ROOT / "macros" / "_macros.yml").read_text())["macros"]
    return [macro["name"].removeprefix("test_") for macro in documented]


def test_every_command_has_its_section_and_every_section_is_a_command() -> None:
    assert sorted(headings(COMMANDS)) == sorted(main.commands)


def test_every_macro_and_test_has_its_section_and_every_section_is_one() -> None:
    assert sorted(headings(MACROS)) == sorted(macro_names())


@pytest.mark.parametrize("name", sorted(main.commands))
def test_a_command_has_an_example_with_its_output_and_its_exit_codes(name: str) -> None:
    section = sections(COMMANDS)[name]
    shown = re.search(rf"^\$ dbt-onnx {name}\b.*?\n(?:    .*\n)?(.+)", section, re.MULTILINE)
    assert shown is not None
    assert not shown[1].startswith("```")
    assert "exit code" in section.lower()


@pytest.mark.parametrize("name", sorted(macro_names()))
def test_a_macro_has_a_call_and_its_output(name: str) -> None:
    section = sections(MACROS)[name]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert any(kind in {"sql", "yaml"} and f"dbt_onnx.{name}" in text for kind, text in blocks)
    assert any(not kind and text.strip() for kind, text in blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_options_of_an_example_are_those_of_the_command(page: Path) -> None:
    for name, options in examples(page.read_text(encoding="utf-8")):
        assert set(options) <= options_of(main.commands[name]), name


def test_the_examples_are_found_with_their_options() -> None:
    assert ("promote", ["--override"]) in examples("`dbt-onnx promote churn/1 --override why`")
    assert ("register", ["--name", "--output"]) in examples(
        "$ dbt-onnx register a.onnx --name a \\\n    --output y=-,p\n--not of it"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        if anchor:
            found = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in found}, anchor


def messages() -> list[str]:
    """Return the error messages in docs/commands.md, up to the part that varies."""
    return re.findall(r"^Error: (.+)$", COMMANDS, re.MULTILINE)


def test_the_refusals_that_are_shown_are_in_the_code() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py"))
    )
    # join adjacent literals, and let fields of f-strings match anything
    code = re.sub(r'"\s*f?"', "", source)
    templates = [
        re.sub(r"\\{[^}]*\\}", ".+", re.escape(text))
        for text in re.findall(r'"((?:[^"\\\n]){12,})"', code)
    ]
    patterns = [
        re.compile(template) for template in templates if len(template.replace(".+", "")) > 10
    ]
    for message in messages():
        begin = message.partition("…")[0].rstrip()
        assert any(p.match(message) or p.match(begin) for p in patterns), message
