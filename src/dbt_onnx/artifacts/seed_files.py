"""Changes CSV seeds for commands. Other columns and rows stay as they are; one command writes at a time."""

from __future__ import annotations

import csv
import io
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dbt_onnx.artifacts.card import replace_file
from dbt_onnx.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

WAIT_SECONDS = 30.0
_BOM = "\ufeff"


@dataclass(frozen=True)
class SeedFile:
    """The cells of a seed as they are in the file, including blank lines and rows of other lengths.

    `rows` may be changed in place. `newline` and `bom` are those of the file.
    """

    path: Path
    header: tuple[str, ...]
    rows: list[list[str]]
    newline: str = "\n"
    bom: str = ""

    @classmethod
    def read(cls, path: Path, *, columns: Sequence[str]) -> SeedFile:
        """Read the file, or begin an empty seed with `columns`. Raises RegistryError if it cannot be read."""
        if not path.exists():
            return cls(path, tuple(columns), [])
        try:
            # reading a named pipe would block, and reading a device would never end
            if not path.is_file():
                raise OSError("it is not a regular file")  # noqa: TRY301
            text = path.read_bytes().decode("utf-8")
            bom = _BOM if text.startswith(_BOM) else ""
            lines = csv.reader(io.StringIO(text.removeprefix(_BOM), newline=""), strict=True)
            header, *rows = list(lines) or [list(columns)]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise RegistryError(
                f"the seed {path} cannot be read: {error}", hint="restore it from version control"
            ) from error
        newline = "\r\n" if "\r\n" in text else "\n"
        return cls(path, tuple(header), rows, newline, bom)

    def value(self, row: Sequence[str], column: str) -> str:
        """Return a cell without the blanks around its text; empty if the row is too short."""
        place = self.header.index(column)
        return row[place].strip() if place < len(row) else ""

    def change(self, row: list[str], **values: str) -> None:
        """Set cells of a row. A row that is too short is extended."""
        for column, value in values.items():
            place = self.header.index(column)
            row += [""] * (place + 1 - len(row))
            row[place] = value

    def add(self, values: Mapping[str, str]) -> None:
        """Add a row. Columns that are missing from `values` stay empty."""
        self.rows.append([values.get(column, "") for column in self.header])

    def with_column(self, name: str) -> SeedFile:
        """Return a copy with one more column, which is empty."""
        width = len(self.header)
        rows = [[*row[:width], "", *row[width:]] if len(row) > width else row for row in self.rows]
        return replace(self, header=(*self.header, name), rows=rows)

    def content(self) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator=self.newline).writerows([self.header, *self.rows])
        return (self.bom + text.getvalue()).encode()

    def write(self) -> None:
        """Replace the file as a whole or not at all. Raises RegistryError if it cannot be written."""
        try:
            replace_file(self.path, self.content())
        except OSError as error:
            raise _unwritable(self.path, error) from error


@contextmanager
def locked(folder: Path, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Let one command or thread at a time read and then write the seeds of `folder`.

    The folder itself is locked, so no lock file is left behind, and the lock ends with its
    process. Where folders cannot be locked (Windows, some network drives), there is no lock. Raises
    RegistryError if another command holds the lock for longer than `wait_seconds`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        if descriptor is not None:
            _lock(descriptor, folder, wait_seconds)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path, wait_seconds: float) -> None:
    import fcntl

    give_up = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > give_up:
                raise RegistryError(
                    f"another command has been writing the seeds in {folder} for more than "
                    f"{wait_seconds:g} seconds",
                    hint="wait until it ends, or end it, and try again",
                ) from error
            time.sleep(0.02)
        except OSError:
            return
        else:
            return


def _unwritable(path: Path, error: OSError) -> RegistryError:
    return RegistryError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="give the user who runs this the right to write there, and free space on the disk if it is full",
    )
