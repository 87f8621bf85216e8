"""`score()`, for a dbt Python model, and the entry of the `predictions` materialization."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import ConfigError, DbtOnnxError
from dbt_onnx.runs.request import SIGNIFICANT_DIGITS, RunSettings, ScoringRequest, check_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OUTCOME_VARIABLE = "dbt_onnx_outcome"


def score(
    dbt: Any,  # noqa: ARG001, dbt's convention for whatever a model calls
    session: Any,  # noqa: ARG001
    *,
    features: Any,
    registry: Any,
    model: str,
    key: Sequence[str],
    as_of: str | None = None,
    refresh_after: Mapping[str, Any] | None = None,
    keep_inputs: bool | Mapping[str, Any] = True,
    significant_digits: int = SIGNIFICANT_DIGITS,
    max_rejected_fraction: float = 0.1,
    batch_rows: int | None = None,
    threads: int | None = None,
    **unknown: Any,
) -> ScoringRequest:
    """Score a relation with a registered ONNX model, into a ledger of predictions.

    Return it from a dbt Python model with `dbt.config(materialized="predictions")`; the
    materialization does the work.

    features               a table or view, `dbt.ref(...)`, as it is: one row per key
    registry               the model registry, `dbt.ref(...)`
    model                  "churn" for the champion, "churn@challenger", "churn/2"
    key                    the columns that name an entity; a row with a NULL among them is rejected
    as_of                  the column that tells which moment the features describe (DATE or
                           TIMESTAMP, UTC); without it, the run's time
    refresh_after          {"count": 7, "period": "day"}: score again after this time, changed or
                           not; periods are minute, hour, day, week
    keep_inputs            keep what each scored row was scored on, beside the ledger, so that a run
                           can be replayed: True for good, {"count": 400, "period": "day"} for so
                           long after the run, False not at all
    significant_digits     of a DOUBLE that the model reads as float64, how many digits count as a
                           change: sums of doubles end otherwise each time. A float32 input counts
                           as float32; integers, decimals and text count in full; 17 is exact
    max_rejected_fraction  the run fails, and nothing is written, when a larger share of the rows
                           of `features` is rejected
    batch_rows, threads    rows per call of onnxruntime, and its threads; chosen when not given

    Raises ConfigError when the arguments make no run.
    """
    arguments = {
        "features": features,
        "registry": registry,
        "model": model,
        "key": key,
        "as_of": as_of,
        "refresh_after": refresh_after,
        "keep_inputs": keep_inputs,
        "significant_digits": significant_digits,
        "max_rejected_fraction": max_rejected_fraction,
        "batch_rows": batch_rows,
        "threads": threads,
    }
    request = check_request(arguments, unknown)
    from dbt_onnx.engines.duckdb.features import refuse_expressions

    refuse_expressions(features=request.features.sql_query(), registry=request.registry.sql_query())
    return request


def run_model(model: Callable[[Any, Any], Any], dbt: Any, session: Any, settings: str) -> None:
    """Run a scoring model for the `predictions` materialization.

    `settings` is the JSON of `RunSettings`. The outcome is left in a variable of dbt's own
    connection: dbt-duckdb would print an exception with its traceback, and a user's mistake
    deserves one clear message.
    """
    from dbt_onnx.engines.duckdb.engine import score_on_duckdb

    document = json.loads(settings)
    document["seeds"] = {
        relation: project_folder() / path for relation, path in document["seeds"].items()
    }
    run_settings = RunSettings(**{item.name: document[item.name] for item in fields(RunSettings)})
    try:
        request = _request_of(model, dbt, session)
        if not isinstance(request, ScoringRequest):
            raise ConfigError(
                f"the model returned {type(request).__name__}, not a scoring run",
                hint="return dbt_onnx.score(...) from a model with materialized='predictions'",
            )
        summary = score_on_duckdb(
            request,
            run_settings,
            connection=session,
            artifacts=project_folder() / "artifacts",
            log=_log,
        )
    except DbtOnnxError as error:
        outcome: dict[str, Any] = {"ok": False, "message": f"{error.kind} error: {error}"}
    else:
        outcome = {
            "ok": True,
            "message": str(summary),
            "rows_written": summary.rows_scored + summary.rows_rejected,
        }
    session.execute(f"set variable {OUTCOME_VARIABLE} = $outcome", {"outcome": json.dumps(outcome)})


def _request_of(model: Callable[[Any, Any], Any], dbt: Any, session: Any) -> Any:
    from dbt_onnx.engines.duckdb.cursor import opening_errors

    try:
        with opening_errors():
            return model(dbt, session)
    except TypeError as error:
        # an argument that is missing, or given without its name: Python tells before we can
        if not str(error).startswith("score() "):
            raise
        raise ConfigError(
            str(error), hint="correct the arguments of score() in the model's Python file"
        ) from error


def project_folder() -> Path:
    """A Python model runs from a temporary file, in any working directory; dbt's flags know."""
    from dbt.flags import get_flags

    return Path(get_flags().PROJECT_DIR)  # type: ignore[no-untyped-call]


def _log(message: str) -> None:
    from dbt.adapters.events.logging import AdapterLogger

    AdapterLogger("dbt_onnx").info(message)
