"""Play nightly builds: each night builds the features, then the rest of the project, and prints a line.

`missing before` is the number of rows that the test `predictions_are_complete` returns between the two builds: the
entities that are new that night. `stale` and `missing` are counted after the scoring.
"""

from __future__ import annotations

import argparse
import sys
import time
from datetime import date, timedelta
from typing import Any

import yaml
from dbt.adapters.duckdb.connections import DuckDBConnectionManager
from dbt.cli.main import dbtRunner
from demo import ROOT, reasons_of, rows, warehouse

COMPLETE = "dbt_onnx_predictions_are_complete_churn_predictions"
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
    seeds = [] if is_first else ["--exclude", "purchases"]
    built = dbt("build", "--select", "+customer_features", *seeds, night=night)
    before = reported_missing(built)
    if before is None:
        return report_failure(night, built)
    # the serving decisions and their unit tests are left out: no night changes them
    result = dbt("build", "--exclude", "+customer_features", "ai_features+", night=night)
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


def reported_missing(outcome: Any) -> int | None:
    """Return the number of rows that `predictions_are_complete` returned, or None if another node failed."""
    results = {result.node.name: result for result in getattr(outcome.result, "results", [])}
    tests = [result for name, result in results.items() if name.startswith(COMPLETE)]
    others = [r for name, r in results.items() if "predictions_are_complete" not in name]
    if not tests or any(str(r.status) in {"error", "fail", "skipped"} for r in others):
        return None
    return int(tests[0].failures or 0)


def dbt(*arguments: str, night: date) -> Any:
    variables = yaml.safe_dump({"dbt_onnx_clock": night.isoformat()})
    folders = ["--project-dir", str(ROOT), "--profiles-dir", str(ROOT)]
    try:
        return dbtRunner().invoke(
            ["--log-level", "none", *arguments, "--vars", variables, *folders]
        )
    finally:
        # within a process, dbt-duckdb keeps the file open for the next invocation
        DuckDBConnectionManager.close_all_connections()


def report_failure(night: date, outcome: Any) -> bool:
    for result in getattr(outcome.result, "results", []):
        if str(result.status) in {"error", "fail"}:
            print(f"{night}  {result.node.name}: {result.message}", file=sys.stderr)
    if outcome.exception is not None:
        print(f"{night}  {outcome.exception}", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(main())
