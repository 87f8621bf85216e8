"""Submitted requests while the service is killed, and hostile submitted requests."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import graphs
from served_folder import publish
from test_scoring_on_request import LINEAR, served
from tests.torture import service
from tests.torture.report import Attack

from dbt_onnx.serving.request_log import read_segment

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 4
_PROMISE = "What was accepted is answered once"
_SECONDS = 600


def measure(folder: Path, *, kills: int, hostile: int) -> Iterator[Attack]:
    """Kill a service `kills` times while clients submit requests; send `hostile` ones to a service
    that must survive.
    """
    place = folder / "serving"
    model = served(place / "churn", graphs.linear(), LINEAR)
    publish(place / "churn", service.ROWS, model=model)
    with _receiver() as (url, told):
        hooks = folder / "webhooks.toml"
        secret = base64.b64encode(bytes(32)).decode()
        hooks.write_text(f'[crm]\nurl = "{url}"\nsecret = "whsec_{secret}"\n')
        hooks.chmod(0o600)
        accepted = [_life(place, hooks, seed) for seed in range(kills)]
        yield from _judged(place, hooks, accepted, told)
    (folder / "secret.txt").write_text(service._SECRET)
    yield _asked(place, hooks, hostile)


def _life(place: Path, hooks: Path, seed: int) -> dict[str, float]:
    """Submit from several clients until the service is killed. Returns {request id: expected output}."""
    accepted: dict[str, float] = {}
    chance = random.Random(seed)
    with _service(place, hooks) as (port, process):
        clients = [
            threading.Thread(target=_submit, args=(port, seed * CLIENTS + number, accepted))
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        while not accepted:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for client in clients:
            client.join()
    return accepted


def _submit(port: int, seed: int, accepted: dict[str, float]) -> None:
    chance = random.Random(seed)
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    while True:
        a = chance.randrange(1000)
        question = {"key": str(seed), "features": {"a": a, "b": 1}}
        question |= {"webhook": "crm"} if chance.random() < 0.5 else {}
        try:
            connection.request("POST", "/v1/predictions/churn:submit", json.dumps(question))
            answer = connection.getresponse()
            document = json.loads(answer.read())
        except (OSError, HTTPException, ValueError):
            return
        if answer.status == 202:
            accepted[document["request_id"]] = 2 * a - 0.5
        else:
            # the queue is full
            time.sleep(0.05)


def _judged(
    place: Path, hooks: Path, accepted: list[dict[str, float]], told: Counter[str]
) -> Iterator[Attack]:
    """Check what became of every accepted request, once a service has had time to work them off."""
    answered = Attack(_PROMISE, "the service is killed while it accepts, scores and tells")
    notified = Attack(_PROMISE, "webhooks told of requests that came to an end")
    with _service(place, hooks) as (port, _):
        end = time.monotonic() + _SECONDS
        ended = {
            request: _polled(port, request, end=end) for accepts in accepted for request in accepts
        }
    kept = Counter(
        document["request_id"]
        for segment in (place / "churn/requests").glob("*.log")
        for _, document in read_segment(segment)
    )
    for number, accepts in enumerate(accepted):
        lost = [
            request
            for request, y in accepts.items()
            if kept[request] != 1 or (ended[request].get("answer") or {}).get("outputs") != {"y": y}
        ]
        answered.made(harm=f"kill {number}: {len(lost)} of {len(accepts)}" if lost else None)
    for request, document in ended.items():
        if document.get("webhook") is not None:
            is_told = told[request] > 0 and document["webhook"]["state"] == "delivered"
            notified.made(harm=None if is_told else f"{request}: {document['webhook']}")
    # one webhook is sent at a time, so each kill can repeat at most one: received, but not yet recorded
    twice = sum(told.values()) - len(told)
    if twice > len(accepted):
        notified.made(harm=f"{twice} told again after {len(accepted)} kills")
    yield from (answered, notified)


def _polled(port: int, request: str, *, end: float) -> dict[str, Any]:
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", f"/v1/submissions/churn/{request}")
        document: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        webhook = document.get("webhook")
        is_told = webhook is None or webhook["state"] == "delivered"
        is_unknown = "state" not in document
        if is_unknown or (document["ended_at"] and is_told) or time.monotonic() > end:
            return document
        time.sleep(0.02)


def _asked(place: Path, hooks: Path, times: int) -> Attack:
    attack = Attack(
        "A request is data",
        "hostile requests to submit and to poll: each is refused, nothing is left",
    )
    before = service._files(place)
    chance = random.Random(5)
    with _service(place, hooks) as (port, process):
        # the first check waits until pyarrow is imported, which on a busy machine can outlast the attack
        honest = HTTPConnection("127.0.0.1", port, timeout=120)
        question = {"key": "1", "features": {"a": 1, "b": 1}}
        honest.request("POST", "/v1/predictions/churn:submit", json.dumps(question))
        assert honest.getresponse().status == 202
        honest.close()
        for _ in range(times):
            request = chance.choice(_HOSTILE)(chance)
            status, text = service._ask(port, request)
            fault = None
            if not 400 <= status < 500 or "Traceback" in text or service._SECRET in text:
                fault = f"{request[:80]!r}: {status} {text[:200]}"
            attack.made(harm=fault)
        is_alive = process.poll() is None
    left = {name for name, _ in service._files(place) ^ before if "/submitted/" not in name}
    if left or not is_alive:
        attack.made(harm=f"alive: {is_alive}, {left}")
    return attack


_SUBMIT, _POLL = b"/v1/predictions/churn:submit", b"/v1/submissions/"
_WEBHOOKS = (
    b'"http://169.254.169.254/"', b'"../crm"', b'"crm\\u0000"', b'["crm"]', b"{}", b"1", b'"\\ud800"',
    b'"' + b"a" * 90_000 + b'"',
)  # fmt: skip
_HOSTILE = (
    lambda chance: service._post(_SUBMIT, chance.choice(service._BODIES)),
    lambda chance: service._post(
        _SUBMIT,
        b'{"key": "1", "features": {"a": 1, "b": 1}, "webhook": %b}' % chance.choice(_WEBHOOKS),
    ),
    lambda chance: service._post(
        b"/v1/predictions/" + chance.choice(service._KEYS) + b":submit", b"{}"
    ),
    lambda chance: service._get(_POLL + b"churn/" + chance.choice(service._KEYS)),
    lambda chance: service._get(_POLL + chance.choice(service._KEYS) + b"/queue.sqlite"),
    lambda chance: service._get(_SUBMIT),
)


@contextmanager
def _service(place: Path, hooks: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    command = [str(Path(sys.executable).with_name("dbt-onnx")), "serve", str(place), "--port", "0"]
    with subprocess.Popen(
        [*command, "--webhooks", str(hooks)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the log, with a line per failed webhook
        text=True,
        env=os.environ,
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rsplit(":", 1)[1]), process
        finally:
            process.terminate()


@contextmanager
def _receiver() -> Iterator[tuple[str, Counter[str]]]:
    """Yield the URL of a receiver that fails every third time, and how often it acknowledged each id."""
    told: Counter[str] = Counter()
    chance = random.Random(6)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            is_taken = chance.random() > 1 / 3
            told[self.headers["webhook-id"]] += is_taken
            self.send_response(204 if is_taken else 500)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", told
        finally:
            server.shutdown()
            thread.join()
