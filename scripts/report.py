"""Show what the last run scored, why, and where to look."""

from __future__ import annotations

from demo import WAREHOUSE, reasons_of, rows, warehouse
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

LAST_RUN = """
    select * from dbt_onnx_runs
    where run_id = (select arg_max(run_id, started_at) from dbt_onnx_runs)
    order by scoring_model
"""
SERVED = """
    select served_from, count(*) as entities, count(*) filter (is_stale) as stale,
        max(age) as oldest
    from {view} group by served_from order by entities desc
"""
SAMPLE = """
    select customer_id, churn_probability, as_of, scored_at, model_version, score_reason
    from churn_predictions order by scored_at desc, churn_probability desc limit 5
"""
QUERIES = """\
-- one customer, as an application would query it
select churn_probability, age, is_stale, served_from from churn_current where customer_id = '00042';

-- the customers with the largest expected loss
select customer_id, churn_probability, expected_spend
from churn_current inner join spend_current using (customer_id)
order by expected_spend * churn_probability desc limit 10;

-- all predictions ever made for a customer, and why each was made
select as_of, scored_at, model_version, churn_probability, score_reason
from churn_predictions where customer_id = '00042' order by scored_at;
"""


def main() -> None:
    console = Console(width=110)
    with warehouse() as connection:
        runs = rows(connection, LAST_RUN)
        console.print(_run_table(runs))
        if not any(run["rows_scored"] for run in runs):
            console.print(
                "Nothing was scored: no features or model version changed, and no prediction expired.\n"
            )
        console.print(_served_table(connection))
        console.print(_sample_table(connection))
    console.print(f"Warehouse file: [bold]{WAREHOUSE}[/bold]\n")
    console.print(Syntax(QUERIES, "sql", background_color="default"))


def _run_table(runs: list[dict[str, object]]) -> Table:
    table = Table(title=f"Run {runs[0]['run_id']} as of {runs[0]['as_of']:%Y-%m-%d}")
    for name in (
        "scoring model",
        "model",
        "in",
        "scored",
        "why",
        "rejected",
        "unchanged",
        "seconds",
    ):
        table.add_column(
            name, justify="left" if name in {"scoring model", "model", "why"} else "right"
        )
    for run in runs:
        seconds = (run["ended_at"] - run["started_at"]).total_seconds()  # type: ignore[operator]
        table.add_row(
            str(run["scoring_model"]),
            f"{run['model_name']}/{run['model_version']}",
            *(f"{run[name]:,}" for name in ("rows_in", "rows_scored")),
            reasons_of(run) or "-",
            *(f"{run[name]:,}" for name in ("rows_rejected", "rows_unchanged")),
            f"{seconds:.1f}",
        )
    return table


def _served_table(connection: object) -> Table:
    table = Table(title="Predictions served now")
    for name in ("view", "served from", "entities", "stale", "oldest"):
        table.add_column(name)
    for view in ("churn_current", "spend_current"):
        for row in rows(connection, SERVED.format(view=view)):  # type: ignore[arg-type]
            table.add_row(
                view,
                row["served_from"],
                f"{row['entities']:,}",
                f"{row['stale']:,}",
                f"{row['oldest']}",
            )
    return table


def _sample_table(connection: object) -> Table:
    found = rows(connection, SAMPLE)  # type: ignore[arg-type]
    table = Table(title="The newest rows of the ledger, highest churn probability first")
    for name in found[0]:
        table.add_column(name)
    for row in found:
        probability = f"{row['churn_probability']:.4f}"
        table.add_row(
            *(probability if k == "churn_probability" else str(v)[:19] for k, v in row.items())
        )
    return table


if __name__ == "__main__":
    main()
