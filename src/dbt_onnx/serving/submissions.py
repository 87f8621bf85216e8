"""The queue of requests that are answered later: an SQLite file in a subfolder of the publication's folder.

A request starts as `queued`, is `running` once a service has taken it, and ends as `scored`, `rejected` or
`failed`. Each step is one transaction, which is on disk when the method returns. Several services on one
machine may share a queue. A service owns the requests that it has taken as long as it holds its lock file. The
system releases the lock when the process ends for whatever reason; then another service takes them over.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import ServingError
from dbt_onnx.serving.disk import sync_folder
from dbt_onnx.serving.lease import Lease
from dbt_onnx.serving.request_log import Position

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

QUEUED, RUNNING, SCORED, REJECTED, FAILED = "queued", "running", "scored", "rejected", "failed"
STATES = (QUEUED, RUNNING, SCORED, REJECTED, FAILED)
WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given_up"
DELIVERIES = (WAITING, DELIVERED, GIVEN_UP)
KEPT = timedelta(days=7)
"""How long a request is kept after it has ended."""
TRIED = timedelta(days=1)
"""How long calls to a webhook are retried after the request has ended."""
LONGEST_PAUSE = timedelta(hours=1)

# a subfolder, because a publisher deletes all SQLite files next to publications.json that are not publications
SUBMITTED = "submitted"
_QUEUE = "queue.sqlite"
_FORMAT = 1
_BUSY_SECONDS = 30
# synchronous = full syncs the write-ahead log at each commit
_PRAGMAS = ("journal_mode = wal", "synchronous = full")
_TABLE = """
create table if not exists requests (
    number integer primary key,
    request_id text not null unique,
    state text not null,
    submitted_at text not null,
    ended_at text,
    body blob,
    holder text,
    answer text,
    log text, segment text, byte integer,
    error text,
    webhook text,
    delivery text,
    attempts integer not null default 0,
    next_attempt_at text,
    deliverer text
)
"""
_INDEXES = (
    "create index if not exists by_state on requests (state, number)",
    "create index if not exists by_end on requests (ended_at)",
    "create index if not exists by_delivery on requests (delivery, webhook, next_attempt_at)",
)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One submitted request.

    body        the body as it was sent; None after the request has ended
    answer      the document for the request log; without `features` after the request has ended; None before
                the request is scored
    since       the position in a log after which the answer is, if it was written
    error       why the request failed: kind, message, hint
    webhook     the name of the webhook to call when the request has ended
    delivery    the state of that call; None before the request has ended
    """

    request_id: str
    state: str
    submitted_at: datetime
    ended_at: datetime | None
    body: bytes | None
    answer: Mapping[str, Any] | None
    since: Position | None
    error: Mapping[str, str] | None
    webhook: str | None
    delivery: str | None
    attempts: int
    next_attempt_at: datetime | None


