"""Runs the HTTP service at a port, with uvicorn."""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import signal
import socket
from contextlib import closing
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import ConfigError
from dbt_onnx.serving.limits import too_large, too_slow
from dbt_onnx.serving.refusal import Refusal

try:
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError as missing:
    raise ConfigError(
        f"the service needs the packages uvicorn and httptools: {missing}",
        hint="pip install 'dbt-onnx[serve]'",
    ) from missing

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from dbt_onnx.serving.http import Application
    from dbt_onnx.serving.limits import Limits

_BACKLOG = 2048
_CONTINUE = b"HTTP/1.1 100 "


def serve(
    app: Application,
    *,
    host: str,
    port: int,
    access_log: bool = False,
    on_listening: Callable[[str], None],
) -> None:
    """Answer requests at a port until SIGTERM or SIGINT; then finish the requests in progress, and close the files.

    `port` 0 means any free port. `on_listening` is called with the URL of the service. Raises ConfigError if the
    service cannot listen at the address.
    """
    with closing(app), listening(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        on_listening(f"http://{name}:{listener.getsockname()[1]}")
        # uvicorn raises the signal again after its shutdown; ignored, so that `closing` still closes the files
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server_for(app, access_log=access_log).run(sockets=[listener])


def server_for(app: Application, *, access_log: bool = False) -> uvicorn.Server:
    """Return a server that enforces the limits of the application."""
    seconds = math.ceil(app.limits.seconds)
    config = uvicorn.Config(
        app,
        http=partial(_Connection, limits=app.limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        # uvicorn logs every malformed request as a warning, and the access log at level INFO
        log_level=logging.INFO if access_log else logging.ERROR,
        access_log=access_log,
        # the client is the peer of the connection; a header with another address could be forged
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=seconds,
        timeout_graceful_shutdown=seconds,
    )
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises ConfigError if that is not possible."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        # Python repeats the address in brackets at the end of the message
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise ConfigError(
            f"cannot listen at {host}:{port}: {reason}",
            hint="give a free port with --port, and an address of this machine with --host",
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Connection(HttpToolsProtocol):
    """A connection that ends if the client is too slow, or if the head of a request is too long.

    uvicorn alone waits for the head of a request without a timeout, and keeps all of it in memory.
    """

    def __init__(self, *arguments: Any, limits: Limits, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._limits = limits
        self._is_in_head = self._is_in_body = False
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = self._answers = _WholeAnswers(transport)  # type: ignore[assignment]
        if len(self.connections) > self._limits.connections:
            self._refuse(_too_many_connections())
        else:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        self._is_in_head, self._head_bytes = False, 0
        self._is_in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_body = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        if not self._is_in_body:
            # counted before parsing, because the parser calls the application at the end of a head
            self._head_bytes += len(data.partition(b"\r\n\r\n")[0])
            if self._head_bytes > self._limits.head_bytes:
                status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self._refuse(too_large(status, "head", self._limits.head_bytes))
                return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            # the application has the request, and applies the time limit to its body
            self._clear_deadline()
        elif self._deadline is None:
            self._set_deadline()

    def on_response_complete(self) -> None:
        self._answers.flush()
        super().on_response_complete()
        if self.transport.get_write_buffer_size() and self._deadline is None:
            self._set_deadline()

    def send_400_response(self, msg: str) -> None:
        """Send uvicorn's error as JSON instead of plain text."""
        hint = "send HTTP/1.1; percent-encode the non-ASCII characters of the path"
        self._refuse(Refusal(HTTPStatus.BAD_REQUEST, "http", msg, hint=hint, close=True))

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(self._limits.seconds, self._cut_off)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_off(self) -> None:
        self._deadline = None
        if self.transport.get_write_buffer_size():
            # the client does not read its response, so it would not read an error either
            self.transport.abort()
        elif self._is_in_head:
            self._refuse(too_slow(self._limits.seconds))
        else:
            # The connection is idle, or in a body that nobody reads any more. The client would take an error
            # for the response to its next request
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps(refusal.document()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *refusal.headers,
        ]
        head = f"HTTP/1.1 {refusal.status.value} {refusal.status.phrase}\r\n".encode()
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(head + lines + b"\r\n" + body)
        self.transport.close()


class _WholeAnswers:
    """A transport that sends the head of a response together with its body.

    uvicorn writes them separately: two system calls, each of which would wake the client.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._held += data
        if data.startswith(_CONTINUE):
            # the client waits for this line before it sends the body
            self.flush()

    def flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    def close(self) -> None:
        self.flush()
        self._transport.close()


def _too_many_connections() -> Refusal:
    return Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "busy",
        "the service has reached its limit of connections",
        hint="keep connections open, and reuse them",
        headers=((b"retry-after", b"1"),),
        close=True,
    )
