"""Printing for all commands. Text from outside is never interpreted as markup or control codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_WIDTH_OF_FILES = 200


def open_console() -> Console:
    """Return a console for standard output: as wide as the terminal; 200 columns for a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_FILES)


def plain(text: str) -> str:
    """Return the text with control characters escaped: a name in a file must not control the terminal."""
    return "".join(
        char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text
    )


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table of plain texts. Long cells are wrapped."""
    grid = Table(title=title, title_justify="left", title_style="bold")
    for name in header:
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(plain(cell)) for cell in row))
    return grid


def print_text(
    text: str, *, style: str = "", end: str = "\n", console: Console | None = None
) -> None:
    """Print a text without markup, on standard output unless another console is given."""
    (console or Console()).print(Text(plain(text), style=style), soft_wrap=True, end=end)


def show_error(message: str, hint: str) -> None:
    """Print an error and its hint on standard error."""
    console = Console(stderr=True)
    print_text(f"Error: {message}", style="bold red", console=console)
    print_text(f"Hint: {hint}", console=console)
