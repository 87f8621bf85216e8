"""Reads publications from Redis or Valkey. `redis_target` describes the Redis keys."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import redis

from dbt_onnx.errors import ServingError
from dbt_onnx.serving.kinds import as_json, kind_of
from dbt_onnx.serving.manifest import UNREADABLE, Publications, no_publication
from dbt_onnx.serving.places import (
    GonePublicationError,
    UnreadablePublicationError,
    shown,
    unreadable_url,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.serving.kinds import Stored
    from dbt_onnx.serving.manifest import Manifest
    from dbt_onnx.serving.places import Row

# cannot collide with the field of a row: those are JSON lists
ORIGINS = "origins"
_BYTES = "base64"
_SECONDS = 10.0


def pointer_of(name: str) -> str:
    """Return the Redis key of the served publication. All Redis keys of a name have the name as their hash tag, so
    that they are on the same node of a cluster.
    """
    return f"dbt_onnx:{{{name}}}"


def rows_of(name: str, publication: str) -> str:
    """Return the Redis key of a publication's rows."""
    return f"{pointer_of(name)}:{publication}"


def connect(url: str) -> redis.Redis:
    """Return a client, which connects at its first command. Raises ConfigError if the URL cannot be parsed."""
    client = _client(url)
    if client is None:
        raise unreadable_url(url)
    return client


def _client(url: str) -> redis.Redis | None:
    # the client's error may repeat the password of the URL, so it must not become the cause of another error
    scheme, _, rest = url.partition("://")
    try:
        return redis.Redis.from_url(
            f"{scheme.replace('valkey', 'redis')}://{rest}",
            socket_timeout=_SECONDS,
            socket_connect_timeout=_SECONDS,
        )
    except (ValueError, redis.RedisError):
        return None


def encoded(values: Sequence[Stored]) -> str:
    """Return stored values as one line of JSON. Bytes become {"base64": ...}; infinities and NaN become text."""
    try:
        return _line(values)
    except ValueError:
        return _line([as_json(value) if isinstance(value, float) else value for value in values])


def _line(values: Sequence[Stored]) -> str:
    return json.dumps(
        values, default=_marked, allow_nan=False, ensure_ascii=False, separators=(",", ":")
    )


def _marked(value: bytes) -> dict[str, str]:
    return {_BYTES: base64.b64encode(value).decode()}


def decoded(line: str | bytes) -> list[Stored]:
    """Return the stored values of a line."""
    return [
        base64.b64decode(value[_BYTES]) if isinstance(value, dict) else value
        for value in json.loads(line)
    ]


def encoded_key(values: Sequence[Stored]) -> str:
    """Return the hash field of a key's row. Equal keys have the same field: -0.0 becomes 0.0."""
    return encoded(
        [abs(value) if value == 0 and isinstance(value, float) else value for value in values]
    )


def read_document(client: redis.Redis, url: str, name: str) -> Publications | None:
    """Read the publications of a name; None before the first. Raises ServingError if they cannot be read."""
    try:
        content: Any = client.get(pointer_of(name))
    except redis.RedisError as error:
        raise unreachable(url, error) from error
    if content is None:
        return None
    try:
        return Publications.from_content(content)
    except UNREADABLE as error:
        raise ServingError(
            f"{pointer_of(name)} of {shown(url)} cannot be read: {type(error).__name__}: {error}",
            hint="remove the key, and publish again",
        ) from error


def unreachable(url: str, error: Exception) -> ServingError:
    """Return the error for a server that does not answer, or rejects the login."""
    return ServingError(
        f"{shown(url)} cannot be read: {error}",
        hint="check that the server runs, and that the URL has the right host, user and password",
    )