class Submissions:
    """The queue of one publication, such as "serving/churn". Safe to use from several threads.

    Every method raises ServingError if the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        """Open the queue, and create it if it does not exist."""
        self._folder = folder / SUBMITTED
        self._path = self._folder / _QUEUE
        self._lock = threading.Lock()
        with self._failures():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lease = Lease(self._folder)
            try:
                self._connection = self._open()
            except BaseException:
                self._lease.end()
                raise

    @staticmethod
    def are_in(folder: Path) -> bool:
        """Return whether the folder of a publication has a queue."""
        return (folder / SUBMITTED / _QUEUE).exists()

    def close(self) -> None:
        """Close the queue. Other services can take over the requests that have not ended."""
        with self._lock:
            self._connection.close()
            self._lease.end()

    def submit(
        self, body: bytes, *, webhook: str | None, now: datetime, limit: int
    ) -> Submission | None:
        """Queue a request. Return None if `limit` requests are queued or running already."""
        request_id = str(uuid.uuid4())
        with self._transaction() as connection:
            waiting = "select count(*) from requests where state in (?, ?)"
            if connection.execute(waiting, (QUEUED, RUNNING)).fetchone()[0] >= limit:
                return None
            connection.execute(
                "insert into requests (request_id, state, submitted_at, body, webhook) "
                "values (?, ?, ?, ?, ?)",
                (request_id, QUEUED, _text(now), body, webhook),
            )
            return _select(connection, request_id)

    def get(self, request_id: str) -> Submission | None:
        """Return the request with this id; None if there is none."""
        with self._transaction(is_read=True) as connection:
            return _select(connection, request_id)

    def take(self) -> Submission | None:
        """Take the next request: one that this service took before and has not ended, else the oldest queued one.

        Return None if there is none.
        """
        oldest = "select request_id from requests where state = ? order by number limit 1"
        mine = (
            "select request_id from requests where state = ? and holder = ? order by number limit 1"
        )
        with self._transaction(is_read=True) as connection:
            found = connection.execute(mine, (RUNNING, self._lease.name)).fetchone()
            if found is not None:
                return _select(connection, found[0])
            if connection.execute(oldest, (QUEUED,)).fetchone() is None:
                return None
        with self._transaction() as connection:
            found = connection.execute(oldest, (QUEUED,)).fetchone()
            if found is None:
                return None
            connection.execute(
                "update requests set state = ?, holder = ? where request_id = ?",
                (RUNNING, self._lease.name, found[0]),
            )
            return _select(connection, found[0])

    def note_answer(self, request_id: str, answer: Mapping[str, Any], *, since: Position) -> None:
        """Store the answer of a request, before it is appended to a log after the position `since`.

        From now on this is the request's answer, even if the process dies before it writes the log.
        """
        with self._transaction() as connection:
            connection.execute(
                "update requests set answer = ?, log = ?, segment = ?, byte = ? "
                "where request_id = ? and holder = ?",
                (json.dumps(answer), *since, request_id, self._lease.name),
            )

    def end(
        self,
        request_id: str,
        state: str,
        *,
        now: datetime,
        error: Mapping[str, str] | None = None,
    ) -> None:
        """Record that a request of this service has ended. If it names a webhook, make the call due."""
        with self._transaction() as connection:
            found = _select(connection, request_id)
            answer = None if found is None or found.answer is None else dict(found.answer)
            if answer is not None:
                # the log has them already
                del answer["features"]
            has_webhook = found is not None and found.webhook is not None
            connection.execute(
                "update requests set state = ?, ended_at = ?, answer = ?, error = ?, delivery = ?, "
                "next_attempt_at = ?, body = null, holder = null where request_id = ? and holder = ?",
                (
                    state,
                    _text(now),
                    None if answer is None else json.dumps(answer),
                    None if error is None else json.dumps(error),
                    WAITING if has_webhook else None,
                    _text(now) if has_webhook else None,
                    request_id,
                    self._lease.name,
                ),
            )

    def take_delivery(self, webhook: str, *, now: datetime) -> Submission | None:
        """Take an ended request for which `webhook` must be called now. Return None if there is none."""
        # an attempt further away than the longest pause was scheduled before the clock was set back: it is due, too
        due = (
            "select request_id from requests where delivery = ? and webhook = ? and deliverer is null "
            "and (next_attempt_at <= ? or next_attempt_at > ?) order by next_attempt_at limit 1"
        )
        given = (WAITING, webhook, _text(now), _text(now + LONGEST_PAUSE))
        with self._transaction(is_read=True) as connection:
            if connection.execute(due, given).fetchone() is None:
                return None
        with self._transaction() as connection:
            found = connection.execute(due, given).fetchone()
            if found is None:
                return None
            connection.execute(
                "update requests set deliverer = ? where request_id = ?",
                (self._lease.name, found[0]),
            )
            return _select(connection, found[0])

    def end_delivery(self, request_id: str, *, is_acknowledged: bool, now: datetime) -> None:
        """Record the result of a call to a webhook. Each pause before a retry is twice as long as the previous one,
        up to an hour. An attempt that fails a day or more after the request has ended is the last one.
        """
        with self._transaction() as connection:
            found = _select(connection, request_id)
            if found is None or found.ended_at is None:
                return
            pause = min(timedelta(seconds=2 ** min(found.attempts, 20)), LONGEST_PAUSE)
            is_late = now >= found.ended_at + TRIED
            delivery = DELIVERED if is_acknowledged else GIVEN_UP if is_late else WAITING
            connection.execute(
                "update requests set delivery = ?, attempts = attempts + 1, next_attempt_at = ?, "
                "deliverer = null where request_id = ? and deliverer = ?",
                (
                    delivery,
                    _text(now + pause) if delivery == WAITING else None,
                    request_id,
                    self._lease.name,
                ),
            )

    def take_over(self) -> None:
        """Take over from services that have died: requeue their requests, and release their webhook calls."""
        holders = (
            "select holder from requests where state = ? and holder is not null union "
            "select deliverer from requests where delivery = ? and deliverer is not null"
        )
        with self._transaction(is_read=True) as connection:
            found = {row[0] for row in connection.execute(holders, (RUNNING, WAITING))}
        for holder in sorted((found | self._lease.others()) - {self._lease.name}):
            with self._lease.inherited(holder) as is_dead:
                if is_dead:
                    self._inherit(holder)

    def tidy(self, *, now: datetime) -> None:
        """Delete the requests that ended more than a week ago."""
        old = "from requests where ended_at < ? and deliverer is null"
        given = (_text(now - KEPT),)
        with self._transaction(is_read=True) as connection:
            if connection.execute(f"select 1 {old} limit 1", given).fetchone() is None:
                return
        with self._transaction() as connection:
            connection.execute(f"delete {old}", given)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of requests by `state`, and of webhook calls by `delivery`."""
        with self._transaction(is_read=True) as connection:
            return {
                column: dict.fromkeys(names, 0)
                | dict(
                    connection.execute(
                        f"select {column}, count(*) from requests where {column} is not null group by 1"
                    )
                )
                for column, names in (("state", STATES), ("delivery", DELIVERIES))
            }

    def _inherit(self, holder: str) -> None:
        with self._transaction() as connection:
            # a stored answer stays in the row: the next service writes it to the log, and does not score again
            connection.execute(
                "update requests set state = ?, holder = null where state = ? and holder = ?",
                (QUEUED, RUNNING, holder),
            )
            connection.execute(
                "update requests set deliverer = null where deliverer = ?", (holder,)
            )

    def _open(self) -> sqlite3.Connection:
        with _locked(self._folder):
            # Only the owner may read the requests: SQLite gives its -wal and -shm files the mode of this file.
            # An existing file is not opened here: closing it would release the locks that SQLite holds on it
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"pragma {pragma}")
            connection.execute("begin immediate")
            _check_format(connection)
            connection.execute(_TABLE)
            for index in _INDEXES:
                connection.execute(index)
            connection.execute(f"pragma user_version = {_FORMAT}")
            connection.execute("commit")
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _transaction(self, *, is_read: bool = False) -> Iterator[sqlite3.Connection]:
        with self._lock, self._failures():
            self._connection.execute("begin" if is_read else "begin immediate")
            try:
                yield self._connection
                self._connection.execute("commit")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error, ImportError, *_UNREADABLE) as error:
            raise ServingError(
                f"{self._path} cannot be used: {getattr(error, 'strerror', None) or error}",
                hint="check that the service may write there, and that the disk has free space; restore a "
                "damaged file, or remove it together with its requests",
            ) from error


