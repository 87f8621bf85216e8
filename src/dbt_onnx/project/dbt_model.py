"""`score()`, for a dbt Python model, and the entry of the `predictions` materialization."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dbt_onnx.engines.adapters import engine_for
from dbt_onnx.errors import ConfigError, DbtOnnxError
from dbt_onnx.runs.request import (
    MAX_REJECTED_FRACTION,
    SIGNIFICANT_DIGITS,
    RunSettings,
    ScoringRequest,
    check_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dbt_onnx.engines.base import Warehouse
    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.run import RunSummary


class Summary(Protocol):
    """What a run has done; its text is dbt's line."""

    @property
    def rows_written(self) -> int: ...


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
    max_rejected_fraction: float = MAX_REJECTED_FRACTION,
    batch_rows: int | None = None,
    threads: int | None = None,
    **unknown: Any,
) -> ScoringRequest:
    """Score a relation with a registered ONNX model, into a ledger of predictions.

    Return it from a dbt Python model with `dbt.config(materialized="predictions")`; the
    materialization does the work.

    features               a table or view, `dbt.ref(...)`: one row for each key
    registry               the model registry, `dbt.ref(...)`
    model                  "churn" is the champion, "churn@challenger" an alias, "churn/2" a version
    key                    the columns that name an entity; a row with a NULL among them is rejected
    as_of                  the column with the moment that the features describe (DATE or TIMESTAMP,
                           UTC); without it, the run's time
    refresh_after          {"count": 7, "period": "day"}: score again after this time, changed or
                           not; periods are minute, hour, day, week
    keep_inputs            keep the features of each scored row, so that a run can be replayed: True
                           for good, {"count": 400, "period": "day"} for 400 days, False not at all
    significant_digits     for a DOUBLE that the model reads as float64: how many of its digits count
                           as a change, since the last ones of a sum differ each time; 17 is exact.
                           What the model reads as float32 is compared as float32; integers,
                           decimals and text are compared in full
    max_rejected_fraction  the run fails, and nothing is written, when a larger share of the rows
                           of `features` is rejected
    batch_rows, threads    rows of one call of onnxruntime, and its threads; chosen when not given

    Raises ConfigError when an argument is wrong.
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
    return check_request(arguments, unknown)


def run_model(
    model: Callable[[Any, Any], Any],
    dbt: Any,
    session: Any,
    settings: str,
    logs: Callable[[Path], AnswerLogs],
) -> None:
    """Run a scoring model for the `predictions` materialization.

    `settings` is the JSON of `RunSettings`. `logs` gives those of what is served from a project's folder.
    """
    project = project_folder()
    document = json.loads(settings)
    document["seeds"] = {relation: project / path for relation, path in document["seeds"].items()}
    run_settings = RunSettings(**{item.name: document[item.name] for item in fields(RunSettings)})

    def work(request: Any, warehouse: Warehouse) -> RunSummary:
        from dbt.adapters.events.logging import AdapterLogger

        if not isinstance(request, ScoringRequest):
            raise ConfigError(
                f"the model returned {type(request).__name__}, not a scoring run",
                hint="return dbt_onnx.score(...) from a model with materialized='predictions'",
            )
        log = AdapterLogger("dbt_onnx").info
        return warehouse.score(
            request, run_settings, artifacts=project / "artifacts", log=log, logs=logs(project)
        )

    run_on_warehouse(model, dbt, session, work)


def run_on_warehouse(
    model: Callable[[Any, Any], Any],
    dbt: Any,
    session: Any,
    work: Callable[[Any, Warehouse], Summary],
) -> None:
    """Do what a model asks for, on the warehouse of its session.

    `work` is given what the model returned. Its outcome, or its error, is left on dbt's own connection,
    from which the materialization raises one clear message: dbt would print an exception with its
    traceback.
    """
    from dbt.adapters.factory import FACTORY

    # an invocation of dbt has one adapter, that of its target
    warehouse = engine_for(next(iter(FACTORY.adapters)))(session)
    try:
        summary = work(_request_of(model, dbt, session, warehouse), warehouse)
    except DbtOnnxError as error:
        outcome: dict[str, Any] = {"ok": False, "message": f"{error.kind} error: {error}"}
    else:
        outcome = {"ok": True, "message": str(summary), "rows_written": summary.rows_written}
    warehouse.leave_outcome(json.dumps(outcome))


def _request_of(
    model: Callable[[Any, Any], Any], dbt: Any, session: Any, warehouse: Warehouse
) -> Any:
    try:
        with warehouse.opening_errors():
            return model(dbt, session)
    except TypeError as error:
        # Python itself raises when an argument is missing, or given without its name
        function, _, _ = str(error).partition(" ")
        if function not in {"score()", "publish()"}:
            raise
        raise ConfigError(
            str(error), hint=f"correct the arguments of {function} in the model's Python file"
        ) from error


def project_folder() -> Path:
    """The project's folder, from dbt's flags: a Python model runs from a temporary file elsewhere."""
    from dbt.flags import get_flags

    return Path(get_flags().PROJECT_DIR)  # type: ignore[no-untyped-call]
