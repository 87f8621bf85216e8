"""Submitted requests: at whatever step a process dies, each is answered once, and its webhook is called."""

from __future__ import annotations

import itertools
import os
import sqlite3
import stat
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served_folder import publish

from dbt_onnx.errors import ServingError
from dbt_onnx.serving import submissions, workers
from dbt_onnx.serving.refusal import bad_request
from dbt_onnx.serving.request_log import RequestLog, is_logged, read_segment
from dbt_onnx.serving.submissions import (
    FAILED,
    GIVEN_UP,
    KEPT,
    LONGEST_PAUSE,
    QUEUED,
    REJECTED,
    RUNNING,
    SCORED,
    TRIED,
    Submission,
    Submissions,
)
from dbt_onnx.serving.webhooks import Webhook
from dbt_onnx.serving.workers import answer_next, deliver_next

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2024, 6, 1, 12)
HOOK = Webhook("http://nowhere.example", b"")
MANY = 1_000


class DiedError(BaseException):
    """Stands for a kill of the process at this point."""


class Deaths:
    """Ends the process at step `at`, counted from 0; never if it is None."""

    def __init__(self, at: int | None) -> None:
        self._left = at

    def step(self) -> None:
        if self._left == 0:
            raise DiedError
        if self._left is not None:
            self._left -= 1


class MortalQueue:
    """A queue whose process may die before and after each call."""

    def __init__(self, queue: Submissions, deaths: Deaths) -> None:
        self._queue, self._deaths = queue, deaths

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self._deaths.step()
            found = getattr(self._queue, name)(*arguments, **named)
            self._deaths.step()
            return found

        return call


class MortalLog:
    """A log whose process may die before it writes a line, in the middle of the line, and after it."""

    def __init__(self, log: RequestLog, deaths: Deaths) -> None:
        self._log, self._deaths = log, deaths
        self.folder = log.folder
        self.position = log.position

    def append(self, document: Any) -> Any:
        self._deaths.step()
        done = self._log.append(document)
        done.result(20)
        try:
            self._deaths.step()
        except DiedError:
            path = self._log.folder / self._log.position().segment
            os.truncate(path, path.stat().st_size - 5)
            raise
        self._deaths.step()
        return done


class World:
    """A folder, services that run one after another, and a receiver of webhooks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW
        self.scored: Counter[str] = Counter()
        self.told: list[str] = []
        self.noted: set[str] = set()
        self.ended = threading.Event()

    def score(self, submission: Submission) -> dict[str, Any]:
        """Give a different answer each time a request is scored, so that a second scoring can be noticed."""
        body, request_id = submission.body or b"", submission.request_id
        self.scored[request_id] += 1
        if body.startswith(b"bad"):
            raise bad_request("features", "it is bad", hint="make it good")
        return {
            "request_id": request_id,
            "scored_at": self.now.isoformat(),
            "key": [body.decode()],
            "features": {"body": body.decode()},
            "outputs": {"times": self.scored[request_id]},
            "rejected_reason": "null:a" if body.startswith(b"null") else None,
            "model_name": "line",
            "model_version": "1",
            "publication": "p",
        }

    def live(self, dies_at: int | None, *submitted: bytes) -> list[str]:
        """Run a service that submits and works until nothing is left, or dies. Returns the acknowledged ids."""
        deaths, acknowledged = Deaths(dies_at), []
        queue = Submissions(self.folder)
        log = RequestLog(self.folder / "requests")
        mortal: Any = MortalQueue(queue, deaths)
        mortal_log: Any = MortalLog(log, deaths)

        def score(submission: Submission) -> dict[str, Any]:
            deaths.step()
            return self.score(submission)

        def post(_: Webhook, delivery: str, *__: Any, **___: Any) -> int:
            deaths.step()
            assert delivery not in self.noted
            self.told.append(delivery)
            deaths.step()
            return 200

        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(workers, "post", post)
                for body in submitted:
                    made = mortal.submit(body, webhook="crm", now=self.now, limit=MANY)
                    acknowledged.append(made.request_id)
                mortal.take_over()
                while answer_next(
                    mortal,
                    score,
                    mortal_log,
                    clock=lambda: self.now,
                ):
                    pass
                while deliver_next(
                    mortal,
                    "crm",
                    HOOK,
                    document=lambda _: {},
                    clock=lambda: self.now,
                    stopping=self.ended,
                ):
                    self.noted |= {self.told[-1]}
        except DiedError:
            log.close()
            queue._connection.close()
            os.close(queue._lease._descriptor)  # like the system after a kill: the lock file stays
        else:
            log.close()
            queue.close()
        return acknowledged

    def kept(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path in (self.folder / "requests").glob("*.log"):
            for _, document in read_segment(path):
                assert document["request_id"] not in found, "an answer is there twice"
                found[document["request_id"]] = document
        return found

    def check(self, acknowledged: list[str]) -> None:
        queue = Submissions(self.folder)
        kept = self.kept()
        for request_id in acknowledged:
            found = queue.get(request_id)
            assert found is not None
            assert found.ended_at == self.now
            assert found.body is None
            if found.error is not None:
                assert (found.state, request_id in kept) == (FAILED, False)
            else:
                document = kept[request_id]
                document.pop("features")
                assert found.answer == document
                rejected = document["rejected_reason"] is not None
                assert found.state == (REJECTED if rejected else SCORED)
            assert found.delivery == "delivered"
            assert request_id in self.told
        states = queue.counts()["state"]
        assert states[QUEUED] == states[RUNNING] == 0
        assert states[SCORED] + states[REJECTED] == len(kept)
        queue.close()
        # no lock file of an earlier service is left
        assert list((self.folder / "submitted").glob("*.lock")) == []


BODIES = (b"good", b"bad", b"null")


@pytest.fixture
def without_sync() -> Iterator[None]:
    """Leave out syncs: only processes die in these tests, not the machine, so unsynced writes survive."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(submissions, "_PRAGMAS", ("journal_mode = wal", "synchronous = off"))
        for name in ("fsync", "fdatasync"):
            patched.setattr(os, name, lambda _: None)
        yield


