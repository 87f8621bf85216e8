"""Publications in Redis or Valkey.

dbt_onnx:{<name>}            the content of `publications.json`: the served publication and those that are kept
dbt_onnx:{<name>}:<id>       one publication, a hash: a key as JSON -> its row as JSON, and its origins
dbt_onnx:{<name>}:written    the ids of the publications that have data in the server, complete or not
dbt_onnx:{<name>}:lock       the token of the process that is publishing

A publication is one hash, so that it is removed or evicted as a whole: a server that runs out of memory
cannot evict single rows of it.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis

from dbt_onnx.errors import ServingError
from dbt_onnx.serving.files import not_unique
from dbt_onnx.serving.places import shown
from dbt_onnx.serving.redis_source import (
    ORIGINS,
    connect,
    encoded,
    encoded_key,
    pointer_of,
    read_document,
    rows_of,
)
from dbt_onnx.serving.stored import stored_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbt_onnx.engines.base import RowsToPublish
    from dbt_onnx.serving.manifest import Manifest, Publications

_LOG = logging.getLogger("dbt_onnx")
# the lock of a publisher that died expires after this time
LOCK_SECONDS = 30.0
_FIELDS_AT_ONCE = 1_000
_IF_OURS = "if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end "
_RENEW = _IF_OURS + "return redis.call('pexpire', KEYS[1], ARGV[2])"
_RELEASE = _IF_OURS + "return redis.call('del', KEYS[1])"
_SWITCH = _IF_OURS + "redis.call('set', KEYS[2], ARGV[2]) return 1"


class Redis:
    """The `Target` for the publications of one name in a Redis or Valkey server.

    Every publication writes all rows: to copy the previous one in the server would block all its clients.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._client = connect(url)
        self._pointer = pointer_of(name)
        self._lock = f"{self._pointer}:lock"
        self._written = f"{self._pointer}:written"
        self._token = secrets.token_hex(8)
        self._begun: str | None = None

    def __str__(self) -> str:
        return f"{shown(self._url)}, {self._pointer}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the name, so that nobody else publishes under it. If this process dies, the lock expires.

        Raises ServingError if another process has the lock.
        """
        ended = threading.Event()
        expiry = int(LOCK_SECONDS * 1000)
        try:
            if not self._client.set(self._lock, self._token, nx=True, px=expiry):
                raise ServingError(
                    f"another process is publishing {self._name!r} into {shown(self._url)}",
                    hint=f"wait until it ends, and publish again; the lock of a process that died expires after {LOCK_SECONDS:.0f} s",
                )
        except redis.RedisError as error:
            raise self._unwritable(error) from error
        renewing = threading.Thread(target=self._renew, args=(ended,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            ended.set()
            renewing.join()
            try:
                self._client.eval(_RELEASE, 1, self._lock, self._token)
            except redis.RedisError as error:
                _LOG.warning("the lock of %s was not released, and will expire: %s", self, error)
            self._client.close()

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(LOCK_SECONDS / 3):
            try:
                self._client.eval(_RENEW, 1, self._lock, self._token, str(int(LOCK_SECONDS * 1000)))
            except redis.RedisError as error:
                _LOG.warning("the lock of %s was not renewed: %s", self, error)

    def publications(self) -> Publications | None:
        """Return the publications; None before the first."""
        return read_document(self._client, self._url, self._name)

    def can_build_on(self, manifest: Manifest) -> bool:  # noqa: ARG002, as `Target` has it
        """Return False: every publication writes all rows."""
        return False

    def write(
        self,
        publication: str,
        rows: RowsToPublish,
        *,
        base: Manifest | None,  # noqa: ARG002
    ) -> tuple[int, str | None]:
        """Write all rows of a publication. Return the number of bytes sent, and None, as there is no file."""
        self._clear()
        self._begun = publication
        key = rows_of(self._name, publication)
        try:
            self._client.sadd(self._written, publication)
            sent = self._fill(key, rows)
            written = self._client.hlen(key) - 1
        except redis.RedisError as error:
            self._remove(publication)
            raise self._unwritable(error) from error
        except BaseException:
            self._remove(publication)
            raise
        if written != rows.rows:
            self._remove(publication)
            raise not_unique(rows, written=written)
        return sent, None

    def _fill(self, key: str, rows: RowsToPublish) -> int:
        kinds = {**rows.key, **rows.outputs, **rows.stamps}
        of_row = [*rows.outputs, *(name for name in rows.stamps if name not in rows.of_origin)]
        columns = [*(kinds[name] for name in (*rows.key, *of_row)), "integer"]
        keys = len(rows.key)
        sent = 0
        fields: dict[bytes, bytes] = {}
        for batch in rows.changed():
            for row in stored_rows(batch, columns):
                fields[encoded_key(row[:keys]).encode()] = encoded(row[keys:]).encode()
                if len(fields) == _FIELDS_AT_ONCE:
                    sent += self._send(key, fields)
        origins = {
            "columns": list(rows.of_origin),
            "rows": [(origin, json.loads(encoded(values))) for origin, *values in rows.origins()],
        }
        fields[ORIGINS.encode()] = json.dumps(origins).encode()
        return sent + self._send(key, fields)

    def _send(self, key: str, fields: dict[Any, Any]) -> int:
        self._client.hset(key, mapping=fields)
        sent = sum(len(field) + len(line) for field, line in fields.items())
        fields.clear()
        return sent

    def switch(self, publications: Publications) -> None:
        """Switch readers to these publications. Raises ServingError if this process has lost its lock."""
        try:
            is_switched = self._client.eval(
                _SWITCH, 2, self._lock, self._pointer, self._token, publications.content()
            )
        except redis.RedisError as error:
            raise self._unwritable(error) from error
        if not is_switched:
            # nothing else is removed, because the process that has the lock now may be writing
            if self._begun is not None:
                self._remove(self._begun)
            raise ServingError(
                f"this process lost its lock in {shown(self._url)} while it published {self._name!r}; the "
                "publication of another process is served",
                hint=f"publish again; the lock expires if the process is suspended for more than {LOCK_SECONDS:.0f} s",
            )
        try:
            self._clear()
        except ServingError as error:
            _LOG.warning(
                "%s: old publications were not removed; the next publication removes them: %s",
                self,
                error.message,
            )

    def _clear(self) -> None:
        """Remove publications that are no longer kept, or that were never finished."""
        found = self.publications()
        kept = {manifest.id for manifest in found.publications} if found else set()
        try:
            members: Any = self._client.smembers(self._written)
            for publication in {member.decode() for member in members} - kept:
                self._remove(publication)
        except redis.RedisError as error:
            raise self._unwritable(error) from error

    def _remove(self, publication: str) -> None:
        try:
            self._client.unlink(rows_of(self._name, publication))
            self._client.srem(self._written, publication)
        except redis.RedisError as error:
            _LOG.warning(
                "%s was not removed; the next publication removes it: %s", publication, error
            )

    def _unwritable(self, error: Exception) -> ServingError:
        return ServingError(
            f"{shown(self._url)} cannot be written: {error}; the previous publication is still served",
            hint="check that the server runs, and has enough memory for one more publication",
        )
