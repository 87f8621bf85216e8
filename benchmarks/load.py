"""Request one key after the other from an HTTP service, as fast as it answers.

The load generator is wrk if it is installed, else a separate process with Python sockets. Requests are spread over
all keys, so that a key is seldom requested again soon.
"""

from __future__ import annotations

import itertools
import json
import re
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import Task, run

STEP = 611_953
"""Step from one key to the next, modulo the number of keys. It is prime, so all keys come before one is repeated."""
KEY = "{key}"
_CONTENT_LENGTH = re.compile(rb"^content-length: *([0-9]+)", re.IGNORECASE | re.MULTILINE)
_WRK = """
local n = %(first)d
local path, body = %(path)s, %(body)s
local headers = {["Content-Type"] = "application/json"}
request = function()
    n = n + 1
    local key = string.format("%%d", %(step)d * n %% %(keys)d)
    return wrk.format(%(method)s, (path:gsub("{key}", key)), headers, body and body:gsub("{key}", key))
end
done = function(summary, latency, requests)
    io.write(string.format('\\n{"requests": %%d, "seconds": %%f, "failed": %%d, "p50_ms": %%f, "p99_ms": %%f}\\n',
        summary.requests, summary.duration / 1e6,
        summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.timeout,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, kw_only=True)
class RequestTemplate:
    """A request in which "{key}" is replaced by a whole number below `keys`. A POST if it has a body."""

    path: str
    keys: int
    body: str | None = None

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """The result of a load test: load generator (`by`), number of requests, seconds and latencies."""

    by: str
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def generate_load(
    address: str, template: RequestTemplate, *, connections: int, seconds: float, first: int = 0
) -> LoadResult:
    """Send requests for `seconds` over that many connections, beginning with the key number `first`.

    Raises RuntimeError if an answer has a status other than 2xx.
    """
    if shutil.which("wrk"):
        by, result = "wrk", _by_wrk(address, template, connections, seconds, first)
    else:
        given = {"address": address, "template": asdict(template), "connections": connections}
        task = Task(__name__, "by_sockets", {**given, "duration": seconds, "first": first})
        done = run(task)
        by, result = "Python sockets", {**done.result, "seconds": done.seconds}
    if result.pop("failed"):
        raise RuntimeError(f"{address} did not answer every request {template} with 2xx: {result}")
    return LoadResult(by=by, **result)


def _by_wrk(
    address: str, template: RequestTemplate, connections: int, seconds: float, first: int
) -> dict[str, Any]:
    script = _WRK % {
        "first": first,
        "step": STEP,
        "keys": template.keys,
        "method": json.dumps(template.method),
        "path": json.dumps(template.path),
        "body": "nil" if template.body is None else json.dumps(template.body),
    }
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", file.name, address]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def by_sockets(
    *, address: str, template: dict[str, Any], connections: int, duration: float, first: int
) -> dict[str, Any]:
    """A task: do the same as wrk, with one thread that waits for all connections."""
    host, _, port = address.rpartition("/")[2].partition(":")
    requests = (_request(RequestTemplate(**template), host, n) for n in itertools.count(first + 1))
    took: list[float] = []
    failed = 0
    with selectors.DefaultSelector() as selector:
        begun = time.perf_counter()
        for _ in range(connections):
            connection = _Connection(host, int(port))
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(next(requests))
        while selector.get_map():
            for found, _ in selector.select():
                connection = found.data
                if not connection.has_answer():
                    continue
                now = time.perf_counter()
                took.append(now - connection.sent_at)
                failed += not connection.answer.startswith(b"HTTP/1.1 2")
                if now < begun + duration:
                    connection.send(next(requests))
                else:
                    selector.unregister(connection.socket)
                    connection.socket.close()
        seconds = time.perf_counter() - begun
    took.sort()
    return {
        "requests": len(took),
        "seconds": seconds,
        "failed": failed,
        "p50_ms": 1000 * took[len(took) // 2],
        "p99_ms": 1000 * took[len(took) * 99 // 100],
    }


class _Connection:
    """A connection that sends its next request after the previous answer."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        self.answer = b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def has_answer(self) -> bool:
        """Read the received bytes, and return whether the answer is complete. Raises ConnectionError at end of file."""
        received = self.socket.recv(65_536)
        if not received:
            raise ConnectionError("the service closed a connection")
        self.answer += received
        head, end, body = self.answer.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        return bool(end and length) and len(body) >= int(length[1])


def _request(template: RequestTemplate, host: str, number: int) -> bytes:
    key = str(STEP * number % template.keys)
    body = (template.body or "").replace(KEY, key)
    head = [
        f"{template.method} {template.path.replace(KEY, key)} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", body]).encode()
