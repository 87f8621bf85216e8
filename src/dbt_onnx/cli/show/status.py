"""What `status` prints: a table and its problems, or a JSON document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.cli.show.console import open_console, print_text, show_error, table
from dbt_onnx.runs.health import EXIT_CODES, age_text

if TYPE_CHECKING:
    from dbt_onnx.runs.health import Health, ModelHealth

_STYLES = {"healthy": "bold green", "degraded": "bold yellow", "broken": "bold red"}
_HEADER = (
    "scoring model", "serves", "status", "entities", "current", "stale", "missing", "rejected",
    "served from", "oldest", "last good run", "tests",
)  # fmt: skip


def show_health(health: Health) -> None:
    """Print one row per scoring model, then every problem, the worst models first."""
    if health.error is not None:
        show_error(health.error.message, health.error.hint)
        return
    open_console().print(
        table(
            f"predictions at {health.clock:%Y-%m-%d %H:%M} UTC", _HEADER, map(_row, health.models)
        )
    )
    for model in sorted(health.models, key=lambda m: EXIT_CODES[m.status], reverse=True):
        for problem in model.problems:
            print_text(f"{model.scoring_model}: {problem.message}", style=_STYLES[model.status])
    if any(model.figures and model.figures["tested_at"] is None for model in health.models):
        print_text(
            "no test results are recorded; add to your dbt_project.yml: "
            'on-run-end: "{{ dbt_onnx.record_test_results(results) }}"',
            style="dim",
        )
    print_text(health.status, style=_STYLES[health.status])


def health_document(health: Health) -> dict[str, Any]:
    """Return the health as a document, see `documents`. A figure that could not be read is null."""
    return {
        "status": health.status,
        "exit_code": health.exit_code,
        "clock": health.clock,
        "stale_after_seconds": health.stale_after.total_seconds(),
        "error": health.error and {"message": health.error.message, "hint": health.error.hint},
        "scoring_models": [_model_document(model) for model in health.models],
    }


_FIGURES = (
    "model_name", "serving_version", "entities", "current", "stale", "missing", "rejected",
    "served_from_shares", "served_versions", "oldest_age", "median_age",
    "last_good_run_id", "last_good_run_at", "last_good_run_clock",
    "last_run_id", "last_run_at", "last_run_status", "last_run_error",
    "failing_tests", "warning_tests", "drifting_tests", "tested_at",
)  # fmt: skip


def _model_document(model: ModelHealth) -> dict[str, Any]:
    figures = {
        f"{name}_seconds" if name.endswith("_age") else name: model.figures.get(name)
        for name in _FIGURES
    }
    return {
        "scoring_model": model.scoring_model,
        "status": model.status,
        "problems": [{"kind": each.kind, "message": each.message} for each in model.problems],
        **figures,
    }


def _row(model: ModelHealth) -> tuple[str, ...]:
    figures = model.figures
    if not figures:
        return (model.scoring_model, "", model.status, *[""] * (len(_HEADER) - 3))
    good_at = figures["last_good_run_at"]
    return (
        model.scoring_model,
        f"{figures['model_name']}/{figures['serving_version']}"
        if figures["serving_version"]
        else "",
        model.status,
        *(f"{figures[name]:,}" for name in ("entities", "current", "stale", "missing", "rejected")),
        ", ".join(f"{name} {share:.1%}" for name, share in figures["served_from_shares"].items()),
        "" if figures["oldest_age"] is None else age_text(figures["oldest_age"]),
        f"{good_at:%Y-%m-%d %H:%M}" if good_at else "never",
        _tests(figures),
    )


def _tests(figures: Any) -> str:
    if figures["tested_at"] is None:
        return "not recorded"
    failing, warning = len(figures["failing_tests"]), len(figures["warning_tests"])
    return f"{failing} failing, {warning} warn" if failing or warning else "good"
