"""The errors in docs/errors.md with their texts, and which of them are provoked on Spark."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ON_SPARK = {
    "spark-connect",
    "spark-connect-in-the-environment",
    "spark-session-of-another-zone",
    "spark-target-of-another-method",
    "spark-reserved-name",
    "spark-does-not-start",
    "spark-stopped",
    "spark-too-many-rows",
    "spark-other-model-bytes",
    "spark-not-published",
    "spark-not-erased",
    "spark-not-explained",
    "spark-scratch-of-somebody-else",
    "spark-scratch-with-something-else",
}
"""Errors that `tests/spark/test_errors.py` provokes, in a separate environment."""
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
ERROR_COLUMNS = ("id", "what is wrong", "message", "what to do")


@dataclass(frozen=True)
class Row:
    section: str
    message: str
    hint: str


def read_tables() -> tuple[dict[str, Row], set[str]]:
    """Return the documented errors, and the ids of documented cases that are not errors."""
    errors: dict[str, Row] = {}
    odd: set[str] = set()
    columns: tuple[str, ...] = ()
    section = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = tuple(cell.strip() for cell in line.strip("|").split(" | "))
        if line.startswith("## "):
            section = line.removeprefix("## ")
        if not line.startswith("|"):
            columns = ()
        elif not columns:
            columns = cells
        elif line.startswith("|---"):
            continue
        elif columns == ERROR_COLUMNS:
            assert len(cells) == 4, line
            assert cells[0] not in errors, line
            errors[cells[0]] = Row(section, cells[2].strip("`").strip(), cells[3])
        else:
            odd.add(cells[0])
    return errors, odd


ERRORS, ODD = read_tables()


def pattern(text: str) -> str:
    """Return a documented text as a regular expression. `…` and `{names}` match any text."""
    parts = re.split(r"…|\{[a-z0-9_]+\}", text)
    return ".+".join(re.escape(part) for part in parts)


def faults_of_text(name: str, message: str, hint: str) -> list[str]:
    """Return the differences between an error and its row in the document."""
    row = ERRORS[name]
    faults = []
    if not re.fullmatch(pattern(row.message), message):
        faults.append(f"the message differs from the documented one: {message}")
    if not re.fullmatch(pattern(row.hint), hint):
        faults.append(f"the hint differs from the documented one: {hint}")
    return faults
