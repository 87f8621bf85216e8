"""The sections of a report: the facts as charts, tables and sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import shortened
from dbt_onnx.reporting.charts import Block, Table
from dbt_onnx.reporting.distributions import feature_blocks, score_blocks
from dbt_onnx.reporting.outcomes import (
    calibration_blocks,
    comparison_blocks,
    mover_blocks,
    outcome_blocks,
)
from dbt_onnx.reporting.run_charts import run_blocks
from dbt_onnx.reporting.served import freshness_blocks, served_blocks, test_blocks
from dbt_onnx.reporting.texts import any_text, count_text, moment_text, period_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.reporting.gather import Facts, ModelFacts

_MOST_LISTED = 40


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page. `parts` are its subsections."""

    id: str
    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence[Section] = ()


@dataclass(frozen=True, kw_only=True)
class Glance:
    """The health of one scoring model in a few words. `figures` are (name, text)."""

    scoring_model: str
    section: str
    status: str
    serves: str
    figures: Sequence[tuple[str, str]]
    problems: Sequence[str]


def glances_of(facts: Facts) -> list[Glance]:
    """Return the health at a glance of each scoring model."""
    return [_glance(model, f"model-{number}") for number, model in enumerate(facts.models, start=1)]


def sections_of(facts: Facts) -> list[Section]:
    """Return a section for each scoring model, then those about the project that have something to show."""
    about_models = [
        Section(
            id=f"model-{number}",
            title=model.health.scoring_model,
            blocks=[f"Could not be read: {shortened(fault, 500)}" for fault in model.faults],
            parts=_parts_of(model, f"model-{number}"),
        )
        for number, model in enumerate(facts.models, start=1)
    ]
    about_project = [
        Section(
            id="outcomes",
            title="Outcomes",
            blocks=[
                *outcome_blocks(facts.dbt_models["prediction_outcomes"]),
                *calibration_blocks(facts.dbt_models["prediction_calibration"]),
            ],
        ),
        Section(
            id="comparison",
            title="Champion and challenger",
            blocks=[
                *comparison_blocks(facts.dbt_models["compare_predictions"]),
                *mover_blocks(facts.dbt_models["prediction_movers"]),
            ],
        ),
        Section(id="promotions", title="Promotions", blocks=_promotions(facts)),
    ]
    return [*about_models, *(section for section in about_project if section.blocks)]


def _glance(model: ModelFacts, section: str) -> Glance:
    figures, health = model.health.figures, model.health
    shown: list[tuple[str, str]] = []
    serves = ""
    if figures:
        version = figures["serving_version"]
        serves = f"{figures['model_name']}/{version}" if version else ""
        shown = [
            (name, count_text(figures[name]))
            for name in ("entities", "current", "stale", "missing", "rejected")
        ]
        shown += [
            ("oldest", period_text(figures["oldest_age"])),
            ("last good run", moment_text(figures["last_good_run_at"]) or "never"),
            ("tests", _tests_in_short(figures)),
        ]
    problems = [shortened(problem.message, 500) for problem in health.problems]
    return Glance(
        scoring_model=health.scoring_model,
        section=section,
        status=health.status,
        serves=serves,
        figures=shown,
        problems=problems,
    )


def _tests_in_short(figures: Mapping[str, Any]) -> str:
    if figures["tested_at"] is None:
        return "not recorded"
    failing, warning = len(figures["failing_tests"]), len(figures["warning_tests"])
    return f"{failing} failing, {warning} warn" if failing or warning else "good"


def _parts_of(model: ModelFacts, prefix: str) -> list[Section]:
    named: dict[str, Sequence[Block]] = {
        "Runs": run_blocks(model.runs),
        "Scores": score_blocks(model.outputs),
        "Features": feature_blocks(model.features),
        "Freshness": freshness_blocks(model),
        "Tests": test_blocks(model),
        "Served from": served_blocks(model),
    }
    return [
        Section(id=f"{prefix}-{title.split()[0].lower()}", title=title, blocks=blocks)
        for title, blocks in named.items()
        if blocks
    ]


def _promotions(facts: Facts) -> list[Block]:
    blocks: list[Block] = [f"Could not be read: {shortened(fault, 500)}" for fault in facts.faults]
    for name, promotions in facts.promotions.items():
        blocks.append(
            Table(
                caption=f"Promotions of {name}, newest first",
                header=("promoted (UTC)", "champion", "replaced", "action", "gate", "reason"),
                rows=[
                    (
                        item.promoted_at[:16].replace("T", " "),
                        f"{name}/{item.model_version}",
                        item.replaced_version and f"{name}/{item.replaced_version}",
                        item.action,
                        item.gate.replace("_", " "),
                        any_text(item.reason or None),
                    )
                    for item in promotions[: -_MOST_LISTED - 1 : -1]
                ],
            )
        )
    return blocks
