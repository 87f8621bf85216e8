"""`score()`, which a dbt Python model calls, and the entry point of the `predictions` materialization."""

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
from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dbt_onnx.engines.base import Warehouse
    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.run import RunSummary


class Summary(Protocol):
    """The result of a run. `str()` of it is the message that dbt prints for the model."""

    @property
    def rows_written(self) -> int: ...


def score(
    dbt: Any,  # noqa: ARG001, dbt's convention for functions that a model calls
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
    """Describe a run that scores a relation with a registered ONNX model into a ledger of predictions.

    Return the result from a dbt Python model with `dbt.config(materialized="predictions")`. This
    function reads nothing: the materialization does the work.

    features               a table or view, `dbt.ref(...)`: one row for each key
    registry               the model registry, `dbt.ref(...)`
    model                  "churn" is the champion, "churn@challenger" an alias, "churn/2" a version
    key                    the columns that identify an entity; a row with a NULL in one is rejected
    as_of                  the column with the time that the features describe (DATE or TIMESTAMP,
                           UTC); by default, the run's time
    refresh_after          {"count": 7, "period": "day"}: score an entity again after this time, even
                           if its features have not changed; periods are minute, hour, day, week
    keep_inputs            keep the features of each scored row, so that a run can be replayed: True
                           forever, {"count": 400, "period": "day"} for 400 days, False not at all
    significant_digits     for a DOUBLE that the model reads as float64: how many digits are compared
                           to detect a change, since the last digits of a sum may differ in each run;
                           17 is exact. A feature that the model reads as float32 is compared as
                           float32; integers, decimals and text are compared in full
    max_rejected_fraction  the run fails, and nothing is written, if a larger share of the rows of
                           `features` is rejected
    batch_rows, threads    rows of one call of onnxruntime, and its threads; by default the run
                           chooses both

    Raises ConfigError if an argument is wrong.
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

    `settings` is the JSON of `RunSettings`. `logs(folder)` returns the answer logs of the publications of
    the project in that folder.
    """
    project = project_folder()
    document = json.loads(settings)

    def work(request: Any, warehouse: Warehouse) -> RunSummary:
        from dbt.adapters.events.logging import AdapterLogger

        if not isinstance(request, ScoringRequest):
            raise ConfigError(
                f"the model returned {type(request).__name__}, not a scoring run",
                hint="return dbt_onnx.score(...) from a model with materialized='predictions'",
            )
        seeds = {relation: project / path for relation, path in document["seeds"].items()}
        known = {item.name: document[item.name] for item in fields(RunSettings)}
        run_settings = RunSettings(**{**known, "seeds": seeds})
        log = AdapterLogger("dbt_onnx").info
        return warehouse.score(
            request, run_settings, artifacts=project / "artifacts", log=log, logs=logs(project)
        )

    run_on_warehouse(model, dbt, session, document, work)


def run_on_warehouse(
    model: Callable[[Any, Any], Any],
    dbt: Any,
    session: Any,
    settings: Mapping[str, Any],
    work: Callable[[Any, Warehouse], Summary],
) -> None:
    """Call a dbt model, and do the work that it requests on the warehouse of its session.

    `settings` are those of the materialization. `work` may read them: by then the dbt package that wrote them is
    known to have this version.

    `work` receives the object that the model returned. Its summary, or its error, is stored in dbt's own
    connection. The materialization reads it there, and raises an error as one clear message: if the
    exception left this function, dbt would print a traceback.
    """
    from dbt.adapters.factory import FACTORY

    # a dbt invocation has one adapter: the adapter of its target
    warehouse = engine_for(next(iter(FACTORY.adapters)))(session)
    try:
        _check_version(settings["package_version"])
        summary = work(_request_of(model, dbt, session, warehouse), warehouse)
    except DbtOnnxError as error:
        outcome: dict[str, Any] = {"ok": False, "message": f"{error.kind} error: {error}"}
    else:
        outcome = {"ok": True, "message": str(summary), "rows_written": summary.rows_written}
    warehouse.leave_outcome(json.dumps(outcome))


def _check_version(of_dbt_package: str) -> None:
    if of_dbt_package != __version__:
        raise ConfigError(
            f"the dbt package dbt_onnx has version {of_dbt_package}, the Python package dbt-onnx has "
            f"version {__version__}; a run needs both in the same version",
            hint=f"pip install 'dbt-onnx=={of_dbt_package}'; or install version {__version__} of the dbt package: "
            f"`revision: v{__version__}` in packages.yml, then `dbt deps`",
        )


def _request_of(
    model: Callable[[Any, Any], Any], dbt: Any, session: Any, warehouse: Warehouse
) -> Any:
    try:
        with warehouse.opening_errors():
            return model(dbt, session)
    except TypeError as error:
        # raised by Python if an argument is missing, or is passed without its name
        function, _, _ = str(error).partition(" ")
        if function not in {"score()", "publish()"}:
            raise
        raise ConfigError(
            str(error), hint=f"correct the arguments of {function} in the model's Python file"
        ) from error


def project_folder() -> Path:
    """Return the project's folder, from dbt's flags: a Python model runs from a temporary file elsewhere."""
    from dbt.flags import get_flags

    return Path(get_flags().PROJECT_DIR)  # type: ignore[no-untyped-call]
