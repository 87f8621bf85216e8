"""Columns of exported models may have any names, since the graph uses names of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler

import dbt_onnx
from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.sample import score_sample
from dbt_onnx.artifacts.verification import verify_entry
from dbt_onnx.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

    from sklearn.pipeline import Pipeline

ODD = [
    "avg basket", "segment-2", "a.b", "1st", "x/y", "variable", "label", "probabilities", "features",
    "column_1", "größe", "客户", "it's", 'a "b"', "a:0", "input", " ", "select", "x\ny", "%", "é" * 60,
]  # fmt: skip


def frame_of(names: list[str], seed: int) -> pd.DataFrame:
    source = np.random.default_rng(seed)
    values = source.normal(size=(300, len(names))).astype(np.float32).astype(np.float64)
    frame = pd.DataFrame(values, columns=names)
    frame[names[-1]] = source.choice(["Oslo", "Rome", "Bonn"], 300)
    return frame


def pipelines(names: list[str]) -> dict[str, Pipeline]:
    numbers, text = names[:-1], names[-1:]
    encoder = ("c", OneHotEncoder(handle_unknown="ignore"), text)
    half = len(numbers) // 2
    columns = {
        "scaled": ColumnTransformer([("n", StandardScaler(), numbers[::-1]), encoder]),
        "two steps": ColumnTransformer(
            [
                ("n", make_pipeline(StandardScaler(), MinMaxScaler()), numbers[:half]),
                ("p", "passthrough", numbers[half:]),
                encoder,
            ]
        ),
        "some dropped": ColumnTransformer([encoder, ("n", StandardScaler(), numbers[1:])]),
        "selected": ColumnTransformer(
            [
                ("n", StandardScaler(), make_column_selector(dtype_include=np.number)),
                ("c", OneHotEncoder(), make_column_selector(dtype_exclude=np.number)),
            ]
        ),
    }
    return {
        key: make_pipeline(item, LogisticRegression(max_iter=500)) for key, item in columns.items()
    }


KINDS = ["scaled", "two steps", "some dropped", "selected"]
CLASHING = ["avg basket", "avg_basket", "AVG.basket", "avg-basket", "column_1", "city"]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        *((["a", name, "city"], "scaled") for name in ODD),
        *(([name, "amount", "where from?"], "two steps") for name in ODD[:6]),
        *((CLASHING, kind) for kind in KINDS),
        *(([*ODD, "city of 1st"], kind) for kind in KINDS),
    ],
    ids=lambda value: "|".join(value)[:30] if isinstance(value, list) else value,
)
def test_any_name_works(tmp_path: Path, names: list[str], kind: str) -> None:
    frame, unseen = frame_of(names, 0), frame_of(names, 1)
    estimator: Any = pipelines(names)[kind].fit(frame, frame[names[1]] > 0)
    entry = dbt_onnx.export(estimator, frame, name="m", version="1", artifacts=tmp_path)
    assert verify_entry(tmp_path, entry).fault is None
    artifact = load_artifact(tmp_path, entry)
    assert artifact.contract.feature_names == tuple(names)
    columns = {name: unseen[name].tolist() for name in names}
    sample = score_sample(artifact.model_bytes, artifact.contract, columns)
    np.testing.assert_allclose(
        sample["probability"], estimator.predict_proba(unseen)[:, 1], atol=1e-5
    )


def test_names_that_the_converter_keeps_are_those_of_the_inputs(tmp_path: Path) -> None:
    names = ["amount", "avg basket", "city"]
    frame = frame_of(names, 0)
    estimator = pipelines(names)["scaled"].fit(frame, frame.amount > 0)
    entry = dbt_onnx.export(estimator, frame, name="m", version="1", artifacts=tmp_path)
    contract = load_artifact(tmp_path, entry).contract
    assert [(tensor.name, tensor.features) for tensor in contract.inputs] == [
        ("amount", ("amount",)),
        ("column_2", ("avg basket",)),
        ("city", ("city",)),
    ]


@pytest.mark.parametrize("chosen", [[0, 1], slice(0, 2)])
def test_columns_may_be_chosen_by_place(tmp_path: Path, chosen: Any) -> None:
    frame, estimator = scaled_in_part(chosen)
    entry = dbt_onnx.export(estimator, frame, name="m", version="1", artifacts=tmp_path)
    assert verify_entry(tmp_path, entry).fault is None


def test_a_slice_by_name_which_the_converter_does_not_know_is_one_error(tmp_path: Path) -> None:
    frame, estimator = scaled_in_part(slice(None, "b"))
    with pytest.raises(ArtifactError, match="cannot convert Pipeline"):
        dbt_onnx.export(estimator, frame, name="m", version="1", artifacts=tmp_path)


def scaled_in_part(chosen: Any) -> tuple[pd.DataFrame, Pipeline]:
    frame = frame_of(["a", "b", "c", "city"], 0).drop(columns="city")
    columns = ColumnTransformer([("n", StandardScaler(), chosen)], remainder="passthrough")
    return frame, make_pipeline(columns, LogisticRegression()).fit(frame, frame.a > 0)
