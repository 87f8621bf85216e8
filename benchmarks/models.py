"""The models: trained on rows of the benchmark's own tables, exported, and kept beside the data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.data import FOLDER, floats, names
from benchmarks.measure import Task, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRAINING_ROWS = 20_000
VERSION = "1"


def model(kind: str, *, features: int = 10) -> dict[str, str]:
    """A model, trained if need be: `artifacts` (folder), `name`, `version`, `artifact`, `sha256`,
    `path` (its ONNX file) and `estimator` (its pickle, made here and read by rivals alone).
    """
    sources = Path(__file__).read_bytes() + Path(__file__).with_name("data.py").read_bytes()
    digest = hashlib.sha256(f"{kind} {features}".encode() + sources).hexdigest()[:16]
    card = FOLDER / "models" / digest / "model.json"
    if not card.exists():
        # in a process of its own: scikit-learn's memory is not the benchmark's
        run(
            Task(
                "benchmarks.models",
                "train",
                {"kind": kind, "features": features, "into": str(card)},
            )
        )
    return json.loads(card.read_text())


def train(*, kind: str, features: int, into: str) -> None:
    """A task: train, export and describe a model."""
    estimator, rows = ESTIMATORS[kind](features)
    _write(kind, estimator, rows, Path(into))


def _write(kind: str, estimator: Any, rows: Any, card: Path, **options: Any) -> None:
    import joblib

    import dbt_onnx

    folder = card.parent
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = folder / "artifacts"
    entry = dbt_onnx.export(
        estimator, rows, name=kind, version=VERSION, artifacts=artifacts, replace=True,
        output_columns={"label": None, "probability": "score"}, parity_rows=16, **options,
    )  # fmt: skip
    joblib.dump(estimator, folder / "estimator.joblib")
    document: Mapping[str, str] = {
        "artifacts": str(artifacts),
        "name": kind,
        "version": VERSION,
        "artifact": entry.artifact,
        "sha256": entry.sha256,
        "path": str(artifacts / entry.artifact),
        "estimator": str(folder / "estimator.joblib"),
    }
    card.write_text(json.dumps(document))


def _float_rows(features: int) -> tuple[Any, Any]:
    """Rows, and classes that depend on them in a way that no tree and no line gets quite right."""
    import duckdb
    import numpy as np

    path = floats(TRAINING_ROWS, features)
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute(f"select {', '.join(names(features))} from features").df()
    x, random = rows.to_numpy(), np.random.default_rng(4)
    signal = x @ random.normal(size=features) + x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2])
    return rows, (signal + random.normal(size=len(x)) > 0).astype(int)


def _on_floats(estimator: Callable[[], Any]) -> Callable[[int], tuple[Any, Any]]:
    def fitted(features: int) -> tuple[Any, Any]:
        rows, classes = _float_rows(features)
        return estimator().fit(rows, classes), rows

    return fitted


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=300)


def _boosting(trees: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=trees, max_depth=3, random_state=0)


def _histogram() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=31, random_state=0)


def _perceptron() -> Any:
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((64, 32), max_iter=20, random_state=0)


ESTIMATORS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "logistic": _on_floats(_logistic),
    "trees_20": _on_floats(lambda: _boosting(20)),
    "trees_100": _on_floats(lambda: _boosting(100)),
    "histogram": _on_floats(_histogram),
    "perceptron": _on_floats(_perceptron),
}
