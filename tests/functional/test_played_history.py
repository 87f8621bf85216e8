"""Twelve questions about ten played months: each answer in docs/questions.md is compared with the purchases."""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pytest
from played_history import (
    FEATURES,
    documented_answers,
    features,
    has_churned,
    history,
    probabilities,
    table_in,
)
from scipy.stats import spearmanr
from sklearn.metrics import brier_score_loss, roc_auc_score
from tampering import KINDS, Tamperer

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.replaying import replay_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from played_history import History

    from dbt_onnx.runs.replay import Replay

__all__ = ["history"]
HER = "00042"
CUSTOMERS = 23_570
# in the order in which they were played: day, version in charge, reason
RUNS = (
    ("1997-06-01", "1", "new"),
    ("1997-07-01", "1", "features_changed"),
    ("1997-08-01", "1", "features_changed"),
    ("1997-10-01", "1", "features_changed"),
    ("1997-11-01", "1", "features_changed"),
    ("1997-12-01", "1", "features_changed"),
    ("1998-01-01", "1", "features_changed"),
    ("1998-01-15", "2", "model_changed"),
    ("1998-02-01", "2", "features_changed"),
    ("1998-02-03", "2", "features_changed"),
    ("1998-02-11", "1", "features_changed"),
    ("1998-03-01", "1", "features_changed"),
    ("1997-09-01", "1", "features_changed"),
    ("1998-04-01", "1", "features_changed"),
)
BACKFILLED = "1997-09-01"
FOUND_AS = {
    "bit of the artifact": {"artifact"},
    # a key or an input hash is compared with the inputs, any other value with the run's fingerprint
    "value of the ledger": {"ledger", "inputs"},
    "kept input": {"inputs"},
}
TAMPERINGS = int(os.environ.get("DBT_ONNX_TAMPERINGS", "12"))


def what_it_said(history: History, answer: str) -> None:
    [row] = history.sql(answer)
    assert row == {
        "model_version": "2",
        "churn_probability": pytest.approx(probabilities("2", "1998-02-03")[HER], abs=1e-7),
    }


def all_it_said(history: History, answer: str) -> None:
    said, _, published = history.command(answer).partition("\nserved")
    rows, served = table_in(said), table_in(published)
    # one publication after another; the last one is served until now
    assert [row[3] for row in served] == [*(row[2] for row in served[1:]), "now"]
    hers = [run for run in RUNS if run[0] != "1998-02-03"]
    # the run of 1998-02-03, in which none of her features had changed
    assert inputs_that_changed(("1998-02-01", "2"), ("1998-02-03", "2")) == ""
    assert len(rows) == len(hers) == 13
    run_ids = history.run_ids()
    for number, (day, version, reason) in enumerate(hers):
        probability = probabilities(version, day)[HER]
        # the run before in as_of order; the backfill of September ran after the run about October
        before = max((run[:2] for run in hers[:number] if run[0] < day), default=None)
        _, about, model, run, label, said, why, changed = rows[number]
        assert (about, model, run) == (day, f"churn/{version}", run_ids[day][:8])
        assert (label, float(said)) == (
            str(int(probability > 0.5)),
            pytest.approx(probability, abs=1e-6),
        )
        assert why == reason + (", late" if day == BACKFILLED else "")
        assert changed == ("" if before is None else inputs_that_changed(before, (day, version)))


def inputs_that_changed(before: tuple[str, str], after: tuple[str, str]) -> str:
    """Return the changes that `history` shows for her between two (day, version), for inputs that
    both versions read.
    """
    then, now = features(before[0]).loc[HER], features(after[0]).loc[HER]
    return ", ".join(
        f"{name} {then[name]:g} > {now[name]:g}"
        for name in FEATURES[after[1]]
        if name in FEATURES[before[1]] and then[name] != now[name]
    )


def the_input(history: History, answer: str) -> None:
    [row] = history.sql(answer)
    [run] = history.sql(f"select run_id from dbt_onnx_runs where run_no = {row.pop('run_no')}")
    assert (run["run_id"], row.pop("customer_id")) == (history.run_ids()["1998-02-01"], HER)
    expected = features("1998-02-01").loc[HER]
    assert {name: float(value) for name, value in row.items()} == {
        name: expected[name] for name in FEATURES["2"]
    }


