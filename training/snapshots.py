"""Features and answers of past days, from the warehouse that dbt builds.

The features are those of the dbt model that the scoring models read: its SQL, compiled by dbt, with
the clock on another day. So training and scoring cannot drift apart.
"""

from __future__ import annotations

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


class Warehouse:
    """The purchases, and the SQL of the features, in a DuckDB file in `folder` that dbt builds.

    `customer_features` is there as of `day`; the same SQL is asked about other days. Building it
    anew for each day would cost a start of dbt per day.
    """

    def __init__(self, folder: Path, *, day: date) -> None:
        self.folder, self.day = folder, day
        self.path = folder / "training.duckdb"
        self.dbt("build", "-s", "+customer_features", "--exclude-resource-type", "test")
        compiled = "compiled/dbt_onnx/models/features/customer_features.sql"
        self._features_sql = (folder / "target" / compiled).read_text(encoding="utf-8")
        if self._features_sql.count(_clock(day)) != 1:
            raise SystemExit(f"{compiled} does not ask the clock once: {self._features_sql}")

    def features_sql(self, day: date) -> str:
        return self._features_sql.replace(_clock(self.day), _clock(day))

    def dbt(self, *arguments: str) -> str:
        """Run dbt on this project about `day`. Returns its log; SystemExit with it when it fails."""
        # a process of its own: dbt-duckdb keeps the file open for as long as its process lives
        command = [sys.executable, "-W", "ignore", "-m", "dbt.cli.main", "--quiet", *arguments]
        command += ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)]
        command += ["--target", "dev", "--vars", f'{{"dbt_onnx_clock": "{self.day}"}}']
        command += ["--target-path", str(self.folder / "target")]
        command += ["--log-path", str(self.folder / "logs")]
        done = subprocess.run(
            command,
            check=False,
            cwd=PROJECT,
            env={**os.environ, "DBT_ONNX_WAREHOUSE": str(self.path), "DO_NOT_TRACK": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


def read_snapshots(days: Iterable[date], *, folder: Path) -> dict[date, Snapshot]:
    """Ask for the features of each day, and what came after it, in a new warehouse in `folder`.

    The days ahead of a day after 1998-04-01 are not all known; those columns then count what is.
    """
    days = list(days)
    warehouse = Warehouse(folder, day=days[0])
    return {day: _read(day, warehouse) for day in days}


def _clock(day: date) -> str:
    """What `dbt_onnx.clock()` renders."""
    return f"cast('{day}' as timestamp)"


def _read(day: date, warehouse: Warehouse) -> Snapshot:
    query = f"""
        with customer_features as (
            {warehouse.features_sql(day)}
        ),
        ahead as (
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
    with duckdb.connect(str(warehouse.path), read_only=True) as connection:
        table = connection.sql(query, params=parameters).to_arrow_table()
    return Snapshot(
        day=day,
        customer_id=table.column("customer_id"),
        features=table.select(FEATURES),
        dollars_ahead=table.column("dollars_ahead"),
        purchases_ahead=table.column("purchases_ahead"),
    )
