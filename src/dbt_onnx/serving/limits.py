"""The limits of the HTTP service: sizes, rates, times and connections."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from dbt_onnx.serving.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_CLIENTS = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a service. Each value is a maximum.

    body_bytes, path_bytes, head_bytes    sizes of the parts of a request; the head is all before the body
    batch_keys             keys in one batch request
    requests_per_second    requests of one client; a burst may have as many; None for no limit
    seconds                time for a client to send a request, and to take the response
    connections            connections at the same time
    waiting                submitted requests of one publication that have not ended
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
    """The rate limit of each client: a token bucket that holds one second's requests, at least one, and refills
    at that rate. Only the 10,000 clients that came last are remembered.
    """

    def __init__(
        self, requests_per_second: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval = 1 / requests_per_second
        self._ahead = max(1.0, self._interval) - self._interval
        self._clock = clock
        # client -> the time at which its bucket is full again; the client that came last is at the end
        self._full_at: dict[str, float] = {}

    def take(self, client: str) -> None:
        """Take one request out of the client's bucket. Raises Refusal if the bucket is empty."""
        now = self._clock()
        full_at = max(self._full_at.pop(client, now), now)
        wait = full_at - now - self._ahead
        # a smaller wait is a rounding error
        if wait > 1e-9:
            self._full_at[client] = full_at
            raise too_often(wait)
        self._full_at[client] = full_at + self._interval
        if len(self._full_at) > _MAX_CLIENTS:
            del self._full_at[next(iter(self._full_at))]


def too_often(wait_seconds: float) -> Refusal:
    """Return the response to a client that sends requests too often."""
    seconds = math.ceil(wait_seconds)
    return Refusal(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too_many_requests",
        "this client exceeds its request rate",
        hint=f"wait {seconds} s; ask for several keys at once with :batch",
        headers=((b"retry-after", str(seconds).encode()),),
    )


def too_slow(seconds: float) -> Refusal:
    """Return the response to a client that does not send its request in time."""
    return Refusal(
        HTTPStatus.REQUEST_TIMEOUT,
        "too_slow",
        f"the request was not complete within {seconds:g} s",
        hint="send it again, without pauses",
        close=True,
    )


def too_large(status: HTTPStatus, what: str, limit: int) -> Refusal:
    """Return the response to a request with a part, `what`, of more than `limit` bytes."""
    return Refusal(
        status,
        "too_large",
        f"the {what} has more than {limit:,} bytes",
        hint="send a smaller request",
        close=True,
    )


def too_many_waiting(limit: int) -> Refusal:
    """Return the response to a submitted request if `limit` requests are waiting already."""
    return Refusal(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "busy",
        f"the queue is full: {limit:,} requests are waiting",
        hint="submit it again later",
        headers=((b"retry-after", b"10"),),
    )
