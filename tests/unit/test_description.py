"""Models trained by scikit-learn and written by skl2onnx are described without any options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dbt_onnx.artifacts.graph import read_graph
from dbt_onnx.artifacts.sample import score_sample
from dbt_onnx.authoring.infer import Description, ModelOptions, describe_model, sample_columns

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(200, 2)).astype(np.float32)
TWO = np.where(X[:, 0] + X[:, 1] > 0, 7, 3)
THREE = np.array(["low", "mid", "high"])[np.digitize(X[:, 0], [-0.5, 0.5])]
OPSET = {"": 18, "ai.onnx.ml": 3}


def described(estimator: Any, *, zipmap: bool = False, **options: Any) -> Any:
    classifier = hasattr(estimator, "classes_")
    model = to_onnx(
        estimator,
        X[:1],
        target_opset=OPSET,
        options={id(estimator): {"zipmap": zipmap}} if classifier else None,
    )
    content = model.SerializeToString()
    signature = read_graph(content, where="m")
    model_options = ModelOptions(features=["a", "b"], **options)
    description = describe_model(content, signature, model_options, where="m")
    features = sample_columns(description)
    rows = np.array([features["a"], features["b"]], dtype=np.float32).T
    return description.contract, score_sample(content, description.contract, features), rows


@pytest.mark.parametrize("zipmap", [False, True])
def test_two_classes_of_a_logistic_regression(zipmap: bool) -> None:
    estimator = LogisticRegression().fit(X, TWO)
    contract, sample, rows = described(estimator, zipmap=zipmap)
    assert contract.outputs[1].classes == (3, 7)
    assert list(sample) == ["label", "probability"]
    assert sample["label"] == list(estimator.predict(rows))
    np.testing.assert_allclose(
        sample["probability"], estimator.predict_proba(rows)[:, 1], atol=1e-5
    )


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(n_estimators=5, random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=["forest", "pipeline"],
)
def test_three_classes_named_by_text(estimator: Any, zipmap: bool) -> None:
    estimator.fit(X, THREE)
    contract, sample, rows = described(estimator, zipmap=zipmap)
    assert contract.outputs[1].classes == ("high", "low", "mid")
    for position, label in enumerate(estimator.classes_):
        np.testing.assert_allclose(
            sample[f"probability_{label}"], estimator.predict_proba(rows)[:, position], atol=1e-5
        )


def test_classes_of_one_against_the_rest_are_the_outer_ones() -> None:
    estimator = OneVsRestClassifier(LogisticRegression()).fit(X, THREE)
    contract, sample, rows = described(estimator)
    assert contract.outputs[1].classes == ("high", "low", "mid")
    np.testing.assert_allclose(
        sample["probability_low"], estimator.predict_proba(rows)[:, 1], atol=1e-5
    )


def test_a_regression_is_one_value() -> None:
    estimator = LinearRegression().fit(X, X @ [2, -1] + 0.5)
    contract, sample, rows = described(estimator)
    assert [output.kind for output in contract.outputs] == ["value"]
    np.testing.assert_allclose(sample["prediction"], rows @ [2, -1] + 0.5, atol=1e-5)


def test_several_targets_are_a_vector_or_columns() -> None:
    estimator = LinearRegression().fit(X, X @ np.array([[2, 1, 0], [-1, 0, 3]]))
    contract, sample, rows = described(estimator)
    assert (contract.outputs[0].kind, contract.outputs[0].width) == ("vector", 3)
    name = contract.outputs[0].name
    contract, split, _ = described(estimator, outputs={name: ["one", "two", "three"]})
    assert contract.outputs[0].kind == "values"
    np.testing.assert_allclose(split["three"], 3 * rows[:, 1], atol=1e-5)
    np.testing.assert_allclose(np.array(sample[name])[:, 2], split["three"], atol=1e-6)


def test_an_isolation_forest_has_all_its_outputs() -> None:
    estimator = IsolationForest(n_estimators=10, random_state=0).fit(X)
    model = to_onnx(
        estimator, X[:1], target_opset=OPSET, options={id(estimator): {"score_samples": True}}
    )
    content = model.SerializeToString()
    model_options = ModelOptions(features=["a", "b"])
    description = describe_model(content, read_graph(content, where="m"), model_options, where="m")
    assert [output.kind for output in description.contract.outputs] == ["label", "value", "value"]
    features = sample_columns(description)
    rows = np.array([features["a"], features["b"]], dtype=np.float32).T
    sample = score_sample(content, description.contract, features)
    assert list(sample) == ["label", "scores", "score_samples"]
    assert sample["label"] == list(estimator.predict(rows))
    np.testing.assert_allclose(sample["scores"], estimator.decision_function(rows), atol=1e-4)


def one_input_per_column() -> tuple[Any, bytes]:
    frame = np.array([[1.0, "a"], [2.0, "b"], [3.0, "a"], [4.0, "c"]], dtype=object)
    estimator = make_pipeline(
        ColumnTransformer(
            [("n", StandardScaler(), [0]), ("c", OneHotEncoder(handle_unknown="ignore"), [1])]
        ),
        LogisticRegression(),
    ).fit(frame, [0, 0, 1, 1])
    types = [("amount", FloatTensorType([None, 1])), ("region", StringTensorType([None, 1]))]
    model = to_onnx(
        estimator,
        initial_types=types,
        target_opset=OPSET,
        options={id(estimator): {"zipmap": False}},
    )
    return estimator, model.SerializeToString()


def test_a_pipeline_over_columns_names_them_itself() -> None:
    estimator, content = one_input_per_column()
    description: Description = describe_model(
        content, read_graph(content, where="m"), ModelOptions(), where="m"
    )
    assert description.contract.feature_names == ("amount", "region")
    features = sample_columns(description)
    assert {"a", "b", "c"} & set(features["region"])
    rows = np.array([features["amount"], features["region"]], dtype=object).T
    sample = score_sample(content, description.contract, features)
    np.testing.assert_allclose(
        sample["probability"], estimator.predict_proba(rows)[:, 1], atol=1e-5
    )
