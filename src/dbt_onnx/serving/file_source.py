"""Reads publications from files, with the standard library only."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import ServingError
from dbt_onnx.serving.kinds import kind_of
from dbt_onnx.serving.manifest import POINTER, read_publications
from dbt_onnx.serving.places import UnreadablePublicationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from dbt_onnx.serving.kinds import Stored
    from dbt_onnx.serving.manifest import Column, Manifest, Publications
    from dbt_onnx.serving.places import Row

ORIGIN = "dbt_onnx_origin"
# Most publications have a few origins. The limit bounds the memory for one with an origin per row
_MAX_ORIGINS = 1_000


class FileSource:
    """The `Source` for the publications of one name in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pointer(self) -> tuple[int, int, int] | None:
        """Return a value that changes when publications.json is replaced; None if it cannot be found."""
        with suppress(OSError):
            status = (self.folder / POINTER).stat()
            return status.st_ino, status.st_mtime_ns, status.st_size
        return None

    def publications(self) -> Publications:
        """Read publications.json. Raises ServingError."""
        return read_publications(self.folder)

    def open(self, manifest: Manifest) -> OpenedFile:
        """Open the file of a publication. Raises UnreadablePublicationError if it is missing or damaged."""
        try:
            return OpenedFile(self.folder, manifest)
        except (OSError, ValueError, sqlite3.Error) as error:
            raise UnreadablePublicationError(
                f"{self.folder / manifest.file_name}: {error}"
            ) from error

    def close(self) -> None:
        """A folder has nothing to close."""


class OpenedFile:
    """The file of one publication, open and checked. Opening it raises OSError, ValueError or sqlite3.Error."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._manifest = manifest
        path = folder / manifest.file_name
        check_file(path, manifest)
        # immutable: SQLite takes no locks and looks for no journal; the file is never written again
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(
            uri, uri=True, check_same_thread=False, isolation_level=None, cached_statements=4
        )
        # closed with the last reference, because another thread may still be reading when a newer one replaces it
        weakref.finalize(self, self._connection.close)
        # one thread at a time uses the connection, because SQLite may be built without thread safety
        self._lock = threading.Lock()
        in_rows = {
            name for name, *_ in self._connection.execute("select * from rows limit 0").description
        }
        self._outputs = _readers(manifest.outputs)
        self._of_row = _readers(column for column in manifest.stamps if column.name in in_rows)
        self._of_origin = _readers(
            column for column in manifest.stamps if column.name not in in_rows
        )
        self._origins: dict[int, dict[str, Any]] = {}
        listed = [*map(quote, (*self._outputs, *self._of_row)), ORIGIN]
        where = " and ".join(f"{quote(column.name)} = ?" for column in manifest.key)
        self._select = f"select {', '.join(listed)} from rows where {where}"
        listed = [*map(quote, self._of_origin), ORIGIN]
        self._select_origin = f"select {', '.join(listed)} from origins where {ORIGIN} = ?"
        for statement, places in ((self._select, len(manifest.key)), (self._select_origin, 1)):
            self._connection.execute(f"explain {statement}", [None] * places)

    def row(self, key: Sequence[Stored]) -> Row | None:
        """Return the row of one key; None if there is none."""
        try:
            with self._lock:
                row = self._connection.execute(self._select, key).fetchone()
                if row is None:
                    return None
                origin = self._origins.get(row[-1])
                if origin is None:
                    origin = self._read_origin(row[-1])
        except sqlite3.DatabaseError as error:
            raise ServingError(
                f"publication {self._manifest.id} of {self._manifest.name!r} cannot be read: {error}",
                hint="its file was altered after it was opened: publish again",
            ) from error
        outputs = _values(self._outputs, row)
        return outputs, {**origin, **_values(self._of_row, row[len(outputs) :])}

    def rows(self, keys: Sequence[Sequence[Stored]]) -> list[Row | None]:
        """Return the rows of several keys, in the order of the keys."""
        return [self.row(key) for key in keys]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _read_origin(self, number: int) -> dict[str, Any]:
        stored = self._connection.execute(self._select_origin, [number]).fetchone()
        if stored is None:
            raise sqlite3.DatabaseError(f"it has no origin {number!r}")
        if len(self._origins) >= _MAX_ORIGINS:
            self._origins.clear()
        return self._origins.setdefault(number, _values(self._of_origin, stored))


def _readers(columns: Iterable[Column]) -> dict[str, Callable[[Any], Any]]:
    return {column.name: kind_of(column.kind).read for column in columns}


def _values(
    readers: Mapping[str, Callable[[Any], Any]], stored: Sequence[Stored]
) -> dict[str, Any]:
    """Return Python's values by column name. Stored values beyond the last reader are ignored."""
    return {
        name: None if value is None else read(value)
        for (name, read), value in zip(readers.items(), stored, strict=False)
    }


def check_file(path: Path, manifest: Manifest) -> None:
    """Check size and sha256. Raises OSError or ValueError if the file is not the one that was published."""
    if path.is_symlink() or not path.is_file():
        raise ValueError("it is missing, or not a regular file")
    size = path.stat().st_size
    if size != manifest.bytes:
        raise ValueError(f"it has {size:,} bytes, not {manifest.bytes:,}")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != manifest.sha256:
        raise ValueError("its sha256 is not the one that was published")


def quote(name: str) -> str:
    """Return any text as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