class RedisSource:
    """The `Source` for the publications of one name in a Redis or Valkey server."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self.client = connect(url)

    def pointer(self) -> object:
        """Return the content of `publications.json`, which is small."""
        try:
            return self.client.get(pointer_of(self._name))
        except redis.RedisError:
            return None

    def publications(self) -> Publications:
        """Return the publications. Raises ServingError."""
        found = read_document(self.client, self._url, self._name)
        if found is None:
            raise no_publication(f"called {self._name!r} in {shown(self._url)}")
        return found

    def open(self, manifest: Manifest) -> OpenedHash:
        """Open a publication. Raises UnreadablePublicationError if it is incomplete or missing."""
        return OpenedHash(self, manifest)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def unreachable(self, error: Exception) -> ServingError:
        """Return the error for a server that does not answer."""
        return unreachable(self._url, error)


class OpenedHash:
    """The rows of one publication in Redis. Its origins are read when it is opened."""

    def __init__(self, source: RedisSource, manifest: Manifest) -> None:
        self._source = source
        self._client = source.client
        self._hash = rows_of(manifest.name, manifest.id)
        try:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hlen(self._hash)
            pipeline.hget(self._hash, ORIGINS)
            fields, line = pipeline.execute()
        except redis.RedisError as error:
            raise source.unreachable(error) from error
        if line is None or fields != manifest.rows + 1:
            raise UnreadablePublicationError(
                f"{self._hash} has {fields:,} fields, not {manifest.rows + 1:,}"
            )
        try:
            self._arrange(json.loads(line), manifest)
        except UNREADABLE as error:
            raise UnreadablePublicationError(
                f"the origins of {self._hash} cannot be read: {error}"
            ) from error

    def _arrange(self, document: Mapping[str, Any], manifest: Manifest) -> None:
        """Determine the order of the columns in a row, and read the origins."""
        kinds = {column.name: column.kind for column in manifest.stamps}
        of_origin = list(document["columns"])
        read = [kind_of(kinds[name]).read for name in of_origin]
        self._origins: dict[Stored, dict[str, Any]] = {
            int(number): dict(
                zip(of_origin, _values(read, decoded(json.dumps(values))), strict=True)
            )
            for number, values in document["rows"]
        }
        of_row = [
            *manifest.outputs,
            *(column for column in manifest.stamps if column.name not in of_origin),
        ]
        self._read = [kind_of(column.kind).read for column in of_row]
        self._outputs = [column.name for column in manifest.outputs]
        self._of_row = [column.name for column in of_row[len(self._outputs) :]]

    def row(self, key: Sequence[Stored]) -> Row | None:
        """Return the row of one key; None if there is none."""
        try:
            line = self._client.hget(self._hash, encoded_key(key))
            if line is None:
                self._check_exists()
        except redis.RedisError as error:
            raise self._source.unreachable(error) from error
        return None if line is None else self._row_of(line)

    def rows(self, keys: Sequence[Sequence[Stored]]) -> list[Row | None]:
        """Return the rows of several keys, in the order of the keys, with one command."""
        if not keys:
            return []
        try:
            lines = self._client.hmget(self._hash, [encoded_key(key) for key in keys])
            if None in lines:
                self._check_exists()
        except redis.RedisError as error:
            raise self._source.unreachable(error) from error
        return [None if line is None else self._row_of(line) for line in lines]

    def close(self) -> None:
        """Do nothing: the connections belong to the source."""

    def _check_exists(self) -> None:
        """Check that the publication still exists after a key was not found. Raises GonePublicationError if not."""
        if not self._client.exists(self._hash):
            raise GonePublicationError(self._hash)

    def _row_of(self, line: str | bytes) -> Row:
        *stored, origin = decoded(line)
        values = iter(_values(self._read, stored))
        outputs = dict(zip(self._outputs, values, strict=False))
        return outputs, {**self._origins[origin], **dict(zip(self._of_row, values, strict=True))}


def _values(read: Sequence[Any], stored: Sequence[Stored]) -> list[Any]:
    return [
        None if value is None else reader(value) for reader, value in zip(read, stored, strict=True)
    ]
