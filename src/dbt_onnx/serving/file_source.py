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
    from collections.abc import Sequence
    from pathlib import Path

    from dbt_onnx.serving.kinds import Stored
    from dbt_onnx.serving.manifest import Manifest, Publications


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
        columns = (*manifest.outputs, *manifest.stamps)
        self._read = [kind_of(column.kind).read for column in columns]
        listed = ", ".join(quote(column.name) for column in columns) or "1"
        where = " and ".join(f"{quote(column.name)} = ?" for column in manifest.key)
        self._select = f"select {listed} from predictions where {where}"
        self._connection.execute(f"explain {self._select}", [None] * len(manifest.key))

    def row(self, key: Sequence[Stored]) -> list[Any] | None:
        """The row of one key."""
        try:
            with self._lock:
                row = self._connection.execute(self._select, key).fetchone()
        except sqlite3.DatabaseError as error:
            raise ServingError(
                f"publication {self._manifest.id} of {self._manifest.name!r} cannot be read: {error}",
                hint="its file was altered after it was opened: publish again",
            ) from error
        if row is None:
            return None
        return [
            None if value is None else read(value)
            for read, value in zip(self._read, row, strict=False)
        ]

    def rows(self, keys: Sequence[Sequence[Stored]]) -> list[list[Any] | None]:
        """The rows of several keys, in their order."""
        return [self.row(key) for key in keys]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


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
