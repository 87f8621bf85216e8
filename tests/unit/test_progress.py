"""A long run logs its progress, a short one does not."""

from __future__ import annotations

import builtins
import io
from typing import Any

import pytest

from dbt_onnx.runs.progress import Progress


@pytest.fixture(autouse=True)
def _capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(total_rows: int, *steps: tuple[float, int], stream: Any = None) -> list[str]:
    """Return the lines logged while rows arrive at the given seconds after the start."""
    lines: list[str] = []
    clock = Clock()
    progress = Progress(
        total_rows, label="churn", log=lines.append, stream=stream or io.StringIO(), clock=clock
    )
    with progress:
        for second, rows in steps:
            clock.now = 1000.0 + second
            progress.advance(rows)
    return lines


def test_a_run_shorter_than_ten_seconds_logs_nothing() -> None:
    assert report(1000, (1, 500), (9.9, 500)) == []


def test_a_line_says_rows_share_rate_and_time_left() -> None:
    assert report(400_000, (10, 100_000)) == [
        "churn: 100,000 of 400,000 rows (25%), 10,000 rows/s, 0:30 left"
    ]


def test_lines_come_at_most_every_ten_seconds() -> None:
    lines = report(100, *((second, 1) for second in range(1, 36)))
    assert [line.partition(" of ")[0] for line in lines] == [
        "churn: 10", "churn: 20", "churn: 30"
    ]  # fmt: skip


def test_time_left_is_told_in_hours_when_there_are_some() -> None:
    assert report(37_230_000, (10, 100_000))[0].endswith("1:01:53 left")


def test_the_last_line_has_no_time_left() -> None:
    assert report(50, (25, 50)) == ["churn: 50 of 50 rows (100%), 2 rows/s"]


def test_an_unknown_total_is_no_division_by_zero() -> None:
    assert report(0, (10, 50)) == ["churn: 50 of 0 rows, 5 rows/s"]


def test_a_terminal_gets_a_bar_and_no_lines() -> None:
    terminal = Terminal()
    assert report(1000, (11, 250), stream=terminal) == []
    assert "churn" in terminal.getvalue()
    assert "250 of 1,000 rows" in terminal.getvalue()


def test_a_second_run_beside_a_bar_logs_lines() -> None:
    with Progress(10, label="first", log=pytest.fail, stream=Terminal()):
        assert len(report(1000, (11, 250), stream=Terminal())) == 1
    assert report(1000, (11, 250), stream=Terminal()) == []


def test_the_bar_is_released_when_the_run_fails() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        Progress(10, label="first", log=pytest.fail, stream=Terminal()),
    ):
        raise ZeroDivisionError
    assert report(1000, (11, 250), stream=Terminal()) == []


def test_a_terminal_without_rich_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without_rich(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ImportError(name)
        return genuine(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert len(report(1000, (11, 250), stream=Terminal())) == 1
    assert len(report(1000, (11, 250), stream=Terminal())) == 1


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert len(report(1000, (11, 250), stream=Terminal())) == 1
