"""The models of the benchmarks: trained on the benchmark's tables, exported, and cached next to the data."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.data import FOLDER, array, columns, floats, mixed
from benchmarks.measure import Task, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from dbt_onnx.artifacts.registry import RegistryEntry

TRAINING_ROWS = 20_000
VERSION = "1"
MISSING = "missing"
"""The value that the model gets for a NULL text."""


def model(kind: str, *, features: int = 10) -> dict[str, str]:
    """Return a description of a model, which is trained if needed: `artifacts` (folder), `name`, `version`, `artifact`,
    `sha256`, `path` (its ONNX file) and `estimator` (its pickle, which only rivals read).
    """
    sources = Path(__file__).read_bytes() + Path(__file__).with_name("data.py").read_bytes()
    digest = hashlib.sha256(f"{kind} {features}".encode() + sources).hexdigest()[:16]
    card = FOLDER / "models" / digest / "model.json"
    if not card.exists():
        # in a separate process, so that scikit-learn's memory does not count in the benchmark
        run(
            Task(
                "benchmarks.models",
                "train",
                {"kind": kind, "features": features, "into": str(card)},
            )
        )
    return dict(json.loads(card.read_text()))


def train(*, kind: str, features: int, into: str) -> None:
    """A task: train, export and describe a model."""
    import joblib

    card = Path(into)
    card.parent.mkdir(parents=True, exist_ok=True)
    artifacts = card.parent / "artifacts"
    shutil.rmtree(artifacts, ignore_errors=True)
    estimator, rows = ESTIMATORS[kind](features)
    write = _register_projection if kind == "projection" else _export
    entry = write(kind, estimator, rows, artifacts)
    joblib.dump(estimator, card.with_name("estimator.joblib"))
    document = {
        "artifacts": str(artifacts),
        "name": kind,
        "version": VERSION,
        "artifact": entry.artifact,
        "sha256": entry.sha256,
        "path": str(artifacts / entry.artifact),
        "estimator": str(card.with_name("estimator.joblib")),
    }
    card.write_text(json.dumps(document))


def _export(kind: str, estimator: Any, rows: Any, artifacts: Path) -> RegistryEntry:
    """Export an estimator. Only the probability is stored, because no rival stores a label."""
    import dbt_onnx

    texts = [name for name in rows.columns if name.startswith("s")]
    return dbt_onnx.export(
        estimator, rows, name=kind, version=VERSION, artifacts=artifacts,
        output_columns={"label": None, "probability": "score"},
        fills=dict.fromkeys(texts, MISSING), parity_rows=16,
    )  # fmt: skip


def _register_projection(kind: str, estimator: Any, rows: Any, artifacts: Path) -> RegistryEntry:
    """Register an ONNX graph that another tool has made, with one array column as its input."""
    from skl2onnx import to_onnx

    from dbt_onnx.authoring.infer import ModelOptions
    from dbt_onnx.authoring.register import register_model

    graph = to_onnx(estimator, rows[:1], target_opset=17)
    artifacts.mkdir()
    path = artifacts.with_name("projection.onnx")
    path.write_bytes(graph.SerializeToString())
    output = graph.graph.output[0].name
    model_options = ModelOptions(
        features=[f"embedding[{rows.shape[1]}]"], outputs={output: ["score"]}
    )
    return register_model(
        path, model_options, model_name=kind, model_version=VERSION, alias=None, move_alias=False,
        artifacts=artifacts, registry=artifacts.with_name("registry.csv"),
    ).entry  # fmt: skip


def _rows_of(path: Path, table: str, features: int) -> Any:
    import duckdb

    selected = ", ".join(columns(table, features))
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(f"select {selected} from features order by id").df()


def _classes(x: Any) -> Any:
    """Return classes that neither trees nor a linear model can learn exactly."""
    import numpy as np

    random = np.random.default_rng(4)
    signal = x @ random.normal(size=x.shape[1]) + x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2])
    return (signal + random.normal(size=len(x)) > np.median(signal)).astype(int)


def _on_floats(estimator: Callable[[], Any]) -> Callable[[int], tuple[Any, Any]]:
    def fitted(features: int) -> tuple[Any, Any]:
        rows = _rows_of(floats(TRAINING_ROWS, features), "floats", features)
        return estimator().fit(rows, _classes(rows.to_numpy())), rows

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


def _on_mixed(features: int) -> tuple[Any, Any]:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rows = _rows_of(mixed(TRAINING_ROWS, features), "mixed", features)
    texts = [name for name in rows.columns if name.startswith("s")]
    numbers = [name for name in rows.columns if name not in texts]
    rows[texts] = rows[texts].fillna(MISSING).astype(object)
    rows[numbers] = rows[numbers].astype("float64")
    filled = rows[numbers].fillna(0).to_numpy()
    columns = ColumnTransformer(
        [
            ("texts", OneHotEncoder(handle_unknown="ignore"), texts),
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        ]
    )
    classes = _classes((filled - filled.mean(axis=0)) / filled.std(axis=0))
    return make_pipeline(columns, LogisticRegression(max_iter=300)).fit(rows, classes), rows


def _on_array(features: int) -> tuple[Any, Any]:
    import numpy as np
    from sklearn.decomposition import PCA

    rows = np.stack(_rows_of(array(TRAINING_ROWS, features), "array", features)["embedding"])
    return PCA(16, random_state=0).fit(rows), rows


ESTIMATORS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "logistic": _on_floats(_logistic),
    "trees_20": _on_floats(lambda: _boosting(20)),
    "trees_100": _on_floats(lambda: _boosting(100)),
    "histogram": _on_floats(_histogram),
    "perceptron": _on_floats(_perceptron),
    "mixed": _on_mixed,
    "projection": _on_array,
}
