"""The rows to publish: read from a relation, and compared with the publication before.

    <published model>        each row of its newest publication: the key, a hash of the row, its origin
    dbt_onnx_publications    a row for each publication, and for each return to an earlier one

The relation is read once, into a temporary table. The columns that describe where a prediction comes from
have few distinct combinations, called origins, and rows refer to an origin by number. So a night that only
confirms predictions, and so changes only `fresh_as_of`, changes an origin and no row.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.base import STAMPS, UNNAMED
from dbt_onnx.engines.duckdb.features import relation_name
from dbt_onnx.engines.duckdb.identifiers import by_bytes, quote, same_key
from dbt_onnx.engines.duckdb.stored_kinds import stored_kind
from dbt_onnx.errors import ConfigError, DataError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.cursor import Cursor

PUBLICATIONS_TABLE = "dbt_onnx_publications"
PUBLICATIONS_TYPES = {
    "published_model": "VARCHAR",
    "name": "VARCHAR",
    "scoring_models": "VARCHAR[]",
    "target": "VARCHAR",
    "switch_number": "INTEGER",
    "publication": "VARCHAR",
    "why": "VARCHAR",
    "served_since": "TIMESTAMP",
    "relation": "VARCHAR",
    "run_id": "VARCHAR",
    "clock": "TIMESTAMP",
    "rows_published": "BIGINT",
    "rows_changed": "BIGINT",
    "rows_removed": "BIGINT",
    "sha256": "VARCHAR",
    "hash_function": "VARCHAR",
}
# with a prefix, because a column of the key may be called origin
_STATE_TYPES = {"dbt_onnx_row_hash": "UBIGINT", "dbt_onnx_origin": "INTEGER"}

_COMPUTED_BY_READER = ("age", "is_stale")
_ROW_STAMP = "as_of"  # it may differ between rows of one origin
_STORED_AS_NUMBERS = {
    "boolean", "integer", "float", "bytes", "time", "timestamp", "timestamp_tz", "vector_float32",
    "vector_float64",
}  # fmt: skip

_BATCH_ROWS = 65_536
# if a larger share of the rows changed, the model's table is replaced as a whole
_REWRITE_SHARE = 0.1
_ROWS, _COMPARED, _ORIGINS = "dbt_onnx_rows", "dbt_onnx_compared", "dbt_onnx_origins"
_CHANGED, _OUTDATED = "dbt_onnx_changed", "dbt_onnx_outdated"
_HAS_CHANGED = f"r.rowid in (select row_id from {_CHANGED})"
# only one transaction at a time creates the table or adds to it
_LOCK = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column of the relation. `alias` is its name in the temporary table, `stored` the SQL of its value."""

    name: str
    sql_type: str
    alias: str
    kind: str
    stored: str

    @classmethod
    def of(cls, name: str, sql_type: str, alias: str) -> _Column:
        kind, stored = stored_kind(quote(name), sql_type)
        return cls(name=name, sql_type=sql_type, alias=alias, kind=kind, stored=stored)