_UNREADABLE = (LookupError, TypeError, ValueError)
_COLUMNS = (
    "request_id, state, submitted_at, ended_at, body, answer, log, segment, byte, error, webhook, "
    "delivery, attempts, next_attempt_at"
)


def _check_format(connection: sqlite3.Connection) -> None:
    [version] = connection.execute("pragma user_version").fetchone()
    if version not in {0, _FORMAT}:
        raise sqlite3.DatabaseError(f"its format is {version}; this dbt_onnx reads {_FORMAT}")


def _select(connection: sqlite3.Connection, request_id: str) -> Submission | None:
    row = connection.execute(
        f"select {_COLUMNS} from requests where request_id = ?", (request_id,)
    ).fetchone()
    return None if row is None else _submission(row)


def _submission(row: Sequence[Any]) -> Submission:
    (
        request_id, state, submitted_at, ended_at, body, answer, log, segment, byte, error, webhook,
        delivery, attempts, next_attempt_at,
    ) = row  # fmt: skip
    return Submission(
        request_id=request_id,
        state=state,
        submitted_at=datetime.fromisoformat(submitted_at),
        ended_at=None if ended_at is None else datetime.fromisoformat(ended_at),
        body=body,
        answer=None if answer is None else json.loads(answer),
        since=None if log is None else Position(log, segment, byte),
        error=None if error is None else json.loads(error),
        webhook=webhook,
        delivery=delivery,
        attempts=attempts,
        next_attempt_at=None
        if next_attempt_at is None
        else datetime.fromisoformat(next_attempt_at),
    )


def _text(moment: datetime) -> str:
    # always with microseconds, so that the texts sort by time
    return moment.isoformat(timespec="microseconds")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder, so that two processes do not create the queue at the same time."""
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
