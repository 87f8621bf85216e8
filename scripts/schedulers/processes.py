"""Processes of a scheduler that run while a driver asks it for a night."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


@contextmanager
def running(*command: str, **variables: str) -> Iterator[None]:
    """Start a command with these environment variables; stop it and all its processes at the end.

    What it prints goes to stderr, because the last line of stdout is the driver's answer.
    """
    process = subprocess.Popen(
        command, env=os.environ | variables, stdout=sys.stderr, start_new_session=True
    )
    try:
        yield
    finally:
        # the second signal is for what is left of its processes
        for stop in (signal.SIGINT, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, stop)
                process.wait(timeout=20)


def eventually(answer: Callable[[], T | None], *, seconds: float = 600) -> T:
    """Ask twice a second until there is an answer. Raises TimeoutError with the last error as its cause."""
    end, fault = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            if found := answer():
                return found
        except Exception as error:  # noqa: BLE001, a server that starts fails in many ways
            fault = error
        time.sleep(0.5)
    raise TimeoutError(f"no answer within {seconds:.0f} seconds") from fault


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