def test_a_commit_is_on_disk(queue: Submissions) -> None:
    pragmas = ("journal_mode", "synchronous")
    found = [queue._connection.execute(f"pragma {name}").fetchone()[0] for name in pragmas]
    assert found == ["wal", 2]


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / str(number) for number in itertools.count())


@pytest.mark.usefixtures("without_sync")
def test_a_death_at_each_step_in_turn(places: Iterator[Path]) -> None:
    for step in itertools.count():
        world = World(next(places))
        acknowledged = world.live(step, *BODIES)
        is_through = len(world.noted) == len(BODIES)
        world.live(None)
        world.check(acknowledged)
        if is_through:
            break
    # each request has more than ten steps
    assert step > 40


@pytest.mark.usefixtures("without_sync")
def test_a_death_at_each_step_of_who_takes_over(places: Iterator[Path]) -> None:
    """The first death is in the middle of the log, where most can go wrong."""
    for first, second in itertools.product(range(6, 12), range(16)):
        world = World(next(places))
        acknowledged = world.live(first, b"good")
        world.live(second)
        world.live(None)
        world.check(acknowledged)


@given(
    st.lists(
        st.tuples(st.integers(0, 45), st.lists(st.sampled_from(BODIES), max_size=3)), max_size=6
    )
)
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.usefixtures("without_sync")
def test_any_number_of_deaths(lives: list[tuple[int, list[bytes]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        acknowledged = [one for at, bodies in lives for one in world.live(at, *bodies)]
        acknowledged += world.live(None, b"good")
        world.check(acknowledged)


def test_services_that_share_a_queue_answer_each_request_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = Submissions(tmp_path)
    for number in range(30):
        first.submit(str(number).encode(), webhook=None, now=NOW, limit=MANY)

    def work(_: int) -> None:
        queue = Submissions(tmp_path)
        with closing(queue), RequestLog(tmp_path / "requests") as log:
            while answer_next(queue, world.score, log, clock=lambda: world.now):
                queue.take_over()

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, range(3)))
    assert set(world.scored.values()) == {1}
    assert len(world.kept()) == 30
    assert first.counts()["state"][SCORED] == 30
    first.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Submissions]:
    queue = Submissions(tmp_path)
    yield queue
    queue.close()


