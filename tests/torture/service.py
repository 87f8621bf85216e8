"""The HTTP service, killed under load, and sent hostile requests."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graphs
from served_folder import publish
from test_scoring_on_request import LINEAR, served
from tests.torture.report import Attack
from warehouse import Warehouse

from dbt_onnx.artifacts.card import CARD_NAME
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.proof import prove
from dbt_onnx.serving.request_log import RequestLogs, read_segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CLIENTS = 4
ROWS = {f"{number:05}": {"churn_probability": number / 1000} for number in range(1000)}
_SECRET = "a line of a file that is nobody's business"


def measure(folder: Path, *, kills: int, hostile: int) -> Iterator[Attack]:
    """Kill a service that scores on request `kills` times; send `hostile` requests to a service
    that must survive them.
    """
    place = folder / "serving"
    model = served(place / "churn", graphs.linear(), LINEAR)
    publish(place / "churn", ROWS, model=model)
    (folder / "secret.txt").write_text(_SECRET)
    yield from _killed(place, kills, _ledger(folder, place / "churn/models" / model.artifact))
    yield from _asked(place, hostile)


def _ledger(folder: Path, model: Path) -> Warehouse:
    """Make a warehouse with the ledger of the publication and the files of the served model."""
    (folder / "warehouse").mkdir()
    warehouse = Warehouse(folder / "warehouse")
    path = warehouse.register("1", model.read_bytes(), LINEAR)
    shutil.copy(model.with_name(CARD_NAME), path.with_name(CARD_NAME))
    warehouse.sql("create table dbt_onnx_publications as select 'churn' as name, 'files' as target, ['scores'] as scoring_models")  # fmt: skip
    return warehouse


def _night(warehouse: Warehouse, logs: RequestLogs) -> None:
    features = "select '00042' as customer_id, 1.5::double as a, 1.0::double as b"
    warehouse.run(features=features, key=["customer_id"], logs=logs)


def _killed(place: Path, kills: int, warehouse: Warehouse) -> Iterator[Attack]:
    attack = Attack("What was acknowledged is kept", "the service is killed while it scores")
    chance = random.Random(3)
    answered: list[tuple[str, str]] = []
    logs = RequestLogs(place.parent)
    for number in range(kills):
        acknowledged: list[dict[str, Any]] = []
        with _service(place) as (port, process):
            ended = threading.Event()
            clients = [
                threading.Thread(target=_score, args=(port, seed, acknowledged, ended))
                for seed in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            while not acknowledged:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
            # run a night while the service writes answers
            _night(warehouse, logs)
            process.send_signal(signal.SIGKILL)
            process.wait()
            ended.set()
            for client in clients:
                client.join()
        answered += [(one["key"][0], one["scored_at"].rstrip("Z")) for one in acknowledged]
        kept = Counter(document["request_id"] for document in _kept(place))
        lost = [one for one in acknowledged if kept[one["run_id"]] != 1]
        attack.made(
            harm=f"kill {number}: {len(lost)} of {len(acknowledged)} lost" if lost else None
        )
    yield attack
    yield _in_ledger(place, warehouse, logs, answered)


def _in_ledger(
    place: Path, warehouse: Warehouse, logs: RequestLogs, answered: Sequence[tuple[str, str]]
) -> Attack:
    """Compare the ledger with the acknowledged answers, and with the answers in the service's log."""
    attack = Attack("What was acknowledged is in the ledger, once", "answers, after all kills")
    for _ in range(2):
        _night(warehouse, logs)
    query = "select customer_id, as_of, y from scores where score_reason = 'real_time'"
    rows = Counter((key, at.isoformat(), y) for key, at, y in warehouse.sql(query))
    kept = Counter((one["key"][0], one["scored_at"], one["outputs"]["y"]) for one in _kept(place))
    found = Counter((key, at) for key, at, _ in rows.elements())
    for one, count in Counter(answered).items():
        attack.made(harm=None if found[one] >= count else f"{one} is missing")
    attack.made(harm=None if rows == kept else f"{rows - kept} too many, {kept - rows} missing")
    ledger = TableName(database="w", schema="main", identifier="scores")
    findings = prove(warehouse.connection, ledger, with_values=True)
    attack.made(harm="; ".join(map(str, findings)) or None)
    return attack


def _kept(place: Path) -> Iterator[dict[str, Any]]:
    for segment in (place / "churn/requests").glob("*.log"):
        for _, document in read_segment(segment):
            if document is not None:
                yield document


def _score(
    port: int, seed: int, acknowledged: list[dict[str, Any]], ended: threading.Event
) -> None:
    chance = random.Random(seed)
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    while not ended.is_set():
        features = {"a": chance.random(), "b": 1}
        body = json.dumps({"key": str(seed), "features": features})
        try:
            connection.request("POST", "/v1/predictions/churn:score", body)
            answer = connection.getresponse()
            document = json.loads(answer.read())
        except (OSError, HTTPException, ValueError):
            return
        if answer.status == 200:
            acknowledged.append(document)


