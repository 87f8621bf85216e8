"""Play the history of `examples/play_history.py` on DuckDB and on Spark, and compare the results row by row.

    python scripts/compare_engines.py            # below warehouse/engines

Columns that cannot be equal are left out: run ids, times of the real clock, and features hashes, for which each
engine has its own function. The engines add doubles in different orders, so averages and sums may have a relative
difference of 1e-12.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from demo import ROOT
from local_spark import environment, metastore, read_moments_in_utc
from play_history import play
from rich.console import Console
from rich.table import Table

from spark import LEFT_OUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Row = tuple[Any, ...]

TOLERANCE = 1e-12
SCORING_MODELS = {
    "churn_predictions": "is_churn, churn_probability",
    "churn_challenger_predictions": "is_churn, churn_probability",
    "spend_predictions": "expected_spend",
}
LEDGER = (
    "select l.customer_id, l.as_of, {outputs}, l.status, l.rejected_reason, l.score_reason, l.is_late, "
    "l.model_name, l.model_version, r.clock, r.scope from {model} as l "
    "inner join (select * from dbt_onnx_runs where scoring_model = '{model}') as r on l.run_id = r.run_id"
)
RUNS = (
    "select scoring_model, clock, status, scope, as_of, model_name, model_version, model_alias, artifact_sha256, "
    "rows_in, rows_scored, rows_rejected, rows_unchanged, rows_new, rows_features_changed, rows_model_changed, rows_expired, "
    "rows_retry, rows_full_refresh, rows_inputs_kept from dbt_onnx_runs where scope <> 'real_time'"
)
SERVED = (
    "select customer_id, {outputs}, status, as_of, fresh_as_of, model_name, model_version, served_from, rejected_reason "
    "from {view}"
)
HEALTH = (
    "select scoring_model, model_name, serving_version, entities, current, stale, missing, rejected, "
    "last_good_run_clock, last_run_status from prediction_health"
)
QUERIES = {
    "the features": "select * from customer_features",
    **{
        f"the ledger of {model}": LEDGER.format(model=model, outputs=outputs)
        for model, outputs in SCORING_MODELS.items()
    },
    "the runs": RUNS,
    "churn_current": SERVED.format(view="churn_current", outputs="is_churn, churn_probability"),
    "churn_with_fallback": SERVED.format(
        view="churn_with_fallback", outputs="is_churn, churn_probability"
    ),
    "spend_current": SERVED.format(view="spend_current", outputs="expected_spend"),
    "churn_comparison": "select * from churn_comparison",
    "churn_outcomes": "select * from churn_outcomes",
    "prediction_health": HEALTH,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=ROOT / "warehouse" / "engines")
    read_moments_in_utc()
    folder: Path = parser.parse_args().folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    play(folder / "on_duckdb")
    with duckdb.connect(str(folder / "on_duckdb" / "history.duckdb"), read_only=True) as connection:
        on_duckdb = {what: connection.execute(query).fetchall() for what, query in QUERIES.items()}
    with metastore(folder / "metastore") as address:
        os.environ |= environment(address, folder / "metastore", master="local-cluster[2,1,2048]")
        play(folder / "on_spark", target="spark", left_out=LEFT_OUT)
        on_spark = query_spark()
    return report(Console(width=110), on_duckdb, on_spark)


def query_spark() -> dict[str, list[Row]]:
    from pyspark.sql import SparkSession

    # commands have changed the tables in other sessions, too
    spark = SparkSession.active().newSession()
    spark.sql("use dbt_onnx_demo")
    found = {
        what: [tuple(row) for row in spark.sql(query).collect()] for what, query in QUERIES.items()
    }
    # without this, the workers restart executors during shutdown and print long messages
    spark.stop()
    return found


def report(
    console: Console, on_duckdb: dict[str, list[Row]], on_spark: dict[str, list[Row]]
) -> int:
    """Print the number of rows on each engine and of differences. Returns the exit code."""
    table = Table(
        "query", "rows on DuckDB", "rows on Spark", "differences", title="DuckDB and Spark"
    )
    examples = []
    for what in QUERIES:
        found = differences(on_duckdb[what], on_spark[what])
        table.add_row(
            what, f"{len(on_duckdb[what]):,}", f"{len(on_spark[what]):,}", f"{len(found):,}"
        )
        examples += [f"{what}: {one}" for one in found[:3]]
    console.print(table)
    for example in examples:
        console.print(example, markup=False)
    return 1 if examples else 0


def differences(left: Iterable[Row], right: Iterable[Row]) -> list[tuple[Row | None, Row | None]]:
    """Return pairs of rows that differ, with None in place of a missing row."""
    rows = [sorted(side, key=_order) for side in (left, right)]
    places = [0, 0]
    found: list[tuple[Row | None, Row | None]] = []
    while any(place < len(side) for place, side in zip(places, rows, strict=True)):
        one, other = (
            side[place] if place < len(side) else None
            for place, side in zip(places, rows, strict=True)
        )
        if one is not None and other is not None and alike(one, other):
            places = [place + 1 for place in places]
        elif other is None or (one is not None and _order(one) <= _order(other)):
            found.append((one, None))
            places[0] += 1
        else:
            found.append((None, other))
            places[1] += 1
    return found


def alike(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two rows are equal. Doubles may differ by `TOLERANCE`."""
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=TOLERANCE)
        if isinstance(a, float) and isinstance(b, float)
        else a == b
        for a, b in zip(one, other, strict=True)
    )


def _order(row: Sequence[Any]) -> list[tuple[bool, str]]:
    """Return a sort key with doubles last and rounded, so that allowed differences do not change the order."""
    as_text: Callable[[Any], str] = lambda v: f"{v:.9g}" if isinstance(v, float) else str(v)  # noqa: E731
    exact = [(v is None, as_text(v)) for v in row if not isinstance(v, float)]
    return exact + [(False, as_text(v)) for v in row if isinstance(v, float)]


if __name__ == "__main__":
    sys.exit(main())
