"""Looking predictions up in what was published: one key, one answer, in microseconds.

    predictions = Predictions.open("serving/churn")
    answer = predictions.get("00042")
    answer.outputs["churn_probability"], answer.age, answer.is_stale

    Predictions.open("redis://localhost/0", name="churn")

Needs the standard library only; for a database, the package that speaks to it, too.
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
# how often `get` looks whether there is another publication
CHECK_SECONDS = 0.25
# a publication that is gone was followed by as many as are kept; that does not happen again and again
_ATTEMPTS = 5

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
    """The newest publication of a name. Safe to use from several threads.

    A new publication is noticed by itself: it is opened and checked beside, and answers come from the
    one before until it can be used. Where the newest is damaged, the newest good one answers, and
    `fault` says what is wrong.
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
        # of two at once, the slower could put the older publication back
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
        """Open what was published in a folder, "serving/churn", or in a database, of which the URL and the
        publication's name are given: "postgresql://host/database" or "redis://host/0", name="churn".

        `clock` gives the time against which ages are counted: UTC, without a zone.
        Raises ServingError when there is no publication, or none that is whole; ConfigError when this
        is no place where publications can be.
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
        """What the publication that answers holds."""
        return self._current.manifest

    def get(self, key: Any) -> Answer:
        """The answer for one key: a value, or a tuple of values where the key has several columns.

        A key that cannot be one, such as a text where numbers are, raises InvalidKeyError.
        """
        self._notice()
        try:
            return self._current.answer(key, self._clock())
        except GonePublicationError:
            return self._again(lambda publication: publication.answer(key, self._clock()))

    def get_many(self, keys: Iterable[Any]) -> list[Answer]:
        """The answers for several keys, in their order, all of one publication."""
        self._notice()
        publication, listed = self._current, list(keys)
        try:
            return publication.answers(listed, self._clock())
        except GonePublicationError:
            return self._again(lambda newest: newest.answers(listed, self._clock()))

    def parse_key(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """A key as a URL or JSON has it, one value for each column: texts are read as what the column
        holds, other values are taken as they are. Raises InvalidKeyError.
        """
        return self._current.parse_key(values)

    def get_parsed(self, keys: Iterable[Sequence[Any]]) -> list[Answer]:
        """As `get_many`, with keys that `parse_key` reads, by the same publication that answers."""
        self._notice()
        publication, listed = self._current, list(keys)
        try:
            return publication.parsed_answers(listed, self._clock())
        except GonePublicationError:
            return self._again(lambda newest: newest.parsed_answers(listed, self._clock()))

    def refresh(self) -> bool:
        """Look for another publication now. Whether there was one, and it is served from now on."""
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

    def _again(self, ask: Callable[[_OpenPublication], _Found]) -> _Found:
        """Ask the newest publication, when the one before is gone."""
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

    def _notice(self) -> None:
        now = time.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_SECONDS
        with self._lock:
            is_at_it = self._refreshing is not None and self._refreshing.is_alive()
            if is_at_it or self._source.pointer() == self._seen:
                return
            # checking a large file takes longer than an answer may
            refreshing = threading.Thread(target=self.refresh, daemon=True)
            refreshing.start()
            # whoever closes meanwhile can wait for a thread only when it has been started
            self._refreshing = refreshing

    def _open_newest(self, *, known: _OpenPublication | None = None) -> _OpenPublication:
        """Open what is served, or the newest before it that is whole; `known` is open already."""
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
                        # newer ones have come meanwhile, and this one has gone
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
    """One publication: keys as its rows have them, and rows as answers."""

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
        return self._judged(values, self._rows.row(self._stored(values)), now)

    def answers(self, keys: Sequence[Any], now: datetime) -> list[Answer]:
        values = [key if isinstance(key, tuple) else (key,) for key in keys]
        rows = self._rows.rows([self._stored(value) for value in values])
        return [self._judged(value, row, now) for value, row in zip(values, rows, strict=True)]

    def _stored(self, values: tuple[Any, ...]) -> list[Stored]:
        if len(values) != len(self._keys):
            raise self._bad_key(f"got {len(values)} value(s)")
        try:
            return [kind.store(value) for kind, value in zip(self._keys, values, strict=True)]
        except UnreadableKeyError as error:
            raise self._bad_key(str(error)) from error

    def _judged(self, key: tuple[Any, ...], row: Row | None, now: datetime) -> Answer:
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
            hint="give one value for each column, in this order; several as a tuple",
        )
