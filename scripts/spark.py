"""Build the reference project on Spark with two executors, and show what the run did.

    python scripts/spark.py --as-of 1998-04-01

All files are below warehouse/spark: the Iceberg tables, and the database of a metastore, which runs only while this
script runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dbt.cli.main import dbtRunner
from demo import ROOT, reasons_of
from local_spark import environment, metastore
from rich.console import Console
from rich.table import Table

# models that are not about predictions, and publishing, which is not supported on Spark
LEFT_OUT = ("serving_decisions+", "ai_features+", "config.materialized:published+")
LAST_RUN = """
    select * from dbt_onnx_runs
    where run_id = (select max_by(run_id, started_at) from dbt_onnx_runs)
    order by scoring_model
"""
SAMPLE = """
    select customer_id, churn_probability, as_of, scored_at, model_version, score_reason
    from churn_predictions order by scored_at desc, churn_probability desc, customer_id limit 5
"""
SERVED = "select served_from, count(*) as entities, count_if(is_stale) as stale from {view} group by served_from"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--as-of", default="1998-04-01")
    parser.add_argument("--folder", type=Path, default=ROOT / "warehouse" / "spark")
    parser.add_argument("--master", default="local-cluster[2,1,2048]")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    with metastore(folder) as address:
        os.environ |= environment(address, folder, master=options.master)
        done = dbtRunner().invoke(
            [
                "build",
                *("--target", "spark", "--project-dir", str(ROOT), "--profiles-dir", str(ROOT)),
                *("--vars", f"{{dbt_onnx_clock: '{options.as_of}'}}", "--exclude", *LEFT_OUT),
            ]
        )
        if not done.success:
            return 1
        show(Console(width=110))
    return 0


def show(console: Console) -> None:
    """Print what the runs scored and why, what is served, and some predictions."""
    from pyspark.sql import SparkSession

    spark = SparkSession.active()
    spark.sql("use dbt_onnx_demo")
    runs = Table(
        "scoring model", "model", "in", "scored", "why", title="The last run of each scoring model"
    )
    for run in spark.sql(LAST_RUN).collect():
        row = run.asDict()
        model = f"{row['model_name']}/{row['model_version']}"
        counts = (f"{row[name]:,}" for name in ("rows_in", "rows_scored"))
        runs.add_row(row["scoring_model"], model, *counts, reasons_of(row))
    console.print(runs)
    for title, query in (
        ("Predictions served now", SERVED.format(view="churn_current")),
        ("Some predictions", SAMPLE),
    ):
        found = spark.sql(query)
        table = Table(*found.columns, title=title)
        for values in found.collect():
            table.add_row(*map(str, values))
        console.print(table)
    # without this, the workers restart executors during shutdown and print long messages
    spark.stop()


if __name__ == "__main__":
    sys.exit(main())
