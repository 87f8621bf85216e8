"""The figures do not depend on a profile's settings: order, NULL order, division, collation, zone, calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from consumer import Project
from drift import index_of_column, reference_rows, write_references
from hand_written import CLOCK, HandWritten, generic_test, prediction, run, sources
from hardening import SETTINGS, UNLOCKED
from scipy.stats import spearmanr
from sklearn.metrics import brier_score_loss, roc_auc_score
from warehouse import Warehouse

from dbt_onnx.authoring.distributions import describe
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.history import read_history

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 1_200
NOW = datetime.fromisoformat(CLOCK)
OTHERS = {
    **{name: value for name, value in SETTINGS.items() if not name.startswith("arrow")},
    "TimeZone": "Pacific/Kiritimati",
    "Calendar": "buddhist",
    "error_on_division_by_zero": "true",
}
GIVEN = {
    "champion": "source('hand', 'scores')", "challenger": "source('hand', 'others')", "key": ["customer_id"],
    "column": "'churn'",
}  # fmt: skip


def call(macro: str, **arguments: Any) -> str:
    listed = ", ".join(f"{name}={value}" for name, value in arguments.items())
    return f"{{{{ config(materialized='table') }}}} {{{{ dbt_onnx.{macro}({listed}) }}}}"


def data() -> dict[str, Any]:
    random = np.random.default_rng(14)
    churn = random.beta(2, 5, ROWS)
    amount = np.round(random.lognormal(3, 1, ROWS), 2)
    return {
        "churn": churn,
        # ties, and one value in four changed
        "other": np.where(random.random(ROWS) < 0.25, random.random(ROWS), churn).round(2),
        "happened": (random.random(ROWS) < churn).astype(int),
        "trained": amount,
        "amount": [None if n % 50 == 0 else v for n, v in enumerate((amount * 1.3).tolist())],
        "city": random.choice(["Rome", "rome", "Zürich", "Zurich"], ROWS, p=[0.4, 0.3, 0.2, 0.1]),
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("settings"), profile={"settings": OTHERS})
    given = data()
    hand = HandWritten(project.warehouse)
    hand.connection.execute("alter table dbt_onnx_runs add column clock timestamp")
    hand.connection.execute("alter table dbt_onnx_runs add column error varchar")
    hand.connection.begin()
    hand.registry("registry", ("1", None), ("2", "champion"))
    keys = [f"c{n}" for n in range(ROWS)]
    for name, values in (("scores", given["churn"]), ("others", given["other"])):
        rows = [prediction(k, churn=float(v)) for k, v in zip(keys, values, strict=True)]
        hand.scoring_model(name, rows, [run("2")])
    texts = [prediction(f"t{n}", label=city) for n, city in enumerate(given["city"])]
    hand.scoring_model("labels", texts, [run("2")], outputs={"label": "varchar"})
    hand.scoring_model(
        "now", [prediction("a", as_of=datetime.now(UTC).replace(tzinfo=None))], [run("2")]
    )
    outcomes = [
        (k, int(y), NOW + timedelta(hours=1), NOW)
        for k, y in zip(keys, given["happened"], strict=True)
    ]
    types = {
        "customer_id": "varchar",
        "happened": "integer",
        "known_at": "timestamp",
        "about": "timestamp",
    }
    hand.table("outcomes", types, outcomes)
    described = {
        "amount": describe(pa.array(given["trained"])),
        "city": describe(pa.array(["Rome", "rome", "Zürich", "Zurich"] * 250)),
    }
    write_references(hand, reference_rows("scores", features=described))
    hand.connection.register("given", pa.table({n: pa.array(given[n]) for n in ("amount", "city")}))
    hand.connection.execute("create table features as select * from given")
    hand.connection.commit()
    hand.close()
    arguments = {"features": "source('hand', 'features')", "warn_psi": 1e-9, "error_psi": None}
    arguments["max_null_increase"] = 0.001
    labels = [
        generic_test("predictions_match_baseline", "share", column="label", max_label_share=0.001)
    ]
    project.write_yaml(
        "models/hand.yml",
        sources(
            **dict.fromkeys(("registry", "others", "outcomes", "features", "now")),
            scores=[generic_test("features_match_training", "drift", **arguments)],
            labels=labels,
        ),
    )
    judged = {
        "predictions": GIVEN["champion"], "outcomes": "source('hand', 'outcomes')", "key": GIVEN["key"],
        "column": GIVEN["column"], "outcome": "'happened'", "known_at": "'known_at'", "as_of": "'about'",
    }  # fmt: skip
    health = {
        "predictions": GIVEN["champion"],
        "registry": "source('hand', 'registry')",
        "key": GIVEN["key"],
    }
    for name, text in {
        "judged": call("prediction_outcomes", **judged, made_at="'as_of'"),
        "compared": call("compare_predictions", **GIVEN, threshold=0.5),
        "movers": call("prediction_movers", **GIVEN, limit=7),
        "health": call("prediction_health", **health),
    }.items():
        project.write(f"models/{name}.sql", text)
    project.write(
        "models/served_now.sql",
        call("current_predictions", **{**health, "predictions": "source('hand', 'now')"}),
    )
    later = str(NOW + timedelta(days=1))
    project.dbt("build", "--exclude", "served_now", vars={"dbt_onnx_clock": later})
    assert project.outcome.nodes["health"].status == "success", project.outcome.nodes[
        "health"
    ].message
    project.tested = project.outcome  # type: ignore[attr-defined]
    project.dbt("run", "-s", "served_now")
    return project


def test_outcomes_are_those_of_scikit_learn(project: Project) -> None:
    given = data()
    [row] = project.rows("from judged")
    assert (row["rows"], row["positives"]) == (ROWS, given["happened"].sum())
    assert row["auc"] == pytest.approx(roc_auc_score(given["happened"], given["churn"]), abs=1e-12)
    assert row["brier_score"] == pytest.approx(brier_score_loss(given["happened"], given["churn"]))


def test_the_comparison_is_that_of_scipy(project: Project) -> None:
    given = data()
    [row] = project.rows("from compared")
    differences = given["other"] - given["churn"]
    assert row["rank_correlation"] == pytest.approx(
        spearmanr(given["churn"], given["other"])[0], abs=1e-12
    )
    assert row["mean_difference"] == pytest.approx(differences.mean())
    changed = ((given["churn"] >= 0.5) != (given["other"] >= 0.5)).mean()
    assert row["changed_decisions"] == pytest.approx(changed)
    moved = {row["difference"] for row in project.rows("from movers")}
    assert moved == set(sorted(differences, key=abs)[-7:])


def test_drift_is_that_of_numpy(project: Project) -> None:
    given = data()
    described = describe(pa.array(given["trained"]))
    values = np.array([np.nan if v is None else v for v in given["amount"]])
    cities = describe(pa.array(["Rome", "rome", "Zürich", "Zurich"] * 250))
    project.outcome = project.tested  # type: ignore[attr-defined]
    found = {
        (row["column_name"], row["problem"]): row["figure"] for row in project.failures("drift")
    }
    assert found == {
        ("amount", "psi"): pytest.approx(index_of_column(values, described), abs=1e-9),
        ("amount", "nulls"): pytest.approx(0.02),
        ("city", "psi"): pytest.approx(index_of_column(list(given["city"]), cities), abs=1e-9),
    }
    shares = {
        row["actual"].split(":")[0]
        for row in project.failures("share")
        if row["problem"] == "label_share"
    }
    assert shares == {"Rome", "rome", "Zürich", "Zurich"}


def test_shares_are_no_whole_numbers_and_the_clock_is_of_our_calendar(project: Project) -> None:
    [row] = project.rows("from health")
    assert row["served_from_shares"] == {"serving_version": 1.0}
    assert (row["entities"], row["current"]) == (ROWS, ROWS)
    [row] = project.rows("from served_now")
    assert row["age"] < timedelta(minutes=10), row
    assert not row["is_stale"]


def test_history_is_in_the_order_in_which_it_was_said(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, config=UNLOCKED)
    warehouse.sql("set global default_order = 'desc'")
    warehouse.sql("set global default_null_order = 'nulls_first'")
    warehouse.register("1")
    for day, a in enumerate((1.0, 2.0, 3.0), start=10):
        warehouse.clock = f"2024-01-{day} 00:00:00"
        warehouse.features((1, a, 0.0))
        warehouse.run()
    said = read_history(
        warehouse.connection, TableName(database="w", schema="main", identifier="scores"), ["1"]
    )
    assert [row.outputs["y"] for row in said] == [2.5, 4.5, 6.5]
    assert said[2].changed_inputs == {"a": (2.0, 3.0)}