def _asked(place: Path, times: int) -> Iterator[Attack]:
    answered = Attack(
        "A request is data", "hostile requests: each is refused, none with a traceback"
    )
    goes_on = Attack("A request is data", "an honest one after each hundred: it is answered")
    inside = Attack("A request is data", "files of the folder afterwards: those of before")
    before = _files(place)
    chance = random.Random(4)
    with _service(place) as (port, process):
        for number in range(times):
            request = chance.choice(_HOSTILE)(chance)
            status, text = _ask(port, request)
            fault = None
            if not 400 <= status < 500 or "Traceback" in text or _SECRET in text:
                fault = f"{request[:80]!r}: {status} {text[:200]}"
            answered.made(harm=fault)
            if number % 100 == 0:
                status, text = _ask(
                    port, b"GET /v1/predictions/churn/00042 HTTP/1.1\r\nhost: x\r\n\r\n"
                )
                goes_on.made(harm=None if (status, '"predicted"' in text) == (200, True) else text)
        is_alive = process.poll() is None
    left = _files(place)
    is_as_before = is_alive and left == before
    inside.made(harm=None if is_as_before else f"alive: {is_alive}, {left ^ before}")
    yield from (answered, goes_on, inside)


def _ask(port: int, request: bytes) -> tuple[int, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        with suppress(OSError):
            client.sendall(request)
        got = b""
        with suppress(OSError):
            client.settimeout(5)
            while chunk := client.recv(65536):
                got += chunk
                head, _, body = got.partition(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                if length.isdigit() and len(body) >= int(length):
                    break
    line = got.partition(b"\r\n")[0].split()
    return int(line[1]) if len(line) > 1 else 0, got.decode(errors="replace")


def _get(path: bytes, *head: bytes) -> bytes:
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"host: x", *head, b"", b""])


def _post(path: bytes, body: bytes) -> bytes:
    length = b"content-length: %d" % len(body)
    return b"\r\n".join([b"POST " + path + b" HTTP/1.1", b"host: x", length, b"", body])


_BATCH, _SCORED = b"/v1/predictions/churn:batch", b"/v1/predictions/churn:score"
_KEYS = (
    b"' or 1=1 --", b'"; drop table rows; --', b"../../../../secret.txt", b"..%2f..%2fsecret.txt", b"%00",
    b"%ff", b"\xff\xfe", b"%", b"%zz", b"a" * 9_000, b"{{7*7}}", b"$(id)", b"%0d%0aset-cookie:x", b"00042%00",
    b"/", b"00042/00042", b"NaN", b"-0", b"1e999",
)  # fmt: skip
_BODIES = (
    b"", b"{", b"[" * 50_000, b"nothing", b'{"keys": 1}', b'{"keys": [[[]]]}', b'{"keys": [null]}',
    b'{"keys": [{"a": 1}]}', b'{"keys": ["a"], "more": 1}', b'{"keys": [' + b'"a",' * 2_000 + b'"a"]}',
    b'{"keys": ["' + b"a" * 1_100_000 + b'"]}', b'{"key": "1"}', b'{"key": [[]], "features": {}}',
    b'{"key": "1", "features": {"a": 1e999, "b": 1}}', b'{"key": "1", "features": {"a": "x", "b": 1}}',
    b'{"key": "1", "features": {"a": NaN, "b": 1}}', b'{"key": "1", "features": {"' + b"a" * 90_000 + b'": 1}}',
    b'{"key": "1", "features": {"a": ' + b"9" * 9_000 + b', "b": 1}}', b"\x80abc", b'"\\ud800"',
    b'{"key": "\\ud800", "features": {"a": 1, "b": 1}}',
)  # fmt: skip
_HOSTILE = (
    lambda chance: _get(b"/v1/predictions/churn/" + chance.choice(_KEYS)),
    lambda chance: _get(b"/v1/predictions/" + chance.choice(_KEYS) + b"/00042"),
    lambda chance: _get(b"/" + chance.choice(_KEYS)),
    lambda chance: _post(chance.choice([_BATCH, _SCORED]), chance.choice(_BODIES)),
    lambda chance: _post(b"/v1/predictions/" + chance.choice(_KEYS) + b":score", b"{}"),
    lambda chance: _get(b"/v1/predictions/churn/00042", b"x: " + b"y" * 70_000),
    lambda chance: chance.randbytes(200) + b"\r\n\r\n",
    lambda chance: b"PUT /v1/predictions/churn/00042 HTTP/1.1\r\nhost: x\r\n\r\n",
    lambda chance: b"GET /v1/predictions/churn/00042 HTTP/9.9\r\nhost: x\r\n\r\n",
)


@contextmanager
def _service(place: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    command = [str(Path(sys.executable).with_name("dbt-onnx")), "serve", str(place), "--port", "0"]
    with subprocess.Popen(
        [*command, "--timeout", "5"], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rsplit(":", 1)[1]), process
        finally:
            process.terminate()


def _files(place: Path) -> set[tuple[str, int]]:
    """Return name and size of all files in the folder and next to it, except the logs of answers."""
    found: set[tuple[str, Any]] = set()
    for path in place.parent.rglob("*"):
        if path.is_file() and path.parent.name != "requests":
            found.add((str(path), path.stat().st_size))
    return found
