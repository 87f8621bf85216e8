"""Lock files that show which services of a folder are alive: each service holds the lock on one file.

The system releases a lock when its process ends for whatever reason. So a dead service is recognized without a
timeout.
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
        """Return the names of all other services, dead or alive, that have not given their names up."""
        return {path.stem for path in self._folder.glob(f"*{_SUFFIX}")} - {self.name}

    @contextmanager
    def inherited(self, name: str) -> Iterator[bool]:
        """Yield whether the owner of a name is dead. If so, nobody else can inherit the name inside the block, and the
        name is removed afterwards.
        """
        import fcntl

        path = self._path_of(name)
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            # the file is gone, so the name was given up; or it belongs to another user, who is assumed to be alive
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
            # before it was locked, another service may have taken it for a dead service's file, and removed it
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return name, descriptor
            os.close(descriptor)

    def _path_of(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"
