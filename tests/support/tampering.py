"""Alter one random value of a played history, and restore it afterwards."""

from __future__ import annotations

import re
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    import duckdb

KINDS = ("bit of the artifact", "value of the ledger", "kept input")


@dataclass(frozen=True)
class Tampering:
    """What was altered, and of which run. `where` and `what` are for test messages."""

    kind: str
    run_id: str
    where: str
    what: str


@dataclass(frozen=True)
class Tamperer:
    """Alters the warehouse of `connection` and the files in `artifacts`."""

    connection: duckdb.DuckDBPyConnection
    artifacts: Path
    scoring_model: str
    chance: random.Random

    @contextmanager
    def tamper(self, kind: str) -> Iterator[Tampering]:
        """Alter something of `kind` in a random run, and restore it after the block."""
        runs = self.connection.execute(
            "select run_no, run_id, model_version, key_columns, features from dbt_onnx_runs "
            "where scoring_model = ? order by clock",
            [self.scoring_model],
        ).fetchall()
        run_no, run_id, version, key, features = self.chance.choice(runs)
        if kind == "bit of the artifact":
            with self._flipped_bit(self.artifacts / "churn" / version / "model.onnx") as what:
                yield Tampering(kind, run_id, f"churn/{version}", what)
            return
        if kind == "kept input":
            table, columns = f"{self.scoring_model}__inputs", [*key, *features]
        else:
            table = self.chance.choice(self._tables_of(run_no))
            columns = self._columns(table)
        with self._altered_value(table, run_no, self.chance.choice(columns)) as (where, what):
            yield Tampering(kind, run_id, where, what)

    def _tables_of(self, run_no: int) -> list[str]:
        """Return those of current and history in which the run has rows."""
        tables = [f"{self.scoring_model}__{suffix}" for suffix in ("current", "history")]
        return [
            table
            for table in tables
            if self.connection.execute(
                f"select 1 from {table} where run_no = ? limit 1", [run_no]
            ).fetchall()
        ]

    def _columns(self, table: str) -> list[str]:
        return [row[0] for row in self.connection.execute(f"describe {table}").fetchall()]

    @contextmanager
    def _flipped_bit(self, path: Path) -> Iterator[str]:
        content = path.read_bytes()
        place, bit = self.chance.randrange(len(content)), self.chance.randrange(8)
        altered = bytearray(content)
        altered[place] ^= 1 << bit
        path.write_bytes(altered)
        try:
            yield f"bit {bit} of byte {place}"
        finally:
            path.write_bytes(content)

    @contextmanager
    def _altered_value(self, table: str, run_no: int, column: str) -> Iterator[tuple[str, str]]:
        rows = self.connection.execute(
            f'select rowid, "{column}" from {table} where run_no = ? order by rowid', [run_no]
        ).fetchall()
        row, value = self.chance.choice(rows)
        [(kind,)] = self.connection.execute(
            "select data_type from duckdb_columns() where table_name = ? and column_name = ?",
            [table, column],
        ).fetchall()
        altered = another_value(value, kind, self.chance)
        self._set(table, row, column, altered)
        try:
            yield f"{table}.{column}", f"{value!r} > {altered!r}"
        finally:
            self._set(table, row, column, value)

    def _set(self, table: str, row: int, column: str, value: Any) -> None:
        self.connection.execute(f'update {table} set "{column}" = ? where rowid = ?', [value, row])
        [(now,)] = self.connection.execute(
            f'select "{column}" from {table} where rowid = ?', [row]
        ).fetchall()
        # NaN is not equal to itself
        assert now == value or (now != now and value != value)


def another_value(value: Any, kind: str, chance: random.Random) -> Any:
    """Return another value of the same type, mostly with a small change: a bit, a letter, a microsecond, a cent."""
    if value is None:
        return 1 if kind == "USMALLINT" else "x"
    if kind.startswith("ENUM"):
        # DuckDB itself refuses other values for the type
        values = re.findall("'([^']*)'", kind)
        return chance.choice([other for other in values if other != value])
    if kind == "FLOAT":
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        return struct.unpack("<f", struct.pack("<I", bits ^ 1 << chance.randrange(32)))[0]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        size = {"UBIGINT": 64, "BIGINT": 63, "INTEGER": 31}[kind]
        return value ^ 1 << chance.randrange(size)
    if isinstance(value, Decimal):
        return value + chance.choice((-1, 1)) * Decimal(chance.choice(("0.01", "1", "100.1")))
    if isinstance(value, datetime):
        return value + chance.choice((-1, 1)) * timedelta(
            microseconds=chance.choice((1, 10**6, 86_400 * 10**6))
        )
    place = chance.randrange(len(value))
    letter = chance.choice([c for c in "0123456789abcdef" if c != value[place]])
    return value[:place] + letter + value[place + 1 :]
