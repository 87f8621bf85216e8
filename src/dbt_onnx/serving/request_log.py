"""The log of the answers that the service gives on request. The next run takes them into the ledger.

An answer is on disk before it is acknowledged. A log is a folder of segments. Each segment belongs to one
process, which only appends to it: one line per answer, with a CRC-32 and a JSON document. A line that a dying
process has cut short was never acknowledged; a reader stops before it. A complete line with a wrong CRC-32 is
reported as damaged, and the lines after it are read.
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
"""The subfolder of the publication's folder that contains the segments."""
SUFFIX = ".log"
_MAX_LINES = 1_000
_MAX_WAITING = 10_000

_Entry = tuple[bytes, "Future[None]"]


class Position(NamedTuple):
    """A position in the segments of one RequestLog, which starts a new segment after a failed write.

    `log` is the token in the segments' names. `segment` is "" if there was no segment yet.
    """

    log: str
    segment: str
    byte: int


class RequestLog:
    """A writer that appends answers to a segment, from any thread. Answers that arrive together share one sync."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._token = secrets.token_hex(4)
        self._segment = ""
        self._waiting: queue.Queue[_Entry | None] = queue.Queue(_MAX_WAITING)
        self._descriptor: int | None = None
        self._size = 0
        self._writer = threading.Thread(target=self._write_all, name="request log", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, document: Mapping[str, Any]) -> Future[None]:
        """Return a future that is done when the document is on disk, or raises ServingError if the write fails.

        Raises ServingError at once if too many documents are waiting.
        """
        done: Future[None] = Future()
        try:
            self._waiting.put_nowait((_line_of(document), done))
        except queue.Full:
            raise ServingError(
                f"{_MAX_WAITING:,} answers are waiting to be written to {self.folder}",
                hint="try again later: the disk cannot keep up",
            ) from None
        return done

    def position(self) -> Position:
        """Return a position in this log. Every document that is appended from now on comes after it."""
        return Position(self._token, self._segment, self._size)

    def close(self) -> None:
        """Write the documents that are waiting, and stop the thread."""
        self._waiting.put(None)
        self._writer.join()

    def _write_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            entries, is_last = [first], False
            while len(entries) < _MAX_LINES and not self._waiting.empty():
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
                f"{self.folder} cannot be written: {error.strerror or error}; the answer is not in the "
                "request log, so it is not returned",
                hint="check that the service may write there, and that the disk has free space",
            )
            for _, done in entries:
                done.set_exception(failure)
            return
        for _, done in entries:
            done.set_result(None)

    def _end_segment(self) -> None:
        """Truncate the segment to the acknowledged lines, and close it.

        After a failed write its state on disk is unknown, so the next answer goes to a new segment.
        """
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
        # the size first: `position` takes no lock, and a position that is too early is still correct
        self._size, self._segment = 0, name
        sync_folder(self.folder)
        return descriptor


def read_segment(path: Path, *, start: int = 0) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield the documents of a segment from byte `start` on, each with the byte at which the next line begins.

    The document of a damaged line is None. Stops before a line that is cut short: the process that writes the
    segment has died, or is writing that line now.
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
    """The request logs of the publications at target "files". Implements `dbt_onnx.runs.answered.AnswerLogs`."""

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
        """Return the folder of a publication's log; None if "files" is a server, where no answers are kept."""
        # imported here, because a run without publications does not need these modules
        from dbt_onnx.serving.manifest import is_publication_name
        from dbt_onnx.serving.targets import FILES, folder_at

        place = folder_at(FILES, project=self._project)
        if place is None or not is_publication_name(publication):
            return None
        return place / publication / REQUESTS


def is_logged(folder: Path, request_id: str, *, since: Position) -> bool:
    """Return whether a document with this id is in a log after the position `since`.

    If it is, it is on disk when this returns, even if the process that wrote it died before the sync.
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
