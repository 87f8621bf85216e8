"""Contributions of features equal shap on the native model, and Shapley values computed from their definition."""

from __future__ import annotations

from itertools import combinations
from math import factorial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import catboost
import lightgbm
import numpy as np
import onnx_models
import pandas as pd
import pyarrow as pa
import pytest
import shap
import xgboost
from onnx import helper
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import dbt_onnx
from dbt_onnx.artifacts.artifact import Artifact, load_artifact, write_artifact
from dbt_onnx.artifacts.sample import as_batch
from dbt_onnx.errors import ArtifactError, ConfigError
from dbt_onnx.explaining.explainer import Explainer
from dbt_onnx.explaining.splitting import Split
from dbt_onnx.explaining.trees import TreeContributions
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

ROWS = 400
SOURCE = np.random.default_rng(0)
# quarters, so that many values are exactly at a threshold, and no value is rounded in single precision
X = pd.DataFrame(
    np.round(SOURCE.normal(size=(ROWS, 4)) * 4) / 4, columns=["a", "b", "c", "d"]
).astype("float32")
SCORE = X["a"] * 2 - X["b"] * X["c"] + X["d"]
TWO = (SCORE > 0.5).astype("int64")
THREE = np.digitize(SCORE, [-1.0, 1.0]).astype("int64")
WITH_GAPS = X.mask(SOURCE.random(X.shape) < 0.1)
SMALL: dict[str, Any] = {"n_estimators": 15, "max_depth": 3, "random_state": 0}


def exported(folder: Path, model: Any, features: pd.DataFrame, **options: Any) -> Artifact:
    entry = dbt_onnx.export(model, features, name="m", version="1", artifacts=folder, **options)
    return load_artifact(folder, entry)


def rows_of(artifact: Artifact) -> pd.DataFrame:
    return pd.DataFrame(artifact.card["parity"]["features"]).astype("float32")


def batch_of(rows: pd.DataFrame) -> pa.RecordBatch:
    return pa.RecordBatch.from_pandas(rows, preserve_index=False)


