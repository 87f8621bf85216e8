"""Reading what was published as files, with the standard library."""

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
# most publications have a few origins; one that has one for each row shall not be in memory
_MOST_ORIGINS = 1_000


class FileSource:
    """A folder of publications, see `Source`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pointer(self) -> tuple[int, int, int] | None:
        """What changes when the file of the folder is replaced."""
        with suppress(OSError):
            status = (self.folder / POINTER).stat()
            return status.st_ino, status.st_mtime_ns, status.st_size
        return None

    def publications(self) -> Publications:
        """What the folder has. Raises ServingError."""
        return read_publications(self.folder)

    def open(self, manifest: Manifest) -> OpenedFile:
        """Raises UnreadablePublicationError unless the file is whole."""
        try:
            return OpenedFile(self.folder, manifest)
        except (OSError, ValueError, sqlite3.Error) as error:
            raise UnreadablePublicationError(
                f"{self.folder / manifest.file_name}: {error}"
            ) from error

    def close(self) -> None:
        """A folder has nothing to close."""


class OpenedFile:
    """One file, opened and checked. Raises OSError, ValueError or sqlite3.Error."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._manifest = manifest
        path = folder / manifest.file_name
        check_file(path, manifest)
        # immutable: no locks and no look for a journal; the file is never written again
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        self._connection = sqlite3.connect(
            uri, uri=True, check_same_thread=False, isolation_level=None, cached_statements=4
        )
        # an answer in another thread may still be reading when a newer publication has come
        weakref.finalize(self, self._connection.close)
        # whatever sqlite was built with, one thread at a time uses a connection
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
        """The row of one key."""
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
        """The rows of several keys, in their order."""
        return [self.row(key) for key in keys]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _read_origin(self, number: int) -> dict[str, Any]:
        stored = self._connection.execute(self._select_origin, [number]).fetchone()
        if stored is None:
            raise sqlite3.DatabaseError(f"it has no origin {number!r}")
        if len(self._origins) >= _MOST_ORIGINS:
            self._origins.clear()
        return self._origins.setdefault(number, _values(self._of_origin, stored))


def _readers(columns: Iterable[Column]) -> dict[str, Callable[[Any], Any]]:
    return {column.name: kind_of(column.kind).read for column in columns}


def _values(
    readers: Mapping[str, Callable[[Any], Any]], stored: Sequence[Stored]
) -> dict[str, Any]:
    """Python's values by name; `stored` may go on after them."""
    return {
        name: None if value is None else read(value)
        for (name, read), value in zip(readers.items(), stored, strict=False)
    }


def check_file(path: Path, manifest: Manifest) -> None:
    """Raise OSError or ValueError unless the file is the one that was published, to the last byte."""
    if path.is_symlink() or not path.is_file():
        raise ValueError("it is gone, or no regular file")
    size = path.stat().st_size
    if size != manifest.bytes:
        raise ValueError(f"it has {size:,} bytes, not {manifest.bytes:,}")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != manifest.sha256:
        raise ValueError("its sha256 is not the one that was published")


def quote(name: str) -> str:
    """Any text as one SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