def the_same_again(history: History, answer: str) -> None:
    replayed = re.findall(
        r"^(\S+)  churn/(\d)  rows ([\d,]+)  identical ([\d,]+)  within tolerance 0  different 0  ok$",
        history.command(answer),
        flags=re.MULTILINE,
    )
    run_ids = history.run_ids()
    assert replayed == [
        (run_ids[day], version, f"{scored(day):,}", f"{scored(day):,}")
        for day, version, _ in reversed(RUNS)
    ]


def scored(day: str) -> int:
    """Return the number of scored rows: all customers, except in the run two days after another."""
    if day != "1998-02-03":
        return CUSTOMERS
    before, after = features("1998-02-01"), features(day)
    return int((before != after).any(axis=1).sum())


def the_runs(history: History, answer: str) -> None:
    run_ids = history.run_ids()
    got = [[row[i] for i in (0, 3, 4, 5, 6, 8, 9, 11)] for row in table_in(history.command(answer))]
    assert got == [
        [
            run_ids[day][:8],
            day,
            "success",
            "backfill" if day == BACKFILLED else "full",
            f"churn/{version}",
            f"{scored(day):,}",
            f"{reason} {scored(day):,}",
            f"{CUSTOMERS - scored(day):,}",
        ]
        for day, version, reason in reversed(RUNS)
    ]


def what_changed(history: History, answer: str) -> None:
    moments = []
    for day in ("1998-01-15", "1998-02-01", "1998-02-03"):
        pair = pd.DataFrame({v: probabilities(v, day) for v in ("2", "1")})
        if day == "1998-02-03":
            changed = (features("1998-02-01") != features(day)).any(axis=1)
            pair = pair[changed]
        moments.append(pair)
    pairs = pd.concat(moments)
    [row] = history.sql(answer)
    assert row == {
        "paired_rows": len(pairs),
        "mean_difference": pytest.approx((pairs["1"] - pairs["2"]).mean(), abs=1e-7),
        "rank_correlation": pytest.approx(
            spearmanr(pairs["2"], pairs["1"]).statistic, abs=1e-6
        ),
        "changed_decisions": pytest.approx(
            ((pairs["2"] >= 0.5) != (pairs["1"] >= 0.5)).mean(), abs=1e-12
        ),
    }  # fmt: skip


def who_promoted(history: History, answer: str) -> None:
    rows = history.sql(answer)
    with (history.folder / "seeds" / "model_promotions.csv").open(newline="") as stream:
        written = [datetime.fromisoformat(line["promoted_at"]) for line in csv.DictReader(stream)]
    assert [row.pop("promoted_at").replace(tzinfo=UTC) for row in rows] == written
    assert [tuple(row.values()) for row in rows] == [
        ("promote", "2", "1", "passed", None),
        ("rollback", "1", "2", "not_run", "complaints about offers to loyal customers"),
    ]


def the_rollback(history: History, answer: str) -> None:
    assert history.sql(answer) == [{"rows_scored": 0}]
    [_, rolled_back] = history.sql("select promoted_at from model_promotions order by promoted_at")
    [first] = history.sql(
        "select min_by(clock, started_at) as clock from dbt_onnx_runs "
        f"where started_at > '{rolled_back['promoted_at']}'"
    )
    assert str(first["clock"].date()) == "1998-02-11"


def the_holes(history: History, answer: str) -> None:
    runs_before = history.sql("select count(*) as runs from dbt_onnx_runs")
    printed = history.command(answer)
    months = [str(day.date()) for day in pd.date_range("1997-06-01", "1998-04-01", freq="MS")]
    assert "11 slices from 1997-06-01 to 1998-04-01, 11 done before, 0 to run" in printed
    assert [row[:2] for row in table_in(printed)] == [[month, "done"] for month in months]
    assert history.sql("select count(*) as runs from dbt_onnx_runs") == runs_before


def before_the_backfill(history: History, answer: str) -> None:
    assert history.sql(answer) == [{"rows_said": 0}]
    [said] = history.sql(
        f"select count(*) as rows, count(distinct customer_id) as customers, "
        f"bool_and(is_late) as late from churn_predictions where as_of = '{BACKFILLED}'"
    )
    assert said == {"rows": CUSTOMERS, "customers": CUSTOMERS, "late": True}


