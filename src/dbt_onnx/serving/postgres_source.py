"""Reading what was published into Postgres. `postgres_target` says what is there.

Whoever reads needs the right to `select` from the tables of the schema, which come anew with each publication:

    grant usage on schema dbt_onnx to application;
    alter default privileges for role publisher in schema dbt_onnx grant select on tables to application;
"""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from datetime import UTC
from decimal import Decimal
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from dbt_onnx.errors import ServingError
from dbt_onnx.serving.file_source import quote
from dbt_onnx.serving.kinds import kind_of
from dbt_onnx.serving.manifest import UNREADABLE, Publications, no_publication
from dbt_onnx.serving.places import (
    GonePublicationError,
    UnreadablePublicationError,
    shown,
    unreadable_url,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dbt_onnx.serving.kinds import Stored
    from dbt_onnx.serving.manifest import Manifest
    from dbt_onnx.serving.places import Row

_Found = TypeVar("_Found")
Connection = psycopg.Connection[Any]

SCHEMA = "dbt_onnx"
# no publication can be called so
POINTERS = f"{SCHEMA}._publications"
ORIGIN = "dbt_onnx_origin"
MOST_CONNECTIONS = 8
# what the URL says comes first
_DEFAULTS = {
    "application_name": "dbt_onnx",
    "client_encoding": "utf8",
    "connect_timeout": 10,
    "tcp_user_timeout": 10_000,
}
_TYPES = {
    "boolean": "boolean",
    "integer": "bigint",
    "large_integer": "numeric",
    "float": "double precision",
    # equal is who has the same bytes
    "text": 'text collate "C"',
    "bytes": "bytea",
    "date": "date",
    "time": "time",
    "timestamp": "timestamp",
    "timestamp_tz": "timestamptz",
    "uuid": "uuid",
    # jsonb would make 100000 of 1e5, and has no text with NUL
    "json": "json",
    "vector_float32": "real[]",
    "vector_float64": "double precision[]",
}


def column_type(kind: str) -> str:
    """The type of Postgres for a kind."""
    return "numeric" if kind.startswith("decimal(") else _TYPES[kind]


def table_of(publication: str) -> str:
    """The table of a publication's rows, in SQL, by its id."""
    return f"{SCHEMA}.{quote(publication)}"


def origins_of(publication: str) -> str:
    """The table of a publication's origins."""
    return f"{SCHEMA}.{quote(publication + '-origins')}"


def connect(url: str) -> Connection:
    """Raises ServingError when the server cannot be reached, ConfigError when the URL is no good."""
    parameters = _parameters(url)
    if parameters is None:
        raise unreadable_url(url)
    try:
        return psycopg.connect(
            **{**_DEFAULTS, **parameters},
            autocommit=True,
            # `$1` for a value: a `%` in a column's name is no more than that
            cursor_factory=psycopg.RawCursor,
        )
    except psycopg.Error as error:
        raise unreachable(url, error) from error


def _parameters(url: str) -> dict[str, Any] | None:
    # what libpq says of a URL repeats the password: no error may have it as its cause
    try:
        return psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        return None


def unreachable(url: str, error: Exception) -> ServingError:
    """What to raise when the server does not answer, or lets us not in."""
    return ServingError(
        f"{shown(url)} cannot be reached: {said(error)}",
        hint="see that the server runs, and that the URL has the right host, user, password and database",
    )


def said(error: Exception) -> str:
    """The first line of what Postgres says, without the rows it may name after it."""
    diagnosis = getattr(error, "diag", None)
    text = (diagnosis and diagnosis.message_primary) or str(error)
    return str(text).strip().partition("\n")[0]


def read_document(connection: Connection, url: str, name: str) -> Publications | None:
    """What has been published under a name; none before the first. Raises ServingError."""
    try:
        found = connection.execute(
            f"select document::text from {POINTERS} where name = $1", [name]
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    if found is None:
        return None
    try:
        return Publications.from_content(found[0].encode())
    except UNREADABLE as error:
        raise ServingError(
            f"the row of {name!r} in {POINTERS} of {shown(url)} cannot be read: "
            f"{type(error).__name__}: {error}",
            hint="remove the row, and publish again",
        ) from error


class PostgresSource:
    """The publications of one name in a database, see `Source`.

    Each thread that asks takes a connection, the one that was used last, or a new one; there are
    `MOST_CONNECTIONS`.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._is_closed = False
        self._idle: LifoQueue[Connection | None] = LifoQueue()
        for _ in range(MOST_CONNECTIONS - 1):
            self._idle.put(None)
        self._idle.put(connect(url))

    def pointer(self) -> object:
        """The number of the last switch, and what it switched to."""
        try:
            return self.ask(
                lambda connection: connection.execute(
                    f"select switch_number, publication from {POINTERS} where name = $1",
                    [self._name],
                ).fetchone()
            )
        except (psycopg.Error, ServingError):
            return None

    def publications(self) -> Publications:
        """What has been published. Raises ServingError."""
        with self._explained():
            found = self.ask(lambda connection: read_document(connection, self._url, self._name))
        if found is None:
            raise no_publication(f"called {self._name!r} in {shown(self._url)}")
        return found

    def open(self, manifest: Manifest) -> OpenedTable:
        """Raises UnreadablePublicationError when its tables are gone, or have other columns."""
        return OpenedTable(self, manifest)

    def close(self) -> None:
        """Close the connections."""
        self._is_closed = True
        taken = []
        with suppress(Empty):
            while True:
                taken.append(self._idle.get_nowait())
        for connection in taken:
            self._put_back(connection)

    def ask(self, question: Callable[[Connection], _Found]) -> _Found:
        """Ask on a connection; once more on a new one, when it has broken. Raises psycopg.Error, and
        ServingError when the server cannot be reached.
        """
        connection = self._idle.get()
        try:
            if connection is not None:
                try:
                    return question(connection)
                except psycopg.OperationalError:
                    if not connection.broken:
                        raise
                    connection.close()
                    connection = None
            connection = connect(self._url)
            return question(connection)
        finally:
            self._put_back(connection)

    def _put_back(self, connection: Connection | None) -> None:
        if connection is not None and self._is_closed:
            connection.close()
            connection = None
        self._idle.put(connection)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise unreadable(self._url, error) from error

    def unreadable(self, error: Exception) -> ServingError:
        """What to raise when Postgres does not give what is asked for."""
        return unreadable(self._url, error)


def unreadable(url: str, error: Exception) -> ServingError:
    """What to raise when Postgres does not give what is asked for."""
    return ServingError(
        f"{shown(url)} cannot be read: {said(error)}",
        hint=f"give the user the right to use the schema {SCHEMA}, and to select from its tables",
    )


class OpenedTable:
    """The rows of one publication."""

    def __init__(self, source: PostgresSource, manifest: Manifest) -> None:
        self._source = source
        columns = (*manifest.outputs, *manifest.stamps)
        self._keys = [_key_reader(column.kind) for column in manifest.key]
        self._read = [_reader(column.kind) for column in columns]
        self._outputs = [column.name for column in manifest.outputs]
        self._stamps = [column.name for column in manifest.stamps]
        listed = ", ".join(_selected(column.name, column.kind) for column in columns) or "1"
        # whatever Python's value would be sent as, the index is on the column's type
        where = " and ".join(
            f"r.{quote(column.name)} = ${i}::{column_type(column.kind).partition(' collate')[0]}"
            for i, column in enumerate(manifest.key, start=1)
        )
        self._select = (
            f"select {listed} from {table_of(manifest.id)} as r "
            f"left join {origins_of(manifest.id)} as o using ({ORIGIN}) where {where}"
        )
        nothing = [None] * len(self._keys)
        try:
            source.ask(lambda connection: connection.execute(f"explain {self._select}", nothing))
        except psycopg.Error as error:
            raise UnreadablePublicationError(f"{table_of(manifest.id)}: {said(error)}") from error

    def row(self, key: Sequence[Stored]) -> Row | None:
        """The row of one key."""
        return self.rows([key])[0]

    def rows(self, keys: Sequence[Sequence[Stored]]) -> list[Row | None]:
        """The rows of several keys, in one go."""
        values = [
            [read(value) for read, value in zip(self._keys, key, strict=True)] for key in keys
        ]
        # no text of Postgres has a NUL, so that there is no such key
        askable = [value for value in values if not any(_has_nul(part) for part in value)]
        try:
            found = iter(self._source.ask(lambda connection: self._fetch(connection, askable)))
        except psycopg.errors.UndefinedTable as error:
            raise GonePublicationError(said(error)) from error
        except psycopg.Error as error:
            raise self._source.unreadable(error) from error
        rows = [None if any(_has_nul(part) for part in value) else next(found) for value in values]
        return [row and self._named(row) for row in rows]

    def close(self) -> None:
        """The connection is the source's."""

    def _fetch(self, connection: Connection, keys: Sequence[Sequence[Any]]) -> list[Any]:
        if len(keys) == 1:
            return [connection.execute(self._select, keys[0], binary=True).fetchone()]
        with connection.pipeline():
            cursors = [connection.execute(self._select, key, binary=True) for key in keys]
            return [cursor.fetchone() for cursor in cursors]

    def _named(self, row: Sequence[Any]) -> Row:
        values = iter(
            value if value is None or read is None else read(value)
            for read, value in zip(self._read, row, strict=False)
        )
        outputs = dict(zip(self._outputs, values, strict=False))
        return outputs, dict(zip(self._stamps, values, strict=True))


def _has_nul(value: object) -> bool:
    return isinstance(value, str) and "\0" in value


def _key_reader(kind: str) -> Callable[[Any], Any]:
    read = kind_of(kind).read
    # psycopg would send a small number as one that the index does not have
    return (lambda value: Decimal(read(value))) if kind == "large_integer" else read


def _selected(name: str, kind: str) -> str:
    # in a session's zone, a moment of the year 1 or 9999 may be one that Python does not have
    if kind == "timestamp_tz":
        return f"{quote(name)} at time zone 'UTC'"
    # Python's reader, not psycopg's
    return f"{quote(name)}::text" if kind == "json" else quote(name)


def _reader(kind: str) -> Callable[[Any], Any] | None:
    if kind == "timestamp_tz":
        return lambda moment: moment.replace(tzinfo=UTC)
    if kind == "json":
        return json.loads
    return int if kind == "large_integer" else None
