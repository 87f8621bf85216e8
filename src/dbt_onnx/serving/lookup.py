"""Lookup of published predictions: one key, one answer, in microseconds.

    predictions = Predictions.open("serving/churn")
    answer = predictions.get("00042")
    answer.outputs["churn_probability"], answer.age, answer.is_stale

    Predictions.open("redis://localhost/0", name="churn")

Needs only the standard library for a folder, and the client package for a database.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from dbt_onnx.errors import InvalidKeyError, ServingError
from dbt_onnx.serving.kinds import UnreadableKeyError, kind_of
from dbt_onnx.serving.places import GonePublicationError, UnreadablePublicationError, shown
from dbt_onnx.serving.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from dbt_onnx.serving.kinds import Stored
    from dbt_onnx.serving.manifest import Manifest
    from dbt_onnx.serving.places import OpenedRows, Row

_Found = TypeVar("_Found")

_LOG = logging.getLogger("dbt_onnx")
_NO_TIME = timedelta()
# how often `get` checks for a new publication
CHECK_SECONDS = 0.25
# A publication is removed only after several newer ones were published, so a lookup needs few attempts
_ATTEMPTS = 5

PREDICTED, REJECTED, MISSING = "predicted", "rejected", "missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer of a publication for one key.

    status           "predicted"; "rejected": the entity could not be scored, see `rejected_reason`, and
                     there is no fallback; "missing": the publication has no prediction for the key
    outputs          output column -> value, None for NULL; empty unless predicted
    age              time since `fresh_as_of`, when the prediction was last confirmed, by the reader's
                     clock; never negative; None if there is no prediction
    is_stale         whether `age` is above the publication's `stale_after`; true if there is no prediction
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
    """Return the current time in UTC, without a zone, like all times in the ledger."""
    return datetime.now(UTC).replace(tzinfo=None)


class Predictions:
    """A reader of the newest publication of one name. Safe to use from several threads.

    Lookups notice a new publication automatically. It is opened and checked in the background, and
    answers come from the previous one until it is ready. If the newest publication is damaged, answers
    come from the newest undamaged one, and `fault` describes the damage.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        name: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.place = shown(str(place))
        self._clock = clock
        self._lock = threading.Lock()
        # of two refreshes at the same time, the slower one could bring the older publication back
        self._refresh_lock = threading.Lock()
        self._refreshing: threading.Thread | None = None
        self.fault: str | None = None
        self._source = open_source(place, name)
        try:
            self._seen = self._source.pointer()
            self._current = self._open_newest()
        except BaseException:
            self._source.close()
            raise
        self._check_at = time.monotonic() + CHECK_SECONDS

    @classmethod
    def open(
        cls,
        place: str | Path,
        *,
        name: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> Self:
        """Open the publications in a folder, such as "serving/churn", or at the URL of a database together
        with the publication's name, such as "postgresql://host/database" or "redis://host/0", name="churn".

        `clock` returns the current time in UTC, without a zone; ages are computed from it.
        Raises ServingError if there is no publication, or only damaged ones; ConfigError if `place` or
        `name` is not valid.
        """
        return cls(place, name=name, clock=clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.join()
        self._current.close()
        self._source.close()

    @property
    def manifest(self) -> Manifest:
        """The manifest of the publication that answers come from."""
        return self._current.manifest

    def get(self, key: Any) -> Answer:
        """Return the answer for one key: a value, or a tuple of values if the key has several columns.

        Raises InvalidKeyError if a value does not fit its key column, such as text for a number.
        """
        self._check_for_newer()
        try:
            return self._current.answer(key, self._clock())
        except GonePublicationError:
            return self._retry_on_newest(lambda publication: publication.answer(key, self._clock()))

    def get_many(self, keys: Iterable[Any]) -> list[Answer]:
        """Return the answers for several keys, in the order of the keys, all from one publication."""
        self._check_for_newer()
        publication, listed = self._current, list(keys)
        try:
            return publication.answers(listed, self._clock())
        except GonePublicationError:
            return self._retry_on_newest(lambda newest: newest.answers(listed, self._clock()))

    def parse_key(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Convert a key from a URL or from JSON, one value per key column, to Python's values.

        Strings are parsed as the type of the column; other values stay unchanged. Raises InvalidKeyError.
        """
        return self._current.parse_key(values)

    def get_parsed(self, keys: Iterable[Sequence[Any]]) -> list[Answer]:
        """Parse keys as `parse_key` does, and look them up, both with the same publication."""
        self._check_for_newer()
        publication, listed = self._current, list(keys)
        try:
            return publication.parsed_answers(listed, self._clock())
        except GonePublicationError:
            return self._retry_on_newest(
                lambda newest: newest.parsed_answers(listed, self._clock())
            )

    def refresh(self) -> bool:
        """Check for a new publication now. Return whether there is one that answers from now on."""
        with self._refresh_lock:
            pointer = self._source.pointer()
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

    def _retry_on_newest(self, ask: Callable[[_OpenPublication], _Found]) -> _Found:
        """Repeat a lookup with the newest publication, after the open one was removed."""
        for _ in range(_ATTEMPTS):
            self.refresh()
            try:
                return ask(self._current)
            except GonePublicationError:
                continue
        raise ServingError(
            f"publication {self.manifest.id} of {self.manifest.name!r} is gone from {self.place}",
            hint="publish again: `dbt build` with the model that publishes",
        )

    def _check_for_newer(self) -> None:
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_SECONDS
        with self._lock:
            is_refreshing = self._refreshing is not None and self._refreshing.is_alive()
            if is_refreshing or self._source.pointer() == self._seen:
                return
            # in a thread: checking a large file takes longer than a lookup may take
            refreshing = threading.Thread(target=self.refresh, daemon=True)
            refreshing.start()
            # assigned after start(), because `close` can join only a thread that has been started
            self._refreshing = refreshing

    def _open_newest(self, *, known: _OpenPublication | None = None) -> _OpenPublication:
        """Open the served publication or, if it is damaged, the newest undamaged one before it.

        `known` is open already, and is reused. Raises ServingError if none can be read.
        """
        faults = []
        pointer = self._source.pointer()
        for manifest in self._source.publications().to_try:
            if known is not None and manifest == known.manifest:
                opened = known
            else:
                try:
                    opened = _OpenPublication(manifest, self._source.open(manifest))
                except UnreadablePublicationError as error:
                    if self._source.pointer() != pointer:
                        # not damaged: newer publications have replaced this one in the meantime
                        return self._open_newest(known=known)
                    faults.append(str(error))
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
    """One open publication. Converts keys to stored values, and rows to answers."""

    def __init__(self, manifest: Manifest, rows: OpenedRows) -> None:
        self.manifest = manifest
        self._rows = rows
        self._keys = [kind_of(column.kind) for column in manifest.key]
        self._stale_after = (
            None if manifest.stale_after is None else timedelta(seconds=manifest.stale_after)
        )

    def close(self) -> None:
        self._rows.close()

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

    def parsed_answers(self, keys: Sequence[Sequence[Any]], now: datetime) -> list[Answer]:
        return self.answers([self.parse_key(key) for key in keys], now)

    def answer(self, key: Any, now: datetime) -> Answer:
        values = key if isinstance(key, tuple) else (key,)
        return self._answer_from(values, self._rows.row(self._stored(values)), now)

    def answers(self, keys: Sequence[Any], now: datetime) -> list[Answer]:
        values = [key if isinstance(key, tuple) else (key,) for key in keys]
        rows = self._rows.rows([self._stored(value) for value in values])
        return [self._answer_from(value, row, now) for value, row in zip(values, rows, strict=True)]

    def _stored(self, values: tuple[Any, ...]) -> list[Stored]:
        if len(values) != len(self._keys):
            raise self._bad_key(f"got {len(values)} value(s)")
        try:
            return [kind.store(value) for kind, value in zip(self._keys, values, strict=True)]
        except UnreadableKeyError as error:
            raise self._bad_key(str(error)) from error

    def _answer_from(self, key: tuple[Any, ...], row: Row | None, now: datetime) -> Answer:
        if row is None:
            return Answer(key=key, status=MISSING, publication=self.manifest.id)
        outputs, stamps = row
        served_from, rejected_reason = stamps.get("served_from"), stamps.get("rejected_reason")
        if served_from == MISSING:
            return Answer(
                key=key,
                status=REJECTED if stamps.get("status") == REJECTED else MISSING,
                publication=self.manifest.id,
                served_from=MISSING,
                rejected_reason=rejected_reason,
            )
        fresh_as_of = stamps.get("fresh_as_of", self.manifest.clock)
        age = None if fresh_as_of is None else max(now - fresh_as_of, _NO_TIME)
        return Answer(
            key=key,
            status=PREDICTED,
            outputs=outputs,
            as_of=stamps.get("as_of"),
            scored_at=stamps.get("scored_at"),
            fresh_as_of=fresh_as_of,
            age=age,
            is_stale=age is None or (self._stale_after is not None and age > self._stale_after),
            served_from=served_from,
            model_name=stamps.get("model_name"),
            model_version=stamps.get("model_version"),
            run_id=stamps.get("run_id"),
            rejected_reason=rejected_reason,
            publication=self.manifest.id,
        )

    def _bad_key(self, what: str) -> InvalidKeyError:
        names = ", ".join(f"{column.name} ({column.kind})" for column in self.manifest.key)
        return InvalidKeyError(
            f"the key of {self.manifest.name!r} is {names}; {what}",
            hint="give one value for each column, in this order, as a tuple if there are several",
        )