def how_good(history: History, answer: str) -> None:
    """On 1998-04-01 the outcomes within 90 days were known for the months up to January."""
    months = [str(day.date()) for day in pd.date_range("1997-06-01", "1998-01-01", freq="MS")]
    # only the champion's gap was backfilled: of the challenger, August's prediction was in force in September
    expected = [
        judged(version, month, "1997-08-01" if (version, month) == ("2", BACKFILLED) else month)
        for month in months
        for version in ("1", "2")
    ]
    assert history.sql(answer) == expected


def judged(version: str, month: str, said_about: str) -> dict[str, Any]:
    truth, said = has_churned(month), probabilities(version, said_about)
    assert truth.index.equals(said.index)
    return {
        "model_version": version,
        "month": date.fromisoformat(month),
        "auc": pytest.approx(roc_auc_score(truth, said), abs=1e-9),
        "brier_score": pytest.approx(brier_score_loss(truth, said), abs=1e-9),
    }


def the_status(history: History, answer: str) -> None:
    printed = history.command(answer)
    assert printed.splitlines()[0].startswith("predictions at 1998-04-01 00:00 UTC")
    assert printed.splitlines()[-1] == "healthy"
    served = {row[0]: row[1:8] for row in table_in(printed)}
    everybody = f"{CUSTOMERS:,}"
    assert served == {
        "churn_predictions": ["churn/1", "healthy", everybody, everybody, "0", "0", "0"],
        "churn_challenger_predictions": ["churn/2", "healthy", everybody, everybody, "0", "0", "0"],
        "spend_predictions": ["spend/1", "healthy", everybody, everybody, "0", "0", "0"],
    }
    current = history.sql("select customer_id, churn_probability from churn_current")
    now = probabilities("1", "1998-04-01")
    assert {row["customer_id"]: row["churn_probability"] for row in current} == pytest.approx(
        now.to_dict(), abs=1e-7
    )


# how a question in docs/questions.md begins -> the function that checks its answer
QUESTIONS: dict[str, Callable[[History, str], None]] = {
    "What did the model say about": what_it_said,
    "What did it ever say": all_it_said,
    "On what input": the_input,
    "Would it say the same again": the_same_again,
    "Which runs were there": the_runs,
    "What did it change": what_changed,
    "Who put it in charge": who_promoted,
    "What did the rollback score": the_rollback,
    "Is any month still missing": the_holes,
    "What had it said about": before_the_backfill,
    "How good was each version": how_good,
    "Who is served what": the_status,
}


def test_the_readme_asks_twelve_questions() -> None:
    asked = documented_answers()
    assert len(asked) == 12
    assert [
        [question for question in asked if question.startswith(begin)] for begin in QUESTIONS
    ] == [[question] for question in asked]


@pytest.mark.parametrize("begin", QUESTIONS)
def test_the_answer_is_true(begin: str, history: History) -> None:
    [answer] = [answer for asked, answer in documented_answers().items() if asked.startswith(begin)]
    QUESTIONS[begin](history, answer)


def test_any_tampering_with_any_run_is_found(history: History, tmp_path: Path) -> None:
    """Change one bit, one value or one input at a time; after each is undone, every run replays as before."""
    copy = tmp_path / "history.duckdb"
    shutil.copy(history.warehouse, copy)
    artifacts = shutil.copytree(history.folder / "artifacts", tmp_path / "artifacts")
    registry = Registry.from_csv(history.folder / "seeds" / "model_registry.csv")
    ledger = TableName(database="history", schema="main", identifier="churn_predictions")
    missed, found = [], 0
    with duckdb.connect(str(copy)) as connection:

        def replay(run_id: str) -> Replay:
            return replay_run(connection, ledger, run_id, registry=registry, artifacts=artifacts)

        chance = random.Random(1998)
        tamperer = Tamperer(connection, artifacts, ledger.identifier, chance)
        for number in range(TAMPERINGS):
            with tamperer.tamper(KINDS[number % len(KINDS)]) as tampering:
                result = replay(tampering.run_id)
            problems = {finding.problem for finding in result.findings}
            if result.passed or not problems & FOUND_AS[tampering.kind]:
                missed.append((tampering, result))
            found += not result.passed
        assert missed == []
        assert found == TAMPERINGS
        for run_id in history.run_ids().values():
            again = replay(run_id)
            assert (again.findings, again.identical) == ([], again.rows_kept)
