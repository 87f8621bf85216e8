"""A separate driver process: it plays the nights that it reads from stdin, one line of JSON each, until it is killed.

    python driver.py '{"spark.master": ...}'
    -> {"clock": "1998-01-02", "run_id": "a1", "name": "scores", "settings": {}, "arguments": {}, "kill": null}
    <- {"begun": "append"}, then {"said": "churn/2: scored ..."} or {"error": "WarehouseError", "message": ...}

`kill` is [n, seconds]: this many seconds after the n-th change of a table has begun, SIGKILL ends Java and Python.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from local_spark import open_session
from pyspark import SparkContext
from pyspark.sql import DataFrameWriterV2
from test_nights import Night, score

from dbt_onnx.engines.spark.session import Spark
from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 900
"""The timeout of a run on a busy machine. On an idle machine, a run takes 10 seconds."""


@contextmanager
def watched(on_change: Callable[[str, str], None]) -> Iterator[None]:
    """Within the context, call `on_change` before and after each change of a table."""
    frame, append = Spark.frame, DataFrameWriterV2.append

    def watched_frame(self: Spark, sql: str, values: Any = None) -> Any:
        if sql.split(maxsplit=1)[0] in {"select", "with"}:
            return frame(self, sql, values)
        what = " ".join(sql.split()[:6])
        on_change(what, "before")
        made = frame(self, sql, values)
        on_change(what, "after")
        return made

    def watched_append(self: DataFrameWriterV2) -> None:
        on_change("append", "before")
        append(self)
        on_change("append", "after")

    with (
        patch.object(Spark, "frame", watched_frame),
        patch.object(DataFrameWriterV2, "append", watched_append),
    ):
        yield


def play_and_abandon(play: Callable[[], object], *, after: int) -> list[str]:
    """Play in a thread that hangs forever after the change with the number `after`, like a driver that died.
    Returns the changes that the thread has made: fewer than `after` if the run ended earlier.
    """
    made: list[str] = []
    ended: list[bool] = []
    stopped = threading.Event()

    def on_change(what: str, when: str) -> None:
        if threading.current_thread() is not thread or when == "before":
            return
        made.append(what)
        if len(made) == after:
            stopped.set()
            threading.Event().wait()

    def run() -> None:
        try:
            play()
            ended.append(True)
        finally:
            stopped.set()

    thread = threading.Thread(target=run, daemon=True)
    with watched(on_change):
        thread.start()
        assert stopped.wait(timeout=SECONDS)
    assert ended or len(made) == after, "the run has failed"
    return made


def main(parameters: str) -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # keep the output of Spark out of the answers
    session = open_session(json.loads(parameters))
    with os.fdopen(answers, "w") as stream:

        def say(**said: Any) -> None:
            print(json.dumps(said), file=stream, flush=True)

        session.sql("use default")
        say(pid=SparkContext._gateway.proc.pid)
        for line in sys.stdin:
            request = json.loads(line)
            begun = 0

            def on_change(what: str, when: str, request: Any = request) -> None:
                nonlocal begun
                if when == "after":
                    return
                begun += 1
                if request["kill"] and request["kill"][0] == begun:
                    threading.Timer(request["kill"][1], _die).start()
                if what == "append":
                    say(begun=what)

            night = Night(request["clock"], [], request["arguments"], request["settings"])
            try:
                with watched(on_change):
                    say(said=str(score(session, night, request["run_id"], request["name"])))
            except DbtOnnxError as error:
                say(error=type(error).__name__, message=error.message, hint=error.hint)


def _die() -> None:
    os.kill(SparkContext._gateway.proc.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
