"""Looking predictions up in what was published: one key, one answer, in microseconds.

    predictions = Predictions.open("serving/churn")
    answer = predictions.get("00042")
    answer.outputs["churn_probability"], answer.age, answer.is_stale

Needs the standard library only.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dbt_onnx.errors import InvalidKeyError, ServingError
from dbt_onnx.serving.kinds import UnreadableKeyError, kind_of
from dbt_onnx.serving.manifest import POINTER, Manifest, read_publications

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_LOG = logging.getLogger("dbt_onnx")
_NO_TIME = timedelta()
# how often `get` looks whether there is another publication
CHECK_SECONDS = 0.25

PREDICTED, REJECTED, MISSING = "predicted", "rejected", "missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a publication says of one key.

    status           "predicted"; "rejected": the entity could not be scored, `rejected_reason` says why,
                     and nothing else is served in its place; "missing": nothing is known of it
    outputs          output column -> value, None for NULL; empty unless predicted
    age, is_stale    by the reader's clock: how long ago the prediction was known to hold, never
                     negative, and whether that is longer than the publication allows. None and true
                     where there is no prediction of the entity
    served_from      as in `current_predictions`: "serving_version", "earlier_version",
                     "segment_average", "constant", "missing"; None for other relations
    publication      id of the publication that answered
    """

    key: tuple[Any, ...]
    status: str
    outputs: Mapping[str, Any] = field(default_factory=dict)
    as_of: datetime | None = None
    scored_at: datetime | None = None
    fresh_as_of: datetime | None = None
    age: timedelta | None = None
    is_stale: bool = True
    served_from: str | None = None
    model_name: str | None = None
    model_version: str | None = None
    run_id: str | None = None
    rejected_reason: str | None = None
    publication: str


def utc_now() -> datetime:
    """The time in UTC, without a zone, as all times of the ledger."""
    return datetime.now(UTC).replace(tzinfo=None)


