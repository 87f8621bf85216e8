"""Publications in Postgres, in the schema `dbt_onnx`, which is created if it does not exist.

_publications           one row per name: the id of the served publication, and the content of `publications.json`
"<name>"                a view of the served publication; it computes `age` and `is_stale` when it is read
"<id>"                  the rows of one publication, with a primary key and Postgres types
"<id>-origins"          the columns that many of its rows have in common, such as run and version

One transaction writes the new tables. A second one switches the view and the row of `_publications` to them.
Readers wait for neither: the view is replaced at a moment when nobody uses it.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg

from dbt_onnx.errors import DataError, ServingError
from dbt_onnx.serving.file_source import quote
from dbt_onnx.serving.files import not_unique
from dbt_onnx.serving.kinds import as_json, kind_of
from dbt_onnx.serving.places import shown
from dbt_onnx.serving.postgres_source import (
    ORIGIN,
    POINTERS,
    SCHEMA,
    column_type,
    connect,
    origins_of,
    primary_message,
    read_document,
    table_of,
    unreadable,
)
from dbt_onnx.serving.stored import stored_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from dbt_onnx.engines.base import RowsToPublish
    from dbt_onnx.serving.manifest import Manifest, Publications
    from dbt_onnx.serving.postgres_source import Connection

_LOG = logging.getLogger("dbt_onnx")
_MAX_NAME_BYTES = 63
# while we wait for the lock on the view, every new select waits behind us
_WAIT_MILLISECONDS = 100
_SWITCH_SECONDS = 30.0
_ADVISORY = "dbt_onnx publishes "
_CHANGED, _REMOVED = "dbt_onnx_changed", "dbt_onnx_removed"


class Postgres:
    """The `Target` for the publications of one name in a Postgres database."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._connection: Connection | None = None

    def __str__(self) -> str:
        return f"{shown(self._url)}, {self._view}"

    @property
    def _view(self) -> str:
        return f"{SCHEMA}.{quote(self._name)}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the name, so that no other session publishes under it. The lock ends with the connection, so also
        when the process dies. Raises ServingError if another session has the lock.
        """
        connection = connect(self._url)
        lock = [_ADVISORY + self._name]
        try:
            try:
                [is_ours] = _fetch_one(
                    connection, "select pg_try_advisory_lock(hashtextextended($1, 0))", lock
                )
            except psycopg.Error as error:
                raise self._unwritable(error) from error
            if not is_ours:
                raise ServingError(
                    f"another process is publishing {self._name!r} into {shown(self._url)}",
                    hint="wait until it ends, and publish again",
                )
            self._connection = connection
            try:
                yield
            finally:
                # the server may notice a closed connection late, and would lock the next publisher out until then
                with suppress(psycopg.Error):
                    connection.execute("select pg_advisory_unlock(hashtextextended($1, 0))", lock)
        finally:
            self._connection = None
            connection.close()

    def publications(self) -> Publications | None:
        """Return the publications; None before the first."""
        with self._connected() as connection:
            try:
                return read_document(connection, self._url, self._name)
            except psycopg.Error as error:
                raise unreadable(self._url, error) from error

    def can_build_on(self, manifest: Manifest) -> bool:
        """Return whether an earlier publication's tables exist, with as many rows as were published."""
        with self._connected() as connection, suppress(psycopg.Error):
            connection.execute(f"select 1 from {origins_of(manifest.id)} limit 1")
            [rows] = _fetch_one(connection, f"select count(*) from {table_of(manifest.id)}")
            return bool(rows == manifest.rows)
        return False

    def write(
        self, publication: str, rows: RowsToPublish, *, base: Manifest | None
    ) -> tuple[int, str | None]:
        """Write the tables of a publication: the changed rows are sent, and unchanged rows of `base` are copied on
        the server. Return the size of the tables in bytes, and None, as there is no file to hash.
        """
        self._check_names(rows)
        with self._connected() as connection:
            try:
                self._create_schema(connection)
                self._clear(connection)
                with connection.transaction():
                    self._fill(connection, publication, rows, base=base)
                [size] = _fetch_one(
                    connection,
                    "select pg_total_relation_size($1::regclass) + pg_total_relation_size($2::regclass)",
                    [table_of(publication), origins_of(publication)],
                )
            except psycopg.errors.UniqueViolation as error:
                raise not_unique(rows) from error
            except psycopg.DataError as error:
                raise DataError(
                    f"{rows.relation} has a value that Postgres cannot store: {primary_message(error)}; nothing is "
                    "published",
                    hint="replace the value in the upstream model, or omit the column; Postgres cannot store "
                    "text with a NUL character, for example",
                ) from error
            except psycopg.Error as error:
                raise self._unwritable(error) from error
            return int(size), None

    def switch(self, publications: Publications) -> None:
        """Switch the view and the row of `_publications` to another publication, in one transaction."""
        with self._connected() as connection:
            try:
                _retry_until_unlocked(lambda: self._switch(connection, publications))
            except psycopg.errors.LockNotAvailable as error:
                raise ServingError(
                    f"{self._view} in {shown(self._url)} is in use by a transaction that did not end "
                    f"within {_SWITCH_SECONDS:g} s; the previous publication is still served",
                    hint="end the transaction, which pg_stat_activity shows, and publish again",
                ) from error
            except psycopg.Error as error:
                raise self._unwritable(error) from error
            try:
                self._clear(connection)
            except psycopg.Error as error:
                _LOG.warning(
                    "%s: old tables were not dropped; the next publication drops them: %s",
                    self,
                    primary_message(error),
                )

    def _switch(self, connection: Connection, publications: Publications) -> None:
        served = publications.served
        with connection.transaction():
            connection.execute(f"set local lock_timeout = {_WAIT_MILLISECONDS}")
            connection.execute(
                f"insert into {POINTERS} values ($1, $2, $3, $4::jsonb) on conflict (name) do update set "
                "switch_number = excluded.switch_number, publication = excluded.publication, "
                "document = excluded.document",
                [
                    self._name,
                    publications.switches[-1].number,
                    served.id,
                    publications.content().decode(),
                ],
            )
            select = f"as {_view_of(served)}"
            try:
                # a replaced view keeps the rights that were granted on it
                with connection.transaction():
                    connection.execute(f"create or replace view {self._view} {select}")
            except psycopg.errors.InvalidTableDefinition:  # the columns have changed
                connection.execute(f"drop view {self._view}")
                connection.execute(f"create view {self._view} {select}")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Yield the connection that holds the lock; outside of `locked`, a new connection."""
        if self._connection is not None:
            yield self._connection
            return
        connection = connect(self._url)
        try:
            yield connection
        finally:
            connection.close()

    def _create_schema(self, connection: Connection) -> None:
        with connection.transaction():
            # a session that publishes the first publication of another name at the same time waits here
            connection.execute(
                "select pg_advisory_xact_lock(hashtextextended($1, 0))", [_ADVISORY.strip()]
            )
            schema, table = _fetch_one(
                connection, "select to_regnamespace($1), to_regclass($2)", [SCHEMA, POINTERS]
            )
            # not `create schema if not exists`, which fails without the right to create schemas even if it exists
            if schema is None:
                connection.execute(f"create schema {SCHEMA}")
            if table is None:
                connection.execute(
                    f"create table {POINTERS} (name text primary key, switch_number bigint not null, "
                    "publication text not null, document jsonb not null)"
                )

    def _fill(
        self,
        connection: Connection,
        publication: str,
        rows: RowsToPublish,
        *,
        base: Manifest | None,
    ) -> None:
        kinds = {**rows.key, **rows.outputs, **rows.stamps}
        of_row = [*rows.key, *rows.outputs, *(n for n in rows.stamps if n not in rows.of_origin)]
        columns = {**{name: kinds[name] for name in of_row}, ORIGIN: "integer"}
        key = ", ".join(quote(name) for name in rows.key)
        table = table_of(publication)
        connection.execute(f"create table {table} ({_columns(columns)})")
        if base is None:
            _copy(connection, table, columns, rows.changed())
        else:
            removed = {name: kinds[name] for name in rows.key}
            for temporary, of_it, batches in (
                (_REMOVED, removed, rows.removed),
                (_CHANGED, columns, rows.changed),
            ):
                connection.execute(
                    f"create temp table {temporary} ({_columns(of_it)}) on commit drop"
                )
                _copy(connection, temporary, of_it, batches())
            gone = f"select {key} from {_CHANGED} union all select {key} from {_REMOVED}"
            connection.execute(
                f"insert into {table} select b.* from {table_of(base.id)} as b "
                f"left join (select *, true as is_gone from ({gone}) as g) as g using ({key}) "
                "where is_gone is null"
            )
            connection.execute(f"insert into {table} select * from {_CHANGED}")
        connection.execute(f"alter table {table} add primary key ({key})")
        [written] = _fetch_one(connection, f"select count(*) from {table}")
        if written != rows.rows:
            raise not_unique(rows, written=written)
        origins = {ORIGIN: "integer", **{name: kinds[name] for name in rows.of_origin}}
        connection.execute(
            f"create table {origins_of(publication)} ({_columns(origins)}, primary key ({ORIGIN}))"
        )
        _copy_rows(connection, origins_of(publication), origins, rows.origins())
        for made in (table, origins_of(publication)):
            # the next publisher of this name finds its old tables by the comment
            connection.execute(f"comment on table {made} is '{self._comment}'")

    @property
    def _comment(self) -> str:
        return f"dbt_onnx: {self._name}"

    def _clear(self, connection: Connection) -> None:
        """Drop the tables of publications that are no longer kept, or that were never served."""
        found = read_document(connection, self._url, self._name)
        kept = [manifest.id for manifest in found.publications] if found else []
        tables = connection.execute(
            "select relname from pg_class where relnamespace = to_regnamespace($1) and relkind = 'r' "
            "and obj_description(oid, 'pg_class') = $2",
            [SCHEMA, self._comment],
        ).fetchall()
        for (table,) in tables:
            if table.removesuffix("-origins") in kept:
                continue
            # a table that is still being read is dropped with the next publication
            with suppress(psycopg.Error), connection.transaction():
                connection.execute(f"set local lock_timeout = {_WAIT_MILLISECONDS}")
                connection.execute(f"drop table {SCHEMA}.{quote(table)}")

    def _check_names(self, rows: RowsToPublish) -> None:
        long = [
            name
            for name in (*rows.key, *rows.outputs)
            if len(name.encode()) > _MAX_NAME_BYTES or "\0" in name
        ]
        if long:
            raise ServingError(
                f"Postgres does not accept the names of column(s) {long} of {rows.relation}: a name has at most "
                f"{_MAX_NAME_BYTES} bytes, and no NUL; nothing is published",
                hint="publish a view that renames them",
            )

    def _unwritable(self, error: Exception) -> ServingError:
        return ServingError(
            f"{shown(self._url)} cannot be written: {primary_message(error)}; the previous publication is still served",
            hint=f"check that the server runs, and that the user may create tables in the schema {SCHEMA}",
        )


def _fetch_one(connection: Connection, query: str, values: Sequence[Any] = ()) -> Any:
    return connection.execute(query, values).fetchone()


def _retry_until_unlocked(work: Callable[[], None]) -> None:
    """Retry `work`, which needs a lock that readers hold now and then, until no reader holds it.

    Raises LockNotAvailable after `_SWITCH_SECONDS`.
    """
    deadline = time.monotonic() + _SWITCH_SECONDS
    while True:
        try:
            work()
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAIT_MILLISECONDS / 1000)
        else:
            return


def _columns(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{quote(name)} {column_type(kind)}" for name, kind in columns.items())


def _copy(connection: Connection, table: str, columns: Mapping[str, str], batches: Any) -> None:
    kinds = list(columns.values())
    _copy_rows(
        connection, table, columns, (row for batch in batches for row in stored_rows(batch, kinds))
    )


def _copy_rows(
    connection: Connection,
    table: str,
    columns: Mapping[str, str],
    rows: Iterable[Sequence[Any]],
) -> None:
    convert = [_converter(kind) for kind in columns.values()]
    listed = ", ".join(quote(name) for name in columns)
    with connection.cursor() as cursor, cursor.copy(f"copy {table} ({listed}) from stdin") as copy:
        for row in rows:
            copy.write_row(
                [
                    value if value is None or as_python is None else as_python(value)
                    for as_python, value in zip(convert, row, strict=True)
                ]
            )


def _converter(kind: str) -> Callable[[Any], Any] | None:
    """Return the conversion from a stored value to one that psycopg can write; None if no conversion is needed."""
    if kind in {"integer", "large_integer", "text", "uuid", "date"} or kind.startswith("decimal("):
        return None
    return _as_strict_json if kind == "json" else kind_of(kind).read


def _as_strict_json(text: str) -> str:
    # DuckDB writes NaN and Infinity without quotes, which is not JSON: they become text
    if "NaN" not in text and "Infinity" not in text:
        return text
    return json.dumps(as_json(json.loads(text)), ensure_ascii=False)


def _view_of(manifest: Manifest) -> str:
    columns = [column.name for column in (*manifest.key, *manifest.outputs, *manifest.stamps)]
    listed = [quote(name) for name in columns]
    age = _age(manifest)
    is_stale = f"coalesce({age} > interval '{manifest.stale_after} seconds', true)"
    if manifest.stale_after is None:
        is_stale = f"({age}) is null"
    # a relation that does not come from `current_predictions` may have columns with these names
    listed += [
        f"{sql} as {name}"
        for name, sql in (("age", age), ("is_stale", is_stale))
        if name not in columns
    ]
    return (
        f"select {', '.join(listed)} from {table_of(manifest.id)} "
        f"left join {origins_of(manifest.id)} using ({ORIGIN})"
    )


def _age(manifest: Manifest) -> str:
    """SQL for the age of a row, by the rules of `Answer.age`."""
    stamps = {column.name for column in manifest.stamps}
    clock: datetime = manifest.clock
    fresh = "fresh_as_of" if "fresh_as_of" in stamps else f"timestamp '{clock.isoformat()}'"
    age = f"greatest((now() at time zone 'UTC') - {fresh}, interval '0')"
    is_missing = "served_from = 'missing' or " if "served_from" in stamps else ""
    return f"case when {is_missing}{fresh} is null then null else {age} end"
