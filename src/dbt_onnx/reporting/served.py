"""What is served: its age, its tests, where it comes from."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from dbt_onnx.reporting.charts import Block, Cell, Table
from dbt_onnx.reporting.texts import (
    NOTHING,
    any_text,
    count_text,
    moment_text,
    period_text,
    share_text,
)

if TYPE_CHECKING:
    from dbt_onnx.reporting.gather import ModelFacts

_NOT_RECORDED = (
    "No test results are recorded. Add to dbt_project.yml: "
    'on-run-end: "{{ dbt_onnx.record_test_results(results) }}"'
)
_MOST_LISTED = 40
_AGES = ("under 1 day", "1 to 2 days", "2 to 7 days", "7 to 30 days", "30 days or more")


def freshness_blocks(model: ModelFacts) -> list[Block]:
    """Return the ages of the served predictions."""
    figures = model.health.figures
    total = sum(row["entities"] for row in model.ages)
    if not figures or not total:
        return []
    counts: dict[Any, int] = defaultdict(int)
    for row in model.ages:
        counts[row["age_band"]] += row["entities"]
    named = [
        *((name, counts[band]) for band, name in enumerate(_AGES)),
        ("no prediction", counts[None]),
    ]
    sentence = (
        f"{count_text(figures['stale'])} of {count_text(figures['entities'])} entities are stale."
    )
    if figures["oldest_age"] is not None:
        sentence += (
            f" Half of the predictions are at most {period_text(figures['median_age'])} old, the oldest is "
            f"{period_text(figures['oldest_age'])} old."
        )
    return [
        sentence,
        Table(
            caption="Ages of the predictions",
            header=("age", "entities", "share"),
            rows=[
                (name, Cell(count_text(rows), bar=rows / total), share_text(rows / total))
                for name, rows in named
                if rows
            ],
        ),
    ]


def test_blocks(model: ModelFacts) -> list[Block]:
    """Return the tests that did not pass."""
    figures = model.health.figures
    if not figures:
        return []
    if figures["tested_at"] is None:
        return [
            _NOT_RECORDED,
        ]
    bad = {*figures["failing_tests"], *figures["warning_tests"]}
    if not bad:
        return [
            f"All recorded tests passed; the newest ran {moment_text(figures['tested_at'])} UTC."
        ]
    return [
        Table(
            caption="Tests that did not pass",
            header=("test", "result", "rows", "ran (UTC)", "message"),
            rows=[
                (
                    row["test_name"],
                    row["status"],
                    count_text(row["failures"]),
                    moment_text(row["executed_at"]) or NOTHING,
                    any_text(row["message"]),
                )
                for row in sorted(model.tests, key=lambda row: str(row["test_name"]))
                if row["test_name"] in bad
            ],
        )
    ]


def served_blocks(model: ModelFacts) -> list[Block]:
    """Return the versions in use, and the publications."""
    blocks: list[Block] = []
    total = sum(row["entities"] for row in model.ages)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for row in model.ages:
        version = row["model_version"]
        named = NOTHING if version is None else f"{model.health.figures['model_name']}/{version}"
        counts[row["served_from"], named] += row["entities"]
    if total:
        blocks.append(
            Table(
                caption="Where the served predictions come from",
                header=("served from", "version", "entities", "share"),
                rows=[
                    (
                        place,
                        version,
                        Cell(count_text(rows), bar=rows / total),
                        share_text(rows / total),
                    )
                    for (place, version), rows in sorted(counts.items(), key=lambda item: -item[1])
                ],
            )
        )
    if model.publications:
        blocks.append(
            Table(
                caption="Publications, newest first",
                header=("published as", "target", "served from (UTC)", "until", "rows"),
                rows=[
                    (
                        row["name"],
                        row["target"],
                        moment_text(row["served_since"]) or NOTHING,
                        moment_text(row["served_until"]) or "now",
                        count_text(row["rows_published"]),
                    )
                    for row in list(model.publications)[: -_MOST_LISTED - 1 : -1]
                ],
            )
        )
    return blocks
