"""Runs native code with a time limit, after which the caller stops waiting, and with a memory limit."""

from __future__ import annotations

import atexit
import mmap
import signal
import sys
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    _Inbox: TypeAlias = SimpleQueue[Callable[[], None] | None]

MAX_SECONDS = 600.0
"""The longest time for a call of onnxruntime."""

TRIAL_SECONDS = 60.0
"""The longest time for a call where a model is only tried, such as by `dbt-onnx verify`."""

# after the limit, for the work to obey `cancel`
_GRACE_SECONDS = 5
# at the end of the process, for all work; see `_RunningWork.end`
_END_SECONDS = 30
# a Ctrl-C is noticed after this time at most
_POLL_SECONDS = 0.5
_SHARE = 0.9
_CGROUP = Path("/sys/fs/cgroup")
# for control groups, version 2 and 1: the file with the memory limit, the file with the usage, and the name
# of the line with the usage (without the file cache)
_CGROUPS = (
    ("memory.max", "memory.stat", "anon "),
    ("memory/memory.limit_in_bytes", "memory/memory.stat", "total_rss "),
)

T = TypeVar("T")


class OverdueError(Exception):
    """The work neither ended nor made progress for `max_seconds`."""


class _RunningWork:
    """A register of the native code that is running now, in threads for which Python does not wait.

    When the process ends, Python ends such a thread as soon as its native code returns. C++ treats
    that as an error and aborts the process, as happened after a second Ctrl-C. So the end of the
    process waits for this code.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._cancels: dict[object, Callable[[], None]] = {}
        self._is_registered = False
        self.is_ending = False

    @contextmanager
    def entered(self, cancel: Callable[[], None]) -> Iterator[object]:
        """While this context is open, the end of the process waits for it, and calls `cancel` to shorten the wait."""
        token = object()
        with self._changed:
            if not self._is_registered:
                # registered late, so that it runs before the exit handlers that close things
                atexit.register(self.end)
                self._is_registered = True
            self._cancels[token] = cancel
        try:
            yield token
        finally:
            self.leave(token)

    def leave(self, token: object) -> None:
        """Remove the work: the end of the process no longer waits for it."""
        with self._changed:
            self._cancels.pop(token, None)
            self._changed.notify_all()

    def end(self) -> None:
        """Ask all work to end, and wait for it. Ctrl-C is ignored during the wait."""
        with suppress(ValueError):  # raised outside the main thread
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.is_ending = True
        for _ in range(_END_SECONDS):
            with self._changed:
                cancels = list(self._cancels.values())
            for cancel in cancels:
                with suppress(Exception):
                    cancel()
            with self._changed:
                if self._changed.wait_for(lambda: not self._cancels, timeout=1):
                    return


RUNNING_WORK = _RunningWork()


class Threads:
    """A pool of threads that run work with a time limit. The threads are reused, and end with this object."""

    def __init__(self) -> None:
        self._idle: deque[_Inbox] = deque()
        weakref.finalize(self, _stop_threads, self._idle)

    def run(
        self,
        work: Callable[[], T],
        *,
        max_seconds: float,
        cancel: Callable[[], None],
        steps: Callable[[], int] = lambda: 0,
    ) -> T:
        """Run `work` in a thread, and return its result or raise its error.

        Raises OverdueError if `max_seconds` pass without a change of `steps()`. In this case, and if the
        wait is interrupted, `cancel` asks the work to end. Not all native code obeys: after a few seconds
        its thread is abandoned, and the process may end without waiting for it.
        """
        answers: list[T] = []
        errors: list[BaseException] = []
        done = threading.Lock()
        done.acquire()

        entered: list[object] = []

        def act() -> None:
            with RUNNING_WORK.entered(cancel) as token:
                entered.append(token)
                try:
                    answers.append(work())
                except BaseException as error:  # noqa: BLE001, raised again in the waiting thread
                    errors.append(error)
            done.release()

        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = _start_thread()
        progress: int | None = None
        is_done = False
        try:
            inbox.put(act)
            # the limit is for one step: wait again as long as the work has made a step
            while not is_done and (now := steps()) != progress:
                progress = now
                is_done = _acquired(done, max_seconds)
        finally:
            if not is_done:
                cancel()
                inbox.put(None)  # the thread ends when its work does
                if not done.acquire(timeout=_GRACE_SECONDS):
                    for token in entered:
                        RUNNING_WORK.leave(token)
        if not is_done:
            raise OverdueError
        if RUNNING_WORK.is_ending:
            raise KeyboardInterrupt
        self._idle.append(inbox)
        if errors:
            raise errors.pop()
        return answers[0]


def _acquired(lock: threading.Lock, max_seconds: float) -> bool:
    """Acquire the lock in a series of short waits. Return False if `max_seconds` pass first.

    A Ctrl-C does not end a wait if another thread receives the signal, or if it arrives just before the
    wait. Python handles it between two waits.
    """
    deadline = time.monotonic() + max_seconds
    while (left := deadline - time.monotonic()) > _POLL_SECONDS:
        if lock.acquire(timeout=_POLL_SECONDS):
            return True
    return lock.acquire(timeout=max(0, left))


def _start_thread() -> _Inbox:
    inbox: _Inbox = SimpleQueue()
    threading.Thread(target=_serve, args=(inbox,), name="dbt_onnx", daemon=True).start()
    return inbox


def _serve(inbox: _Inbox) -> None:
    while (act := inbox.get()) is not None:
        act()
        del act  # an idle thread must not keep the data of its last work alive


def _stop_threads(idle: deque[_Inbox]) -> None:
    for inbox in idle:
        inbox.put(None)


class Memory:
    """A bound for the memory of this process. Linux kills a process that takes too much.

    The bound is the memory that the process holds when this object is created, plus nine tenths of the
    memory that the machine, or its container, has left at that moment. Only Linux has a bound.
    """

    _lock = threading.Lock()
    _holders = 0
    _before = (0, 0)

    def __init__(self) -> None:
        self._max_held: int | None = None
        # a hardened container may hide /proc
        with suppress(OSError, StopIteration, ValueError):
            if sys.platform == "linux":
                self._max_held = _held_and_reserved()[0] + int(_SHARE * min(_left()))

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """While this context is open, an allocation beyond the bound fails, as if no memory were left.

        If several contexts are nested or open at the same time, the bound of the first applies to all.
        """
        if self._max_held is None:
            yield
            return
        import resource

        with Memory._lock:
            if not Memory._holders:
                soft, hard = Memory._before = resource.getrlimit(resource.RLIMIT_DATA)
                # RLIMIT_DATA also counts reserved memory, and Arrow reserves a gigabyte at once
                limits = [self._max_held + _held_and_reserved()[1], soft, hard]
                limit = min(n for n in limits if n != resource.RLIM_INFINITY)
                resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
            Memory._holders += 1
        try:
            yield
        finally:
            with Memory._lock:
                Memory._holders -= 1
                if not Memory._holders:
                    resource.setrlimit(resource.RLIMIT_DATA, Memory._before)


def _held_and_reserved() -> tuple[int, int]:
    """Return the bytes that this process holds, and the bytes that it has reserved in addition."""
    with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123, twice as fast as a Path
        pages = file.read().split()
    held, own = int(pages[1]) - int(pages[2]), int(pages[5])
    return held * mmap.PAGESIZE, max(0, own - held) * mmap.PAGESIZE


def _left() -> Iterator[int]:
    """Yield the free bytes of the machine, and of the container if there is one."""
    machine = Path("/proc/meminfo")
    yield 1024 * (_number(machine, "MemAvailable:") + _number(machine, "SwapFree:"))
    for limit, usage, name in _CGROUPS:
        # skip a control group that does not exist, or has the limit "max"
        with suppress(OSError, StopIteration, ValueError):
            yield max(0, int((_CGROUP / limit).read_text()) - _number(_CGROUP / usage, name))


def _number(path: Path, name: str) -> int:
    lines = path.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
