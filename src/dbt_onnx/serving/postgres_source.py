"""Reads publications from Postgres. `postgres_target` describes the tables.

Every publication creates new tables in the schema. A reader needs the right to `select` from all of them:

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
# no publication's view can have this name, as names begin with a letter or a digit
POINTERS = f"{SCHEMA}._publications"
ORIGIN = "dbt_onnx_origin"
MAX_CONNECTIONS = 8
# parameters in the URL override these
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
    # texts are equal only if their bytes are equal
    "text": 'text collate "C"',
    "bytes": "bytea",
    "date": "date",
    "time": "time",
    "timestamp": "timestamp",
    "timestamp_tz": "timestamptz",
    "uuid": "uuid",
    # not jsonb, which would turn 1e5 into 100000, and rejects text with NUL
    "json": "json",
    "vector_float32": "real[]",
    "vector_float64": "double precision[]",
}


def column_type(kind: str) -> str:
    """Return the Postgres type for a kind."""
    return "numeric" if kind.startswith("decimal(") else _TYPES[kind]


def table_of(publication: str) -> str:
    """Return the SQL name of the table with the rows of the publication with this id."""
    return f"{SCHEMA}.{quote(publication)}"


def origins_of(publication: str) -> str:
    """Return the SQL name of the table with a publication's origins."""
    return f"{SCHEMA}.{quote(publication + '-origins')}"


def connect(url: str) -> Connection:
    """Connect to a server. Raises ServingError if it cannot be reached, ConfigError if the URL cannot be parsed."""
    parameters = _parameters(url)
    if parameters is None:
        raise unreadable_url(url)
    try:
        return psycopg.connect(
            **{**_DEFAULTS, **parameters},
            autocommit=True,
            # placeholders are `$1`, so that a `%` in a column name needs no escaping
            cursor_factory=psycopg.RawCursor,
        )
    except psycopg.Error as error:
        raise unreachable(url, error) from error


def _parameters(url: str) -> dict[str, Any] | None:
    # libpq's error repeats the URL with its password, so it must not become the cause of another error
    try:
        return psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        return None


def unreachable(url: str, error: Exception) -> ServingError:
    """Return the error for a server that does not answer, or rejects the login."""
    return ServingError(
        f"{shown(url)} cannot be reached: {primary_message(error)}",
        hint="check that the server runs, and that the URL has the right host, user, password and database",
    )


def primary_message(error: Exception) -> str:
    """Return the first line of a Postgres error; the lines after it may contain values of rows."""
    diagnosis = getattr(error, "diag", None)
    text = (diagnosis and diagnosis.message_primary) or str(error)
    return str(text).strip().partition("\n")[0]


def read_document(connection: Connection, url: str, name: str) -> Publications | None:
    """Read the publications of a name; None before the first. Raises ServingError if they cannot be read."""
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
    """The `Source` for the publications of one name in a Postgres database.

    Threads share a pool of at most `MAX_CONNECTIONS` connections, which are opened when they are needed. A query
    takes the connection that was used last, and waits if all are in use.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._is_closed = False
        self._idle: LifoQueue[Connection | None] = LifoQueue()
        for _ in range(MAX_CONNECTIONS - 1):
            self._idle.put(None)
        self._idle.put(connect(url))

    def pointer(self) -> object:
        """Return the number of the last switch, and the id of the publication that it switched to."""
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
        """Return the publications. Raises ServingError."""
        with self._explained():
            found = self.ask(lambda connection: read_document(connection, self._url, self._name))
        if found is None:
            raise no_publication(f"called {self._name!r} in {shown(self._url)}")
        return found

    def open(self, manifest: Manifest) -> OpenedTable:
        """Open a publication. Raises UnreadablePublicationError if its tables are gone, or have other columns."""
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
        """Call `question` with a connection; if the connection is broken, once more with a new one.

        Raises psycopg.Error, and ServingError if the server cannot be reached.
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
        """Return the error for a query that fails."""
        return unreadable(self._url, error)


def unreadable(url: str, error: Exception) -> ServingError:
    """Return the error for a query that fails."""
    return ServingError(
        f"{shown(url)} cannot be read: {primary_message(error)}",
        hint=f"give the user the right to use the schema {SCHEMA}, and to select from its tables",
    )


class OpenedTable:
    """The rows of one publication in Postgres."""

    def __init__(self, source: PostgresSource, manifest: Manifest) -> None:
        self._source = source
        columns = (*manifest.outputs, *manifest.stamps)
        self._keys = [_key_reader(column.kind) for column in manifest.key]
        self._read = [_reader(column.kind) for column in columns]
        self._outputs = [column.name for column in manifest.outputs]
        self._stamps = [column.name for column in manifest.stamps]
        listed = ", ".join(_selected(column.name, column.kind) for column in columns) or "1"
        # cast to the column's type, which the index has; psycopg might send the value as another type
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
            raise UnreadablePublicationError(
                f"{table_of(manifest.id)}: {primary_message(error)}"
            ) from error

    def row(self, key: Sequence[Stored]) -> Row | None:
        """Return the row of one key; None if there is none."""
        return self.rows([key])[0]

    def rows(self, keys: Sequence[Sequence[Stored]]) -> list[Row | None]:
        """Return the rows of several keys, in the order of the keys, with one round trip."""
        values = [
            [read(value) for read, value in zip(self._keys, key, strict=True)] for key in keys
        ]
        # Postgres cannot store text with a NUL, so no row has such a key
        askable = [value for value in values if not any(_has_nul(part) for part in value)]
        try:
            found = iter(self._source.ask(lambda connection: self._fetch(connection, askable)))
        except psycopg.errors.UndefinedTable as error:
            raise GonePublicationError(primary_message(error)) from error
        except psycopg.Error as error:
            raise self._source.unreadable(error) from error
        rows = [None if any(_has_nul(part) for part in value) else next(found) for value in values]
        return [row and self._row_of(row) for row in rows]

    def close(self) -> None:
        """Do nothing: the connections belong to the source."""

    def _fetch(self, connection: Connection, keys: Sequence[Sequence[Any]]) -> list[Any]:
        if len(keys) == 1:
            return [connection.execute(self._select, keys[0], binary=True).fetchone()]
        with connection.pipeline():
            cursors = [connection.execute(self._select, key, binary=True) for key in keys]
            return [cursor.fetchone() for cursor in cursors]

    def _row_of(self, row: Sequence[Any]) -> Row:
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
    # psycopg would send a small int as an integer type, but the index is on numeric
    return (lambda value: Decimal(read(value))) if kind == "large_integer" else read


def _selected(name: str, kind: str) -> str:
    # in the session's time zone, a time in the year 1 or 9999 may be outside the range of Python's datetime
    if kind == "timestamp_tz":
        return f"{quote(name)} at time zone 'UTC'"
    # as text, so that Python's json reads it, not psycopg
    return f"{quote(name)}::text" if kind == "json" else quote(name)


def _reader(kind: str) -> Callable[[Any], Any] | None:
    if kind == "timestamp_tz":
        return lambda moment: moment.replace(tzinfo=UTC)
    if kind == "json":
        return json.loads
    return int if kind == "large_integer" else None
