"""The feature relation: its name, its columns, and the checks that it can be scored."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.base import UNNAMED
from dbt_onnx.engines.duckdb import plan
from dbt_onnx.engines.duckdb.identifiers import literal, quote
from dbt_onnx.engines.feature_columns import FeatureColumns
from dbt_onnx.errors import ConfigError, ContractError, DataError, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.storage import Storage
    from dbt_onnx.kernel.contract import Contract
    from dbt_onnx.runs.plan import Snapshot

# Arrow makes a BLOB of a BIT, drops the zone of a TIME, and turns large UHUGEINT values negative
_LOSSY = re.compile(r"\b(BIT|TIME WITH TIME ZONE|UHUGEINT|VARIANT)\b")
# settings of DuckDB, and the Arrow types that they produce
_FORMS = {"arrow_lossless_conversion": "extension<", "arrow_output_list_view": "list_view<"}
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"\s""")
_MOMENTS = re.compile(r"DATE|TIMESTAMP(_S|_MS|_NS| WITH TIME ZONE)?")
_PART = r'(?:"(?:[^"]|"")+"|\w+)'
_TABLE = rf"({_PART})\.({_PART})\.({_PART})"
# duckdb 1.5 writes its keywords in capitals
_PLAIN = re.compile(rf"select \* from {_TABLE}", re.IGNORECASE)
# the query that dbt makes of a source with --empty
_EMPTY_SOURCE = re.compile(
    rf"select \* from \(select \* from {_TABLE} (?:where false )?limit 0\).*", re.IGNORECASE
)
# the size of the bitmap of keys, which each thread has; DuckDB allows at most 10^9 bits
_BITS_A_ROW, _MAX_BITS = 4, 1_000_000_000


