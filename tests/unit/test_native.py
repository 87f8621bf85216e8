"""Native code returns or is abandoned when overdue; on Linux its memory is limited."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dbt_onnx.kernel import native
from dbt_onnx.kernel.native import Memory, OverdueError, Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def nothing() -> None:
    pass


def test_work_gives_back_what_it_returns_or_raises() -> None:
    threads = Threads()
    assert threads.run(lambda: 7, max_seconds=60, cancel=nothing) == 7
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda: 1 // 0, max_seconds=60, cancel=nothing)
    assert threads.run(lambda: 8, max_seconds=60, cancel=nothing) == 8


def test_work_that_is_overdue_is_asked_to_end() -> None:
    asked, used = threading.Event(), []

    def wait() -> None:
        used.append(threading.current_thread())
        asked.wait()

    with pytest.raises(OverdueError):
        Threads().run(wait, max_seconds=0.05, cancel=asked.set)
    assert asked.is_set()
    used[0].join(5)
    assert not used[0].is_alive()


def test_work_that_does_not_heed_that_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_GRACE_SECONDS", 0.05)
    end, threads = threading.Event(), Threads()
    with pytest.raises(OverdueError):
        threads.run(end.wait, max_seconds=0.05, cancel=nothing)
    # the next work does not wait for the abandoned thread
    assert threads.run(lambda: 7, max_seconds=60, cancel=nothing) == 7
    end.set()


def test_work_that_takes_steps_may_take_long() -> None:
    taken: list[int] = []

    def steps() -> int:
        for _ in range(12):
            time.sleep(0.05)
            taken.append(1)
        return 7

    assert Threads().run(
        steps, max_seconds=0.3, cancel=nothing, steps=lambda: len(taken)
    ) == 7  # fmt: skip


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Enable SIGINT, since a process that a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_wait_asks_the_work_to_end() -> None:
    asked = threading.Event()

    def interrupt() -> None:
        # sent from the work itself: before it has begun, there is nothing to cancel
        os.kill(os.getpid(), signal.SIGINT)
        asked.wait()

    with pytest.raises(KeyboardInterrupt):
        Threads().run(interrupt, max_seconds=60, cancel=asked.set)
    assert asked.is_set()


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_that_reaches_another_thread_ends_the_wait_soon() -> None:
    asked = threading.Event()

    def interrupt() -> None:
        # the kernel may pick any thread; Python's handler then waits for the main thread to wake up
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        asked.wait()

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Threads().run(interrupt, max_seconds=60, cancel=asked.set)
    assert asked.is_set()
    assert time.monotonic() - before < 30


def test_an_interrupt_as_the_work_is_handed_over_asks_it_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, start_thread = threading.Event(), native._start_thread

    def interrupted() -> object:
        inbox = start_thread()
        put = inbox.put

        class Inbox:
            def put(self, work: object) -> None:
                put(work)
                if work is not None:
                    raise KeyboardInterrupt

        return Inbox()

    monkeypatch.setattr(native, "_start_thread", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Threads().run(asked.wait, max_seconds=60, cancel=asked.set)
    assert asked.is_set()


def test_threads_are_used_again_and_end_with_their_owner() -> None:
    threads = Threads()
    used = {threads.run(threading.current_thread, max_seconds=60, cancel=nothing) for _ in range(9)}
    assert len(used) == 1
    (thread,) = used
    assert thread.is_alive()
    del threads
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_several_callers_are_served_at_once() -> None:
    threads, both = Threads(), threading.Barrier(2, timeout=30)

    def call() -> None:
        threads.run(both.wait, max_seconds=60, cancel=nothing)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert not both.broken


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux":
        pytest.skip("Linux bounds memory")
    monkeypatch.setattr(native, "_left", lambda: iter([2**29]))


@pytest.mark.usefixtures("little_memory")
def test_memory_beyond_the_bound_is_refused_within_only() -> None:
    memory = Memory()
    with memory.bounded():
        assert np.empty(2**27, np.uint8).size == 2**27
        with pytest.raises(MemoryError):
            np.empty(2**30, np.uint8)
    assert np.empty(2**30, np.uint8).size == 2**30


@pytest.mark.usefixtures("little_memory")
def test_memory_that_is_reserved_and_not_used_does_not_count() -> None:
    memory = Memory()
    reserved = np.empty(2**32, np.uint8)
    with memory.bounded():
        assert np.empty(2**27, np.uint8).size == 2**27
        with pytest.raises(MemoryError):
            np.empty(2**30, np.uint8)
    assert reserved.size == 2**32


@pytest.mark.usefixtures("little_memory")
def test_the_bound_holds_until_its_last_holder_has_gone() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    first, second = Memory().bounded(), Memory().bounded()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with pytest.raises(MemoryError):
        np.empty(2**30, np.uint8)
    second.__exit__(None, None, None)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.skipif(sys.platform != "linux", reason="Linux bounds memory")
@pytest.mark.parametrize(
    ("write", "left"),
    [
        (lambda root: None, None),
        (lambda root: container(root, "memory.max", "5000", "memory.stat", "anon 2000"), 3000),
        (lambda root: container(root, "memory.max", "max", "memory.stat", "anon 2000"), None),
        (lambda root: container(root, "memory.max", "100", "memory.stat", "anon 2000"), 0),
        (
            lambda root: container(
                root / "memory",
                "memory.limit_in_bytes",
                "5000",
                "memory.stat",
                "cache 1\ntotal_rss 4000",
            ),
            1000,
        ),
    ],
    ids=["none", "version 2", "no limit", "beyond it", "version 1"],
)
def test_a_container_has_less_left_than_the_machine(
    write: Callable[[Path], None], left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_CGROUP", tmp_path)
    write(tmp_path)
    machine, *contained = native._left()
    assert machine > 2**20
    assert contained == ([] if left is None else [left])


def container(root: Path, limit: str, size: str, usage: str, text: str) -> None:
    root.mkdir(exist_ok=True)
    (root / limit).write_text(size + "\n")
    (root / usage).write_text(f"file 500\n{text}\n")
