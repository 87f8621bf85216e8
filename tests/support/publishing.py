"""Publishing without dbt: a warehouse, a folder, and a comparison of the two."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import duckdb
from hardening import CONFIG, with_settings

from dbt_onnx.engines.base import STAMPS
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.engines.duckdb.warehouse import DuckDBWarehouse
from dbt_onnx.serving import Predictions
from dbt_onnx.serving import publish as publishing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dbt_onnx.serving.publish import PublicationSummary

CLOCK = datetime(2024, 1, 10, 6)
ORIGIN_TYPES = {
    "scored_at": "timestamp", "fresh_as_of": "timestamp", "model_name": "varchar", "model_version": "varchar",
    "run_id": "varchar", "status": "varchar", "rejected_reason": "varchar", "served_from": "varchar",
}  # fmt: skip


class Publisher:
    """A warehouse and the folder `serving` into which it publishes.

    The warehouse is in memory unless `path` or an open `connection` is given.
    """

    def __init__(
        self,
        root: Path,
        *,
        path: Path | None = None,
        connection: duckdb.DuckDBPyConnection | None = None,
        **config: str,
    ) -> None:
        self.root = root
        self.connection = connection or duckdb.connect(
            str(path or ":memory:"), config={**CONFIG, **config}
        )
        with_settings(self.connection)
        [(self.database,)] = self.sql("select current_database()")

    def close(self) -> None:
        self.connection.close()

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.connection.execute(query, list(parameters)).fetchall()

    def folder(self, name: str = "t") -> Path:
        return self.root / "serving" / name

    def publish(
        self,
        query: str = "select * from t",
        *,
        key: Sequence[str] = ("id",),
        name: str = "t",
        published_by: str = "t_published",
        full_refresh: bool = False,
        ledgers: Sequence[str] = (),
        **arguments: Any,
    ) -> PublicationSummary:
        """Publish the rows of a query, as a model `published_by` downstream of `ledgers` would."""
        request = publishing.publish(
            None,
            None,
            predictions=self.connection.sql(query),
            key=list(key),
            name=name,
            **arguments,
        )
        settings = publishing.PublicationSettings(
            database=self.database,
            schema="main",
            identifier=published_by,
            run_id="run",
            clock_sql=f"timestamp '{CLOCK}'",
            full_refresh=full_refresh,
            empty=False,
            scoring_models=[
                {"database": self.database, "schema": "main", "identifier": ledger}
                for ledger in ledgers
            ],
        )
        with patch.object(publishing, "project_folder", return_value=self.root):
            return publishing.publish_relation(DuckDBWarehouse(self.connection), request, settings)

    def open(self, name: str = "t", *, clock: datetime = CLOCK) -> Predictions:
        return Predictions.open(self.folder(name), clock=lambda: clock)

    def switches(self, columns: str = "publication, why, rows_published") -> list[tuple[Any, ...]]:
        return self.sql(f"select {columns} from dbt_onnx_publications order by served_since, rowid")


def faults_of(
    publisher: Publisher,
    query: str = "select * from t",
    *,
    key: Sequence[str] = ("id",),
    name: str = "t",
) -> list[str]:
    """Return the differences between the rows of a relation in DuckDB and the answers from its publication."""
    cursor = publisher.connection.execute(query)
    columns = [column[0] for column in cursor.description or []]
    rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    faults = []
    with publisher.open(name) as predictions:
        manifest = predictions.manifest
        if manifest.rows != len(rows):
            faults.append(f"{manifest.rows} rows, not {len(rows)}")
        for row in rows:
            answer = predictions.get(tuple(row[name] for name in key))
            found = {"status": answer.status, **answer.outputs}
            found |= {stamp: getattr(answer, stamp) for stamp in STAMPS if stamp != "status"}
            for column, value in expected(row, key).items():
                if not same(found.get(column), value):
                    faults.append(f"{answer.key} {column}: {found.get(column)!r}, not {value!r}")
    return faults


def expected(row: dict[str, Any], key: Sequence[str]) -> dict[str, Any]:
    """Return the expected answer for a row of `current_predictions`, or of another relation."""
    if not set(STAMPS) <= set(row):
        outputs = {name: value for name, value in row.items() if name not in key}
        return {"status": "predicted", "fresh_as_of": CLOCK, "served_from": None, **outputs}
    if row["served_from"] == "missing":
        status = "rejected" if row["status"] == "rejected" else "missing"
        return {
            **dict.fromkeys(STAMPS),
            "status": status,
            "rejected_reason": row["rejected_reason"],
            "served_from": "missing",
        }
    left_out = {*key, "status", "age", "is_stale"}
    return {"status": "predicted", **{n: v for n, v in row.items() if n not in left_out}}


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same type. NaN equals NaN."""
    if isinstance(one, list) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if type(one) is not type(other):
        return False
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def create(publisher: Publisher, columns: dict[str, str], rows: Sequence[Sequence[Any]]) -> None:
    """Create or replace the table `t`."""
    listed = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
    publisher.sql(f"create or replace table t ({listed})")
    if rows:
        places = ", ".join("?" * len(columns))
        publisher.connection.executemany(
            f"insert into t values ({places})", [list(r) for r in rows]
        )