class FeatureRelation(FeatureColumns):
    """A relation of DuckDB; `sql` is its query."""

    @classmethod
    def open(cls, reader: Cursor, relation: Any) -> FeatureRelation:
        """Open what `dbt.ref()` returns: a relation of DuckDB's Python client."""
        sql = relation.sql_query()
        return cls(sql=sql, name=relation_name(relation), columns=reader.columns_of(f"({sql})"))

    @classmethod
    def of_table(cls, reader: Cursor, table_sql: str) -> FeatureRelation:
        """Open a table by its name, as `dbt.ref()` would give it."""
        return cls.open(reader, reader.raw.query(f"select * from {table_sql}"))

    def as_of_sql(self, column: str | None, *, clock: datetime) -> str:
        """SQL of the moment that a row describes: its `as_of` column in UTC, or the clock without a column."""
        if column is None:
            return f"cast({literal(clock.isoformat(sep=' '))} as timestamp)"
        if self.columns[column].endswith("WITH TIME ZONE"):
            # not `at time zone`, which counts years in the session's calendar
            moment = quote(column)
            return (
                f"case when isfinite({moment}) then make_timestamp(epoch_us({moment})) "
                f"else cast({moment} at time zone 'UTC' as timestamp) end"
            )
        return f"cast({quote(column)} as timestamp)"

    def check_columns(self, *, key: Sequence[str], as_of: str | None) -> None:
        """Raise ConfigError if a column that `score()` names is missing or has a wrong type."""
        self.check_names(key=key, as_of=as_of)
        types = {name: self.columns[name] for name in key}
        unfit = {n: kind for n, kind in types.items() if _LOSSY.search(_QUOTED.sub("", kind))}
        if unfit:
            raise ConfigError(
                f"key column(s) {list(unfit)} of {self.name} are {', '.join(unfit.values())}, which "
                "cannot be read without loss",
                hint="cast them to VARCHAR in the features model",
            )
        self.check_moment(as_of, types=_MOMENTS)

    def check_storable(self, storage: Storage, *, key: Sequence[str]) -> None:
        """Raise ConfigError if the ledger's storage does not have the type of a key column."""
        types = {name: self.columns[name] for name in key}
        unfit = {n: kind for n, kind in types.items() if storage.type_of(kind) != kind}
        if unfit:
            raise ConfigError(
                f"key column(s) {list(unfit)} of {self.name} are {', '.join(unfit.values())}, which a "
                "DuckLake cannot store",
                hint="in the features model, cast them to VARCHAR, or an array of fixed length to a list",
            )

    def check_contract(self, reader: Cursor, contract: Contract, *, model: str) -> None:
        """Raise ContractError if the model cannot read these columns."""
        unsigned = [
            n for n in contract.feature_names if self.columns.get(n, "").startswith("UHUGEINT")
        ]
        if unsigned:
            raise ContractError(
                f"feature column(s) {unsigned} of {self.name} are UHUGEINT, which cannot be read "
                "without loss",
                hint="cast them to HUGEINT or UBIGINT in the features model",
            )
        present = [name for name in contract.feature_names if name in self.columns]
        listed = ", ".join(quote(name) for name in present) or "1"
        schema = reader.stream(
            f"select {listed} from ({self.sql}) as features limit 0", {}, batch_rows=1
        ).schema
        types: dict[str, Any] = dict.fromkeys(self.columns)
        types |= {name: schema.field(name).type for name in present}
        for setting, form in _FORMS.items():
            unread = [name for name in present if form in str(types[name])]
            if unread:
                raise ContractError(
                    f"the setting {setting} gives column(s) {unread} of {self.name} in an Arrow "
                    "layout that dbt_onnx cannot read",
                    hint=f"remove {setting} from the target in profiles.yml",
                )
        # imported only if a contract is checked, because it imports pyarrow
        from dbt_onnx.kernel.relation import check_relation

        check_relation(contract, types, where=self.name, model=model, known_as=self.columns)

    def check_moments(self, given: Snapshot, *, as_of: str | None, clock: datetime) -> None:
        """Raise DataError if rows describe the future, or a time before the year 1."""
        # duckdb returns moments outside Python's calendar as text, and -infinity as its first day
        oldest = given.oldest
        if as_of is None and clock == datetime.min:  # noqa: DTZ901, naive UTC
            raise DataError(
                f"the clock says {clock}, the beginning of the calendar",
                hint="set the variable dbt_onnx_clock to a later day",
            )
        if "(BC)" in str(oldest) or oldest == datetime.min:  # noqa: DTZ901, naive UTC
            raise DataError(
                f"{self.name} describes a time before the year 1: the oldest {as_of!r} is {oldest}, "
                "or -infinity",
                hint="correct the dates upstream, or let them be NULL where they are not known: "
                "such a row is rejected",
            )
        self.check_not_future(given, as_of=as_of, clock=clock)

    def check_keys(self, reader: Cursor, *, key: Sequence[str]) -> None:
        """Raise DataError if a key occurs twice."""
        types = {name: self.columns[name] for name in key}
        if self._has_unique_keys(reader, types):
            return
        repeated = reader.rows(plan.duplicate_keys(self.sql, types))
        if repeated:
            raise self.not_unique(key, repeated)

    def check_collation(self, reader: Cursor, *, key: Sequence[str]) -> None:
        """Raise ConfigError if the key has text inside a STRUCT or list and the session has a collation.

        DuckDB cannot compare nested text by its bytes then.
        """
        nested = [n for n in key if self.columns[n] != "VARCHAR" and "VARCHAR" in self.columns[n]]
        if not nested:
            return
        collation = reader.rows("select current_setting('default_collation')")[0][0]
        if collation:
            raise ConfigError(
                f"key column {nested[0]!r} is {self.columns[nested[0]]}, and default_collation is "
                f"{collation!r}: different keys would compare as equal",
                hint="cast the key to VARCHAR in the features model, or leave default_collation out "
                "of the profile",
            )

    def _has_unique_keys(self, reader: Cursor, key: Mapping[str, str]) -> bool:
        """Whether no key occurs twice. If it returns False, only a more expensive query can tell."""
        statement, bounds = plan.bounds_of_key(self.sql, key), None
        if statement is not None:
            occurrences, low, high = reader.rows(statement)[0]
            if occurrences and high - low < min(_BITS_A_ROW * occurrences, _MAX_BITS):
                bounds = (low, high)
        return bool(reader.rows(plan.has_unique_keys(self.sql, key, bounds=bounds))[0][0])


def relation_name(relation: Any) -> str:
    """`select * from "db"."schema"."name"` -> `schema.name`, the name in messages to users."""
    return ".".join(_parts(relation.sql_query())[1:]) or UNNAMED


def recorded_name(relation: Any, *, home: str) -> str:
    """Return the relation's name for the run row, with its database if that is not `home`, the ledger's."""
    parts, name = _parts(relation.sql_query()), relation_name(relation)
    is_elsewhere = parts and parts[0].casefold() != home.casefold()
    return f"{parts[0]}.{name}" if is_elsewhere else name


def refuse_expressions(**queries: str) -> None:
    """Raise ConfigError if an argument of `score()`, given as SQL, is not a table or view.

    The run row stores the relation's name. The gate, health checks and backfills look it up by that name.
    """
    for argument, sql in queries.items():
        if not _parts(sql):
            shown = " ".join(sql.split())
            raise ConfigError(
                f"{argument} is an expression or a file, not a table or view of the warehouse: "
                f"{shortened(shown, 400)}",
                hint="make it a model, and dbt.ref() that",
            )


def _parts(sql: str) -> list[str]:
    """Return database, schema and name of a table or view from the query that dbt writes to read it; empty
    for any other query.
    """
    found = _PLAIN.fullmatch(sql.strip()) or _EMPTY_SOURCE.fullmatch(sql.strip())
    if found is None:
        return []
    return [p[1:-1].replace('""', '"') if p.startswith('"') else p for p in found.groups()]
