"""The kernel's predictions equal scikit-learn's, for every shape of output that scikit-learn models have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import graphs
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.kernel.scoring import prediction_schema, score_batches
from dbt_onnx.kernel.session import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("recency", "frequency", "monetary")
N_ROWS = 500


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Return float32 values: the warehouse stores them as DOUBLE, and the cast back changes nothing."""
    return np.random.default_rng(7).normal(size=(N_ROWS, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def churned(rows: np.ndarray) -> np.ndarray:
    return (rows[:, 0] + rows[:, 1] * rows[:, 2] > 0).astype(np.int64)


def contract_of(*outputs: Output, null_policy: Any = "reject") -> Contract:
    return Contract(
        features=tuple(Feature(name=name, null_policy=null_policy) for name in NAMES),
        inputs=(Input(name="X", dtype="float32", features=NAMES),),
        outputs=outputs,
    )


def label(dtype: Any, name: str = "output_label") -> Output:
    return Output(name=name, kind="label", dtype=dtype, columns=("label",))


def probabilities(classes: tuple[Any, ...]) -> Output:
    return Output(
        name="output_probability",
        kind="probabilities",
        dtype="float32",
        columns=tuple(f"p_{c}" for c in classes),
        classes=classes,
    )


def score(onnx_model: Any, contract: Contract, columns: Mapping[str, Any]) -> pa.Table:
    """Score in several batches; no row may be rejected."""
    names = [output.name for output in contract.outputs]
    scorer = OnnxSession(onnx_model.SerializeToString(), output_names=names, threads=1)
    batch = pa.record_batch(dict(columns))
    out = score_batches([batch], scorer, contract=contract, part_rows=128)
    table = pa.Table.from_batches(out, prediction_schema(batch.schema, contract))
    assert table["rejected_reason"].null_count == table.num_rows == batch.num_rows
    return table


def columns_of(rows: np.ndarray) -> dict[str, pa.Array]:
    # in another order than the model's, since columns are found by name
    return {
        name: pa.array(rows[:, i].astype(np.float64)) for i, name in reversed([*enumerate(NAMES)])
    }


def matrix(table: pa.Table, *names: str) -> np.ndarray:
    return np.column_stack([table[name].to_numpy() for name in names])


@pytest.mark.parametrize("as_maps", [True, False], ids=["zipmap", "tensor"])
@pytest.mark.parametrize("classes", [(0, 1), ("no", "yes")], ids=["integers", "text"])
def test_logistic_regression(
    rows: np.ndarray, churned: np.ndarray, classes: tuple[Any, ...], as_maps: bool
) -> None:
    model = LogisticRegression().fit(rows, np.array(classes)[churned])
    exported = to_onnx(model, rows[:1], options={"zipmap": as_maps})
    name = exported.graph.output[1].name
    proba = Output(
        name=name,
        kind="probabilities",
        dtype="float32",
        columns=("p_0", "p_1"),
        classes=classes,
    )
    labels = label("int64" if classes == (0, 1) else "string", exported.graph.output[0].name)
    table = score(exported, contract_of(labels, proba), columns_of(rows))
    assert table["label"].to_pylist() == model.predict(rows).tolist()
    np.testing.assert_allclose(matrix(table, "p_0", "p_1"), model.predict_proba(rows), atol=1e-6)


def test_random_forest_of_several_classes(rows: np.ndarray) -> None:
    species = np.array(["ant", "bee", "cat"])[np.digitize(rows[:, 0], [-0.5, 0.5])]
    model = RandomForestClassifier(10, random_state=0).fit(rows, species)
    contract = contract_of(label("string"), probabilities(("ant", "bee", "cat")))
    table = score(to_onnx(model, rows[:1]), contract, columns_of(rows))
    assert table["label"].to_pylist() == model.predict(rows).tolist()
    got = matrix(table, "p_ant", "p_bee", "p_cat")
    np.testing.assert_allclose(got, model.predict_proba(rows), atol=1e-6)


def test_isolation_forest_has_three_outputs(rows: np.ndarray) -> None:
    model = IsolationForest(n_estimators=10, random_state=0).fit(rows)
    exported = to_onnx(
        model,
        rows[:1],
        options={"score_samples": True},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    contract = contract_of(
        label("int64", "label"),
        Output(name="scores", kind="value", dtype="float32", columns=("score",)),
        Output(name="score_samples", kind="value", dtype="float32", columns=("raw",)),
    )
    table = score(exported, contract, columns_of(rows))
    assert table["label"].to_pylist() == model.predict(rows).tolist()
    np.testing.assert_allclose(table["score"], model.decision_function(rows), atol=1e-5)
    np.testing.assert_allclose(table["raw"], model.score_samples(rows), atol=1e-5)


# from skl2onnx's converter of missing values; protobuf 7 makes it an error, hence protobuf<7
@pytest.mark.filterwarnings("ignore:.*Expected an int, got a boolean:DeprecationWarning")
def test_histogram_boosting_reads_null_as_missing(rows: np.ndarray, churned: np.ndarray) -> None:
    holed = np.where(np.random.default_rng(1).random(rows.shape) < 0.2, np.nan, rows)
    model = HistGradientBoostingClassifier(max_iter=10).fit(holed, churned)
    contract = contract_of(label("int64"), probabilities((0, 1)), null_policy="nan")
    exported = to_onnx(model, rows[:1])
    # NaN and NULL mean the same
    as_nan = columns_of(holed)
    as_null = {name: pa.array(x.to_numpy(), from_pandas=True) for name, x in as_nan.items()}
    assert as_null["recency"].null_count > 0
    for columns in (as_nan, as_null):
        table = score(exported, contract, columns)
        assert table["label"].to_pylist() == model.predict(holed).tolist()
        expected = model.predict_proba(holed)
        np.testing.assert_allclose(matrix(table, "p_0", "p_1"), expected, atol=1e-6)


def test_linear_regression_of_several_targets(rows: np.ndarray) -> None:
    targets = rows @ np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]]) + 0.25
    model = LinearRegression().fit(rows, targets)
    contract = contract_of(
        Output(name="variable", kind="values", dtype="float32", columns=("u", "w"))
    )
    table = score(to_onnx(model, rows[:1]), contract, columns_of(rows))
    np.testing.assert_allclose(matrix(table, "u", "w"), model.predict(rows), atol=1e-5)


