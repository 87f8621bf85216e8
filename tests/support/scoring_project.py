"""A consumer project with scoring models, and a check of their tables after any run."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consumer import PROJECT, Outcome, Project
from hardening import connect, with_own_order
from warehouse import current_rows, line_contract, line_model, newest_of_ledger

from dbt_onnx.engines.duckdb.identifiers import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import duckdb

    from dbt_onnx.kernel.contract import Contract

CLOCK = "2024-01-10 06:00:00"
REGISTRY_COLUMNS = ("model_name", "model_version", "alias", "artifact", "sha256")
# within a process, dbt-duckdb keeps the database and its write-ahead log open
WRITTEN_BY_DBT = {"target", "logs", "dbt_packages", "package-lock.yml", "warehouse.duckdb.wal"}


@dataclass(frozen=True)
class Scores:
    """The tables of one scoring model, on a connection that uses their schema."""

    connection: duckdb.DuckDBPyConnection
    name: str
    key: Sequence[str] = ("id",)
    schema: str = "main"
    database: str = "warehouse"

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        self.connection.execute(f"use {quote(self.database)}.{quote(self.schema)}")
        return self.connection.execute(query).fetchall()

    def ledger(self, columns: str = "*") -> list[tuple[Any, ...]]:
        return self.sql(f"select {columns} from {quote(self.name)} order by all")

    def runs(self, columns: str = "*") -> list[tuple[Any, ...]]:
        name = self.name.replace("'", "''")
        return self.sql(
            f"select {columns} from dbt_onnx_runs where scoring_model = '{name}' order by started_at"
        )

    def check(self) -> None:
        """Check that current has the newest rows of the ledger, and that the row counts of every run add up."""
        current = self.sql(
            f"select * exclude (last_seen_as_of, confirmed_as_of) from {current_rows(self)}"
        )
        newest = newest_of_ledger(self, key=self.key)  # type: ignore[arg-type]
        assert sorted(map(repr, current)) == sorted(map(repr, newest))
        written = dict(self.sql(f"select run_id, count(*) from {quote(self.name)} group by all"))
        for run_id, status, rows_in, scored, rejected, unchanged in self.runs(
            "run_id, status, rows_in, rows_scored, rows_rejected, rows_unchanged"
        ):
            assert status == "success"
            assert rows_in == scored + rejected + unchanged
            assert written.pop(run_id, 0) == scored + rejected
        assert not written


class ScoringProject(Project):
    """A project with a model `features` on a table `facts` (id, a, b), a registry of `line` models, and a fixed clock.

    `profile` is the same as for `Project`.
    """

    def __init__(self, root: Path, *, profile: Mapping[str, Any] | None = None) -> None:
        super().__init__(root, profile=profile)
        self.entries: list[dict[str, str]] = []
        self.attached: dict[str, Path] = {}
        self.write("dbt_project.yml", f"{PROJECT}vars: {{dbt_onnx_clock: '{CLOCK}'}}\n")
        self.write(
            "models/features.sql",
            "{{ config(materialized='table') }} select * from {{ source('shop', 'facts') }}",
        )
        self.write_yaml(
            "models/shop.yml",
            {"sources": [{"name": "shop", "schema": "main", "tables": [{"name": "facts"}]}]},
        )
        types = dict.fromkeys(REGISTRY_COLUMNS, "varchar")
        seed = {"name": "model_registry", "config": {"column_types": types}}
        self.write_yaml("seeds/seeds.yml", {"seeds": [seed]})
        self.sql("create table facts (id integer, a double, b double)")
        self.register("1")

    def facts(self, rows: int) -> None:
        """Replace the facts by `rows` rows with a = id / 2 and b = 1: y = id - 0.5."""
        self.sql(
            "create or replace table facts as select i::integer as id, i / 2e0 as a, 1.0::double as b "
            f"from range({rows}) as numbers (i)"
        )

    def register(
        self,
        version: str,
        model: bytes | None = None,
        contract: Contract | None = None,
        *,
        name: str = "line",
        alias: str = "champion",
    ) -> None:
        """Write artifact, card and registry row. The version that had the alias loses it."""
        model = model or line_model()
        folder = self.root / "artifacts" / name / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model)
        digest = hashlib.sha256(model).hexdigest()
        card = {
            "format_version": 1,
            "model_name": name,
            "model_version": version,
            "sha256": digest,
            "contract": (contract or line_contract()).to_dict(),
        }
        (folder / "card.json").write_text(json.dumps(card))
        values = (name, version, "", f"{name}/{version}/model.onnx", digest)
        self.entries.append(dict(zip(REGISTRY_COLUMNS, values, strict=True)))
        self.promote(version, name=name, alias=alias)

    def promote(self, version: str, *, name: str = "line", alias: str = "champion") -> None:
        """Edit the seed, as a pull request would."""
        for entry in self.entries:
            if entry["model_name"] == name:
                if entry["model_version"] == version:
                    entry["alias"] = alias
                elif entry["alias"] == alias:
                    entry["alias"] = ""
        lines = [",".join(REGISTRY_COLUMNS), *(",".join(row.values()) for row in self.entries)]
        self.write("seeds/model_registry.csv", "\n".join(lines) + "\n")

    def scoring_model(
        self, name: str, *, features: str = "features", arguments: str = "", **config: Any
    ) -> None:
        """Write `python_models/<name>.py`. `arguments` are more arguments of `score()`, separated by semicolons."""
        given = {"model": "'line'", "key": "['id']"}
        given |= dict(pair.split("=", 1) for pair in arguments.split("; ") if pair)
        listed = ", ".join(f"{key}={value}" for key, value in given.items())
        self.write(
            f"python_models/{name}.py",
            f"""
            from dbt_onnx import score


            def model(dbt, session):
                dbt.config(materialized="predictions")
                return score(
                    dbt, session,
                    features=dbt.ref("{features}"), registry=dbt.ref("model_registry"),
                    {listed},
                )
            """,
        )
        if config:
            self.write_yaml(
                f"python_models/{name}.yml", {"models": [{"name": name, "config": config}]}
            )

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with with_own_order(connect(self.warehouse, self.config)) as connection:
            for alias, path in self.attached.items():
                connection.execute(f"attach if not exists '{path}' as {quote(alias)}")
            yield connection

    @contextmanager
    def scores(self, name: str = "scores", **place: Any) -> Iterator[Scores]:
        with self.connection() as connection:
            yield Scores(connection, name, **place)

    def relations(self) -> set[str]:
        """Return every table and view as `schema.name`, or `database.schema.name` in another database."""
        with self.connection() as connection:
            found = connection.execute(
                "select database_name, schema_name, table_name from duckdb_tables() where not internal "
                "union all "
                "select database_name, schema_name, view_name from duckdb_views() where not internal"
            ).fetchall()
        return {
            f"{schema}.{name}" if database == "warehouse" else f"{database}.{schema}.{name}"
            for database, schema, name in found
        }

    def files(self) -> set[str]:
        """Return every file and folder of the project, except those that dbt itself writes."""
        return {
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if path.relative_to(self.root).parts[0] not in WRITTEN_BY_DBT
        }

    def invocation_id(self) -> str:
        """Return the `invocation_id` of dbt's last run."""
        results = json.loads((self.root / "target" / "run_results.json").read_text())
        return str(results["metadata"]["invocation_id"])


def expect(outcome: Outcome, **statuses: str) -> None:
    """Check the statuses of some nodes. If they differ, the failure shows dbt's messages."""
    found = {name: outcome.nodes[name].status for name in statuses if name in outcome.nodes}
    messages = [f"{node.name}: {node.status}: {node.message}" for node in outcome.nodes.values()]
    assert found == statuses, "\n".join([outcome.error, *messages, *outcome.warnings])
