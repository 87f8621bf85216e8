"""The same features in several places. `python sources.py` measures the costs of reading them from each place."""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalogs import install_extensions, new_lake
from servers import postgres
from warehouse import ARGUMENTS, line_contract, line_model

from dbt_onnx.engines.duckdb.engine import score_on_duckdb
from dbt_onnx.runs.request import RunSettings, check_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

    from dbt_onnx.runs.run import RunSummary

ROWS = "select i as id, i / 2e0 as a, 1e0 as b from range({rows}) t(i)"
MORE_EXTENSIONS = {"avro", "ducklake", "iceberg", "postgres_scanner"}


def places(
    connection: duckdb.DuckDBPyConnection, folder: Path, *, rows: int, server: str
) -> Mapping[str, str]:
    """Create features in all places; return {place: relation}, each of `rows` rows. Needs a lake attached as `lake`."""
    wanted = ROWS.format(rows=rows)
    connection.execute(f"attach '{folder / 'other.duckdb'}' as other")
    connection.execute(f"create table other.main.facts as {wanted}")
    connection.execute(f"create table lake.main.facts as {wanted}")
    connection.execute(f"attach '{server}' as shop (type postgres)")
    connection.execute(f"create or replace table shop.public.facts as {wanted}")
    connection.execute(f"copy ({wanted}) to '{folder / 'facts.parquet'}' (format parquet)")
    return {
        "a table of a DuckDB file": "other.main.facts",
        "a table of the lake": "lake.main.facts",
        "a table of an attached Postgres": "shop.public.facts",
        "a Parquet file": f"read_parquet('{folder / 'facts.parquet'}')",
        "an Iceberg table": f"iceberg_scan('{iceberg_table(connection, folder, wanted)}')",
    }


def iceberg_table(connection: duckdb.DuckDBPyConnection, folder: Path, wanted: str) -> str:
    """Write an Iceberg table with pyiceberg, in two commits. Returns the location of its metadata."""
    from pyiceberg.catalog.sql import SqlCatalog

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        catalog = SqlCatalog(
            "somebody", uri=f"sqlite:///{folder}/iceberg.db", warehouse=f"file://{folder}/iceberg"
        )
        catalog.create_namespace("shop")
        rows = connection.query(wanted).to_arrow_table()
        table = catalog.create_table("shop.facts", schema=rows.schema)
        table.append(rows.slice(0, rows.num_rows // 2))
        table.append(rows.slice(rows.num_rows // 2))
    return str(table.metadata_location)


class Scored:
    """A scoring model in a database of a connection. Its features are a view over a relation."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, database: str, name: str, folder: Path
    ) -> None:
        self.connection, self.database, self.name = connection, database, name
        self.artifacts, self.runs = folder / "artifacts", 0
        model = line_model()
        digest = hashlib.sha256(model).hexdigest()
        place = self.artifacts / "line" / "1"
        place.mkdir(parents=True, exist_ok=True)
        (place / "model.onnx").write_bytes(model)
        card = {
            "format_version": 1,
            "model_name": "line",
            "model_version": "1",
            "sha256": digest,
            "contract": line_contract().to_dict(),
        }
        (place / "card.json").write_text(json.dumps(card))
        connection.execute(
            "create or replace table memory.main.model_registry as select 'line' as model_name, "
            "'1' as model_version, 'champion' as alias, 'line/1/model.onnx' as artifact, $digest as sha256",
            {"digest": digest},
        )

    def run(self, relation: str, *, changed: float = 0.0) -> RunSummary:
        """Run a night. `changed` is added to column `a` of every hundredth row."""
        self.runs += 1
        self.connection.execute(
            "create or replace view memory.main.features as "
            f"select id, if(id % 100 = 7, a + {changed}, a) as a, b from {relation}"
        )
        relations = {
            given: self.connection.query(f'select * from "memory"."main"."{table}"')
            for given, table in (("features", "features"), ("registry", "model_registry"))
        }
        settings = RunSettings(
            database=self.database,
            schema="main",
            identifier=self.name,
            run_id=f"run-{self.runs}",
            clock_sql="timestamp '2024-01-10'",
            full_refresh=False,
            empty=False,
            retry_rejected=False,
            dbt_version="1.11.0",
        )
        return score_on_duckdb(
            check_request({**ARGUMENTS, **relations}, {}),
            settings,
            connection=self.connection,
            artifacts=self.artifacts,
            log=lambda _: None,
        )


def _seconds(scored: Scored, relation: str, **night: Any) -> float:
    began = time.perf_counter()
    scored.run(relation, **night)
    return time.perf_counter() - began


def measure(rows: int, repeats: int = 5) -> None:
    with tempfile.TemporaryDirectory() as temporary, postgres() as server:
        folder = Path(temporary)
        extensions = folder / "extensions"
        extensions.mkdir()
        install_extensions(extensions, MORE_EXTENSIONS)
        lake = new_lake("postgres", folder / "lake", server=server, extension_directory=extensions)
        with lake.connect() as connection:
            for name in MORE_EXTENSIONS:
                connection.load_extension(name)
            relations = places(connection, folder, rows=rows, server=server)
            asked = [("other", "a table of a DuckDB file")] + [("lake", name) for name in relations]
            models = {
                (database, where): Scored(connection, database, f"scores_{number}", folder)
                for number, (database, where) in enumerate(asked)
            }
            figures: dict[Any, dict[str, list[float]]] = {
                key: {"first": [], "same": [], "changed": []} for key in models
            }
            for key, scored in models.items():
                figures[key]["first"].append(_seconds(scored, relations[key[1]]))
            # take turns, so that other load on the machine affects all models equally
            for number in range(1, repeats + 1):
                for key, scored in models.items():
                    changed = _seconds(scored, relations[key[1]], changed=float(number))
                    figures[key]["changed"].append(changed)
                    same = _seconds(scored, relations[key[1]], changed=float(number))
                    figures[key]["same"].append(same)
    print("| ledger in | features in | first run | a night without changes | 1 % changed |")
    print("|---|---|---|---|---|")
    for (database, where), found in figures.items():
        medians = [f"{statistics.median(found[n]):.2f}" for n in ("first", "same", "changed")]
        print(
            f"| {'DuckDB' if database == 'other' else 'lake'} | {where} | {' | '.join(medians)} |"
        )


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
