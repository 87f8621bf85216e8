"""`dbt-onnx runs`, `history`, `explain`, `replay`, `forget`, `prune`: past predictions, and erasing them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from dbt_onnx.cli import options
from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

_dry_run = click.option("--dry-run", is_flag=True, help="Count the rows; erase nothing.")


@options.main.command()
@click.argument("model", required=False)
@click.option("--limit", type=click.IntRange(1), default=20, help="How many runs to print.")
@options.as_json
@options.project
def runs(project: Any, model: str | None, limit: int, as_json: bool) -> None:  # noqa: FBT001
    """Print the newest runs of the scoring model MODEL, or of all."""
    from dbt_onnx.cli.show.documents import print_document, runs_document
    from dbt_onnx.cli.show.predictions import show_runs

    scoring_models = [project.scoring_model(model)] if model else project.scoring_models()
    with project.warehouse() as warehouse:
        found = [
            run
            for scoring_model in scoring_models
            for run in warehouse.runs(scoring_model.table, limit=limit)
        ]
    newest = sorted(found, key=lambda run: run.started_at, reverse=True)[:limit]
    if as_json:
        print_document(runs_document(newest))
    else:
        show_runs(newest)


@options.main.command()
@click.argument("model")
@click.argument("key", nargs=-1, required=True)
@options.as_json
@options.project
def history(project: Any, model: str, key: Sequence[str], as_json: bool) -> None:  # noqa: FBT001
    """Print every prediction of the scoring model MODEL for the entity KEY.

    KEY is one value for each key column. Changed inputs are shown if inputs are kept. If predictions are
    published, the command also prints when each later publication was served.
    """
    from dbt_onnx.cli.show.documents import history_document, print_document
    from dbt_onnx.cli.show.predictions import show_history, show_served

    table = project.scoring_model(model).table
    with project.warehouse() as warehouse:
        history = warehouse.history(table, key)
        publications = warehouse.publications(table)
    if not history:
        raise ConfigError(
            f"the ledger of {model} has no prediction for {', '.join(key)}",
            hint="write the key as it stands in the ledger, leading zeros included; "
            "`missing_predictions` lists entities without a prediction",
        )
    served = [
        row
        for row in publications
        if row["served_until"] is None or row["served_until"] > history[0].scored_at
    ]
    if as_json:
        print_document(history_document(model, key, history, served))
    else:
        show_history(model, key, history)
        show_served(served)


@options.main.command()
@click.argument("model")
@click.argument("key", nargs=-1)
@click.option(
    "--run", "run_id", metavar="ID", help="Explain this run: its id, or its first characters."
)
@click.option(
    "--sample", type=click.IntRange(1), metavar="N", help="Explain only N rows of the run."
)
@click.option(
    "--top", type=click.IntRange(1), metavar="N", default=10, help="How many features to print."
)
@options.as_json
@options.project
@options.registry
def explain(
    project: Any,
    model: str,
    key: Sequence[str],
    run_id: str | None,
    sample: int | None,
    top: int,
    as_json: bool,  # noqa: FBT001
    registry: Path,
) -> None:
    """Print how much each feature contributed to the prediction of MODEL that is served for the entity KEY.

    KEY is one value for each key column. With --run instead: explain all rows of a run. The inputs of the
    run must be kept. The contributions are stored in <MODEL>__explanations; `history` shows the largest.
    """
    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.cli.show.documents import explanation_document, print_document
    from dbt_onnx.cli.show.predictions import show_explained_run, show_explanation
    from dbt_onnx.runs.replay import replayable_runs

    if bool(key) == bool(run_id) or (key and sample):
        raise ConfigError(
            "explain takes either the key of an entity, or --run, which may have --sample",
            hint="dbt-onnx explain MODEL KEY, or dbt-onnx explain MODEL --run ID [--sample N]",
        )
    table = project.scoring_model(model).table
    entries = Registry.from_csv(project.root / registry)
    began = time.perf_counter()
    with project.warehouse(read_only=False) as warehouse:
        result = warehouse.explain(
            table,
            registry=entries,
            artifacts=project.root / "artifacts",
            key=key or None,
            run_id=run_id and _full_id(run_id, replayable_runs(warehouse.runs(table))),
            sample=sample,
        )
    if as_json:
        print_document(explanation_document(model, key, result))
    elif result.row:
        show_explanation(model, key, result.row, top=top)
    else:
        show_explained_run(model, result, seconds=time.perf_counter() - began)


@options.main.command()
@click.argument("model")
@click.option(
    "--run",
    "run_ids",
    multiple=True,
    metavar="ID",
    help="The run's id, or its first characters; repeatable.",
)
@click.option("--all", "every", is_flag=True, help="Replay every run whose inputs are kept.")
@click.option(
    "--sample", type=click.IntRange(1), metavar="N", help="Replay only N rows of each run."
)
@options.as_json
@options.project
@options.registry
def replay(
    project: Any,
    model: str,
    run_ids: Sequence[str],
    every: bool,  # noqa: FBT001
    sample: int | None,
    as_json: bool,  # noqa: FBT001
    registry: Path,
) -> None:
    """Score the kept inputs of runs of the scoring model MODEL again, and compare.

    The model is the one with the sha256 in the run row; threads and batch size are those of the run.
    Without --run: the newest run whose inputs are kept. Before that, the tables are compared with what
    the run rows record; with --all the values of every row, too. Exit code 1 when anything differs.
    """
    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.cli.show.documents import print_document, replay_document
    from dbt_onnx.cli.show.predictions import show_proof, show_replay
    from dbt_onnx.runs.replay import replayable_runs

    table = project.scoring_model(model).table
    entries = Registry.from_csv(project.root / registry)
    with project.warehouse() as warehouse:
        findings = warehouse.prove(table, with_values=every)
        if not as_json:
            show_proof(model, findings)
        replays = []
        kept = replayable_runs(warehouse.runs(table))
        if not run_ids and not kept:
            raise ConfigError(
                f"no run of {model} has kept its inputs",
                hint="score() keeps them unless keep_inputs is False; `dbt-onnx runs` lists the runs",
            )
        for run_id in kept if every else [_full_id(r, kept) for r in run_ids] or kept[:1]:
            result = warehouse.replay(
                table, run_id, registry=entries, artifacts=project.root / "artifacts", sample=sample
            )
            replays.append(result)
            if not as_json:
                show_replay(result)
    if as_json:
        print_document(replay_document(model, findings, replays))
    if findings or not all(result.passed for result in replays):
        raise SystemExit(options.EXIT_FAILED)


@options.main.command()
@click.argument("model")
@click.argument("key", nargs=-1, required=True)
@click.option(
    "--why", required=True, help="Reason, stored with the row counts; do not name a person."
)
@_dry_run
@options.project
def forget(project: Any, model: str, key: Sequence[str], why: str, dry_run: bool) -> None:  # noqa: FBT001
    """Erase all predictions and kept inputs of the scoring model MODEL for the entity KEY.

    KEY is one value for each key column. Remove the entity from the features first: the next run scores
    every entity in them.
    """
    from dbt_onnx.cli.show.predictions import show_erasure

    table = project.scoring_model(model).table
    with project.warehouse(read_only=dry_run) as warehouse:
        erasure = warehouse.forget(table, key, why=why, dry_run=dry_run)
    show_erasure(model, erasure, dry_run=dry_run)


@options.main.command()
@click.argument("model")
@click.option(
    "--before",
    required=True,
    type=options.MOMENT,
    help="Erase rows that were scored before this time, UTC.",
)
@click.option("--why", default="retention", help="Reason, stored with the row counts.")
@_dry_run
@options.project
def prune(project: Any, model: str, before: datetime, why: str, dry_run: bool) -> None:  # noqa: FBT001
    """Erase predictions of the scoring model MODEL that were superseded, or late, and their inputs.

    Predictions that are served now are never erased.
    """
    from dbt_onnx.cli.show.predictions import show_erasure

    table = project.scoring_model(model).table
    with project.warehouse(read_only=dry_run) as warehouse:
        erasure = warehouse.prune(table, before=before, why=why, dry_run=dry_run)
    show_erasure(model, erasure, dry_run=dry_run)


def _full_id(given: str, known: Sequence[str]) -> str:
    """Return the id of the only known run that begins with `given`; `given` itself if none does."""
    found = [run_id for run_id in known if run_id.startswith(given)]
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} runs begin with {given!r}", hint=f"name one of {', '.join(found[:5])}"
        )
    return found[0] if found else given
