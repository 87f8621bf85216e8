"""Train the reference project's models and export them: `make train`.

    churn 1   will the customer buy nothing in the next 90 days?  logistic regression on recency,
              frequency and money
    churn 2   the same question, gradient boosting on all features; the champion
    spend 1   dollars in the next 90 days, gradient boosting

Trained on two days of the past and judged on a third, whose 90 days nothing trained on has seen.
Everything random is seeded: training again gives the same predictions.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    roc_auc_score,
    root_mean_squared_error,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PROJECT = Path(__file__).resolve().parent.parent
# run as a script, only this folder is on the path
sys.path.insert(0, str(PROJECT))

from training.snapshots import FEATURES, HORIZON_DAYS, Snapshot, read_snapshots  # noqa: E402

from dbt_onnx import export  # noqa: E402
from dbt_onnx.authoring.distributions import to_floats  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TRAINED_ON = (date(1997, 7, 1), date(1997, 10, 1))
JUDGED_ON = date(1998, 1, 1)
CHURN_COLUMNS = {"label": "is_churn", "probability": "churn_probability"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One version of a model: what it reads, learns from and is judged by."""

    name: str
    version: str
    alias: str | None
    features: tuple[str, ...]
    make: Callable[[], Any]
    target: Callable[[Snapshot], np.ndarray]
    target_text: str
    judge: Callable[[Any, np.ndarray, np.ndarray], dict[str, float]]
    output_columns: Mapping[str, str]


def churned(snapshot: Snapshot) -> np.ndarray:
    return (snapshot.purchases_ahead.to_numpy() == 0).astype(np.int64)


def dollars_ahead(snapshot: Snapshot) -> np.ndarray:
    return to_floats(snapshot.dollars_ahead.combine_chunks())


def judge_churn(estimator: Any, rows: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    probability = estimator.predict_proba(rows)[:, 1]
    return {
        "auc": roc_auc_score(truth, probability),
        "brier_score": brier_score_loss(truth, probability),
        "log_loss": log_loss(truth, probability),
        "mean_predicted": float(np.mean(probability)),
        "mean_actual": float(np.mean(truth)),
    }


def judge_spend(estimator: Any, rows: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    predicted = estimator.predict(rows)
    return {
        "mean_absolute_error": mean_absolute_error(truth, predicted),
        "root_mean_squared_error": root_mean_squared_error(truth, predicted),
        "mean_predicted": float(np.mean(predicted)),
        "mean_actual": float(np.mean(truth)),
    }


_CHURN_TEXT = f"1 if the customer buys nothing in the {HORIZON_DAYS} days after the snapshot"
_SPEND_TEXT = f"US dollars that the customer spends in the {HORIZON_DAYS} days after the snapshot"

RECIPES = (
    Recipe(
        name="churn",
        version="1",
        alias="challenger",
        features=("recency_weeks", "frequency", "monetary"),
        make=lambda: make_pipeline(StandardScaler(), LogisticRegression()),
        target=churned,
        target_text=_CHURN_TEXT,
        judge=judge_churn,
        output_columns=CHURN_COLUMNS,
    ),
    Recipe(
        name="churn",
        version="2",
        alias="champion",
        features=FEATURES,
        make=lambda: GradientBoostingClassifier(
            n_estimators=100,
            learning_rate=0.05,
            max_depth=3,
            min_samples_leaf=200,
            max_features=0.4,
            subsample=0.5,
            random_state=0,
        ),
        target=churned,
        target_text=_CHURN_TEXT,
        judge=judge_churn,
        output_columns=CHURN_COLUMNS,
    ),
    Recipe(
        name="spend",
        version="1",
        alias="champion",
        features=FEATURES,
        make=lambda: GradientBoostingRegressor(
            n_estimators=100,
            learning_rate=0.05,
            max_depth=3,
            min_samples_leaf=50,
            max_features=0.4,
            subsample=0.5,
            random_state=0,
        ),
        target=dollars_ahead,
        target_text=_SPEND_TEXT,
        judge=judge_spend,
        output_columns={"prediction": "expected_spend"},
    ),
)


def rows_of(table: pa.Table, features: Sequence[str]) -> np.ndarray:
    """(rows, features), float64."""
    return np.column_stack([to_floats(table.column(name).combine_chunks()) for name in features])


def fit(recipe: Recipe, snapshots: Mapping[date, Snapshot]) -> Any:
    """A new estimator, trained on the snapshots of TRAINED_ON."""
    rows = np.vstack([rows_of(snapshots[day].features, recipe.features) for day in TRAINED_ON])
    target = np.concatenate([recipe.target(snapshots[day]) for day in TRAINED_ON])
    return recipe.make().fit(rows, target)


def describe(recipe: Recipe, estimator: Any, snapshots: Mapping[date, Snapshot]) -> dict[str, Any]:
    judged = snapshots[JUDGED_ON]
    metrics = recipe.judge(
        estimator, rows_of(judged.features, recipe.features), recipe.target(judged)
    )
    return {
        "data": "CDNOW purchases (seeds/purchases.csv), features by models/features",
        "target": recipe.target_text,
        "trained_on": {str(day): snapshots[day].features.num_rows for day in TRAINED_ON},
        "judged_on": {str(JUDGED_ON): judged.features.num_rows},
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
        "parameters": {
            name: value
            for name, value in estimator.get_params().items()
            if isinstance(value, int | float | str) and value != "deprecated"
        },
    }


def train(
    snapshots: Mapping[date, Snapshot], *, artifacts: Path, registry: Path
) -> list[dict[str, Any]]:
    """Train and export every recipe; returns what the cards say about the training."""
    cards = []
    for recipe in RECIPES:
        estimator = fit(recipe, snapshots)
        card = describe(recipe, estimator, snapshots)
        sample = pa.concat_tables([snapshots[day].features for day in TRAINED_ON])
        export(
            estimator,
            sample.select(recipe.features),
            name=recipe.name,
            version=recipe.version,
            alias=recipe.alias,
            artifacts=artifacts,
            registry=registry,
            output_columns=recipe.output_columns,
            training=card,
            # a version that is in use is never replaced; these are remade to the same predictions
            replace=True,
        )
        cards.append({"model": f"{recipe.name}/{recipe.version}", **card["metrics"]})
    return cards


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--artifacts", type=Path, default=PROJECT / "artifacts")
    arguments.add_argument(
        "--registry", type=Path, default=PROJECT / "seeds" / "model_registry.csv"
    )
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        snapshots = read_snapshots((*TRAINED_ON, JUDGED_ON), folder=Path(folder))
        for card in train(snapshots, artifacts=options.artifacts, registry=options.registry):
            print("  ".join(f"{name} {value}" for name, value in card.items()))


if __name__ == "__main__":
    main()
