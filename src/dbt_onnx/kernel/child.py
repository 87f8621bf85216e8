"""A child process that may die without harm to this one. Its pipes carry only numbers and text, never code."""

from __future__ import annotations

import atexit
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dbt_onnx.errors import ScoringError
from dbt_onnx.kernel.native import OverdueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    Frame: TypeAlias = dict[str, Any]

_LENGTHS = struct.Struct("<QQ")
# the child ignores environment variables (-I), so it gets the parent's module search path as an argument
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dbt_onnx.kernel.child_session import serve; serve()"
)
# a process that one of these signals killed was ended from outside: no row of the model is to blame
_EXTERNAL_SIGNALS = {
    getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
}  # fmt: skip


class ChildDiedError(Exception):
    """The child process has ended.

    `how` describes the end, such as `was killed by signal 8 (SIGFPE)`. `last_words` is the last line
    that the process printed. `was_ended_externally` is true if the process was ended from outside.
    """

    def __init__(self, returncode: int, last_words: str) -> None:
        self.was_ended_externally = -returncode in _EXTERNAL_SIGNALS
        self.how = f"ended with exit code {returncode}"
        if returncode < 0:
            self.how = f"was killed by signal {-returncode}"
            with suppress(ValueError):  # a signal without a name
                self.how += f" ({signal.Signals(-returncode).name})"
        self.last_words = last_words
        super().__init__(self.how + (f" ({last_words:.200})" if last_words else ""))


class Child:
    """A process that answers frames with frames. It ends when this process ends, even in the middle of work."""

    def __init__(self) -> None:
        if not sys.executable:
            raise ScoringError(
                "cannot start a child process: this Python does not know the path of its own executable",
                hint="run dbt and dbt-onnx with a regular Python interpreter",
            )
        self.owner = os.getpid()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the process
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-c", _PROGRAM, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            # Ctrl-C reaches the parent only, which then ends its child
            start_new_session=True,
        )
        self._answers: SimpleQueue[Frame | None] = SimpleQueue()
        threading.Thread(target=self._listen, name="dbt_onnx_child", daemon=True).start()

    def send(self, frame: Frame) -> None:
        """Send a frame. Raises ChildDiedError if the process has ended."""
        assert self._process.stdin is not None
        try:
            write_frame(self._process.stdin, frame)
        except OSError as error:
            raise self._death() from error

    def receive(self, *, max_seconds: float) -> Frame:
        """Return the next frame. Raises OverdueError if none arrives in time, ChildDiedError if the process ends."""
        try:
            frame = self._answers.get(timeout=max_seconds)
        except Empty as error:
            raise OverdueError from error
        if frame is None:
            raise self._death()
        return frame

    def end(self) -> None:
        """Kill the process without waiting. A thread that waits in `receive` gets a ChildDiedError."""
        self._process.kill()

    def kill(self) -> None:
        """Kill the process, wait until it has ended, and close its streams."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._stderr):
            with suppress(OSError):  # closing flushes the buffer, into a pipe that may be broken
                if stream is not None:
                    stream.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for frame in frames(stream):
                self._answers.put(frame)
        self._answers.put(None)

    def _death(self) -> ChildDiedError:
        returncode = self._process.wait()
        self._stderr.seek(max(0, self._stderr.tell() - 2_000))
        text = self._stderr.read().decode(errors="replace").strip()
        self.kill()
        return ChildDiedError(returncode, last_words=text.rpartition("\n")[2].strip())


_idle: list[Child] = []


def borrow() -> Child:
    """Return an idle child, or start a new one if there is none."""
    return next(_own_idle(), None) or Child()


def _own_idle() -> Iterator[Child]:
    """Remove and yield the idle children. After a fork, drop the children that the parent process owns."""
    while _idle:
        child = _idle.pop()
        if child.owner == os.getpid():
            yield child


def give_back(child: Child) -> None:
    """Keep a child for its next use, because starting one costs more than most of the work that it does."""
    _idle.append(child)


@atexit.register
def _end_all() -> None:
    for child in _own_idle():
        child.kill()


def write_frame(stream: IO[bytes], frame: Frame) -> None:
    """Write a frame: JSON values that may contain bytes and arrays of numbers or text at any depth."""
    blobs: list[bytes] = []
    text = json.dumps(_packed(frame, blobs)).encode()
    stream.write(_LENGTHS.pack(len(text), sum(map(len, blobs))))
    stream.write(text)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def frames(stream: IO[bytes]) -> Iterator[Frame]:
    """Yield the frames that arrive, until the other end closes the pipe or dies."""
    while True:
        head = stream.read(_LENGTHS.size)
        if len(head) < _LENGTHS.size:
            return
        text_length, blob_length = _LENGTHS.unpack(head)
        text, blob = stream.read(text_length), stream.read(blob_length)
        if len(text) + len(blob) < text_length + blob_length:
            return
        yield _unpacked(json.loads(text), blob)


def _packed(value: Any, blobs: list[bytes]) -> Any:
    """Return the value as JSON. A value that is not a scalar becomes a list that begins with its kind."""
    if isinstance(value, bytes):
        blobs.append(value)
        return ["bytes", sum(map(len, blobs[:-1])), len(value)]
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            return ["texts", list(value.shape), [str(item) for item in value.ravel()]]
        return ["array", value.dtype.str, list(value.shape), _packed(value.tobytes(), blobs)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return ["dict", [[_packed(k, blobs), _packed(v, blobs)] for k, v in value.items()]]
    if isinstance(value, list | tuple):
        return ["list", [_packed(item, blobs) for item in value]]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return type(value).__name__  # no contract has this type, so `decode` refuses the text


def _unpacked(value: Any, blob: bytes) -> Any:
    if not isinstance(value, list):
        return value
    kind, *rest = value
    if kind == "bytes":
        start, length = rest
        return blob[start : start + length]
    if kind == "texts":
        shape, texts = rest
        array = np.empty(len(texts), dtype=object)
        array[:] = texts
        return array.reshape(shape)
    if kind == "array":
        dtype, shape, content = rest
        return np.frombuffer(_unpacked(content, blob), np.dtype(dtype)).reshape(shape)
    if kind == "dict":
        return {_unpacked(k, blob): _unpacked(v, blob) for k, v in rest[0]}
    return [_unpacked(item, blob) for item in rest[0]]
