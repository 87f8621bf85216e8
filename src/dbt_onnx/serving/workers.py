"""Threads that answer submitted requests, one at a time per publication, and call webhooks."""

from __future__ import annotations

import json
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import DbtOnnxError, ServingError
from dbt_onnx.serving.answers import submission_document
from dbt_onnx.serving.questions import read_question
from dbt_onnx.serving.refusal import Refusal, failed, not_scored
from dbt_onnx.serving.request_log import REQUESTS, RequestLog, is_logged
from dbt_onnx.serving.submissions import FAILED, REJECTED, SCORED, Submission, Submissions
from dbt_onnx.serving.webhooks import is_acknowledgement, post

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from dbt_onnx.serving.folder import ServingFolder
    from dbt_onnx.serving.real_time import RealTime
    from dbt_onnx.serving.webhooks import Webhook

_LOG = logging.getLogger("dbt_onnx")
_PAUSE_SECONDS = 1.0
"""The longest pause of an idle thread. Requests of a dead service and webhooks that become due do not wake it."""


def answer_next(
    queue: Submissions,
    score: Callable[[Submission], Mapping[str, Any]],
    log: RequestLog,
    *,
    clock: Callable[[], datetime],
) -> bool:
    """Answer one request, and append the answer to a log. Return whether there was a request.

    `score` returns the document for the log, or raises Refusal. If the process dies at any point, the next call
    continues from there, in this process or another: an answer that is stored in the queue is not computed again,
    and the logs contain it once. Raises ServingError if the queue or the log cannot be written.
    """
    submission = queue.take()
    if submission is None:
        return False
    request_id, answer = submission.request_id, submission.answer
    if answer is None:
        try:
            answer = score(submission)
        except Refusal as refusal:
            queue.end(request_id, FAILED, now=clock(), error=refusal.document()["error"])
            return True
    if submission.since is None or not is_logged(log.folder, request_id, since=submission.since):
        queue.note_answer(request_id, answer, since=log.position())
        log.append(answer).result()
    queue.end(request_id, REJECTED if answer["rejected_reason"] else SCORED, now=clock())
    return True


def deliver_next(
    queue: Submissions,
    name: str,
    webhook: Webhook,
    *,
    document: Callable[[Submission], Mapping[str, Any]],
    clock: Callable[[], datetime],
    stopping: threading.Event,
) -> bool:
    """Call the webhook `name` once, for one request that has ended. Return whether there was one.

    Retries to record the result of the call until that succeeds, or until the event `stopping` is set.
    """
    submission = queue.take_delivery(name, now=clock())
    if submission is None:
        return False
    body = json.dumps(document(submission), separators=(",", ":"), allow_nan=False).encode()
    # the system's time, because the receiver compares it with its clock
    status = post(webhook, submission.request_id, body, timestamp=int(time.time()))
    is_acknowledged = is_acknowledgement(status)
    if not is_acknowledged:
        reason = "no response" if status is None else f"status {status}"
        _LOG.warning(
            "webhook %s did not acknowledge request %s: %s", name, submission.request_id, reason
        )
    while True:
        try:
            queue.end_delivery(submission.request_id, is_acknowledged=is_acknowledged, now=clock())
        except ServingError as error:
            # retried, because a request without a recorded result is sent again
            _LOG.error("%s", error.message)
            if stopping.wait(_PAUSE_SECONDS):
                return True
        else:
            return True