NATIVE: dict[str, tuple[Any, pd.DataFrame, Any, str]] = {
    "gradient boosting": (GradientBoostingClassifier(**SMALL), X, TWO, "log-odds"),
    "gradient boosting of a number": (GradientBoostingRegressor(**SMALL), X, SCORE, "prediction"),
    "random forest": (RandomForestClassifier(**SMALL), X, TWO, "prediction"),
    "random forest of three classes": (RandomForestClassifier(**SMALL), X, THREE, "prediction"),
    "random forest of a number": (RandomForestRegressor(**SMALL), X, SCORE, "prediction"),
    "histograms": (
        HistGradientBoostingClassifier(max_iter=15, random_state=0), WITH_GAPS, TWO, "log-odds",
    ),
    "lightgbm": (
        lightgbm.LGBMClassifier(n_estimators=15, verbose=-1, n_jobs=1), WITH_GAPS, TWO, "log-odds",
    ),
    "lightgbm of three classes": (
        lightgbm.LGBMClassifier(n_estimators=8, verbose=-1, n_jobs=1), X, THREE, "log-odds",
    ),
    "xgboost": (
        xgboost.XGBClassifier(n_estimators=15, max_depth=3, n_jobs=1), WITH_GAPS, TWO, "log-odds",
    ),
    "catboost": (
        catboost.CatBoostClassifier(
            iterations=15, depth=3, verbose=0, thread_count=1, random_seed=0, allow_writing_files=False,
        ),
        X, TWO, "log-odds",
    ),
    "lightgbm of a count": (
        lightgbm.LGBMRegressor(n_estimators=15, verbose=-1, n_jobs=1, objective="poisson"),
        X, np.round(np.exp(SCORE.clip(-2, 2))), "log",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NATIVE)
def test_trees_are_explained_as_shap_explains_the_native_model(name: str, tmp_path: Path) -> None:
    estimator, features, target, scale = NATIVE[name]
    model = estimator.fit(features, target)
    artifact = exported(tmp_path, model, features)
    explainer = Explainer(artifact)
    rows = features.iloc[:50]
    found = explainer.explain(batch_of(rows))
    oracle = shap.TreeExplainer(
        model, data=rows_of(artifact), feature_perturbation="interventional", model_output="raw"
    )
    wanted = np.asarray(oracle.shap_values(rows, check_additivity=False))
    base = np.ravel(oracle.expected_value)
    if wanted.ndim == 2:
        wanted = wanted[:, :, None]
    assert found.rows.tolist() == list(range(50))
    assert set(explainer.scales.values()) == {scale}
    columns = list(found.by_column)
    shift = len(base) - len(columns)  # of two classes, only the second one is stored
    for number, column in enumerate(columns):
        of_column = wanted[:, :, number + shift]
        size = np.abs(of_column).sum(axis=1).max()
        assert np.abs(found.by_column[column] - of_column).max() < 1e-5 * size, column
        assert explainer.base[column] == pytest.approx(base[number + shift], rel=1e-5, abs=1e-5)


def test_a_logistic_regression_behind_a_scaler_is_explained_by_its_weights(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, TWO)
    artifact = exported(tmp_path, model, X)
    explainer = Explainer(artifact)
    found = explainer.explain(batch_of(X)).by_column["probability"]
    scaler, regression = model
    sample = scaler.transform(rows_of(artifact))
    wanted = (scaler.transform(X) - sample.mean(axis=0)) * regression.coef_[0]
    assert np.abs(found - wanted).max() < 1e-5
    oracle = shap.LinearExplainer(regression, shap.maskers.Independent(sample, max_samples=64))
    assert np.abs(found - oracle.shap_values(scaler.transform(X))).max() < 1e-5
    assert explainer.scales == {"probability": "log-odds"}
    assert explainer.base["probability"] == pytest.approx(
        model.decision_function(rows_of(artifact)).mean(), rel=1e-5
    )


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_models_of_each_precision(tmp_path: Path, dtype: str, classes: int) -> None:
    if classes == 2:
        model = LinearRegression().fit(X, SCORE)
        weights, scores = model.coef_[:, None], 1
    else:
        model = LogisticRegression().fit(X, THREE)
        weights, scores = model.coef_.T, 3
    artifact = exported(tmp_path, model, X, dtype=dtype)
    explainer = Explainer(artifact)
    found = explainer.explain(batch_of(X))
    differences = (X - rows_of(artifact).mean()).to_numpy()
    assert len(found.by_column) == scores
    for number, values in enumerate(found.by_column.values()):
        assert np.abs(values - differences * weights[:, number]).max() < 1e-5
    assert set(explainer.scales.values()) == {"prediction" if classes == 2 else "log-odds"}


def shapley(
    predict: Callable[[pd.DataFrame], Any], row: pd.DataFrame, sample: pd.DataFrame
) -> list[float]:
    """Return the Shapley values of a row from their definition: over all subsets, averaged over the sample."""
    names = list(sample.columns)

    def value(known: Sequence[str]) -> float:
        mixed = sample.assign(**{name: row[name].iloc[0] for name in known})
        return float(np.mean(predict(mixed)))

    found = []
    for name in names:
        others = [other for other in names if other != name]
        total = 0.0
        for size in range(len(names)):
            weight = factorial(size) * factorial(len(others) - size) / factorial(len(names))
            for subset in combinations(others, size):
                total += weight * (value([*subset, name]) - value(subset))
        found.append(total)
    return found


def test_what_an_encoder_makes_of_a_feature_counts_for_the_feature(tmp_path: Path) -> None:
    letters = np.array(["x", "y", "z", "rare"])[np.digitize(X["d"], [-0.5, 0.75, 2.75])]
    features = pd.DataFrame({"letter": letters, "a": X["a"], "b": X["b"]})
    encode = ColumnTransformer(
        [("e", OneHotEncoder(sparse_output=False), ["letter"]), ("s", StandardScaler(), ["a", "b"])]
    )
    model = make_pipeline(encode, GradientBoostingClassifier(**SMALL)).fit(features, TWO)
    artifact = exported(tmp_path, model, features, tolerance=1e-4)
    found = Explainer(artifact).explain(batch_of(features)).by_column["probability"]
    assert artifact.contract.feature_names == ("letter", "a", "b")
    sample = pd.DataFrame(artifact.card["parity"]["features"]).astype({"a": "f4", "b": "f4"})
    assert "rare" not in set(sample["letter"])  # its column does not vary in the sample

    def predict(columns: pd.DataFrame) -> Any:
        return model[-1].decision_function(columns.to_numpy())

    encoded, of_sample = (
        pd.DataFrame(encode.transform(rows)).rename(columns=str) for rows in (features, sample)
    )
    for number in (0, 1, 2, int(np.flatnonzero(letters == "rare")[0])):
        *of_letters, of_a, of_b = shapley(predict, encoded.iloc[[number]], of_sample)
        assert found[number].tolist() == pytest.approx([sum(of_letters), of_a, of_b], abs=1e-5)


TREE: dict[str, Any] = {
    "nodes_treeids": [0] * 5 + [1] * 5,
    "nodes_nodeids": [0, 1, 2, 3, 4, 7, 5, 3, 9, 8],
    "nodes_featureids": [0, 1, 0, 0, 0, 2, 0, 1, 0, 0],
    "nodes_modes": [
        "BRANCH_LT", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "BRANCH_GT", "LEAF", "LEAF",
    ],
    "nodes_values": [0.5, 1.0, 0.0, 0.0, 0.0, -0.25, 0.0, 0.1, 0.0, 0.0],
    "nodes_truenodeids": [1, 3, 0, 0, 0, 5, 0, 8, 0, 0],
    "nodes_falsenodeids": [2, 4, 0, 0, 0, 3, 0, 9, 0, 0],
    "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 0, 0, 1, 0, 0],
    "target_treeids": [0, 0, 0, 1, 1, 1],
    "target_nodeids": [2, 3, 4, 5, 8, 9],
    "target_ids": [0] * 6,
    "target_weights": [1.0, 2.0, -4.0, 0.5, 8.0, -1.0],
}  # fmt: skip
THIRD = np.float32(0.1)
SAMPLE = {
    "a": [0.5, 0.25, None, 1.0],
    "b": [1.0, 2.0, float(THIRD), None],
    "c": [-0.25, None, -0.5, 3.0],
}


def trees(**attributes: Any) -> bytes:
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        **(TREE | attributes),
    )
    made = onnx_models.model(
        [node], [onnx_models.tensor("x", ["n", 3])], [onnx_models.tensor("y", ["n", 1])]
    )
    return bytes(made.SerializeToString())