class Predictions:
    """The newest publication in a folder. Safe to use from several threads.

    A new publication is noticed by itself: it is opened and checked beside, and answers come from the
    one before until it can be used. Where the newest file is damaged, the newest good one answers, and
    `fault` says what is wrong.
    """

    def __init__(self, folder: str | Path, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.folder = Path(folder)
        self._clock = clock
        self._lock = threading.Lock()
        # of two at once, the slower could put the older publication back
        self._refresh_lock = threading.Lock()
        self._refreshing: threading.Thread | None = None
        self.fault: str | None = None
        self._seen = self._pointer()
        self._current = self._open_newest()
        self._check_at = time.monotonic() + CHECK_SECONDS

    @classmethod
    def open(cls, folder: str | Path, *, clock: Callable[[], datetime] = utc_now) -> Self:
        """Open what was published in a folder, "serving/churn".

        `clock` gives the time against which ages are counted: UTC, without a zone.
        Raises ServingError when there is no publication, or none that is whole.
        """
        return cls(folder, clock=clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.join()
        self._current.close()

    @property
    def manifest(self) -> Manifest:
        """What the publication that answers holds."""
        return self._current.manifest

    def get(self, key: Any) -> Answer:
        """The answer for one key: a value, or a tuple of values where the key has several columns.

        A key that cannot be one, such as a text where numbers are, raises InvalidKeyError.
        """
        self._notice()
        return self._current.answer(key, self._clock())

    def get_many(self, keys: Iterable[Any]) -> list[Answer]:
        """The answers for several keys, in their order, all of one publication."""
        self._notice()
        publication, now = self._current, self._clock()
        return [publication.answer(key, now) for key in keys]

    def parse_key(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """A key as a URL or JSON has it, one value for each column: texts are read as what the column
        holds, other values are taken as they are. Raises InvalidKeyError.
        """
        return self._current.parse_key(values)

    def get_parsed(self, keys: Iterable[Sequence[Any]]) -> list[Answer]:
        """As `get_many`, with keys that `parse_key` reads, by the same publication that answers."""
        self._notice()
        publication, now = self._current, self._clock()
        return [publication.answer(publication.parse_key(key), now) for key in keys]

    def refresh(self) -> bool:
        """Look for another publication now. Whether there was one, and it is served from now on."""
        with self._refresh_lock:
            pointer = self._pointer()
            if pointer == self._seen:
                return False
            self._seen = pointer
            before = self._current
            try:
                opened = self._open_newest(known=before)
            except ServingError as error:
                self._note_fault(error.message)
                return False
            if opened is before:
                return False
            self._current = opened
            return True

    def _notice(self) -> None:
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_SECONDS
        with self._lock:
            is_at_it = self._refreshing is not None and self._refreshing.is_alive()
            if is_at_it or self._pointer() == self._seen:
                return
            # checking a large file takes longer than an answer may
            self._refreshing = threading.Thread(target=self.refresh, daemon=True)
            self._refreshing.start()

    def _pointer(self) -> tuple[int, int, int] | None:
        """What changes when the file of the folder is replaced."""
        with suppress(OSError):
            status = (self.folder / POINTER).stat()
            return status.st_ino, status.st_mtime_ns, status.st_size
        return None

    def _open_newest(self, *, known: _OpenPublication | None = None) -> _OpenPublication:
        """Open what is served, or the newest before it whose file is whole; `known` is open already."""
        faults = []
        pointer = self._pointer()
        for manifest in read_publications(self.folder).to_try:
            if known is not None and manifest == known.manifest:
                opened = known
            else:
                try:
                    opened = _OpenPublication(self.folder, manifest)
                except (OSError, ValueError, sqlite3.Error) as error:
                    if self._pointer() != pointer:
                        # newer ones have come meanwhile, and this file has gone
                        return self._open_newest(known=known)
                    faults.append(f"{self.folder / manifest.file_name}: {error}")
                    continue
            self._note_fault("; ".join(faults) or None)
            return opened
        raise ServingError(
            f"no publication can be read: {'; '.join(faults)}",
            hint="restore the files, or publish again: `dbt build` with the model that publishes",
        )

    def _note_fault(self, fault: str | None) -> None:
        self.fault = fault
        if fault:
            _LOG.error("%s; answers come from an earlier publication", fault)


class _OpenPublication:
    """One publication, opened and checked. Raises OSError, ValueError or sqlite3.Error."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
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
        self._keys = [kind_of(column.kind) for column in manifest.key]
        self._outputs = [column.name for column in manifest.outputs]
        self._stamps = [column.name for column in manifest.stamps]
        self._read = [kind_of(column.kind).read for column in columns]
        self._stale_after = (
            None if manifest.stale_after is None else timedelta(seconds=manifest.stale_after)
        )
        listed = ", ".join(quote(column.name) for column in columns) or "1"
        where = " and ".join(f"{quote(column.name)} = ?" for column in manifest.key)
        self._select = f"select {listed} from predictions where {where}"
        self._connection.execute(f"explain {self._select}", [None] * len(self._keys))

    def close(self) -> None:
        self._connection.close()

    def parse_key(self, values: Sequence[Any]) -> tuple[Any, ...]:
        if len(values) != len(self._keys):
            raise self._bad_key(f"got {len(values)} value(s)")
        try:
            return tuple(
                kind.parse(value) if isinstance(value, str) else value
                for kind, value in zip(self._keys, values, strict=True)
            )
        except UnreadableKeyError as error:
            raise self._bad_key(str(error)) from error

    def answer(self, key: Any, now: datetime) -> Answer:
        values = key if isinstance(key, tuple) else (key,)
        if len(values) != len(self._keys):
            raise self._bad_key(f"got {len(values)} value(s)")
        try:
            stored = [kind.store(value) for kind, value in zip(self._keys, values, strict=True)]
        except UnreadableKeyError as error:
            raise self._bad_key(str(error)) from error
        try:
            with self._lock:
                row = self._connection.execute(self._select, stored).fetchone()
        except sqlite3.DatabaseError as error:
            raise ServingError(
                f"publication {self.manifest.id} of {self.manifest.name!r} cannot be read: {error}",
                hint="its file was altered after it was opened: publish again",
            ) from error
        if row is None:
            return Answer(key=values, status=MISSING, publication=self.manifest.id)
        read = [
            None if value is None else read(value)
            for read, value in zip(self._read, row, strict=False)
        ]
        outputs = dict(zip(self._outputs, read, strict=False))
        return self._judged(
            values, outputs, dict(zip(self._stamps, read[len(outputs) :], strict=True)), now
        )

    def _judged(
        self, key: tuple[Any, ...], outputs: dict[str, Any], stamps: dict[str, Any], now: datetime
    ) -> Answer:
        attempt = stamps.pop("status", None)
        if stamps.get("served_from", "") == MISSING:
            return Answer(
                key=key,
                status=REJECTED if attempt == REJECTED else MISSING,
                publication=self.manifest.id,
                served_from=MISSING,
                rejected_reason=stamps.get("rejected_reason"),
            )
        fresh_as_of = stamps.pop("fresh_as_of", self.manifest.clock)
        age = None if fresh_as_of is None else max(now - fresh_as_of, _NO_TIME)
        return Answer(
            key=key,
            status=PREDICTED,
            outputs=outputs,
            fresh_as_of=fresh_as_of,
            age=age,
            is_stale=age is None or (self._stale_after is not None and age > self._stale_after),
            publication=self.manifest.id,
            **stamps,
        )

    def _bad_key(self, what: str) -> InvalidKeyError:
        names = ", ".join(f"{column.name} ({column.kind})" for column in self.manifest.key)
        return InvalidKeyError(
            f"the key of {self.manifest.name!r} is {names}; {what}",
            hint="give one value for each column, in this order; several as a tuple",
        )


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
