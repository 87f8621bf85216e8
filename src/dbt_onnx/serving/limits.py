"""What a client of the HTTP service may ask for: how much, how often, how slowly."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from dbt_onnx.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_CLIENTS = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the service.

    body_bytes, path_bytes, head_bytes    of one request; the head is all that comes before the body
    batch_keys             in one request
    requests_per_second    of one client, and as many at once; none for no limit
    seconds                within which a client sends a request and takes the answer
    connections            at a time
    waiting                submitted requests that have not ended, of one publication
    """

    body_bytes: int = 2**20
    path_bytes: int = 8 * 2**10
    head_bytes: int = 64 * 2**10
    batch_keys: int = 1_000
    requests_per_second: float | None = None
    seconds: float = 10.0
    connections: int = 900
    waiting: int = 1_000


class Rates:
    """How often each client may come: a bucket of one second's requests, at least one, which fills again
    at that rate. The clients that came last are remembered.
    """

    def __init__(
        self, requests_per_second: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = 1 / requests_per_second
        self._ahead = max(1.0, self._interval) - self._interval
        self._clock = clock
        # client -> when its bucket is full again, who came last at the end
        self._full_at: dict[str, float] = {}

    def take(self, client: str) -> None:
        """Take one request out of the client's bucket. Raises Refusal when it is empty."""
        now = self._clock()
        full_at = max(self._full_at.pop(client, now), now)
        wait = full_at - now - self._ahead
        # a bucket that is full to the last rounding error is full
        if wait > 1e-9:
            self._full_at[client] = full_at
            raise too_often(wait)
        self._full_at[client] = full_at + self._interval
        if len(self._full_at) > _MOST_CLIENTS:
            del self._full_at[next(iter(self._full_at))]


def too_often(wait_seconds: float) -> Refusal:
    """The answer for a client that comes too often."""
    seconds = math.ceil(wait_seconds)
    return Refusal(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too_many_requests",
        "this client asks more often than it may",
        hint=f"wait {seconds} s; ask for several keys at once with :batch",
        headers=((b"retry-after", str(seconds).encode()),),
    )


def too_slow(seconds: float) -> Refusal:
    """The answer for a client that does not send its request in time."""
    return Refusal(
        HTTPStatus.REQUEST_TIMEOUT,
        "too_slow",
        f"the request was not complete within {seconds:g} s",
        hint="send it again, without a pause",
        close=True,
    )


def too_large(status: HTTPStatus, what: str, most: int) -> Refusal:
    """The answer for a request of which a part, `what`, has more bytes than it may."""
    return Refusal(
        status,
        "too_large",
        f"the {what} has more than {most:,} bytes",
        hint="ask for less at once",
        close=True,
    )


def too_many_waiting(most: int) -> Refusal:
    """The answer where too many requests wait already for theirs."""
    return Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "busy",
        f"{most:,} requests wait already",
        hint="submit it again later",
        headers=((b"retry-after", b"10"),),
    )
