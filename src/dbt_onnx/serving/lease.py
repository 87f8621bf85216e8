"""Which services of a folder are there: each holds the lock on a file of its own.

The system ends a lock with its process, however that ends. So who is dead is known without a timeout.
"""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SUFFIX = ".lock"


class Lease:
    """A name that belongs to this process until `end`, or until the process ends. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name, self._descriptor = self._new()

    def end(self) -> None:
        """Give the name up."""
        with suppress(OSError):
            self._path_of(self.name).unlink()
        os.close(self._descriptor)

    def others(self) -> set[str]:
        """The names of all others, dead or alive, that have not given theirs up."""
        return {path.stem for path in self._folder.glob(f"*{_SUFFIX}")} - {self.name}

    @contextmanager
    def inherited(self, name: str) -> Iterator[bool]:
        """Whether who had a name is dead. If so, nobody else inherits within, and the name is gone after it."""
        import fcntl

        path = self._path_of(name)
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            # given up; or that of another user, who is taken to live
            yield not path.exists()
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
            with suppress(OSError):
                path.unlink()
        finally:
            os.close(descriptor)

    def _new(self) -> tuple[str, int]:
        import fcntl

        while True:
            name = secrets.token_hex(8)
            path = self._path_of(name)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # another service may have taken it for that of a dead one, before it was locked
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return name, descriptor
            os.close(descriptor)

    def _path_of(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"
