"""Webhooks: signed POST requests that report the end of a submitted request to an address set by the operator.

The signature follows Standard Webhooks 1.0.0 (github.com/standard-webhooks/standard-webhooks, spec): HMAC-SHA256
of `id.timestamp.body`, in the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`. A retry has the
same id, so that the receiver can recognize it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import socket
import ssl
import stat
import threading
import tomllib
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from dbt_onnx.errors import ConfigError
from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 10.0
"""The longest time for one attempt, not counting the DNS lookup of the receiver's name."""

_MAX_BYTES = 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)
_HINT = 'write [NAME] with url = "https://..." and secret = "whsec_...", the base64 of 24 to 64 random bytes'


@dataclass(frozen=True)
class Webhook:
    """An http or https address, and the key that signs the requests to it."""

    url: str
    key: bytes = field(repr=False)


def read_webhooks(path: Path) -> dict[str, Webhook]:
    """Read webhooks from a TOML file, by name. Raises ConfigError, which shows no secret and no address."""
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = stream.read(_MAX_BYTES).decode()
        document = tomllib.loads(content)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        # the parser's message is not shown, because it may quote a secret
        reason = error.strerror if isinstance(error, OSError) else "it is not valid TOML"
        raise ConfigError(f"{path} cannot be read: {reason}", hint=_HINT) from None
    if mode & stat.S_IRWXO:
        raise ConfigError(
            f"{path} contains secrets, but every user of this machine has access to it: its mode is {mode:04o}",
            hint=f"chmod o= {path}",
        )
    webhooks, faults = {}, []
    for name, entry in document.items():
        try:
            webhooks[name] = _webhook(name, entry)
        except ValueError as error:
            faults.append(f"{name!r:.60}: {error}")
    if faults or not webhooks:
        reason = "; ".join(faults[:20]) or "the file has no webhooks"
        raise ConfigError(f"the webhooks of {path} are not valid: {reason}", hint=_HINT)
    return webhooks


def post(webhook: Webhook, delivery: str, body: bytes, *, timestamp: int) -> int | None:
    """Send a signed body once. Return the HTTP status, None if there was no response.

    Connects to the webhook's address directly, without a proxy. Does not follow redirects.
    """
    address = urlsplit(webhook.url)
    headers = {
        "content-type": "application/json",
        "user-agent": f"dbt-onnx/{__version__}",
        "webhook-id": delivery,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(webhook.key, delivery, timestamp, body),
    }
    path = (address.path or "/") + (f"?{address.query}" if address.query else "")
    with closing(_connection(address)) as connection:
        # the socket's timeout applies to each read; this timer limits the time for the whole exchange
        guard = threading.Timer(SECONDS, _cut_off, [connection])
        guard.daemon = True
        try:
            connection.connect()
            guard.start()
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            guard.cancel()


def is_acknowledgement(status: int | None) -> bool:
    """Return whether a status means that the receiver has accepted the request."""
    return status is not None and 200 <= status < 300


def signature(key: bytes, delivery: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header `webhook-signature`."""
    signed = f"{delivery}.{timestamp}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _webhook(name: str, entry: Any) -> Webhook:
    if not _NAME.fullmatch(name):
        raise ValueError("a name has letters, digits, '-' and '_' only")
    if not isinstance(entry, dict) or set(entry) != {"url", "secret"}:
        raise ValueError("it must have exactly `url` and `secret`")
    url, secret = entry["url"], entry["secret"]
    if not isinstance(url, str) or not _is_url(url):
        raise ValueError(
            "its url must be an http:// or https:// address with a host, without a user or a fragment"
        )
    if not isinstance(secret, str) or not secret.startswith(_PREFIX):
        raise ValueError(f"its secret does not begin with {_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its secret is not base64") from None
    if len(key) not in _SECRET_BYTES:
        raise ValueError(f"its secret has {len(key)} bytes, not 24 to 64")
    return Webhook(url, key)


def _is_url(url: str) -> bool:
    # http.client sends printable ASCII only
    if not re.fullmatch(r"[!-~]+", url):
        return False
    try:
        address = urlsplit(url)
        is_port = address.port != 0
    except ValueError:
        return False
    return (
        address.scheme in {"http", "https"}
        and bool(address.hostname)
        and is_port
        and "@" not in address.netloc
        and "#" not in url
    )


def _connection(address: SplitResult) -> HTTPConnection:
    host = address.hostname or ""
    if address.scheme == "https":
        context = ssl.create_default_context()
        return HTTPSConnection(host, address.port, timeout=SECONDS, context=context)
    return HTTPConnection(host, address.port, timeout=SECONDS)


def _cut_off(connection: HTTPConnection) -> None:
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)
