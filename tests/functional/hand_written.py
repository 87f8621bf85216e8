"""Latest tables, ledgers and run rows written by hand, so that a test's expectation is plain to see."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hardening import CONFIG, connect

from dbt_onnx.engines.duckdb.identifiers import quote

if TYPE_CHECKING:
    from pathlib import Path

CLOCK = "1998-04-01 12:00:00"
STAMPS = {
    "as_of": "timestamp",
    "status": "enum('scored', 'rejected')",
    "rejected_reason": "varchar",
    "score_reason": "enum('new', 'features_changed', 'model_changed', 'expired', 'retry', "
    "'full_refresh', 'hash_changed')",
    "is_late": "boolean",
    "model_name": "varchar",
    "model_version": "varchar",
    "run_id": "varchar",
    "scored_at": "timestamp",
    "features_hash": "ubigint",
}
RUNS = {
    "run_id": "varchar",
    "scoring_model": "varchar",
    "status": "varchar",
    "scope": "varchar",
    "started_at": "timestamp",
    "as_of": "timestamp",
    "scored_at": "timestamp",
    "key_columns": "varchar[]",
    "model_name": "varchar",
    "model_version": "varchar",
    "model_alias": "varchar",
    "artifact_sha256": "varchar",
}
Row = Mapping[str, Any]


def sha256_of(version: str) -> str:
    """What a registry row and a run of this version say, unless a test says otherwise: the
    artifact of a hand-written version holds the version's name.
    """
    return hashlib.sha256(version.encode()).hexdigest()


def prediction(key: Any, version: str = "2", **given: Any) -> dict[str, Any]:
    """One row of the latest table: scored by `version` at the clock, as everything that is not given."""
    row = {
        "customer_id": key,
        "churn": 0.25,
        "as_of": CLOCK,
        "status": "scored",
        "score_reason": "new",
        "is_late": False,
        "model_name": "churn",
        "model_version": version,
        "run_id": f"run-{version}",
        "scored_at": CLOCK,
        "features_hash": 1,
        **given,
    }
    if row["status"] == "rejected":
        row = {"rejected_reason": "null:recency", **row, "churn": None}
    return row


def run(version: str = "2", **given: Any) -> dict[str, Any]:
    """A successful full run of `version` at the clock; a later version started later."""
    row = {
        "run_id": f"run-{version}",
        "status": "success",
        "scope": "full",
        "started_at": f"1998-04-01 11:00:{len(version):02d}",
        "as_of": CLOCK,
        "key_columns": ["customer_id"],
        "model_name": "churn",
        "model_version": version,
        "model_alias": "champion",
        "artifact_sha256": sha256_of(version),
        **given,
    }
    return {"scored_at": row["started_at"], **row}


class HandWritten:
    """Writes the tables of scoring models into a warehouse file. Call `close` before dbt opens it."""

    def __init__(self, warehouse: Path) -> None:
        self.connection = connect(warehouse, CONFIG)
        self._create("dbt_onnx_runs", RUNS)

    def scoring_model(
        self,
        name: str,
        rows: list[dict[str, Any]],
        runs: list[dict[str, Any]],
        *,
        key: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> str:
        """Ledger and latest table `name` with the same `rows`. Returns `name`."""
        columns = {
            **(key or {"customer_id": "varchar"}),
            **(outputs or {"churn": "double"}),
            **STAMPS,
        }
        self._create(name, columns)
        latest = {**columns, "last_seen_as_of": "timestamp", "confirmed_as_of": "timestamp"}
        self._create(f"{name}__latest", latest)
        for row in rows:
            self._insert(f"{name}__latest", row, set(latest))
            self._insert(name, row, set(columns))
        for row in runs:
            self._insert("dbt_onnx_runs", {"scoring_model": name, **row}, set(RUNS))
        return name

    def table(self, name: str, columns: Mapping[str, str], rows: list[tuple[Any, ...]]) -> str:
        self._create(name, columns)
        if rows:
            marks = ", ".join("?" for _ in columns)
            self.connection.executemany(f"insert into {quote(name)} values ({marks})", rows)
        return name

    def registry(self, name: str, *entries: tuple[str, str | None]) -> str:
        """A registry of versions and their aliases, all of model `churn`."""
        names = ("model_name", "model_version", "alias", "artifact", "sha256")
        rows = [("churn", v, alias, f"churn/{v}/model.onnx", sha256_of(v)) for v, alias in entries]
        return self.table(name, dict.fromkeys(names, "varchar"), list(rows))

    def close(self) -> None:
        self.connection.close()

    def _create(self, name: str, columns: Mapping[str, str]) -> None:
        listed = ", ".join(f"{quote(column)} {kind}" for column, kind in columns.items())
        self.connection.execute(f"create table {quote(name)} ({listed})")

    def _insert(self, name: str, row: Row, known: set[str]) -> None:
        given = {column: value for column, value in row.items() if column in known}
        listed = ", ".join(quote(column) for column in given)
        marks = ", ".join("?" for _ in given)
        self.connection.execute(
            f"insert into {quote(name)} ({listed}) values ({marks})", list(given.values())
        )


def sources(**tables: list[dict[str, Any]] | None) -> dict[str, Any]:
    """A dbt yml that declares hand-written tables, each with its data tests."""
    return {
        "sources": [
            {
                "name": "hand",
                "schema": "main",
                "tables": [
                    {"name": name, **({"data_tests": tests} if tests else {})}
                    for name, tests in tables.items()
                ],
            }
        ]
    }


def claim(kind: str, name: str, **arguments: Any) -> dict[str, Any]:
    """A generic test of the package, called `name`, that keeps the rows it returns."""
    return {
        f"dbt_onnx.{kind}": {
            "name": name,
            "arguments": arguments,
            "config": {"store_failures": True},
        }
    }