def test_a_pipeline_with_text_reads_one_tensor_for_each_column(churned: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "country": rng.choice(["DE", "FR", "GB"], N_ROWS),
            "age": rng.integers(18, 90, N_ROWS),
            "spend": rng.normal(size=N_ROWS).astype(np.float32),
        }
    )
    preparation = ColumnTransformer(
        [
            ("words", OneHotEncoder(handle_unknown="ignore"), ["country"]),
            ("numbers", StandardScaler(), ["age", "spend"]),
        ]
    )
    model = make_pipeline(preparation, LogisticRegression()).fit(frame, churned)
    exported = to_onnx(
        model,
        initial_types=[
            ("country", StringTensorType([None, 1])),
            ("age", Int64TensorType([None, 1])),
            ("spend", FloatTensorType([None, 1])),
        ],
    )
    dtypes = {"country": "string", "age": "int64", "spend": "float32"}
    contract = Contract(
        features=tuple(Feature(name=name) for name in dtypes),
        inputs=tuple(
            Input(name=name, dtype=dtype, features=(name,))  # type: ignore[arg-type]
            for name, dtype in dtypes.items()
        ),
        outputs=(label("int64"), probabilities((0, 1))),
    )
    columns = {
        "spend": pa.array(frame["spend"]),
        "country": pa.array(frame["country"]).dictionary_encode(),
        "age": pa.array(frame["age"], pa.int16()),
    }
    table = score(exported, contract, columns)
    assert table["label"].to_pylist() == model.predict(frame).tolist()
    np.testing.assert_allclose(matrix(table, "p_0", "p_1"), model.predict_proba(frame), atol=1e-5)


def test_an_embedding_is_a_vector() -> None:
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="a", dtype="float32", features=("a",)),),
        outputs=(Output(name="e", kind="vector", dtype="float32", columns=("e",), width=4),),
    )
    scorer = OnnxSession(graphs.embedding(4), output_names=["e"])
    batch = pa.record_batch({"a": [1, 2]})
    (out,) = score_batches([batch], scorer, contract=contract)
    assert out["e"].to_pylist() == [[1, 2, 3, 4], [2, 4, 6, 8]]
