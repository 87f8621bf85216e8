"""Threads that answer submitted requests, one at a time for each publication, and tell webhooks."""

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
from dbt_onnx.serving.request_log import REQUESTS, RequestLog, is_kept
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
"""How often a thread looks that is not woken: what another service left, or a webhook that is due."""


def answer_next(
    queue: Submissions,
    score: Callable[[Submission], Mapping[str, Any]],
    log: RequestLog,
    *,
    clock: Callable[[], datetime],
) -> bool:
    """Answer one request, and keep the answer in a log. Whether there was one.

    `score` returns what the log is to have, and raises Refusal. Wherever this ends, the next call goes on, in
    this process or another: an answer that was noted is not computed again, and is in the logs once. Raises
    ServingError when queue or log cannot be written.
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
    if submission.since is None or not is_kept(log.folder, request_id, since=submission.since):
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
    until: threading.Event,
) -> bool:
    """Tell the webhook called `name` of one request, once. Whether there was one to tell of.

    What came of it is noted before this ends, unless `until` is set.
    """
    submission = queue.take_delivery(name, now=clock())
    if submission is None:
        return False
    body = json.dumps(document(submission), separators=(",", ":"), allow_nan=False).encode()
    # the receiver holds this against its own clock
    status = post(webhook, submission.request_id, body, timestamp=int(time.time()))
    is_acknowledged = is_acknowledgement(status)
    if not is_acknowledged:
        said = "no answer" if status is None else f"status {status}"
        _LOG.warning("webhook %s has not taken %s: %s", name, submission.request_id, said)
    while True:
        try:
            queue.end_delivery(submission.request_id, is_acknowledged=is_acknowledged, now=clock())
        except ServingError as error:
            # without the note it would be sent again
            _LOG.error("%s", error.message)
            if until.wait(_PAUSE_SECONDS):
                return True
        else:
            return True


class Workers:
    """The queues of a folder, with a thread for each publication and for each webhook.

    A queue that another service made or left is found by itself.
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
        self, name: str, body: bytes, *, webhook: str | None, most: int
    ) -> Submission | None:
        """Queue a request of a publication. Returns none when `most` wait. Raises ServingError."""
        worker = self._of(name)
        submission = worker.queue.submit(body, webhook=webhook, now=self._folder.now(), most=most)
        worker.loop.wake()
        return submission

    def get(self, name: str, request_id: str) -> Submission | None:
        """A request of a publication; none when there is none of that id. Raises ServingError."""
        if name not in self._workers and not Submissions.are_in(self._folder.folder / name):
            return None
        return self._of(name).queue.get(request_id)

    def document(self, name: str, submission: Submission) -> dict[str, Any]:
        """How a request of a publication stands, as JSON."""
        predictions = self._folder.get(name)
        stale_after = None if predictions is None else predictions.manifest.stale_after
        return submission_document(
            name, submission, now=self._folder.now(), stale_after=stale_after
        )

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """By publication, how many requests there are by state, and webhooks by delivery."""
        found = {}
        for name, worker in sorted(self._workers.items()):
            try:
                found[name] = worker.queue.counts()
            except ServingError as error:
                _LOG.error("%s", error.message)
        return found

    def close(self) -> None:
        """End when what is being scored or sent has ended. What is queued is left to the next service."""
        self._ending.set()
        # first who starts others
        self._finder.end()
        for loop in (*self._couriers, *(worker.loop for worker in self._workers.values())):
            loop.end()
        for worker in self._workers.values():
            worker.close()

    def _of(self, name: str) -> _Worker:
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
                    self._of(name)
                except ServingError as error:
                    fault = error
        # one that is damaged does not hold up the others
        if fault is not None:
            raise fault
        return False

    def _wake_couriers(self) -> None:
        for courier in self._couriers:
            courier.wake()

    def _deliver(self, name: str, webhook: Webhook) -> bool:
        # of each publication one, so that none waits for all of another
        has_told, fault = False, None
        for published, worker in list(self._workers.items()):
            try:
                has_told |= deliver_next(
                    worker.queue,
                    name,
                    webhook,
                    document=partial(self.document, published),
                    clock=self._folder.now,
                    until=self._ending,
                )
            except ServingError as error:
                fault = error
        if fault is not None:
            raise fault
        return has_told


class _Worker:
    """The queue of one publication, and the thread that answers it.

    It has a process of its own for the model, so that `:score` does not wait for it, and the time that a
    model has in a run.
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
        self._look_at = 0.0
        # what may fail first: the others are threads
        self.queue = Submissions(folder.folder / name)
        self._log = RequestLog(folder.folder / name / REQUESTS)
        self.loop = _Loop(f"submitted to {name}", self._step, ending)

    def close(self) -> None:
        self._log.close()
        self.queue.close()

    def _step(self) -> bool:
        if time.monotonic() >= self._look_at:
            self.queue.take_over()
            self.queue.tidy(now=self._folder.now())
            self._look_at = time.monotonic() + _PAUSE_SECONDS
        has_ended = answer_next(self.queue, self._scored, self._log, clock=self._folder.now)
        if has_ended:
            self._on_end()
        return has_ended

    def _scorer(self) -> RealTime:
        if self._real_time is None:
            # imported only where something is scored, with pyarrow
            from dbt_onnx.kernel.native import MAX_SECONDS
            from dbt_onnx.serving.real_time import RealTime

            folder = self._folder.folder / self._name
            self._real_time = RealTime(folder, max_seconds=MAX_SECONDS)
        return self._real_time

    def _scored(self, submission: Submission) -> Mapping[str, Any]:
        """What the log is to have. Raises Refusal as `:score` does."""
        predictions = self._folder.get(self._name)
        if predictions is None:
            raise failed()
        question = read_question(submission.body or b"", may_name_webhook=True)
        try:
            [known] = predictions.get_parsed([question.key])
            return self._scorer().scored(
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
    """A thread that takes one step after the other, and waits when a step had nothing to do or failed."""

    def __init__(self, name: str, step: Callable[[], bool], ending: threading.Event) -> None:
        self._step = step
        self._ending = ending
        self._woken = threading.Event()
        self._said = ""
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
                    self._said = ""
                    continue
            except ServingError as error:
                # once, not each second
                if error.message != self._said:
                    self._said = error.message
                    _LOG.error("%s", error.message)
            except Exception:  # noqa: BLE001, logged; a thread that ends would leave all that is queued
                _LOG.exception("%s", self._thread.name)
            self._woken.wait(_PAUSE_SECONDS)
