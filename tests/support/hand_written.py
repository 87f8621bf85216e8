"""Current rows, ledgers and run rows written by hand, so that a test shows its expected result clearly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hardening import CONFIG, connect

from dbt_onnx.engines.duckdb.identifiers import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

CLOCK = "1998-04-01 12:00:00"
STAMPS = {
    "as_of": "timestamp",
    "status": "varchar",
    "rejected_reason": "varchar",
    "score_reason": "varchar",
    "is_late": "boolean",
    "model_name": "varchar",
    "model_version": "varchar",
    "run_id": "varchar",
    "scored_at": "timestamp",
    "features_hash": "ubigint",
}
CURRENT = {
    "as_of": "timestamp",
    "features_hash": "ubigint",
    "score_reason": "varchar",
    "rejected_reason_no": "usmallint",
    "run_no": "integer",
}
PRESENCE = {"run_no": "integer", "confirmed_as_of": "timestamp", "last_seen_as_of": "timestamp"}
RUNS = {
    "run_no": "integer",
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
    "rejected_reasons": "varchar[]",
}
Row = Mapping[str, Any]


def sha256_of(version: str) -> str:
    """Return the default sha256 of a version in registry and run rows: the hash of the version's name, as if the
    artifact contained only the name.
    """
    return hashlib.sha256(version.encode()).hexdigest()


def prediction(key: Any, version: str = "2", **given: Any) -> dict[str, Any]:
    """Return one row of the ledger. By default it is scored by `version` at `CLOCK`."""
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
    """Return a successful full run of `version` at `CLOCK`. A version with a longer name started later."""
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
        self._runs = 0

    def scoring_model(
        self,
        name: str,
        rows: list[dict[str, Any]],
        runs: list[dict[str, Any]],
        *,
        key: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> str:
        """Write the ledger `name` (here a table), current and presence with the same `rows`. Returns `name`."""
        columns = {
            **(key or {"customer_id": "varchar"}),
            **(outputs or {"churn": "double"}),
            **STAMPS,
        }
        self._create(name, columns)
        stated = [column for column in columns if column not in STAMPS]
        self._create(f"{name}__current", {**{c: columns[c] for c in stated}, **CURRENT})
        self._create(f"{name}__presence", {**(key or {"customer_id": "varchar"}), **PRESENCE})
        for row in runs:
            self._add_run({"scoring_model": name, **row})
        self.ledger_rows(name, rows)
        self.current_rows(name, rows)
        return name

    def ledger_rows(self, name: str, rows: list[dict[str, Any]]) -> None:
        self._insert(name, rows)

    def current_rows(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Insert rows into current, with the number of their run and of their reason in that run. Rows that have
        `last_seen_as_of` are also inserted into presence.
        """
        written = with_run_numbers(self.connection, name, rows, self._add_run)
        self._insert(f"{name}__current", written)
        gone = [row for row in written if row.get("last_seen_as_of") is not None]
        self._insert(
            f"{name}__presence", [{**row, "confirmed_as_of": row["as_of"]} for row in gone]
        )

    def _add_run(self, row: Row) -> int:
        self._runs += 1
        self._insert("dbt_onnx_runs", [{"run_no": self._runs, **row}])
        return self._runs

    def table(self, name: str, columns: Mapping[str, str], rows: list[tuple[Any, ...]]) -> str:
        self._create(name, columns)
        if rows:
            marks = ", ".join("?" for _ in columns)
            self.connection.executemany(f"insert into {quote(name)} values ({marks})", rows)
        return name

    def registry(self, name: str, *entries: tuple[str, str | None]) -> str:
        """Create a registry of versions and their aliases, all of model `churn`."""
        names = ("model_name", "model_version", "alias", "artifact", "sha256")
        rows = [("churn", v, alias, f"churn/{v}/model.onnx", sha256_of(v)) for v, alias in entries]
        return self.table(name, dict.fromkeys(names, "varchar"), list(rows))

    def close(self) -> None:
        self.connection.close()

    def _create(self, name: str, columns: Mapping[str, str]) -> None:
        listed = ", ".join(f"{quote(column)} {kind}" for column, kind in columns.items())
        self.connection.execute(f"create table {quote(name)} ({listed})")

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        """Insert rows by column name. Values without a column in the table are left out."""
        known = [row[0] for row in self.connection.execute(f"describe {quote(table)}").fetchall()]
        for names in {tuple(n for n in known if n in row) for row in rows}:
            alike = [row for row in rows if tuple(n for n in known if n in row) == names]
            listed, marks = ", ".join(map(quote, names)), ", ".join("?" for _ in names)
            values = [[row[name] for name in names] for row in alike]
            insert = f"insert into {quote(table)} ({listed}) values ({marks})"
            self.connection.executemany(insert, values)


def with_run_numbers(
    connection: Any, name: str, rows: Sequence[Row], add_run: Callable[[Row], int]
) -> list[dict[str, Any]]:
    """Return the rows as current and history store them, with the number of their run and of their reason.

    If no run has the row's run id, version and time, a run row is added for it. It has no scope, so the macros do not
    use it as a full run.
    """
    stamps = ("run_id", "model_name", "model_version", "scored_at")
    known = {
        tuple(map(str, row[:-1])): row[-1]
        for row in connection.execute(
            f"select {', '.join(stamps)}, run_no from dbt_onnx_runs where scoring_model = $1",
            [name],
        ).fetchall()
    }
    reasons: dict[int, list[str]] = {}
    found = []
    for row in rows:
        stamp = tuple(
            str(_moment(row[stamp]) if stamp == "scored_at" else row[stamp]) for stamp in stamps
        )
        if stamp not in known:
            of_row = {stamp: row[stamp] for stamp in stamps}
            known[stamp] = add_run({"scoring_model": name, "status": "success", **of_row})
        written = {**row, "run_no": known[stamp]}
        if written.get("status") == "rejected":
            reason = written.get("rejected_reason") or "null:recency"
            texts = reasons.setdefault(known[stamp], [])
            if reason not in texts:
                texts.append(reason)
            written["rejected_reason_no"] = texts.index(reason) + 1
        found.append(written)
    for number, texts in reasons.items():
        connection.execute(
            "update dbt_onnx_runs set rejected_reasons = $1 where run_no = $2", [texts, number]
        )
    return found


def _moment(value: Any) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def sources(**tables: list[dict[str, Any]] | None) -> dict[str, Any]:
    """Return the content of a dbt yml file that declares hand-written tables with their data tests."""
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


def generic_test(kind: str, name: str, **arguments: Any) -> dict[str, Any]:
    """Return a generic test of the package with the name `name`, which stores the rows that it returns."""
    return {
        f"dbt_onnx.{kind}": {
            "name": name,
            "arguments": arguments,
            "config": {"store_failures": True},
        }
    }
