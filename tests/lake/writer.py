"""A process that scores a model into a lake: `python writer.py JSON`. Prints the log and result of each run."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from catalogs import Lake
from warehouse import ARGUMENTS

from dbt_onnx.engines.duckdb.engine import DuckDBEngine, score_on_duckdb
from dbt_onnx.errors import DbtOnnxError
from dbt_onnx.runs.request import RunSettings, check_request


def write(
    lake: Lake, name: str, nights: list[str], *, rows: int, artifacts: Path, sha256: str
) -> None:
    """Score `rows` rows each night. By the 11th, one tenth of them has changed since the 10th; by the 12th, two."""
    with lake.connect() as connection:
        connection.execute(
            "create table memory.main.model_registry as select 'line' as model_name, '1' as model_version, "
            "'champion' as alias, 'line/1/model.onnx' as artifact, $sha256 as sha256",
            {"sha256": sha256},
        )
        for clock in nights:
            tenths = int(clock.rpartition("-")[2]) - 10
            connection.execute(
                "create or replace table memory.main.features as select i as id, i / 2e0 as a, "
                f"if(i % 10 < {tenths}, 2e0, 1e0) as b from range({rows}) t(i)"
            )
            relations = {
                given: connection.query(f'select * from "memory"."main"."{table}"')
                for given, table in (("features", "features"), ("registry", "model_registry"))
            }
            settings = RunSettings(
                database="lake",
                schema="main",
                identifier=name,
                run_id=f"{name}-{clock}-{os.getpid()}",
                clock_sql=f"timestamp '{clock}'",
                full_refresh=False,
                empty=False,
                retry_rejected=False,
                dbt_version="1.11.0",
            )
            done = score_on_duckdb(
                check_request({**ARGUMENTS, **relations}, {}),
                settings,
                connection=connection,
                artifacts=artifacts,
                log=lambda said: print(said, flush=True),
            )
            print(f"{name}: {done}", flush=True)


def disturb(what: str) -> None:
    """Make the run die, or wait for the end of stdin, after it has written everything and before it commits."""
    close = DuckDBEngine.close

    def disturbed(self: DuckDBEngine, *arguments: Any) -> None:
        close(self, *arguments)
        print("written", flush=True)
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdin.read()

    DuckDBEngine.close = disturbed  # type: ignore[method-assign]


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given.pop("disturbed"):
        disturb(given.pop("how"))
    lake = given.pop("lake")
    paths = {key: Path(lake[key]) for key in ("folder", "extension_directory")}
    began = time.monotonic()
    try:
        write(Lake(**{**lake, **paths}), artifacts=Path(given.pop("artifacts")), **given)
    except DbtOnnxError as error:
        print(f"error: {error.message}", flush=True)
        sys.exit(1)
    print(f"seconds: {time.monotonic() - began:.1f}")