def submitted(queue: Submissions, body: bytes = b"good", webhook: str | None = "crm") -> str:
    made = queue.submit(body, webhook=webhook, now=NOW, limit=MANY)
    assert made is not None
    assert made.state == QUEUED
    return made.request_id


def test_what_a_living_service_has_taken_is_left_to_it(tmp_path: Path, queue: Submissions) -> None:
    submitted(queue)
    taken = queue.take()
    assert taken is not None
    other = Submissions(tmp_path)
    other.take_over()
    assert other.take() is None
    # its owner takes it again, since it has no result yet
    assert queue.take() == taken
    queue.end(taken.request_id, FAILED, now=NOW, error={})
    told = queue.take_delivery("crm", now=NOW)
    assert told is not None
    other.take_over()
    assert other.take_delivery("crm", now=NOW) is None
    assert queue.take_delivery("crm", now=NOW) is None
    other.close()


def test_what_another_service_has_taken_is_not_ended(tmp_path: Path, queue: Submissions) -> None:
    request_id = submitted(queue)
    queue.take()
    other = Submissions(tmp_path)
    other.end(request_id, FAILED, now=NOW, error={})
    found = queue.get(request_id)
    assert found is not None
    assert found.state == RUNNING
    other.close()


def test_only_so_many_wait(queue: Submissions) -> None:
    ids = [queue.submit(b"", webhook=None, now=NOW, limit=3) for _ in range(4)]
    assert [made is None for made in ids] == [False, False, False, True]
    taken = queue.take()
    assert queue.submit(b"", webhook=None, now=NOW, limit=3) is None
    assert taken is not None
    queue.end(taken.request_id, FAILED, now=NOW, error={})
    assert queue.submit(b"", webhook=None, now=NOW, limit=3) is not None


def test_requests_are_taken_in_their_order(queue: Submissions) -> None:
    ids = [submitted(queue) for _ in range(3)]
    for request_id in ids:
        taken = queue.take()
        assert taken is not None
        assert taken.request_id == request_id
        queue.end(request_id, FAILED, now=NOW, error={})
    assert queue.take() is None


def test_pauses_grow_to_an_hour_and_end_after_a_day(queue: Submissions) -> None:
    request_id = submitted(queue)
    queue.take()
    queue.end(request_id, FAILED, now=NOW, error={})
    now, pauses = NOW, []
    while True:
        told = queue.take_delivery("crm", now=now)
        assert told is not None
        queue.end_delivery(request_id, is_acknowledged=False, now=now)
        found = queue.get(request_id)
        assert found is not None
        assert found.attempts == told.attempts + 1
        if found.next_attempt_at is None:
            break
        pauses.append((found.next_attempt_at - now).total_seconds())
        # not one microsecond earlier
        early = found.next_attempt_at - timedelta(microseconds=1)
        assert queue.take_delivery("crm", now=early) is None
        now = found.next_attempt_at
    assert pauses[:13] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600]
    assert set(pauses[13:]) == {3600}
    assert NOW + TRIED <= now < NOW + TRIED + LONGEST_PAUSE
    assert found.delivery == GIVEN_UP
    assert queue.take_delivery("crm", now=now + TRIED) is None


def test_a_service_that_was_away_for_days_tells_what_it_has_to(queue: Submissions) -> None:
    request_id = submitted(queue)
    queue.take()
    queue.end(request_id, FAILED, now=NOW, error={})
    queue.tidy(now=NOW + 3 * TRIED)
    assert queue.take_delivery("crm", now=NOW + 3 * TRIED) is not None
    queue.end_delivery(request_id, is_acknowledged=True, now=NOW + 3 * TRIED)
    assert queue.counts()["delivery"]["delivered"] == 1


def test_a_clock_that_was_set_back_does_not_stop_a_webhook(queue: Submissions) -> None:
    request_id = submitted(queue)
    queue.take()
    queue.end(request_id, FAILED, now=NOW, error={})
    queue.take_delivery("crm", now=NOW)
    queue.end_delivery(request_id, is_acknowledged=False, now=NOW)
    assert queue.take_delivery("crm", now=NOW - timedelta(seconds=1)) is None
    assert queue.take_delivery("crm", now=NOW - timedelta(days=300)) is not None


