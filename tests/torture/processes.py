"""Run functions in separate processes, which may be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# fork from a server that has imported everything and opened nothing, since threads do not survive a fork
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.torture.imported"])


def run(function: Callable[..., Any], *arguments: Any, timeout: float = 120) -> tuple[bool, Any]:
    """Run a module's function. Returns (True, its result), or (False, None) if its process was
    killed. Raises RuntimeError if the function raised an error, hung, or ended its process.
    """
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_answer, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            raise RuntimeError(f"{function.__name__}{arguments} hung for {timeout} s")
        answer = ours.recv()
    except EOFError:
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(
                f"{function.__name__}{arguments} ended with {process.exitcode}"
            ) from None
        return False, None
    finally:
        if process.is_alive():
            process.join(5)
            process.kill()
            process.join()
        ours.close()
    kind, value = answer
    if kind == "error":
        raise RuntimeError(f"{function.__name__}{arguments} raised {value}")
    return True, value


def killed_after(function: Callable[..., Any], *arguments: Any, seconds: float) -> bool:
    """Run a function and SIGKILL its process after some seconds. Returns whether it was still running."""
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    process.join(seconds)
    was_running = process.is_alive()
    process.kill()
    process.join()
    return was_running


def together(calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """Run functions at the same time, each in a separate process. Returns their results."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(run, function, *arguments) for function, arguments in calls]
        return [future.result()[1] for future in futures]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _answer(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send(("value", function(*arguments)))
    except Exception as error:  # noqa: BLE001, the waiting process gets every error
        pipe.send(("error", f"{type(error).__name__}: {error}"))