def written(
    folder: Path, model: bytes, sample: Mapping[str, Any] | None = None, **options: Any
) -> Artifact:
    """Return an artifact with the features a, b, ... and a number as output, and these sample rows."""
    sample = SAMPLE if sample is None else sample
    contract = Contract(
        features=tuple(Feature(name=name, null_policy="nan") for name in sample),
        inputs=(Input(name="x", dtype="float32", features=tuple(sample)),),
        outputs=options.get(
            "outputs", (Output(name="y", kind="value", dtype="float32", columns=("y",)),)
        ),
    )
    real = {"reference": {}} if options.get("is_real", True) else {}
    entry = write_artifact(
        folder, model, model_name="m", model_version="1", contract=contract,
        parity={"features": sample, "outputs": {}}, **real,
    )  # fmt: skip
    return load_artifact(folder, entry)


@pytest.mark.parametrize("extra", [{}, {"base_values": [10.0]}, {"aggregate_function": "AVERAGE"}])
def test_trees_by_hand_agree_with_the_definition(tmp_path: Path, extra: dict[str, Any]) -> None:
    """Strict and reversed branches, values at thresholds, missing values to both sides, nodes in any order."""
    artifact = written(tmp_path, trees(**extra))
    session = artifact.open()

    def predict(rows: pd.DataFrame) -> Any:
        return session.run({"x": rows.to_numpy(dtype="float32")})[0].ravel()

    sample = pd.DataFrame(SAMPLE, dtype="float32")
    explainer = Explainer(artifact)
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    rows = pd.DataFrame(
        {"a": [0.5, below, None, 0.0], "b": [THIRD, 1.0, None, 1.5], "c": [-0.25, -1.0, 0.0, None]},
        dtype="float32",
    )
    found = explainer.explain(batch_of(rows)).by_column["y"]
    for number in range(len(rows)):
        wanted = shapley(predict, rows.iloc[[number]], sample)
        assert found[number].tolist() == pytest.approx(wanted, abs=1e-6)
    assert explainer.base["y"] == pytest.approx(float(predict(sample).mean()))
    assert np.ptp(predict(rows)) > 0


