"""Features and answers of past days, from the warehouse that dbt builds.

The features come from the dbt model that the scoring models read, run once per day with the clock
on that day, so training and scoring cannot drift apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

PROJECT = Path(__file__).resolve().parent.parent
HORIZON_DAYS = 90
# tenure_weeks is not among them: on any day it is larger than on every day trained on
FEATURES = (
    "recency_weeks",
    "frequency",
    "active_weeks",
    "monetary",
    "average_purchase",
    "largest_purchase",
    "cds",
    "purchases_13w",
    "dollars_13w",
    "cds_13w",
)
KNOWN_UNTIL = date(1998, 6, 30)


@dataclass(frozen=True)
class Snapshot:
    """One row per customer, by customer_id. `dollars_ahead`: decimal(12, 2), spent in the
    HORIZON_DAYS days after `day`; `purchases_ahead`: int64, made in them.
    """

    day: date
    customer_id: pa.ChunkedArray
    features: pa.Table
    dollars_ahead: pa.ChunkedArray
    purchases_ahead: pa.ChunkedArray


def read_snapshots(days: Iterable[date], *, folder: Path) -> dict[date, Snapshot]:
    """Build `customer_features` for each day in a warehouse in `folder`, and read it.

    The days ahead of a day after 1998-04-01 are not all known; those columns then count what is.
    """
    warehouse = folder / "training.duckdb"
    _dbt("seed", "-s", "purchases", folder=folder, warehouse=warehouse)
    snapshots = {}
    for day in days:
        variables = json.dumps({"dbt_onnx_clock": day.isoformat()})
        run = ("run", "-s", "customer_features", "--vars", variables)
        _dbt(*run, folder=folder, warehouse=warehouse)
        snapshots[day] = _read(day, warehouse)
    return snapshots


def _dbt(*arguments: str, folder: Path, warehouse: Path) -> None:
    # a process of its own: dbt-duckdb keeps the file open for as long as its process lives
    command = [sys.executable, "-W", "ignore", "-m", "dbt.cli.main", "--quiet", *arguments]
    command += ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target", "dev"]
    command += ["--target-path", str(folder / "target"), "--log-path", str(folder / "logs")]
    done = subprocess.run(
        command,
        check=False,
        cwd=PROJECT,
        env={**os.environ, "DBT_ONNX_WAREHOUSE": str(warehouse), "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def _read(day: date, warehouse: Path) -> Snapshot:
    query = """
        with ahead as (
            select customer_id, count(*) as purchases, sum(dollars) as dollars
            from purchases
            where purchased_on > $day and purchased_on <= $until
            group by customer_id
        )
        select
            customer_features.*,
            cast(coalesce(ahead.dollars, 0) as decimal(12, 2)) as dollars_ahead,
            coalesce(ahead.purchases, 0) as purchases_ahead
        from customer_features
        left join ahead using (customer_id)
        order by customer_id
    """
    parameters = {"day": day, "until": day + timedelta(days=HORIZON_DAYS)}
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        table = connection.sql(query, params=parameters).to_arrow_table()
    return Snapshot(
        day=day,
        customer_id=table.column("customer_id"),
        features=table.select(FEATURES),
        dollars_ahead=table.column("dollars_ahead"),
        purchases_ahead=table.column("purchases_ahead"),
    )