class RowsToPublish:
    """Implements `base.RowsToPublish`, which documents the methods. The cursor holds the temporary tables."""

    def __init__(
        self, cursor: Cursor, relation: Any, *, key: Sequence[str], model: TableName
    ) -> None:
        self._cursor = cursor
        self._model = model
        self._publications = model.beside(PUBLICATIONS_TABLE)
        name = relation_name(relation)
        self.relation = "the relation to publish" if name == UNNAMED else name
        sql = relation.sql_query()
        columns = cursor.columns_of(f"({sql})")
        self._check_columns(columns, key)
        self._check_tables()
        # a reader computes ages from `fresh_as_of`, so it must be a timestamp, not just have that name
        is_served = set(STAMPS) <= set(columns) and columns["fresh_as_of"] == "TIMESTAMP"
        stamps = [name for name in STAMPS if is_served and name not in key]
        left_out = {*key, *stamps, *(_COMPUTED_BY_READER if is_served else ())}
        outputs = [name for name in columns if name not in left_out]
        self._key = [_Column.of(name, columns[name], f"k{i}") for i, name in enumerate(key)]
        of_outputs = [_Column.of(name, columns[name], f"c{i}") for i, name in enumerate(outputs)]
        of_stamps = [_Column.of(name, columns[name], f"s{i}") for i, name in enumerate(stamps)]
        self._of_row = [*of_outputs, *(c for c in of_stamps if c.name == _ROW_STAMP)]
        self._of_origin = [c for c in of_stamps if c.name != _ROW_STAMP]
        self.key = {column.name: column.kind for column in self._key}
        self.outputs = {column.name: column.kind for column in of_outputs}
        self.stamps = {column.name: column.kind for column in of_stamps}
        self.of_origin = [column.name for column in self._of_origin]
        self._same = " and ".join(
            f"{by_bytes(f'r.{c.alias}', c.sql_type)} = {by_bytes(f's.{quote(c.name)}', c.sql_type)}"
            for c in self._key
        )
        self._same_names = same_key({c.name: c.sql_type for c in self._key}, "r", "s")
        self._read(sql)

    def _check_columns(self, columns: Mapping[str, str], key: Sequence[str]) -> None:
        taken = [name for name in columns if name.lower() in _STATE_TYPES]
        if taken:
            raise ConfigError(
                f"column(s) {taken} of {self.relation} have reserved names",
                hint="rename them in the published relation",
            )
        missing = [name for name in key if name not in columns]
        if missing:
            raise ConfigError(
                f"key column(s) {missing} not found in {self.relation}; it has {list(columns)}",
                hint="correct key in publish(), or add the column to the published relation",
            )
        for name in key:
            kind, _ = stored_kind(quote(name), columns[name])
            # equal intervals may be written in several ways
            if kind == "json" or kind.startswith("vector") or columns[name] == "INTERVAL":
                raise ConfigError(
                    f"key column {name!r} of {self.relation} is {columns[name]}, a type that "
                    "cannot be looked up",
                    hint="publish a key of text, numbers, days or moments",
                )

    def _check_tables(self) -> None:
        """Raise WarehouseError if a table with a name that we are about to write belongs to somebody else."""
        for table, types in (
            (self._model, _STATE_TYPES),
            (self._publications, PUBLICATIONS_TYPES),
        ):
            if not self._cursor.has(table):
                continue
            if self._cursor.is_view(table) or not set(types) <= set(
                self._cursor.columns_of(table.sql)
            ):
                raise WarehouseError(
                    f"{table} was not created by dbt_onnx: it lacks columns of a published model's table",
                    hint=f"rename it, or give the published model another alias; the expected columns "
                    f"are {list(types)}",
                )

    def _read(self, sql: str) -> None:
        """Read the relation, once, and check that it has rows and each row has a key."""
        listed = [
            *(f"{quote(column.name)} as {column.alias}" for column in self._key),
            *(f"{column.stored} as {column.alias}" for column in self._of_row + self._of_origin),
        ]
        self._cursor.execute(
            f"create or replace temp table {_ROWS} as "
            f"select *, {_hash_of(self._of_row)} as row_hash, {_hash_of(self._of_origin)} as origin_hash "
            f"from (select {', '.join(listed)} from ({sql}) as relation) as rows_of_relation"
        )
        without_key = " or ".join(f"{column.alias} is null" for column in self._key)
        [(self.rows, nulls)] = self._cursor.rows(
            f"select count(*), count(*) filter ({without_key}) from {_ROWS}"
        )
        if nulls:
            raise DataError(
                f"{nulls:,} row(s) of {self.relation} have a NULL in the key {list(self.key)}",
                hint="filter them out, or fix the upstream model that gives them",
            )
        if not self.rows:
            raise DataError(
                f"{self.relation} has no rows: nothing is published, and the "
                "previous publication is still served",
                hint="build the upstream models; to take a publication back, `dbt-onnx unpublish`",
            )

    def last_publication(self) -> str | None:
        if not self._cursor.has(self._publications) or not self._cursor.has(self._model):
            return None
        found = self._cursor.rows(
            f"select publication, hash_function, rows_published from {self._publications.sql} "
            "where published_model = $model and why = 'published' order by served_since desc limit 1",
            {"model": self._model.identifier},
        )
        types = {column.name: column.sql_type for column in self._key} | _STATE_TYPES
        if not found or self._cursor.columns_of(self._model.sql) != types:
            return None
        [(publication, hash_function, rows)] = found
        [(known,)] = self._cursor.rows(f"select count(*) from {self._model.sql}")
        return publication if (hash_function, rows) == (self._hash_function(), known) else None

    def compare(self, *, with_last: bool) -> None:
        """Also number the origins. A number stays with the values that most of its unchanged rows have now."""
        self._with_last = with_last
        compared = "(row_id bigint, origin_hash ubigint, origin integer, is_same boolean)"
        if with_last:
            compared = (
                "as select r.rowid as row_id, r.origin_hash, s.dbt_onnx_origin as origin, "
                "s.dbt_onnx_row_hash = r.row_hash as is_same "
                f"from {_ROWS} as r left join {self._model.sql} as s on {self._same}"
            )
        self._cursor.execute(f"create or replace temp table {_COMPARED} {compared}")
        self._cursor.execute(
            f"""
            create or replace temp table {_ORIGINS} as
            with pairs as (
                select origin, origin_hash, count(*) as row_count
                from {_COMPARED} where is_same group by all
            ),
            became as (
                select origin, arg_max(origin_hash, row_count) as origin_hash, max(row_count) as row_count
                from pairs group by origin
            ),
            kept as (select origin_hash, arg_max(origin, row_count) as origin from became group by all),
            origins as (
                select origin_hash, min(rowid) as row_id, count(*) as row_count from {_ROWS} group by all
            )
            select
                origins.*,
                cast(coalesce(
                    kept.origin,
                    (select coalesce(max(origin), 0) from {_COMPARED})
                    + row_number() over (partition by kept.origin is null order by origins.origin_hash)
                ) as integer) as origin
            from origins left join kept using (origin_hash)"""
        )
        if not with_last:
            self.rows_changed, self.rows_removed = self.rows, 0
            return
        self._cursor.execute(
            f"create or replace temp table {_CHANGED} as "
            f"select c.row_id from {_COMPARED} as c join {_ORIGINS} as o using (origin_hash) "
            "where (c.is_same and c.origin = o.origin) is distinct from true"
        )
        self._gone = f"{self._model.sql} as s anti join {_ROWS} as r on {self._same}"
        [(self.rows_changed,)] = self._cursor.rows(f"select count(*) from {_CHANGED}")
        [(self.rows_removed,)] = self._cursor.rows(
            f"select (select count(*) from {self._model.sql}) - count(origin) from {_COMPARED}"
        )

    def origins(self) -> list[tuple[Any, ...]]:
        listed = ["o.origin", *(f"r.{column.alias}" for column in self._of_origin)]
        return self._cursor.rows(
            f"select {', '.join(listed)} from {_ORIGINS} as o join {_ROWS} as r on o.row_id = r.rowid "
            "order by o.origin"
        )

    def served(self) -> list[dict[str, Any]]:
        told = ("model_name", "model_version", "served_from", "status")
        listed = [f"r.{c.alias} as {c.name}" for c in self._of_origin if c.name in told]
        if not listed:
            return []
        return self._cursor.records(
            f"select {', '.join(listed)}, cast(sum(o.row_count) as bigint) as rows "
            f"from {_ORIGINS} as o join {_ROWS} as r on o.row_id = r.rowid group by all order by all"
        )

    def changed(self) -> Any:
        stored = [f"{stored_kind(f'r.{c.alias}', c.sql_type)[1]} as {c.alias}" for c in self._key]
        listed = ", ".join([*stored, *(f"r.{c.alias}" for c in self._of_row), "o.origin"])
        where = "" if self.rows_changed == self.rows else f"where {_HAS_CHANGED}"
        return self._cursor.stream(
            f"select {listed} from {_ROWS} as r join {_ORIGINS} as o using (origin_hash) {where} "
            f"order by {', '.join(column.alias for column in self._key)}",
            {},
            batch_rows=_BATCH_ROWS,
        )

    def removed(self) -> Any:
        key = [stored_kind(f"s.{quote(c.name)}", c.sql_type)[1] for c in self._key]
        return self._cursor.stream(
            f"select {', '.join(key)} from {self._gone}", {}, batch_rows=_BATCH_ROWS
        )

    def clock(self, clock_sql: str) -> datetime:
        [(clock,)] = self._cursor.rows(f"select {clock_sql}")
        return clock  # type: ignore[no-any-return]

    def record(self, switches: Sequence[Mapping[str, Any]]) -> None:
        listed = ", ".join(f"r.{column.alias} as {quote(column.name)}" for column in self._key)
        columns = ", ".join(f"{name} {kind}" for name, kind in PUBLICATIONS_TYPES.items())
        rows = (
            f"select {listed}, r.row_hash as dbt_onnx_row_hash, o.origin as dbt_onnx_origin "
            f"from {_ROWS} as r join {_ORIGINS} as o using (origin_hash)"
        )
        model = self._model.sql
        with _LOCK, self._cursor.transaction():
            if (
                not self._with_last
                or self.rows_changed + self.rows_removed > self.rows * _REWRITE_SHARE
            ):
                self._cursor.execute(f"create or replace table {model} as {rows}")
            else:
                outdated = f"select {listed} from {_ROWS} as r where {_HAS_CHANGED}"
                if self.rows_removed:
                    keys = ", ".join(f"s.{quote(column.name)}" for column in self._key)
                    outdated += f" union all select {keys} from {self._gone}"
                self._cursor.execute(f"create or replace temp table {_OUTDATED} as {outdated}")
                self._cursor.execute(
                    f"delete from {model} as s using {_OUTDATED} as r where {self._same_names}"
                )
                self._cursor.execute(f"insert into {model} {rows} where {_HAS_CHANGED}")
            self._cursor.execute(f"create table if not exists {self._publications.sql} ({columns})")
            for switch in switches:
                values = {
                    "published_model": self._model.identifier,
                    "hash_function": self._hash_function(),
                    **switch,
                }
                self._cursor.insert(self._publications, values)

    def recorded(self, target: str) -> set[tuple[str, datetime]]:
        if not self._cursor.has(self._publications):
            return set()
        # not identified by number, because numbers start again if the folder was removed
        return set(
            self._cursor.rows(
                f"select publication, served_since from {self._publications.sql} "
                "where published_model = $model and target = $target",
                {"model": self._model.identifier, "target": target},
            )
        )

    def _hash_function(self) -> str:
        [(version,)] = self._cursor.rows("select version()")
        return f"duckdb {version} hash"


def read_publications(cursor: Cursor, ledger: TableName) -> list[dict[str, Any]]:
    """Return the publications of a scoring model with the time in which each was served, oldest first.
    `served_until` is None for a publication that is served now.
    """
    table = ledger.beside(PUBLICATIONS_TABLE)
    if not cursor.has(table):
        return []
    return cursor.records(
        f"""
        select *
        from (
            select *, lead(served_since) over (
                partition by published_model, target order by switch_number
            ) as served_until
            from {table.sql}
        )
        where list_contains(scoring_models, $scoring_model)
        order by served_since, target""",
        {"scoring_model": ledger.identifier},
    )


def _hash_of(columns: Sequence[_Column]) -> str:
    """SQL of one hash over columns of the temporary table. Text is hashed by its bytes."""
    listed = [
        column.alias if column.kind in _STORED_AS_NUMBERS else by_bytes(column.alias, "VARCHAR")
        for column in columns
    ]
    # NULL, [] and [NULL] have the same hash (duckdb 2.0.1)
    listed += [f"len({column.alias})" for column in columns if column.kind.startswith("vector_")]
    return f"hash({', '.join(listed)})" if listed else "cast(0 as ubigint)"
