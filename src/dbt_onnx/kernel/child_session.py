"""An onnxruntime session in a child process, so that a model that crashes ends only the child."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import (
    ArtifactError,
    DbtOnnxError,
    ModelCrashError,
    ModelError,
    ScoringError,
    document_of,
    error_of,
)
from dbt_onnx.kernel import child
from dbt_onnx.kernel.child import ChildDiedError
from dbt_onnx.kernel.native import MAX_SECONDS, RUNNING_WORK, OverdueError
from dbt_onnx.kernel.tensors import rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbt_onnx.kernel.child import Child, Frame
    from dbt_onnx.kernel.contract import Contract
    from dbt_onnx.kernel.session import OnnxSession
    from dbt_onnx.kernel.tensors import Feeds

# extra time for the child to import onnxruntime, and to report an overdue call itself
_REPORT_SECONDS = 60
_HINT = (
    "onnxruntime does not catch this: look at the model with `dbt-onnx inspect FILE`, and at the values; "
    "for example, the smallest integer divided by -1 has no result"
)


class ChildSession:
    """An `OnnxSession` in a child process. It has the same arguments (except `on_call`), attributes and errors.

    It makes one call at a time. A process that has died is replaced at the next call. Additional errors:
    ArtifactError if the process dies while it loads the model, and ModelCrashError if rows kill the
    process.
    """

    workers = 1

    def __init__(
        self,
        model_bytes: bytes,
        *,
        output_names: Sequence[str],
        threads: int = 1,
        batch_rows: int | None = None,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self.threads = threads
        self.max_seconds = max_seconds
        self._load: Frame = {
            "model_bytes": model_bytes,
            "output_names": list(output_names),
            "threads": threads,
            "batch_rows": batch_rows,
            "max_seconds": max_seconds,
        }
        self._lock = threading.Lock()
        # first row and number of rows of the call that the child began last
        self._at: tuple[int, int] | None = None
        self._child: Child | None = None
        self._give_back: weakref.finalize[Any, Any] | None = None
        loaded = self._started()
        self.onnxruntime_version: str = loaded["onnxruntime_version"]
        self.provider: str = loaded["provider"]
        self.batch_rows: int = loaded["batch_rows"]

    def run(self, feeds: Feeds) -> list[Any]:
        """Return the outputs for the rows of `feeds`, as `OnnxSession.run` does."""
        with self._lock:
            try:
                return self._run(feeds)
            except ChildDiedError as died:
                if died.was_ended_externally or "bad_alloc" in died.last_words:
                    raise _ended(died) from died
                raise self._crash(feeds, died) from died

    def _crash(self, feeds: Feeds, died: ChildDiedError) -> ModelCrashError:
        """Find the row that killed the process, by feeding the rows of the call one at a time; return the error."""
        start, rows = self._at or (0, rows_of(feeds))
        row = start if rows == 1 else None
        if row is None:
            call = {name: values[start : start + rows] for name, values in feeds.items()}
            with suppress(ModelError):
                try:
                    self._run(call, rows_per_call=1)
                except ChildDiedError as again:
                    if self._at is not None:
                        row, died = start + self._at[0], again
        reason = f"the process in which it ran {died}"
        where = f"rows {start + 1:,} to {start + rows:,}" if row is None else f"row {row + 1:,}"
        return ModelCrashError(
            f"the model failed on {where} of {rows_of(feeds):,}: {reason}",
            hint=_HINT,
            reason=reason,
            row=row,
        )

    def _run(self, feeds: Feeds, *, rows_per_call: int | None = None) -> list[Any]:
        if self._child is None:
            self._started()
        self._at = None
        answer = self._ask({"feeds": dict(feeds), "rows_per_call": rows_per_call})
        self.batch_rows = answer["batch_rows"]
        return list(answer["outputs"])

    def _started(self) -> Frame:
        # always load the model: a borrowed child may still hold another one
        self._child = child.borrow()
        self._give_back = weakref.finalize(self, child.give_back, self._child)
        try:
            return self._ask({"load": self._load})
        except ChildDiedError as died:
            if died.was_ended_externally:
                raise _ended(died) from died
            raise ArtifactError(
                f"the process in which onnxruntime loaded the model {died}",
                hint="look at the model with `dbt-onnx inspect FILE`, and check where it comes from; a "
                "normal model loads within seconds and needs little more memory than its file",
            ) from died

    def _ask(self, question: Frame) -> Frame:
        """Send a question and return the answer. Before the answer, the child reports each call that it makes."""
        assert self._child is not None
        try:
            with RUNNING_WORK.entered(self._child.end):
                self._child.send(question)
                limit = self.max_seconds + _REPORT_SECONDS
                while "at" in (answer := self._child.receive(max_seconds=limit)):
                    self._at = tuple(answer["at"])
        except OverdueError as error:
            self._forget()
            raise ScoringError(
                f"a call of the model did not end within {self.max_seconds:g} s and could not be stopped",
                hint="look for an endless loop with `dbt-onnx inspect FILE`",
            ) from error
        except BaseException:
            self._forget()
            raise
        if "error" in answer:
            if answer["is_stuck"]:
                self._forget()
            raise error_of(answer)
        return answer

    def _forget(self) -> None:
        if self._give_back is not None:
            self._give_back.detach()
        if self._child is not None:
            self._child.kill()
        self._child = None


def open_session(
    model_bytes: bytes,
    contract: Contract,
    *,
    threads: int | None,
    batch_rows: int | None,
    in_child_process: bool,
    max_seconds: float = MAX_SECONDS,
) -> OnnxSession | ChildSession:
    """Open a session that computes the outputs of a contract. Runs, replays, checks and the tasks of Spark all open
    theirs here, so they score in the same way.

    With `in_child_process`, a row that crashes the model's process raises ModelCrashError, and this
    process survives. Raises ArtifactError if onnxruntime cannot load the model.
    """
    # imported only where something is scored, with onnxruntime
    from dbt_onnx.kernel.session import OnnxSession

    return (ChildSession if in_child_process else OnnxSession)(
        model_bytes,
        output_names=[output.name for output in contract.outputs],
        # more calls at the same time are faster than more threads for each call
        threads=threads or 1,
        batch_rows=batch_rows,
        max_seconds=max_seconds,
    )


def serve() -> None:
    """Answer the parent's questions until the parent is gone. This is the main loop of the child process."""
    _without_core()
    # an interrupt that is sent to the child ends it, as any other signal does
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # native code may print: send that to stderr, because stdout carries the frames
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    questions: SimpleQueue[Frame] = SimpleQueue()
    threading.Thread(target=_listen, args=(questions,), daemon=True).start()

    def tell(start: int, rows: int) -> None:
        child.write_frame(answers, {"at": [start, rows]})

    session: Any = None
    while True:
        question = questions.get()
        try:
            if "load" in question:
                from dbt_onnx.kernel.session import OnnxSession

                session = None
                session = OnnxSession(**question["load"], on_call=tell)
                answer = {
                    "onnxruntime_version": session.onnxruntime_version,
                    "provider": session.provider,
                    "batch_rows": session.batch_rows,
                }
            else:
                answer = _answered(session, question)
        except DbtOnnxError as error:
            answer = {
                **document_of(error),
                "is_stuck": isinstance(error.__cause__, OverdueError),
            }
        child.write_frame(answers, answer)


def _listen(questions: SimpleQueue[Frame]) -> None:
    for question in child.frames(sys.stdin.buffer):
        questions.put(question)
    os._exit(0)  # the parent is gone, so nobody waits for the outputs


def _answered(session: Any, question: Frame) -> Frame:
    outputs = session.run(**question)
    return {"outputs": outputs, "batch_rows": session.batch_rows}


def _without_core() -> None:
    """Disable the core file of this process: if it dies, its parent reports that."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _ended(died: ChildDiedError) -> ScoringError:
    return ScoringError(
        f"the process in which the model ran {died}",
        hint="if nobody ended the process, the machine ran out of memory: give it more, or lower "
        "batch_rows in score()",
    )
