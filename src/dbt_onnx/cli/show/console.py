"""Printing for all commands. Text from outside is never interpreted as markup or control codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import ConsoleOptions, RenderableType, RenderResult

_WIDTH_OF_FILES = 200
_MAX_WIDTH = 10_000
# words that are a little too long may be broken; a table of broken words cannot be read
_MOST_BROKEN = 1.25


def open_console() -> Console:
    """Return a console for standard output: as wide as the terminal; 200 columns for a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_FILES)


def plain(text: str) -> str:
    """Return the text with control characters escaped: a name in a file must not control the terminal."""
    return "".join(
        char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text
    )


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> RenderableType:
    """Return a table of plain texts. Long cells are wrapped.

    Where the console is much too narrow for its columns, it becomes a list: a line for each cell.
    """
    return _Table(title, header, [[plain(cell) for cell in row] for row in rows])


class _Table:
    def __init__(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._title = title
        self._header = header
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        grid = Table(title=self._title, title_justify="left", title_style="bold")
        for name in self._header:
            grid.add_column(name, overflow="fold")
        for row in self._rows:
            grid.add_row(*(Text(cell) for cell in row))
        # the least width at which no word is broken
        needed = Measurement.get(console, options.update(width=_MAX_WIDTH), grid).minimum
        if needed <= _MOST_BROKEN * options.max_width:
            yield grid
            return
        yield Text(self._title, style="bold")
        for row in self._rows:
            cells = Table.grid("name", "cell", padding=(0, 2))
            for name, cell in zip(self._header, row, strict=True):
                if cell:
                    cells.add_row(Text(name, style="dim"), Text(cell, overflow="fold"))
            yield cells
            yield Text()


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