def test_a_line_by_hand(tmp_path: Path) -> None:
    model = onnx_models.linear()  # y = 2a - b + 0.5
    artifact = written(
        tmp_path, model.SerializeToString(), {"a": [0.0, 1.0, 2.0], "b": [3.0, 3.0, 6.0]}
    )
    explainer = Explainer(artifact)
    assert explainer.base == {"y": pytest.approx(2 * 1 - 4 + 0.5)}
    assert explainer.scales == {"y": "prediction"}
    rows = pa.RecordBatch.from_pydict({"a": [1.0, None, 3.0], "b": [4.0, 4.0, 2.0]})
    with pytest.raises(ArtifactError, match="add up to"):
        explainer.explain(rows)  # the model gives NaN for a NULL: there is nothing to add up
    found = explainer.explain(rows.take(pa.array([0, 2])))
    assert found.by_column["y"].tolist() == [[0.0, 0.0], [4.0, 2.0]]


def test_a_wrong_sum_is_noticed(tmp_path: Path) -> None:
    explainer = Explainer(written(tmp_path, trees()))
    explainer._base += 0.01
    with pytest.raises(ArtifactError, match=r"add up to .*, but its score is"):
        explainer.explain(as_batch(SAMPLE, explainer._artifact.contract))


def test_a_rejected_row_is_not_explained(tmp_path: Path) -> None:
    model = RandomForestClassifier(**SMALL).fit(X, TWO)
    explainer = Explainer(exported(tmp_path, model, X))
    rows = X.iloc[:3].astype("float64")
    rows.loc[1, "c"] = np.nan
    found = explainer.explain(batch_of(rows))
    assert found.rows.tolist() == [0, 2]
    assert found.by_column["probability"].shape == (2, 4)
    assert explainer.explain(batch_of(rows.iloc[[1]])).rows.tolist() == []


