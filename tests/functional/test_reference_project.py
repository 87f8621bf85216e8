"""The reference project from end to end: real purchases, real models, repeated `dbt build`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "artifacts", "macros", "models", "python_models", "scripts", "seeds", "tests/dbt",
    "dbt_project.yml", "profiles.yml",
)  # fmt: skip
CUSTOMERS = 23_570
SCORING_MODELS = ("churn_challenger_predictions", "churn_predictions", "spend_predictions")


class Reference:
    """A copy of the reference project, with an editable registry and a warehouse of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.warehouse = root / "warehouse" / "demo.duckdb"
        self.warehouse.parent.mkdir()
        for part in PARTS:
            source = ROOT / part
            copy = shutil.copytree if source.is_dir() else shutil.copy
            (root / part).parent.mkdir(parents=True, exist_ok=True)
            copy(source, root / part)

    def command(self, *arguments: str) -> str:
        """Run a command in a separate process, with the Makefile's environment. Returns its output."""
        environment = {
            **os.environ,
            "DBT_ONNX_WAREHOUSE": str(self.warehouse),
            "DBT_PROFILES_DIR": str(self.root),
            "DO_NOT_TRACK": "1",
        }
        done = subprocess.run(
            arguments, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def build(self, *selection: str, as_of: str = "1998-04-01") -> str:
        dbt = str(Path(sys.executable).with_name("dbt"))
        variables = f'{{dbt_onnx_clock: "{as_of}"}}'
        return self.command(dbt, "build", *selection, "--vars", variables)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            return connection.execute(query).fetchall()

    def cli(self, *arguments: str) -> str:
        return self.command(str(Path(sys.executable).with_name("dbt-onnx")), *arguments)

    def invocation_id(self) -> str:
        import json

        results = json.loads((self.root / "target" / "run_results.json").read_text())
        return str(results["metadata"]["invocation_id"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("reference"))


def test_the_first_build_scores_every_customer_with_both_models(reference: Reference) -> None:
    printed = reference.build()
    assert "WARN=0 ERROR=0 SKIP=0" in printed
    for ledger in SCORING_MODELS:
        assert reference.sql(
            f"select count(*), count(distinct customer_id), count(distinct run_id), "
            f"min(score_reason), max(score_reason), min(status), max(status) from {ledger}"
        ) == [(CUSTOMERS, CUSTOMERS, 1, "new", "new", "scored", "scored")]
    run_id = reference.invocation_id()
    assert reference.sql("select distinct run_id from churn_predictions") == [(run_id,)]
    assert reference.sql("select scoring_model, run_id from dbt_onnx_runs order by 1") == [
        (name, run_id) for name in SCORING_MODELS
    ]


def test_the_same_day_again_scores_nothing_and_says_so(reference: Reference) -> None:
    first = reference.invocation_id()
    printed = reference.build()
    assert "churn/2: scored 0, unchanged 23,570" in printed
    assert "spend/1: scored 0, unchanged 23,570" in printed
    second = reference.invocation_id()
    assert second != first
    assert reference.sql("select count(*) from churn_predictions") == [(CUSTOMERS,)]
    assert reference.sql("select count(*) from spend_predictions") == [(CUSTOMERS,)]
    assert reference.sql(
        "select run_id, count(*), sum(rows_unchanged) from dbt_onnx_runs "
        "group by run_id order by min(started_at)"
    ) == [
        (first, 3, 0),
        (second, 3, 3 * CUSTOMERS),
    ]
    report = reference.command(sys.executable, "scripts/report.py")
    assert "Nothing was scored" in report


def test_champion_and_challenger_are_compared_on_every_customer(reference: Reference) -> None:
    columns = "champion, challenger, paired_rows, only_in_champion, only_in_challenger"
    assert reference.sql(f"select {columns} from churn_comparison") == [
        ("churn/2", "churn/1", CUSTOMERS, 0, 0)
    ]
    [(correlation, changed)] = reference.sql(
        "select rank_correlation, changed_decisions from churn_comparison"
    )
    assert 0.5 < correlation < 1
    assert 0 < changed < 0.2
    # fewer than 90 days have passed
    assert reference.sql("select * from churn_outcomes") == []


def test_the_view_follows_a_promotion_and_a_rollback_that_scores_nothing(
    reference: Reference,
) -> None:
    served = "select model_version, served_from, count(*) from churn_current group by all"
    registry = (reference.root / "seeds" / "model_registry.csv").read_text()
    printed = reference.cli("promote", "churn/1")
    assert "main.customer_features, 23,570 rows" in printed
    assert "FAILED" not in printed
    assert "churn/1 is champion; churn/2 was, and is challenger now" in printed
    assert "churn/1: scored 23,570 (model_changed 23,570), unchanged 0" in reference.build(
        "--select", "model_registry+"
    )
    assert reference.sql(served) == [("1", "serving_version", CUSTOMERS)]
    runs = "select count(*) from dbt_onnx_runs where scoring_model = 'churn_predictions'"
    before = reference.sql(runs)

    assert "churn/2 is champion; churn/1 was" in reference.cli("rollback", "churn")
    assert (reference.root / "seeds" / "model_registry.csv").read_text() == registry
    reference.build("--select", "model_registry", "model_promotions", "churn_current")
    assert reference.sql(served) == [("2", "serving_version", CUSTOMERS)]
    assert reference.sql(runs) == before
    assert reference.sql(
        "select model_version, replaced_version, action, gate, "
        "promoted_at > lag(promoted_at, 1, timestamp '2000-01-01') over (order by promoted_at) "
        "from model_promotions order by promoted_at"
    ) == [("1", "2", "promote", "passed", True), ("2", "1", "rollback", "not_run", True)]

    assert "churn/2: scored 0, unchanged 23,570" in reference.build("--select", "churn_predictions")
    assert reference.sql(
        "select model_version, score_reason, count(*) from churn_predictions group by all order by 1"
    ) == [("1", "model_changed", CUSTOMERS), ("2", "new", CUSTOMERS)]


def test_another_day_scores_who_changed_and_confirms_the_rest(reference: Reference) -> None:
    printed = reference.build(as_of="1998-04-02")
    counts = re.search(r"churn/2: scored ([\d,]+) \(.*\), unchanged ([\d,]+)", printed)
    assert counts is not None
    scored, unchanged = (int(text.replace(",", "")) for text in counts.groups())
    assert scored + unchanged == CUSTOMERS
    assert 0.10 < scored / CUSTOMERS < 0.18  # about a seventh
    oldest = reference.sql("select max(age), bool_or(is_stale) from churn_current")
    assert [(str(age), stale) for age, stale in oldest] == [("0:00:00", False)]


def test_the_build_decides_how_each_ai_feature_is_served(reference: Reference) -> None:
    assert reference.sql("select feature, pattern, hybrid is not null from serving_decisions") == [
        ("nightly_report", "batch", False),
        ("churn_score", "batch", False),
        ("lead_scoring", "batch", False),
        ("inventory_hints", "batch", False),
        ("homepage", "batch", False),
        ("session_recommendation", "real_time", True),
        ("fraud_check", "real_time", True),
        ("user_risk_score", "batch", False),
        ("free_text_search", "real_time", True),
        ("document_processing", "asynchronous", False),
    ]


def test_a_broken_rule_is_red_and_decides_nothing(reference: Reference) -> None:
    decisions = reference.sql("from serving_decisions")
    model = reference.root / "models" / "decisions" / "serving_decisions.sql"
    rules = model.read_text()
    model.write_text(rules.replace("model_p99_ms >=", "model_p99_ms >"))
    try:
        # two unit tests fail; dbt skips the rest after whichever fails first
        with pytest.raises(AssertionError, match=r"FAIL 1 serving_decisions::"):
            reference.build("--select", "serving_decisions")
    finally:
        model.write_text(rules)
    assert reference.sql("from serving_decisions") == decisions


def test_ninety_days_later_the_outcomes_are_those_that_the_cards_were_judged_by(
    tmp_path: Path,
) -> None:
    import json

    reference = Reference(tmp_path)
    churn = ("churn_predictions", "churn_challenger_predictions")
    alone = ("--exclude-resource-type", "test")
    reference.build("-s", *(f"+{name}" for name in churn), *alone, as_of="1998-01-01")
    reference.build("-s", "churned_customers+", *alone, as_of="1998-04-01")
    judged = reference.sql(
        "select scoring_model, model_version, month, rows, auc, log_loss, brier_score "
        "from churn_outcomes"
    )
    assert len(judged) == 2
    for scoring_model, version, month, rows, *figures in judged:
        assert version == ("2" if scoring_model == "churn_predictions" else "1")
        assert (month.isoformat(), rows) == ("1998-01-01", CUSTOMERS)
        card = json.loads((ROOT / "artifacts" / "churn" / version / "card.json").read_text())
        expected = card["training"]["metrics"]
        # scikit-learn's figures on the customers of that day, to four digits
        assert figures == pytest.approx(
            [expected[name] for name in ("auc", "log_loss", "brier_score")], abs=6e-5
        )


def test_nights_of_1997_report_new_customers_before_the_run_and_score_them(
    tmp_path: Path,
) -> None:
    reference = Reference(tmp_path)
    printed = reference.command(
        sys.executable, "scripts/nightly.py", "--from", "1997-01-15", "--days", "3"
    )
    nights = printed.strip().splitlines()
    assert len(nights) == 3
    entities = [
        row[0]
        for day in ("1997-01-15", "1997-01-16", "1997-01-17")
        for row in reference.sql(
            f"select count(distinct customer_id) from purchases where purchased_on <= '{day}'"
        )
    ]
    for night, total, before in zip(nights, entities, [0, *entities], strict=False):
        assert f"entities {total:>6,}" in night
        assert f"missing before {total - before:>6,}" in night
        assert f"new {total - before:,}" in night
        assert night.endswith("stale 0  missing 0")