class Workers:
    """The queues of the publications in a folder, with a thread per publication and per webhook.

    A queue that another service has created or left behind is found automatically.
    """

    def __init__(self, folder: ServingFolder, *, webhooks: Mapping[str, Webhook]) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._workers: dict[str, _Worker] = {}
        self._couriers = [
            _Loop(f"webhook {name}", partial(self._deliver, name, webhook), self._ending)
            for name, webhook in webhooks.items()
        ]
        self._finder = _Loop("submitted requests", self._find, self._ending)

    def submit(
        self, name: str, body: bytes, *, webhook: str | None, limit: int
    ) -> Submission | None:
        """Queue a request to a publication. Return None if `limit` requests are waiting already. Raises ServingError."""
        worker = self._worker_of(name)
        submission = worker.queue.submit(body, webhook=webhook, now=self._folder.now(), limit=limit)
        worker.loop.wake()
        return submission

    def get(self, name: str, request_id: str) -> Submission | None:
        """Return the request to a publication with this id; None if there is none. Raises ServingError."""
        if name not in self._workers and not Submissions.are_in(self._folder.folder / name):
            return None
        return self._worker_of(name).queue.get(request_id)

    def document(self, name: str, submission: Submission) -> dict[str, Any]:
        """Return the state of a request as a JSON document."""
        predictions = self._folder.get(name)
        stale_after = None if predictions is None else predictions.manifest.stale_after
        return submission_document(
            name, submission, now=self._folder.now(), stale_after=stale_after
        )

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return, per publication, the number of requests by state, and of webhook calls by delivery."""
        found = {}
        for name, worker in sorted(self._workers.items()):
            try:
                found[name] = worker.queue.counts()
            except ServingError as error:
                _LOG.error("%s", error.message)
        return found

    def close(self) -> None:
        """Wait for the scoring and the webhook calls in progress, and stop. Queued requests stay in the queue."""
        self._ending.set()
        # the finder first, because it starts workers
        self._finder.end()
        for loop in (*self._couriers, *(worker.loop for worker in self._workers.values())):
            loop.end()
        for worker in self._workers.values():
            worker.close()

    def _worker_of(self, name: str) -> _Worker:
        with self._lock:
            if name not in self._workers:
                self._workers[name] = _Worker(
                    name,
                    self._folder,
                    ending=self._ending,
                    on_end=self._wake_couriers,
                )
            return self._workers[name]

    def _find(self) -> bool:
        fault = None
        for name in self._folder.names():
            if name not in self._workers and Submissions.are_in(self._folder.folder / name):
                try:
                    self._worker_of(name)
                except ServingError as error:
                    fault = error
        # raised at the end, so that a damaged queue does not keep the others from being found
        if fault is not None:
            raise fault
        return False

    def _wake_couriers(self) -> None:
        for courier in self._couriers:
            courier.wake()

    def _deliver(self, name: str, webhook: Webhook) -> bool:
        # one request of each publication in turn, so that no publication waits for all requests of another
        has_called, fault = False, None
        for published, worker in list(self._workers.items()):
            try:
                has_called |= deliver_next(
                    worker.queue,
                    name,
                    webhook,
                    document=partial(self.document, published),
                    clock=self._folder.now,
                    stopping=self._ending,
                )
            except ServingError as error:
                fault = error
        if fault is not None:
            raise fault
        return has_called


class _Worker:
    """The queue of one publication, and the thread that answers its requests.

    The model runs in another child process than for `:score`, so that `:score` does not wait for it. A call may
    take as long as in a run.
    """

    def __init__(
        self,
        name: str,
        folder: ServingFolder,
        *,
        ending: threading.Event,
        on_end: Callable[[], None],
    ) -> None:
        self._name = name
        self._folder = folder
        self._real_time: RealTime | None = None
        self._on_end = on_end
        self._next_check = 0.0
        # first, because it may fail: the log and the loop start threads
        self.queue = Submissions(folder.folder / name)
        self._log = RequestLog(folder.folder / name / REQUESTS)
        self.loop = _Loop(f"submitted to {name}", self._step, ending)

    def close(self) -> None:
        self._log.close()
        self.queue.close()

    def _step(self) -> bool:
        if time.monotonic() >= self._next_check:
            self.queue.take_over()
            self.queue.tidy(now=self._folder.now())
            self._next_check = time.monotonic() + _PAUSE_SECONDS
        has_ended = answer_next(self.queue, self._score, self._log, clock=self._folder.now)
        if has_ended:
            self._on_end()
        return has_ended

    def _scorer(self) -> RealTime:
        if self._real_time is None:
            # imported late, because it needs pyarrow, which only scoring requires
            from dbt_onnx.kernel.native import MAX_SECONDS
            from dbt_onnx.serving.real_time import RealTime

            folder = self._folder.folder / self._name
            self._real_time = RealTime(folder, max_seconds=MAX_SECONDS)
        return self._real_time

    def _score(self, submission: Submission) -> Mapping[str, Any]:
        """Score a request, and return the document for the log. Raises Refusal as `:score` does."""
        predictions = self._folder.get(self._name)
        if predictions is None:
            raise failed()
        question = read_question(submission.body or b"", may_name_webhook=True)
        try:
            [known] = predictions.get_parsed([question.key])
            return self._scorer().score_to_document(
                predictions.manifest,
                known.key,
                question.features,
                now=self._folder.now(),
                request_id=submission.request_id,
            )
        except DbtOnnxError as error:
            raise not_scored(self._name, error) from error
        except Exception as error:
            _LOG.exception("request %s could not be answered", submission.request_id)
            raise failed() from error


class _Loop:
    """A thread that runs one step after another, and pauses after a step that failed or had nothing to do."""

    def __init__(self, name: str, step: Callable[[], bool], ending: threading.Event) -> None:
        self._step = step
        self._ending = ending
        self._woken = threading.Event()
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def end(self) -> None:
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._woken.clear()
            try:
                if self._step():
                    self._last_error = ""
                    continue
            except ServingError as error:
                # log a repeated error once, not every second
                if error.message != self._last_error:
                    self._last_error = error.message
                    _LOG.error("%s", error.message)
            except Exception:  # noqa: BLE001, logged; if the thread ended, its work would stop
                _LOG.exception("%s", self._thread.name)
            self._woken.wait(_PAUSE_SECONDS)