REFUSED: dict[str, tuple[Any, str]] = {
    "a network": (MLPClassifier((3,), max_iter=5), r"exactly one .*; it has .*MatMul"),
    "two ensembles": (
        VotingClassifier(
            [("f", RandomForestClassifier(**SMALL)), ("g", RandomForestClassifier(**SMALL))],
            voting="soft",
            flatten_transform=False,
        ),
        "exactly one tree ensemble .*2 TreeEnsembleClassifier",
    ),
    "trees beside a line": (
        VotingClassifier(
            [("f", RandomForestClassifier(**SMALL)), ("l", LogisticRegression())],
            voting="soft",
            flatten_transform=False,
        ),
        "not only through the tree ensemble",
    ),
    "components": (
        make_pipeline(PCA(2), GradientBoostingRegressor(**SMALL)),
        r"column 0 of what its TreeEnsembleRegressor reads depends on several features: \['a', 'b', 'c', 'd'\]",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_explained_is_refused(name: str, tmp_path: Path) -> None:
    estimator, message = REFUSED[name]
    target = SCORE if name == "components" else TWO
    artifact = exported(tmp_path, estimator.fit(X, target), X, tolerance=1e-3)
    with pytest.raises(ConfigError, match=f"m/1 cannot be explained: .*{message}") as caught:
        Explainer(artifact).explain(batch_of(X))
    assert "one tree ensemble or one linear operator" in caught.value.hint


def test_a_sample_of_generated_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rows of real data to compare with"):
        Explainer(written(tmp_path, trees(), is_real=False))


def test_a_vector_is_refused(tmp_path: Path) -> None:
    output = Output(name="e", kind="vector", dtype="float32", columns=("e",), width=3)
    model = onnx_models.vector(3, name="e").SerializeToString()
    sample = {"a": [0.0, 1.0], "b": [1.0, 2.0]}
    with pytest.raises(ConfigError, match=r"no probability and no number, only e \(vector\)"):
        Explainer(written(tmp_path, model, sample, outputs=(output,)))


MALFORMED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a child that is nowhere": (
        {"nodes_truenodeids": [1, 3, 0, 0, 0, 99, 0, 8, 0, 0]}, ArtifactError,
        "nodes_truenodeids points to a node that does not exist",
    ),
    "a circle": (
        {"nodes_truenodeids": [1, 3, 0, 0, 0, 7, 0, 8, 0, 0]}, ArtifactError, "4 nodes form a circle",
    ),
    "two parents": (
        {"nodes_falsenodeids": [2, 3, 0, 0, 0, 3, 0, 9, 0, 0]}, ArtifactError, "two parents",
    ),
    "an id twice": ({"nodes_nodeids": [0] * 10}, ArtifactError, "10 nodes have 2 different ids"),
    "too few modes": ({"nodes_modes": ["LEAF"]}, ArtifactError, "1 values for 10 nodes"),
    "a column that is nowhere": (
        {"nodes_featureids": [3] + [0] * 9}, ArtifactError, "beyond the 3 columns",
    ),
    "a negative column": ({"nodes_featureids": [-1] + [0] * 9}, ArtifactError, "beyond the 3 columns"),
    "a target that is nowhere": ({"target_ids": [0] * 5 + [1]}, ArtifactError, r"for 1 score\(s\)"),
    "a value of nobody": ({"target_nodeids": [77] * 6}, ArtifactError, "a value points to a node"),
    "too few values": ({"target_weights": [1.0]}, ArtifactError, "has 1 values, not 6"),
    "no nodes": ({"nodes_treeids": []}, ArtifactError, "different ids|values for 0 nodes"),
    "another branch": (
        {"nodes_modes": ["BRANCH_EQ", *TREE["nodes_modes"][1:]]}, ConfigError, "of the kind BRANCH_EQ",
    ),
    "the largest tree": ({"aggregate_function": "MAX"}, ConfigError, "combined by MAX"),
    "many scores": ({"n_targets": 2**40}, ArtifactError, "the leaves do not have values"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_nodes_that_are_not_trees_never_reach_native_code(name: str) -> None:
    attributes, kind, message = MALFORMED[name]
    split = Split(
        operator="TreeEnsembleRegressor", attributes={"n_targets": 1, **TREE, **attributes},
        weights=None, before_bytes=b"", raw_bytes=b"",
    )  # fmt: skip
    artifact: Any = SimpleNamespace(model="m/1")
    with pytest.raises(kind, match=message):
        TreeContributions(split, np.zeros((2, 3), np.float32), artifact)


def test_a_tree_that_is_too_deep_is_refused() -> None:
    depth = 300
    nodes = 2 * depth + 1
    attributes = {
        "nodes_treeids": [0] * nodes,
        "nodes_nodeids": list(range(nodes)),
        "nodes_featureids": [0] * nodes,
        "nodes_modes": ["BRANCH_LEQ"] * depth + ["LEAF"] * (depth + 1),
        "nodes_values": [0.0] * nodes,
        "nodes_truenodeids": [*range(1, depth), nodes - 1] + [0] * (depth + 1),
        "nodes_falsenodeids": [*range(depth, 2 * depth)] + [0] * (depth + 1),
        **{f"target_{name}": [0] * (depth + 1) for name in ("treeids", "ids")},
        "target_nodeids": list(range(depth, nodes)),
        "target_weights": [1.0] * (depth + 1),
    }
    split = Split(
        operator="TreeEnsembleRegressor", attributes=attributes, weights=None, before_bytes=b"", raw_bytes=b"",
    )  # fmt: skip
    artifact: Any = SimpleNamespace(model="m/1")
    with pytest.raises(ConfigError, match="more than 200 levels"):
        TreeContributions(split, np.zeros((2, 1), np.float32), artifact)
