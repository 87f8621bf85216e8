"""What the service has answered, on disk before it is acknowledged, for the next run to take over.

A log is a folder of segments. A segment belongs to one process, which only appends to it: a line for each
answer, its CRC-32 and a JSON document. A line that a dying process has cut short was never acknowledged;
a reader stops before it. A line that is whole and damaged is told as such, and those after it are read.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import threading
import zlib
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from dbt_onnx.errors import ServingError
from dbt_onnx.serving.disk import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

REQUESTS = "requests"
"""The folder of the logs, beside what is published."""
SUFFIX = ".log"
_MOST_LINES = 1_000
_MOST_WAITING = 10_000

_Entry = tuple[bytes, "Future[None]"]


class Position(NamedTuple):
    """A place in a log, which has several segments if one could not be written. No segment: its begin."""

    log: str
    segment: str
    byte: int


class RequestLog:
    """Appends to a segment of its own, from any thread. Answers that come together share one sync."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._token = secrets.token_hex(4)
        self._segment = ""
        self._waiting: queue.Queue[_Entry | None] = queue.Queue(_MOST_WAITING)
        self._descriptor: int | None = None
        self._size = 0
        self._writer = threading.Thread(target=self._write_all, name="request log", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, document: Mapping[str, Any]) -> Future[None]:
        """A future that is done when the document is on disk, and raises ServingError if it cannot be.

        Raises ServingError at once when too many are waiting.
        """
        done: Future[None] = Future()
        try:
            self._waiting.put_nowait((_line_of(document), done))
        except queue.Full:
            raise ServingError(
                f"{_MOST_WAITING:,} answers wait to be written to {self.folder}",
                hint="ask again later: the disk does not keep up",
            ) from None
        return done

    def position(self) -> Position:
        """A place in this log before which nothing is that is appended from now on."""
        return Position(self._token, self._segment, self._size)

    def close(self) -> None:
        """Write what is waiting, and end."""
        self._waiting.put(None)
        self._writer.join()

    def _write_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            entries, is_last = [first], False
            while len(entries) < _MOST_LINES and not self._waiting.empty():
                entry = self._waiting.get()
                if entry is None:
                    is_last = True
                    break
                entries.append(entry)
            self._write(entries)
            if is_last:
                break
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _write(self, entries: list[_Entry]) -> None:
        try:
            if self._descriptor is None:
                self._descriptor = self._new_segment()
            content = memoryview(b"".join(line for line, _ in entries))
            while content:
                content = content[os.write(self._descriptor, content) :]
            os.fdatasync(self._descriptor)
            self._size += sum(len(line) for line, _ in entries)
        except OSError as error:
            self._end_segment()
            failure = ServingError(
                f"{self.folder} cannot be written: {error.strerror or error}; the answer is not kept, "
                "and is not given",
                hint="give the service the right to write there, and space on the disk",
            )
            for _, done in entries:
                done.set_exception(failure)
            return
        for _, done in entries:
            done.set_result(None)

    def _end_segment(self) -> None:
        """Take back what was not acknowledged. Whether that is on disk is not known, so nothing follows it."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            os.close(self._descriptor)
            self._descriptor = None

    def _new_segment(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{self._token}{SUFFIX}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        descriptor = os.open(self.folder / name, flags, 0o600)
        # the size first: a position is not locked, and an early one is right, too
        self._size, self._segment = 0, name
        sync_folder(self.folder)
        return descriptor


def read_segment(path: Path, *, start: int = 0) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The documents of a segment from a byte on, each with the byte at which the next one begins; none for
    a line that is damaged.

    It ends before a line that is cut short: its process has died, or is writing.
    """
    with path.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            checksum, _, text = line[:-1].partition(b" ")
            yield start, json.loads(text) if checksum == _checksum(text) else None


class RequestLogs:
    """`dbt_onnx.runs.answered.AnswerLogs`: the logs of what a project has published as files."""

    def __init__(self, project: Path) -> None:
        self._project = project

    def segments(self, publication: str) -> dict[str, int]:
        folder = self._folder(publication)
        if folder is None or not folder.is_dir():
            return {}
        paths = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX)
        return {path.name: path.stat().st_size for path in paths if path.is_file()}

    def read(
        self, publication: str, segment: str, *, start: int
    ) -> Iterator[tuple[int, dict[str, Any] | None]]:
        folder = self._folder(publication)
        assert folder is not None
        return read_segment(folder / segment, start=start)

    def _folder(self, publication: str) -> Path | None:
        """None where the publication is on a server, which keeps no answers."""
        # these load what opens a publication, and are not needed by a run of a model that has none
        from dbt_onnx.serving.manifest import is_publication_name
        from dbt_onnx.serving.targets import FILES, folder_at

        place = folder_at(FILES, project=self._project)
        if place is None or not is_publication_name(publication):
            return None
        return place / publication / REQUESTS


def is_kept(folder: Path, request_id: str, *, since: Position) -> bool:
    """Whether a document of that id is in a log behind a position. If so, it is on disk when this returns,
    also where the process died that wrote it.
    """
    for path in folder.glob(f"*-{since.log}{SUFFIX}"):
        start = since.byte if path.name == since.segment else 0
        with suppress(FileNotFoundError):
            if any(
                each is not None and each.get("request_id") == request_id
                for _, each in read_segment(path, start=start)
            ):
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
                return True
    return False


def _line_of(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    return b"%b %b\n" % (_checksum(text), text)


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
