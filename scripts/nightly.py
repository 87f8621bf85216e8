"""Play nightly builds: each night the features of the day, then `dbt build`, then a line.

Before the scoring of a night, `missing before` counts the entities that have no prediction yet;
after it, `stale` and `missing` count what is left.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import date, timedelta
from typing import Any

import yaml
from dbt.cli.main import dbtRunner
from demo import ROOT, WAREHOUSE, reasons_of, rows, warehouse

FEATURES = ("customer_features",)
MISSING_BEFORE = """
    select count(*) from customer_features
    where customer_id not in (
        select customer_id from churn_predictions__latest where status = 'scored'
    )
"""
AFTER = """
    select
        count(*) as entities,
        count(*) filter (is_stale) as stale,
        count(*) filter (served_from = 'missing') as missing
    from churn_current
"""
RUN = """
    select * from dbt_onnx_runs where scoring_model = 'churn_predictions'
    order by started_at desc limit 1
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="first", type=date.fromisoformat, required=True)
    parser.add_argument("--days", type=int, required=True)
    options = parser.parse_args()
    failed = 0
    for number in range(options.days):
        night = options.first + timedelta(days=number)
        failed += not play(night, is_first=number == 0)
    return 1 if failed else 0


def play(night: date, *, is_first: bool) -> bool:
    """Play one night and print its line. Returns whether every node and test passed."""
    started = time.monotonic()
    seeds = [] if is_first and not WAREHOUSE.exists() else ["--exclude", "purchases"]
    built = dbt("build", "--select", "+customer_features", *seeds, night=night)
    if not built.success:
        return report_failure(night, built)
    before = count_missing()
    result = dbt("build", "--exclude", "+customer_features", night=night)
    seconds = time.monotonic() - started
    with warehouse() as connection:
        run = rows(connection, RUN)[0]
        after = rows(connection, AFTER)[0]
    print(
        f"{night}  entities {after['entities']:>6,}  missing before {before:>6,}  "
        f"scored {run['rows_scored'] or 0:>6,} ({reasons_of(run) or 'none'})  "
        f"rejected {run['rows_rejected'] or 0:,}  unchanged {run['rows_unchanged'] or 0:>6,}  "
        f"{seconds:4.1f} s  stale {after['stale']:,}  missing {after['missing']:,}",
        flush=True,
    )
    return bool(result.success) or report_failure(night, result)


def count_missing() -> int:
    with warehouse() as connection:
        if not rows(connection, "from duckdb_tables() where table_name = 'churn_predictions__latest'"):
            return int(rows(connection, "select count(*) as n from customer_features")[0]["n"])
        return int(connection.execute(MISSING_BEFORE).fetchall()[0][0])


def dbt(*arguments: str, night: date) -> Any:
    variables = yaml.safe_dump({"dbt_onnx_clock": night.isoformat()})
    folders = ["--project-dir", str(ROOT), "--profiles-dir", str(ROOT)]
    return dbtRunner().invoke(["--quiet", *arguments, "--vars", variables, *folders])


def report_failure(night: date, outcome: Any) -> bool:
    for result in getattr(outcome.result, "results", []):
        if str(result.status) in {"error", "fail"}:
            print(f"{night}  {result.node.name}: {result.message}", file=sys.stderr)
    if outcome.exception is not None:
        print(f"{night}  {outcome.exception}", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(main())
