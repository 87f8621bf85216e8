"""Publications in Postgres, in the schema `dbt_onnx`, which is made when it is not there.

_publications           a row for each name: the id that is served, and what `publications.json` is for files
"<name>"                a view of what is served, with `age` and `is_stale` by the clock of whoever selects
"<id>"                  a publication's rows, with a primary key and the types of Postgres
"<id>-origins"          where its predictions come from

A publication is written beside, in one transaction; in another, the view and the row of `_publications`
come to it. Readers wait for neither: the view is replaced in a moment in which nobody uses it.
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
    read_document,
    said,
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
_MOST_NAME_BYTES = 63
# a select that comes while we wait for the view waits behind us
_WAIT_MILLISECONDS = 100
_SWITCH_SECONDS = 30.0
_ADVISORY = "dbt_onnx publishes "
_CHANGED, _REMOVED = "dbt_onnx_changed", "dbt_onnx_removed"


class Postgres:
    """The publications of one name in a database, see `Target`."""

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
        """Within, no other session publishes under this name. Of a process that dies, the lock goes with
        the connection.
        """
        connection = connect(self._url)
        lock = [_ADVISORY + self._name]
        try:
            try:
                [is_ours] = _one(
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
                # the server notices later that we have closed: who publishes next would be locked out
                with suppress(psycopg.Error):
                    connection.execute("select pg_advisory_unlock(hashtextextended($1, 0))", lock)
        finally:
            self._connection = None
            connection.close()

    def publications(self) -> Publications | None:
        """What is there; none before the first."""
        with self._connected() as connection:
            try:
                return read_document(connection, self._url, self._name)
            except psycopg.Error as error:
                raise unreadable(self._url, error) from error

    def can_build_on(self, manifest: Manifest) -> bool:
        """Whether the tables of an earlier publication are there, with as many rows as were published."""
        with self._connected() as connection, suppress(psycopg.Error):
            connection.execute(f"select 1 from {origins_of(manifest.id)} limit 1")
            [rows] = _one(connection, f"select count(*) from {table_of(manifest.id)}")
            return bool(rows == manifest.rows)
        return False

    def write(
        self, publication: str, rows: RowsToPublish, *, base: Manifest | None
    ) -> tuple[int, str | None]:
        """Write the tables of a publication, from the rows that changed since `base`, and those of `base`
        that did not, which stay on the server. Returns the bytes that they take.
        """
        self._check_names(rows)
        with self._connected() as connection:
            try:
                self._create_schema(connection)
                self._clear(connection)
                with connection.transaction():
                    self._fill(connection, publication, rows, base=base)
                [size] = _one(
                    connection,
                    "select pg_total_relation_size($1::regclass) + pg_total_relation_size($2::regclass)",
                    [table_of(publication), origins_of(publication)],
                )
            except psycopg.errors.UniqueViolation as error:
                raise not_unique(rows) from error
            except psycopg.DataError as error:
                raise DataError(
                    f"{rows.relation} has a value that Postgres cannot store: {said(error)}; nothing is "
                    "published",
                    hint="replace it in the model upstream, or leave the column out; a text with a NUL character "
                    "is such a value",
                ) from error
            except psycopg.Error as error:
                raise self._unwritable(error) from error
            return int(size), None

    def switch(self, publications: Publications) -> None:
        """Let the view and `_publications` come to another publication, in one transaction."""
        with self._connected() as connection:
            try:
                _patiently(lambda: self._switch(connection, publications))
            except psycopg.errors.LockNotAvailable as error:
                raise ServingError(
                    f"{self._view} in {shown(self._url)} is in use by a transaction that does not end; "
                    "what was published before is served on",
                    hint="end it, and publish again: pg_stat_activity shows it",
                ) from error
            except psycopg.Error as error:
                raise self._unwritable(error) from error
            try:
                self._clear(connection)
            except psycopg.Error as error:
                _LOG.warning("%s: old tables go with the next publication: %s", self, said(error))

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
                # it keeps the rights that were granted
                with connection.transaction():
                    connection.execute(f"create or replace view {self._view} {select}")
            except psycopg.errors.InvalidTableDefinition:  # it has other columns
                connection.execute(f"drop view {self._view}")
                connection.execute(f"create view {self._view} {select}")

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """The connection that has the lock; without a lock, one of its own."""
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
            # who makes another name's first publication at the same time waits
            connection.execute(
                "select pg_advisory_xact_lock(hashtextextended($1, 0))", [_ADVISORY.strip()]
            )
            schema, table = _one(
                connection, "select to_regnamespace($1), to_regclass($2)", [SCHEMA, POINTERS]
            )
            # who may not create a schema may still use one, which `if not exists` would refuse
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
        [written] = _one(connection, f"select count(*) from {table}")
        if written != rows.rows:
            raise not_unique(rows, written=written)
        origins = {ORIGIN: "integer", **{name: kinds[name] for name in rows.of_origin}}
        connection.execute(
            f"create table {origins_of(publication)} ({_columns(origins)}, primary key ({ORIGIN}))"
        )
        _copy_rows(connection, origins_of(publication), origins, rows.origins())
        for made in (table, origins_of(publication)):
            # by this, whoever publishes next knows whose table it is
            connection.execute(f"comment on table {made} is '{self._comment}'")

    @property
    def _comment(self) -> str:
        return f"dbt_onnx: {self._name}"

    def _clear(self, connection: Connection) -> None:
        """Drop the tables of publications that are no longer kept, or that never came to be served."""
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
            # one that is still read is dropped when the next publication comes
            with suppress(psycopg.Error), connection.transaction():
                connection.execute(f"set local lock_timeout = {_WAIT_MILLISECONDS}")
                connection.execute(f"drop table {SCHEMA}.{quote(table)}")

    def _check_names(self, rows: RowsToPublish) -> None:
        long = [
            name
            for name in (*rows.key, *rows.outputs)
            if len(name.encode()) > _MOST_NAME_BYTES or "\0" in name
        ]
        if long:
            raise ServingError(
                f"Postgres cannot have the column(s) {long} of {rows.relation}: a name has at most "
                f"{_MOST_NAME_BYTES} bytes, and no NUL; nothing is published",
                hint="publish a view that gives them other names",
            )

    def _unwritable(self, error: Exception) -> ServingError:
        return ServingError(
            f"{shown(self._url)} cannot be written: {said(error)}; what was published before is served on",
            hint=f"see that the server runs, and give the user the right to create in the schema {SCHEMA}",
        )


def _one(connection: Connection, query: str, values: Sequence[Any] = ()) -> Any:
    return connection.execute(query, values).fetchone()


def _patiently(work: Callable[[], None]) -> None:
    """Work that needs a lock which readers have now and then, in a moment when none has."""
    until = time.monotonic() + _SWITCH_SECONDS
    while True:
        try:
            work()
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > until:
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
    """From the stored value to one that psycopg writes; none where it is one already."""
    if kind in {"integer", "large_integer", "text", "uuid", "date"} or kind.startswith("decimal("):
        return None
    return _as_strict_json if kind == "json" else kind_of(kind).read


def _as_strict_json(text: str) -> str:
    # DuckDB writes NaN and Infinity bare, which is no JSON: they become text
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
    # what is no `current_predictions` may have columns of these names
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
    """As a reader counts it, see `Answer`."""
    stamps = {column.name for column in manifest.stamps}
    clock: datetime = manifest.clock
    fresh = "fresh_as_of" if "fresh_as_of" in stamps else f"timestamp '{clock.isoformat()}'"
    age = f"greatest((now() at time zone 'UTC') - {fresh}, interval '0')"
    is_missing = "served_from = 'missing' or " if "served_from" in stamps else ""
    return f"case when {is_missing}{fresh} is null then null else {age} end"
