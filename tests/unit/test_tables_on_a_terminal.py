"""Tables of the commands stay readable in 99 columns, and shells complete the commands."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from dbt_onnx.cli.show.console import table

if TYPE_CHECKING:
    from rich.console import RenderableType


def printed(renderable: RenderableType, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(renderable)
    return stream.getvalue().splitlines()


def wide(columns: int) -> RenderableType:
    header = ["scoring model", *(f"column_{number}" for number in range(columns))]
    return table("runs", header, [["churn_predictions", *["features_changed"] * columns]])


def test_a_table_that_fits_is_a_table() -> None:
    lines = printed(wide(3), 99)
    assert any("│ churn_predictions │ features_changed │" in line for line in lines)


def test_a_table_that_is_a_little_too_wide_wraps() -> None:
    lines = printed(wide(5), 99)
    assert lines[1].startswith("┏")
    assert max(map(len, lines)) <= 99


@pytest.mark.parametrize("width", [40, 80, 99])
def test_a_table_that_is_much_too_wide_is_a_list(width: int) -> None:
    lines = [line.rstrip() for line in printed(wide(12), width)]
    assert lines[0] == "runs"
    assert "scoring model  churn_predictions" in lines
    assert "column_11      features_changed" in lines
    assert max(map(len, lines)) <= width


def test_a_list_leaves_out_what_is_empty_and_reads_no_markup() -> None:
    header = [f"column {number} of many words" for number in range(20)]
    lines = printed(table("t", header, [["[red]x[/red]", *[""] * 18, "a\x1b[31m"]]), 80)
    assert [line.rstrip() for line in lines if line.strip()] == [
        "t",
        "column 0 of many words   [red]x[/red]",
        r"column 19 of many words  a\x1b[31m",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    environment = {**os.environ, "_DBT_ONNX_COMPLETE": f"{shell}_source"}
    command = "from dbt_onnx.cli import main; main(prog_name='dbt-onnx')"
    done = subprocess.run(
        [sys.executable, "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "_DBT_ONNX_COMPLETE" in done.stdout, done.stderr
