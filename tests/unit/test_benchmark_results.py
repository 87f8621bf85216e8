"""How the benchmark's figures are judged, and the table that shows them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from benchmarks import results  # noqa: E402


def row(figure: float, **target: float) -> results.Row:
    return results.Row(
        section="scoring", workload="logistic", against="orbital", unit="x", figure=figure, **target
    )


@pytest.mark.parametrize(
    ("figure", "target", "reached", "reached_in_short"),
    [
        (1.3, {"at_least": 1.3}, True, True),
        (0.66, {"at_least": 1.3}, False, True),
        (0.64, {"at_least": 1.3}, False, False),
        (2.0, {"at_most": 2.0}, True, True),
        (3.99, {"at_most": 2.0}, False, True),
        (4.01, {"at_most": 2.0}, False, False),
        (1.0, {"at_least": 0.9, "at_most": 1.1}, True, True),
        (1.2, {"at_least": 0.9, "at_most": 1.1}, False, True),
        (0.44, {"at_least": 0.9, "at_most": 1.1}, False, False),
        (float("nan"), {"at_least": 1.3}, False, False),
        (float("nan"), {"at_most": 2.0}, False, False),
        (0.0, {}, True, True),
    ],
)
def test_a_figure_holds_up_to_its_target_and_in_short_down_to_half_of_it(
    figure, target, reached, reached_in_short
):
    assert row(figure, **target).holds() is reached
    assert row(figure, **target).holds(margin=results.SMOKE_MARGIN) is reached_in_short


def test_the_table_says_figure_target_and_whether_it_is_reached(tmp_path):
    path = tmp_path / "results.json"
    rows = [row(1.4, at_least=1.3), row(1.2, at_least=1.3), row(0.004)]
    results.merge(path, "scoring", rows)

    lines = results.markdown(json.loads(path.read_text())).splitlines()

    assert "## scoring" in lines
    assert [line for line in lines if "orbital" in line] == [
        "| logistic | orbital | 1.40 x | at least 1.30 x | yes |  |",
        "| logistic | orbital | 1.20 x | at least 1.30 x | **no** |  |",
        "| logistic | orbital | 0.004 x |  |  |  |",
    ]
    assert any("onnxruntime 1." in line and "cores" in line for line in lines)


def test_a_section_measured_again_replaces_its_own_rows_alone(tmp_path):
    path = tmp_path / "results.json"
    results.merge(path, "scoring", [row(1.0), row(2.0)])
    results.merge(path, "lookup", [row(3.0)])

    document = results.merge(path, "scoring", [row(4.0, at_most=5.0)])

    assert document == json.loads(path.read_text())
    assert results.rows_of(document["scoring"]) == [row(4.0, at_most=5.0)]
    assert results.rows_of(document["lookup"]) == [row(3.0)]


def test_the_plot_draws_each_series_and_is_not_made_without_one(tmp_path):
    path, plot = tmp_path / "results.json", tmp_path / "growth.svg"
    document = results.merge(path, "scoring", [row(1.0)])
    results.plot(document, [plot])
    assert not plot.exists()

    series = [(1_000, 0.1), (10_000, 0.9)]
    grown = results.Row(
        section="growth", workload="trees by rows", against="itself", unit="x", figure=1.0,
        series=series, series_of="rows",
    )  # fmt: skip
    results.plot(results.merge(path, "growth", [grown]), [plot])
    assert plot.read_text().startswith("<?xml")


def test_small_and_large_figures_can_be_told_apart():
    shown = [results.shown(number, "s") for number in (0, 0.0000018, 0.04, 0.5, 99.94, 12345.6)]
    assert shown == ["0.00 s", "2e-06 s", "0.04 s", "0.50 s", "99.94 s", "12,346 s"]


@pytest.mark.parametrize(
    ("figure", "recorded", "target", "holds"),
    [
        # target missed when recorded, and still at least half of the recorded figure
        (0.4, 0.5, {"at_least": 2.0}, True),
        (0.24, 0.5, {"at_least": 2.0}, False),
        # target reached when recorded, so the target itself counts
        (0.99, 2.1, {"at_least": 2.0}, False),
        (7.0, 6.0, {"at_most": 2.0}, True),
        (12.1, 6.0, {"at_most": 2.0}, False),
    ],
)
def test_what_was_missed_when_recorded_shall_not_get_worse(
    tmp_path, figure, recorded, target, holds
):
    path = tmp_path / "results.json"
    results.merge(path, results.SMOKE, [row(recorded, **target)])
    before = results.recorded(path)[("scoring", "logistic", "orbital")]
    held = row(figure, **target).with_recorded_target(before)
    assert held.holds(margin=results.SMOKE_MARGIN) is holds
    assert results.SMOKE not in results.markdown(json.loads(path.read_text()))


def test_without_a_record_the_target_counts(tmp_path):
    assert results.recorded(tmp_path / "results.json") == {}
    assert row(0.4, at_least=2.0).with_recorded_target(None) == row(0.4, at_least=2.0)


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    section = (ROOT / "README.md").read_text().split("\n## How fast\n")[1].split("\n## ")[0]
    figures = re.findall(r"[\d.]+ (?:x|s|%|million rows/s)(?= |,|:|\.)", section)
    told = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    assert len(figures) >= 9
    assert [figure for figure in figures if figure not in told] == []
