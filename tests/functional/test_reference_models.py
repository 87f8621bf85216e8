"""The committed models predict what scikit-learn predicts, for every customer of the demo's day."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from training.snapshots import PROJECT, Snapshot, read_snapshots
from training.train import JUDGED_ON, RECIPES, TRAINED_ON, Recipe, fit, rows_of, train

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.artifacts.verification import verify_registry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DAY = date(1998, 4, 1)
CUSTOMERS = 23_570
ARTIFACTS = PROJECT / "artifacts"
REGISTRY = PROJECT / "seeds" / "model_registry.csv"


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Mapping[date, Snapshot]:
    return read_snapshots((*TRAINED_ON, JUDGED_ON, DAY), folder=tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def retrained(snapshots: Mapping[date, Snapshot], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with newly trained artifacts and their model_registry.csv."""
    folder = tmp_path_factory.mktemp("retrained")
    train(snapshots, artifacts=folder / "artifacts", registry=folder / "model_registry.csv")
    return folder


def run_onnx(path: Path, rows: np.ndarray) -> dict[str, Any]:
    """Return {output: values} from onnxruntime alone."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"features": rows.astype(np.float32)}), strict=True))


def recipe_of(name: str, version: str) -> Recipe:
    return next(item for item in RECIPES if (item.name, item.version) == (name, version))


@pytest.mark.parametrize("version", ["1", "2"])
def test_churn_probabilities_are_those_of_scikit_learn(
    version: str, snapshots: Mapping[date, Snapshot]
) -> None:
    recipe = recipe_of("churn", version)
    rows = rows_of(snapshots[DAY].features, recipe.features)
    estimator = fit(recipe, snapshots)
    outputs = run_onnx(ARTIFACTS / "churn" / version / "model.onnx", rows)
    truth = estimator.predict_proba(rows)
    assert outputs["probabilities"].shape == (CUSTOMERS, 2)
    assert np.abs(outputs["probabilities"] - truth).max() <= 1e-5
    assert (outputs["label"] == estimator.predict(rows)).all()
    # the predictions must vary, or the comparison would prove nothing
    assert np.ptp(truth[:, 1]) > 0.5


def test_expected_spend_is_that_of_scikit_learn(snapshots: Mapping[date, Snapshot]) -> None:
    recipe = recipe_of("spend", "1")
    rows = rows_of(snapshots[DAY].features, recipe.features)
    truth = fit(recipe, snapshots).predict(rows)
    predicted = run_onnx(ARTIFACTS / "spend" / "1" / "model.onnx", rows)["variable"].reshape(-1)
    assert predicted.shape == (CUSTOMERS,)
    assert (np.abs(predicted - truth) / np.abs(truth)).max() <= 1e-4
    assert np.ptp(truth) > 50


def test_training_again_gives_the_same_predictions(
    snapshots: Mapping[date, Snapshot], retrained: Path
) -> None:
    for recipe in RECIPES:
        rows = rows_of(snapshots[DAY].features, recipe.features)
        artifact = f"{recipe.name}/{recipe.version}/model.onnx"
        committed = run_onnx(ARTIFACTS / artifact, rows)
        again = run_onnx(retrained / "artifacts" / artifact, rows)
        for output, values in committed.items():
            np.testing.assert_allclose(again[output], values, rtol=1e-6, atol=1e-6)


def test_training_again_registers_the_same_versions_and_aliases(retrained: Path) -> None:
    def rows(path: Path) -> list[tuple[str, str, str | None, str]]:
        entries = Registry.from_csv(path).entries
        return [(e.model_name, e.model_version, e.alias, e.artifact) for e in entries]

    assert rows(retrained / "model_registry.csv") == rows(REGISTRY)
    assert rows(REGISTRY) == [
        ("churn", "1", "challenger", "churn/1/model.onnx"),
        ("churn", "2", "champion", "churn/2/model.onnx"),
        ("spend", "1", "champion", "spend/1/model.onnx"),
    ]


def test_every_registered_artifact_verifies_on_its_sample() -> None:
    verdicts = verify_registry(ARTIFACTS, Registry.from_csv(REGISTRY))
    assert [(v.fault, v.sample_rows) for v in verdicts] == [(None, 64)] * 3


@pytest.mark.parametrize(
    ("artifact", "metric", "at_least", "at_most"),
    [
        ("churn/1", "auc", 0.80, 0.82),
        ("churn/2", "auc", 0.80, 0.82),
        ("churn/2", "brier_score", 0.09, 0.11),
        ("spend/1", "root_mean_squared_error", 30, 40),
    ],
)
def test_the_card_says_how_good_the_model_is_on_days_it_has_not_seen(
    artifact: str, metric: str, at_least: float, at_most: float, retrained: Path
) -> None:
    committed = json.loads((ARTIFACTS / artifact / "card.json").read_text())["training"]
    again = json.loads((retrained / "artifacts" / artifact / "card.json").read_text())["training"]
    assert committed["trained_on"] == {"1997-07-01": CUSTOMERS, "1997-10-01": CUSTOMERS}
    assert committed["judged_on"] == {"1998-01-01": CUSTOMERS}
    assert at_least < committed["metrics"][metric] < at_most
    assert again["metrics"][metric] == pytest.approx(committed["metrics"][metric], abs=1e-3)
    assert set(committed["library_versions"]) >= {"scikit-learn", "skl2onnx", "numpy", "onnx"}


def test_no_model_learns_from_the_days_that_it_is_judged_on() -> None:
    horizon_ends = max(TRAINED_ON).toordinal() + 90
    assert horizon_ends < JUDGED_ON.toordinal()
