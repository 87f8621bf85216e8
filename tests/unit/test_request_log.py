"""What was acknowledged is on disk, whatever dies or fails afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from dbt_onnx.errors import ServingError
from dbt_onnx.serving import request_log
from dbt_onnx.serving.request_log import RequestLog, read_segment

if TYPE_CHECKING:
    from pathlib import Path

WRITER = """
import sys
from pathlib import Path
from dbt_onnx.serving.request_log import RequestLog

log = RequestLog(Path(sys.argv[1]))
for number in range(1_000_000):
    log.append({"number": number}).result()
    print(number, flush=True)
"""


def read(folder: Path) -> list[dict[str, Any]]:
    return [
        document
        for segment in sorted(folder.glob("*.log"))
        for _, document in read_segment(segment)
        if document is not None
    ]


def test_answers_come_back_in_order_each_once(tmp_path: Path) -> None:
    documents = [{"number": number, "text": "a\nb \u2028 é"} for number in range(3000)]
    with RequestLog(tmp_path) as log:
        for done in [log.append(document) for document in documents]:
            done.result(10)
    assert read(tmp_path) == documents


def test_threads_append_to_one_segment(tmp_path: Path) -> None:
    with RequestLog(tmp_path) as log:

        def append(thread: int) -> None:
            for number in range(100):
                log.append({"thread": thread, "number": number}).result(10)

        threads = [threading.Thread(target=append, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [(document["thread"], document["number"]) for document in read(tmp_path)]
    assert len(list(tmp_path.glob("*.log"))) == 1
    assert sorted(found) == [(thread, number) for thread in range(8) for number in range(100)]


def test_a_killed_service_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            acknowledged = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        acknowledged = [acknowledged, *map(int, writer.stdout.read().split())][-1]
    numbers = [document["number"] for document in read(tmp_path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > acknowledged


def test_a_line_that_is_cut_short_ends_the_segment_and_a_damaged_one_is_passed_over(
    tmp_path: Path,
) -> None:
    with RequestLog(tmp_path) as log:
        for number in range(3):
            log.append({"number": number}).result(10)
    [segment] = tmp_path.glob("*.log")
    whole = segment.read_bytes()
    places = [place for place, _ in read_segment(segment)]
    for length in range(len(whole)):
        segment.write_bytes(whole[:length])
        assert [place for place, _ in read_segment(segment)] == [p for p in places if p <= length]
    for place in range(places[0], places[1]):
        segment.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = [document for _, document in read_segment(segment)]
        # a damaged line break joins two lines into one
        assert found == (
            [{"number": 0}, None]
            if place == places[1] - 1
            else [{"number": 0}, None, {"number": 2}]
        )


def test_a_reader_goes_on_where_it_was(tmp_path: Path) -> None:
    with RequestLog(tmp_path) as log:
        log.append({"number": 0}).result(10)
        [segment] = tmp_path.glob("*.log")
        [(place, _)] = read_segment(segment)
        log.append({"number": 1}).result(10)
        assert [document for _, document in read_segment(segment, start=place)] == [{"number": 1}]


def test_what_cannot_be_written_is_not_acknowledged_and_the_next_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RequestLog(tmp_path) as log:
        log.append({"number": 0}).result(10)

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", full)
            with pytest.raises(
                ServingError, match="No space left on device; the answer is not in the request log"
            ):
                log.append({"number": 1}).result(10)
        log.append({"number": 2}).result(10)
    first, second = sorted(tmp_path.glob("*.log"))
    assert [document for _, document in read_segment(first)] == [{"number": 0}]
    assert [document for _, document in read_segment(second)] == [{"number": 2}]


def test_when_the_disk_does_not_keep_up_whoever_asks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "_MAX_WAITING", 2)
    goes_on = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda _: goes_on.wait(10))
    with RequestLog(tmp_path) as log:
        waiting = []
        with pytest.raises(ServingError, match="waiting to be written"):
            for number in range(10):
                waiting.append(log.append({"number": number}))
        goes_on.set()
        for done in waiting:
            done.result(10)
    assert len(read(tmp_path)) == len(waiting)


def test_others_may_not_read_what_people_have_asked(tmp_path: Path) -> None:
    with RequestLog(tmp_path) as log:
        log.append({"key": ["00042"]}).result(10)
    [segment] = tmp_path.glob("*.log")
    assert segment.stat().st_mode & 0o077 == 0
    assert json.loads(segment.read_bytes().partition(b" ")[2]) == {"key": ["00042"]}
