"""The sections of a report: the facts as charts, tables and sentences."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import shortened
from dbt_onnx.reporting.charts import Cell, Chart, Rect, Table, grouped, line, nice_top, stacked
from dbt_onnx.runs.health import age_text
from dbt_onnx.runs.plan import SCORE_REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from dbt_onnx.reporting.gather import DbtModel, Facts, ModelFacts, Row
    from dbt_onnx.runs.history import RunRow

Block = str | Chart | Table

NOTHING = "–"
DIFFERS, DIFFERS_MUCH = 0.1, 0.25
"""The default thresholds of `features_match_training` and `predictions_match_baseline`."""

_ABOUT_INDEX = (
    "The stability index (PSI) compares a feature now with training. Below "
    f"{DIFFERS} little has changed, above {DIFFERS_MUCH} much has."
)
_NOT_RECORDED = (
    "No test results are recorded. Add to dbt_project.yml: "
    'on-run-end: "{{ dbt_onnx.record_test_results(results) }}"'
)
_MOST_BINS = 12
_MOST_FEATURES = 200
_MOST_SHAPES = 20  # features whose distribution is drawn
_MOST_LINES = 8
_MOST_LISTED = 40
_AGES = ("under 1 day", "1 to 2 days", "2 to 7 days", "7 to 30 days", "30 days or more")
# the same colour everywhere; what is usual in blue
_REASONS = dict(zip(SCORE_REASONS, ("s3", "s1", "s2", "s4", "s5", "s6", "s7", "s8"), strict=True))
_SERIES = {"now": "s1", "before": "s2", "training": "s0"}


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
                *_outcomes(facts.dbt_models["prediction_outcomes"]),
                *_calibration(facts.dbt_models["prediction_calibration"]),
            ],
        ),
        Section(
            id="comparison",
            title="Champion and challenger",
            blocks=[
                *_comparisons(facts.dbt_models["compare_predictions"]),
                *_movers(facts.dbt_models["prediction_movers"]),
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
            (name, _count(figures[name]))
            for name in ("entities", "current", "stale", "missing", "rejected")
        ]
        shown += [
            ("oldest", _age(figures["oldest_age"])),
            ("last good run", _moment(figures["last_good_run_at"]) or "never"),
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
        "Runs": _runs(model.runs),
        "Scores": _scores(model.outputs),
        "Features": _features(model.features),
        "Freshness": _freshness(model),
        "Tests": _tests(model),
        "Served from": _served(model),
    }
    return [
        Section(id=f"{prefix}-{title.split()[0].lower()}", title=title, blocks=blocks)
        for title, blocks in named.items()
        if blocks
    ]


# runs


def _runs(runs: Sequence[RunRow]) -> list[Block]:
    if not runs:
        return []
    columns = [
        {_REASONS[name]: float(rows) for name, rows in run.per_reason.items()}
        | ({"s0": float(run.rows_unchanged)} if run.rows_unchanged else {})
        for run in runs
    ]
    seen = {css for column in columns for css in column}
    labels = [_day(runs[0].clock), _day(runs[-1].clock)] if len(runs) > 1 else [_day(runs[0].clock)]
    top = nice_top(max(sum(column.values()) for column in columns))
    blocks: list[Block] = [
        Chart(
            title="Rows of each run, by the reason for scoring",
            rects=stacked(columns, top=top),
            legend=[
                (css, name.replace("_", " "))
                for name, css in [*_REASONS.items(), ("unchanged", "s0")]
                if css in seen
            ],
            top=f"{top:,.0f}",
            labels=labels,
        )
    ]
    rejected = [float(run.rows_rejected or 0) for run in runs]
    if any(rejected):
        top = nice_top(max(rejected))
        blocks.append(
            Chart(
                title="Rejected rows of each run",
                rects=stacked([{"bad": rows} for rows in rejected], top=top),
                top=f"{top:,.0f}",
                labels=labels,
                size="low",
            )
        )
    else:
        blocks.append("No row was rejected in these runs.")
    seconds = [_seconds(run) or 0.0 for run in runs]
    top = nice_top(max(seconds))
    blocks.append(
        Chart(
            title="Seconds of each run",
            rects=stacked([{"s1": each} for each in seconds], top=top),
            top=f"{top:,g} s",
            labels=labels,
            size="low",
            table=_runs_table(runs),
        )
    )
    failed = [run for run in runs if run.status != "success"]
    if failed:
        blocks.append(
            Table(
                caption="Runs without success",
                header=("run", "started (UTC)", "status", "error"),
                rows=[
                    (
                        str(run.run_id)[:8],
                        _moment(run.started_at) or NOTHING,
                        run.status,
                        _text(run.error),
                    )
                    for run in failed
                ],
            )
        )
    return blocks


def _runs_table(runs: Sequence[RunRow]) -> Table:
    return Table(
        caption="Runs, oldest first",
        header=(
            "run", "started (UTC)", "clock", "version", "scope", "in", "scored", "rejected", "unchanged",
            "seconds", "why",
        ),
        rows=[
            (
                str(run.run_id)[:8],
                _moment(run.started_at) or NOTHING,
                _day(run.clock),
                f"{run.model_name}/{run.model_version}" if run.model_name else NOTHING,
                run.scope if run.status == "success" else run.status,
                *map(_count, (run.rows_in, run.rows_scored, run.rows_rejected, run.rows_unchanged)),
                _figure_of_seconds(run),
                ", ".join(
                    f"{name.replace('_', ' ')} {rows:,}" for name, rows in run.per_reason.items()
                )
                or NOTHING,
            )
            for run in runs
        ],
    )  # fmt: skip


def _figure_of_seconds(run: RunRow) -> str:
    seconds = _seconds(run)
    return NOTHING if seconds is None else f"{seconds:,.2f}"


def _seconds(run: RunRow) -> float | None:
    if run.started_at is None or run.ended_at is None:
        return None
    return float((run.ended_at - run.started_at).total_seconds())


# scores and features


def _scores(rows: Sequence[Row]) -> list[Block]:
    blocks: list[Block] = []
    for name, of_output in _by(rows, "column_name").items():
        comparisons = _by(of_output, "comparison")
        # all series have the bins of training if the card describes the output
        shown = next(
            comparisons[each] for each in ("training", "previous_run", "now") if each in comparisons
        )
        before = {row["number"]: row["actual"] for row in comparisons.get("before", ())}
        series: dict[str, dict[str, float]] = {}
        for bin_name, number, expected, actual in _bins(shown):
            shares = {"now": actual}
            if "training" in comparisons:
                shares |= {"before": before.get(number, 0.0)} if before else {}
                shares |= {"training": expected}
            elif "previous_run" in comparisons:
                shares |= {"before": expected}
            if any(shares.values()) or bin_name != "other values":
                series[bin_name] = shares
        if not series:
            blocks.append(f"{name}: no entity has a value.")
            continue
        order = [
            each for each in ("training", "before", "now") if each in next(iter(series.values()))
        ]
        words = {"now": "now", "before": "before the last run", "training": "in training"}
        index = [
            f"{_index(comparisons[each][0]['psi'])} against {what}"
            for each, what in (("training", "training"), ("previous_run", "the run before"))
            if each in comparisons
        ]
        if index:
            blocks.append(f"{name}: the stability index is {' and '.join(index)}.")
        top = nice_top(max(max(shares.values()) for shares in series.values()))
        blocks.append(
            Chart(
                title=f"Distribution of {name}",
                rects=grouped(
                    [{_SERIES[each]: shares[each] for each in order} for shares in series.values()],
                    top=top,
                ),
                legend=[(_SERIES[each], words[each]) for each in order],
                top=f"{top:.0%}",
                labels=list(series) if len(series) <= 3 else [next(iter(series)), list(series)[-1]],
                is_labelled=len(series) <= 3,
                table=Table(
                    caption=f"Share of the predictions by {name}",
                    header=(name, *(words[each] for each in order)),
                    rows=[
                        (bin_name, *(_share(shares[each]) for each in order))
                        for bin_name, shares in series.items()
                    ],
                ),
            )
        )
    return blocks


def _features(rows: Sequence[Row]) -> list[Block]:
    found = sorted(
        _by(rows, "column_name").items(),
        key=lambda item: -1.0 if item[1][0]["psi"] is None else item[1][0]["psi"],
        reverse=True,
    )
    if not found:
        return []
    listed: list[tuple[str | Cell, ...]] = []
    shares_of: list[tuple[str | Cell, ...]] = []
    for position, (name, rows_of_feature) in enumerate(found[:_MOST_FEATURES]):
        row = rows_of_feature[0]
        if row["problem"] is not None:
            problem = row["problem"].replace("_", " ")
            listed.append((name or "all", NOTHING, problem, *[NOTHING] * 3))
            continue
        bins, index = _bins(rows_of_feature), row["psi"]
        shapes: tuple[Rect, ...] = ()
        if position < _MOST_SHAPES and bins:
            columns = [{"s0": expected, "s1": actual} for _, _, expected, actual in bins]
            shapes = tuple(grouped(columns, top=max(max(each.values()) for each in columns) or 1))
            shares_of += [(name, bin_name, _share(a), _share(b)) for bin_name, _, a, b in bins]
        listed.append(
            (
                name,
                Cell(_index(index), bar=_bar(index), css=_severity(index)),
                _in_words(index),
                f"{_share(row['expected_null_share'])} → {_share(row['null_share'])}",
                Cell("", shapes=shapes),
                _moved(bins),
            )
        )
    blocks: list[Block] = [
        _ABOUT_INDEX,
        Table(
            caption="Features, the most changed first; grey is training, blue is now",
            header=("feature", "index", "compared with training", "NULL", "shares", "moved most"),
            rows=listed,
        ),
    ]
    if shares_of:
        header = ("feature", "value", "in training", "now")
        caption = "Shares of the values of each feature"
        blocks.append(Table(caption=caption, header=header, rows=shares_of, is_folded=True))
    if len(found) > _MOST_FEATURES:
        blocks.append(f"{len(found) - _MOST_FEATURES:,} more features, with a smaller index.")
    return blocks


def _bins(rows: Iterable[Row]) -> list[tuple[str, int, float, float]]:
    """Return (bin, number, expected, actual) in order. Rare categories beyond the first ones are added up."""
    found = sorted(
        (
            (row["bin"], row["number"], row["expected"] or 0.0, row["actual"] or 0.0)
            for row in rows
            if row["bin"] is not None
        ),
        key=lambda item: item[1],
    )
    if len(found) <= _MOST_BINS:
        return found
    rest = found[_MOST_BINS - 1 :]
    others = ("other values", rest[0][1], sum(row[2] for row in rest), sum(row[3] for row in rest))
    return [*found[: _MOST_BINS - 1], others]


def _moved(bins: Sequence[tuple[str, int, float, float]]) -> str:
    if not bins:
        return NOTHING
    name, _, expected, actual = max(bins, key=lambda item: abs(item[3] - item[2]))
    return f"{name}: {_share(expected)} → {_share(actual)}"


def _bar(index: float | None) -> float | None:
    return None if index is None else min(index / (2 * DIFFERS_MUCH), 1.0)


def _severity(index: float | None) -> str:
    if index is None or index <= DIFFERS:
        return "good"
    return "fair" if index <= DIFFERS_MUCH else "bad"


def _in_words(index: float | None) -> str:
    if index is None:
        return "no values"
    return {"good": "as in training", "fair": "differs", "bad": "differs much"}[_severity(index)]


# freshness, tests, publications


def _freshness(model: ModelFacts) -> list[Block]:
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
    sentence = f"{_count(figures['stale'])} of {_count(figures['entities'])} entities are stale."
    if figures["oldest_age"] is not None:
        sentence += (
            f" Half of the predictions are at most {_age(figures['median_age'])} old, the oldest is "
            f"{_age(figures['oldest_age'])} old."
        )
    return [
        sentence,
        Table(
            caption="Ages of the predictions",
            header=("age", "entities", "share"),
            rows=[
                (name, Cell(_count(rows), bar=rows / total), _share(rows / total))
                for name, rows in named
                if rows
            ],
        ),
    ]


def _tests(model: ModelFacts) -> list[Block]:
    figures = model.health.figures
    if not figures:
        return []
    if figures["tested_at"] is None:
        return [
            _NOT_RECORDED,
        ]
    bad = {*figures["failing_tests"], *figures["warning_tests"]}
    if not bad:
        return [f"All recorded tests passed; the newest ran {_moment(figures['tested_at'])} UTC."]
    return [
        Table(
            caption="Tests that did not pass",
            header=("test", "result", "rows", "ran (UTC)", "message"),
            rows=[
                (
                    row["test_name"],
                    row["status"],
                    _count(row["failures"]),
                    _moment(row["executed_at"]) or NOTHING,
                    _text(row["message"]),
                )
                for row in sorted(model.tests, key=lambda row: str(row["test_name"]))
                if row["test_name"] in bad
            ],
        )
    ]


def _served(model: ModelFacts) -> list[Block]:
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
                    (place, version, Cell(_count(rows), bar=rows / total), _share(rows / total))
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
                        _moment(row["served_since"]) or NOTHING,
                        _moment(row["served_until"]) or "now",
                        _count(row["rows_published"]),
                    )
                    for row in list(model.publications)[: -_MOST_LISTED - 1 : -1]
                ],
            )
        )
    return blocks


# outcomes


def _outcomes(models: Sequence[DbtModel]) -> list[Block]:
    blocks: list[Block] = []
    for model in models:
        if (rows := _rows_of(model, {"model_name", "model_version", "month"}, blocks)) is None:
            continue
        metric, words = next(
            (pair for pair in _METRICS if pair[0] in rows[0]), ("rows", "Number of outcomes")
        )
        rows = sorted(rows, key=lambda row: (str(row["month"]), *_names(row)))
        months = sorted({str(row["month"]) for row in rows})
        lines, legend = [], []
        values = [row[metric] for row in rows if row[metric] is not None]
        top = 1.0 if metric == "auc" else nice_top(max(values, default=1.0))
        # an AUC of 0.5 is chance
        bottom = 0.5 if metric == "auc" and min(values, default=0.0) >= 0.5 else 0.0
        for number, (name, of_name) in enumerate(_by_names(rows).items()):
            if number == _MOST_LINES:
                break
            points = [
                (
                    (months.index(str(row["month"])) + 0.5) / len(months),
                    (float(row[metric]) - bottom) / (top - bottom),
                )
                for row in of_name
                if row[metric] is not None
            ]
            lines.append(line(points, f"s{number + 1}"))
            legend.append((f"s{number + 1}", name))
        figures = [column for column in _FIGURES if column in rows[0]]
        blocks.append(
            Chart(
                title=f"{words} by month and version ({model.name})",
                lines=lines,
                legend=legend,
                top=f"{top:g}",
                bottom=f"{bottom:g}",
                labels=[months[0][:7], months[-1][:7]] if len(months) > 1 else [months[0][:7]],
                table=Table(
                    caption=f"{model.name}: outcomes by month and version",
                    header=("month", "version", *(name.replace("_", " ") for name in figures)),
                    rows=[
                        (
                            str(row["month"])[:7],
                            _name_of(row),
                            *(_figure(row[name]) for name in figures),
                        )
                        for row in rows
                    ],
                ),
            )
        )
    return blocks


_METRICS = (
    ("auc", "AUC"),
    ("mean_absolute_error", "Mean absolute error"),
)
_FIGURES = (
    "rows", "positives", "auc", "log_loss", "brier_score", "mean_absolute_error", "root_mean_squared_error",
)  # fmt: skip


def _calibration(models: Sequence[DbtModel]) -> list[Block]:
    blocks: list[Block] = []
    needed = {"model_name", "model_version", "month", "bin", "rows", "positives", "mean_prediction"}
    for model in models:
        if (rows := _rows_of(model, needed, blocks)) is None:
            continue
        for number, (name, of_name) in enumerate(_by_names(rows).items()):
            if number == _MOST_LINES:
                break
            month = max(str(row["month"]) for row in of_name)
            newest = sorted(
                (r for r in of_name if str(r["month"]) == month and r["bin"] is not None),
                key=lambda row: row["bin"],
            )
            if not newest:
                continue
            points = [
                (float(row["mean_prediction"]), row["positives"] / row["rows"]) for row in newest
            ]
            ordered = sorted(
                of_name, key=lambda row: (str(row["month"]), row["bin"] or 0), reverse=True
            )
            blocks.append(
                Chart(
                    title=f"Calibration of {name}, {month[:7]}",
                    lines=[line([(0.0, 0.0), (1.0, 1.0)], "ideal"), line(points, "s1")],
                    legend=[("s1", "share that came true"), ("ideal", "as predicted")],
                    top="100%",
                    labels=["predicted 0%", "100%"],
                    size="square",
                    table=Table(
                        caption=f"Calibration of {name} by month, newest first",
                        header=("month", "predicted", "came true", "rows", "positives"),
                        rows=[
                            (
                                str(row["month"])[:7],
                                _share(row["mean_prediction"]),
                                _share(row["positives"] / row["rows"]),
                                _count(row["rows"]),
                                _count(row["positives"]),
                            )
                            for row in ordered
                        ],
                    ),
                )
            )
    return blocks


# champion and challenger


def _comparisons(models: Sequence[DbtModel]) -> list[Block]:
    blocks: list[Block] = []
    counts = ("paired_rows", "only_in_champion", "only_in_challenger")
    figures = (
        "agreement", "mean_difference", "mean_absolute_difference", "rank_correlation", "changed_decisions",
    )  # fmt: skip
    for model in models:
        rows = _rows_of(model, {"champion", "challenger", *counts, *figures}, blocks)
        if rows is None:
            continue
        blocks.append(
            Table(
                caption=f"{model.name}: champion against challenger",
                header=tuple(
                    name.replace("_", " ") for name in ("champion", "challenger", *counts, *figures)
                ),
                rows=[
                    (
                        row["champion"] or NOTHING,
                        row["challenger"] or NOTHING,
                        *(_count(row[name]) for name in counts),
                        *(_figure(row[name]) for name in figures),
                    )
                    for row in sorted(rows, key=lambda row: -row["paired_rows"])[:_MOST_LISTED]
                ],
            )
        )
    return blocks


def _movers(models: Sequence[DbtModel]) -> list[Block]:
    blocks: list[Block] = []
    needed = (
        "moment", "champion", "challenger", "champion_value", "challenger_value", "difference",
    )  # fmt: skip
    for model in models:
        if (rows := _rows_of(model, {*needed}, blocks)) is None:
            continue
        key = [
            name for name in rows[0] if name not in {*needed, "champion_as_of", "challenger_as_of"}
        ]
        largest = max(abs(row["difference"]) for row in rows) or 1.0
        blocks.append(
            Table(
                caption=f"{model.name}: the entities that the challenger moves most",
                header=(
                    ", ".join(key),
                    "moment",
                    "champion",
                    "challenger",
                    "from",
                    "to",
                    "difference",
                ),
                rows=[
                    (
                        ", ".join(_text(row[name]) for name in key),
                        _day(row["moment"]),
                        row["champion"],
                        row["challenger"],
                        _figure(row["champion_value"]),
                        _figure(row["challenger_value"]),
                        Cell(_figure(row["difference"]), bar=abs(row["difference"]) / largest),
                    )
                    for row in rows
                ],
            )
        )
    return blocks


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
                        _text(item.reason or None),
                    )
                    for item in promotions[: -_MOST_LISTED - 1 : -1]
                ],
            )
        )
    return blocks


def _rows_of(model: DbtModel, needed: set[str], blocks: list[Block]) -> Sequence[Row] | None:
    """Return the rows of a dbt model; None, and a sentence in `blocks`, if they cannot be shown."""
    if model.fault is not None:
        blocks.append(f"{model.name} could not be read: {shortened(model.fault, 500)}")
    elif not model.rows:
        blocks.append(f"{model.name} has no rows yet.")
    elif missing := sorted(needed - model.rows[0].keys()):
        blocks.append(f"{model.name} is not shown: it has no column {', '.join(missing)}.")
    else:
        return model.rows
    return None


def _names(row: Row) -> tuple[str, ...]:
    return str(row.get("scoring_model", "")), str(row["model_name"]), str(row["model_version"])


def _name_of(row: Row) -> str:
    scoring_model, name, version = _names(row)
    return f"{scoring_model} {name}/{version}".strip()


def _by_names(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[_name_of(row)].append(row)
    return dict(sorted(found.items()))


def _by(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[column]].append(row)
    return dict(found)


# texts


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1%}"


def _index(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _figure(value: float | None) -> str:
    """A count with thousands separators, any other number with four decimals, or two digits if it is tiny."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1e}" if 0 < abs(value) < 0.00005 else f"{value:,.4f}"


def _age(age: timedelta | float | None) -> str:
    return NOTHING if age is None else age_text(age)


def _moment(value: datetime | None) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}"


def _day(value: datetime | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:%Y-%m-%d %H:%M}".removesuffix(" 00:00")


def _text(value: object) -> str:
    return NOTHING if value is None else shortened(" ".join(str(value).split()), 300)