def test_a_webhook_is_told_of_its_own_requests_only(queue: Submissions) -> None:
    for webhook in ("crm", None):
        request_id = submitted(queue, webhook=webhook)
        queue.take()
        queue.end(request_id, FAILED, now=NOW, error={})
    assert queue.take_delivery("other", now=NOW) is None
    assert queue.take_delivery("crm", now=NOW) is not None
    assert queue.take_delivery("crm", now=NOW) is None
    assert queue.counts()["delivery"] == {"waiting": 1, "delivered": 0, "given_up": 0}


def test_what_has_ended_is_kept_for_a_week_and_what_has_not_for_good(queue: Submissions) -> None:
    ended, waits = submitted(queue, webhook=None), None
    queue.take()
    queue.end(ended, FAILED, now=NOW, error={})
    waits = submitted(queue)
    queue.tidy(now=NOW + KEPT)
    assert queue.get(ended) is not None
    queue.tidy(now=NOW + KEPT + timedelta(seconds=1))
    assert queue.get(ended) is None
    queue.tidy(now=NOW + 100 * KEPT)
    assert queue.get(waits) is not None


def test_a_log_that_cannot_be_written_is_waited_for(
    tmp_path: Path, queue: Submissions, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    request_id = submitted(queue)

    def work(log: RequestLog) -> bool:
        return answer_next(queue, world.score, log, clock=lambda: NOW)

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with RequestLog(tmp_path / "requests") as log:
        for is_truncated in (True, False):
            with monkeypatch.context() as patched:
                patched.setattr(os, "fdatasync", full)
                if not is_truncated:
                    patched.setattr(os, "ftruncate", full)
                with pytest.raises(ServingError, match="No space"):
                    work(log)
            found = queue.get(request_id)
            assert found is not None
            assert found.state == RUNNING
        # the second line was not acknowledged, but is in the log: it is not written again
        assert work(log)
    assert world.scored[request_id] == 1
    assert set(world.kept()) == {request_id}


def test_an_answer_is_found_behind_its_position_in_its_own_log(tmp_path: Path) -> None:
    with RequestLog(tmp_path) as log, RequestLog(tmp_path) as other:
        begin = log.position()
        log.append({"request_id": "a"}).result(20)
        behind = log.position()
        log.append({"request_id": "b"}).result(20)
        other.append({"request_id": "c"}).result(20)
        elsewhere = other.position()
    kept = {
        name: [is_logged(tmp_path, name, since=since) for since in (begin, behind, elsewhere)]
        for name in "abc"
    }
    assert kept == {
        "a": [True, False, False],
        "b": [True, True, False],
        "c": [False, False, False],
    }


def test_a_file_that_is_none_of_ours_is_one_clear_error(tmp_path: Path) -> None:
    place = tmp_path / "submitted"
    place.mkdir()
    path = place / "queue.sqlite"
    path.write_bytes(b"no SQLite" * 500)
    with pytest.raises(ServingError, match="cannot be used: file is not a database"):
        Submissions(tmp_path)
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("pragma user_version = 7")
    connection.close()
    with pytest.raises(ServingError, match="its format is 7; this dbt_onnx reads 1"):
        Submissions(tmp_path)
    assert list(place.glob("*.lock")) == []


def test_a_row_that_was_altered_is_one_clear_error(tmp_path: Path, queue: Submissions) -> None:
    request_id = submitted(queue)
    with sqlite3.connect(tmp_path / "submitted/queue.sqlite") as connection:
        connection.execute("update requests set answer = 'no JSON', submitted_at = 'never'")
    connection.close()
    with pytest.raises(ServingError, match="cannot be used"):
        queue.get(request_id)


def test_nobody_else_may_read_what_was_asked(tmp_path: Path, queue: Submissions) -> None:
    submitted(queue)
    files = list((tmp_path / "submitted").iterdir())
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_publisher_leaves_the_queue_alone(tmp_path: Path) -> None:
    rows = {"00042": {"churn_probability": 0.25}}
    publish(tmp_path / "churn", rows)
    queue = Submissions(tmp_path / "churn")
    request_id = submitted(queue)
    for _ in range(5):
        publish(tmp_path / "churn", rows)
    other = Submissions(tmp_path / "churn")
    assert other.get(request_id) is not None
    other.close()
    queue.close()
