"""An estimator becomes an artifact with the same predictions, or is refused with a reason."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

import dbt_onnx
from dbt_onnx.artifacts.artifact import Artifact, load_artifact
from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.artifacts.verification import verify_entry
from dbt_onnx.authoring.distributions import describe
from dbt_onnx.errors import ArtifactError, ConfigError, ContractError

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 400


@pytest.fixture
def frame() -> pd.DataFrame:
    source = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "a": source.normal(size=ROWS),
            "b": source.integers(0, 9, ROWS),
            "c": source.normal(size=ROWS),
        }
    )


@pytest.fixture
def two(frame: pd.DataFrame) -> pd.Series:
    return (frame.a + frame.c > 0.3).astype(int)


@pytest.fixture
def three(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame.a > 0.5, "high", np.where(frame.a < -0.5, "low", "mid"))


def exported(folder: Path, estimator: Any, features: Any, **options: Any) -> Artifact:
    entry = dbt_onnx.export(
        estimator, features, artifacts=folder, **{"name": "m", "version": "1", **options}
    )
    verdict = verify_entry(folder, entry)
    assert verdict.fault is None
    assert verdict.sample_rows == min(64, len(features))
    return load_artifact(folder, entry)


def stored(artifact: Artifact) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)) for field in artifact.contract.output_fields()]


def null_policies(artifact: Artifact) -> dict[str, str]:
    return {feature.name: feature.null_policy for feature in artifact.contract.features}


def test_a_binary_classifier_stores_label_and_the_second_probability(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    artifact = exported(tmp_path, LogisticRegression().fit(frame, two), frame)
    assert stored(artifact) == [("label", "int64"), ("probability", "float")]
    assert artifact.contract.outputs[1].columns == (None, "probability")
    assert artifact.contract.inputs[0].features == ("a", "b", "c")
    assert artifact.contract.inputs[0].dtype == "float32"


def test_a_classifier_of_many_stores_a_probability_per_class(
    tmp_path: Path, frame: pd.DataFrame, three: np.ndarray
) -> None:
    artifact = exported(tmp_path, LogisticRegression().fit(frame, three), frame)
    assert stored(artifact) == [
        ("label", "string"),
        ("probability_high", "float"),
        ("probability_low", "float"),
        ("probability_mid", "float"),
    ]


def test_a_classifier_without_probabilities_stores_its_label(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    assert stored(exported(tmp_path, LinearSVC().fit(frame, two), frame)) == [("label", "int64")]


def test_a_regressor_stores_a_prediction_per_target(tmp_path: Path, frame: pd.DataFrame) -> None:
    one = exported(tmp_path, LinearRegression().fit(frame, frame.a), frame)
    assert stored(one) == [("prediction", "float")]
    forest = RandomForestRegressor(5, random_state=0).fit(frame, frame[["a", "c"]])
    several = exported(tmp_path, forest, frame, version="2")
    assert stored(several) == [("prediction_1", "float"), ("prediction_2", "float")]
    # if a graph declares a wrong width, onnxruntime warns at each batch
    assert several.signature.outputs[0].shape == (None, 2)


def test_an_isolation_forest_stores_three_columns(tmp_path: Path, frame: pd.DataFrame) -> None:
    forest = IsolationForest(n_estimators=10, random_state=0).fit(frame.to_numpy())
    artifact = exported(tmp_path, forest, pa.Table.from_pandas(frame))
    assert [name for name, _ in stored(artifact)] == ["label", "scores", "score_samples"]


def test_a_clusterer_stores_distances_and_a_transformer_its_vector(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    clusters = exported(tmp_path, KMeans(3, random_state=0, n_init=1).fit(frame), frame)
    assert [name for name, _ in stored(clusters)] == ["label", "distances"]
    components = exported(tmp_path, PCA(2).fit(frame), frame, version="2")
    assert [(o.kind, o.width) for o in components.contract.outputs] == [("vector", 2)]


def test_every_column_can_be_called_otherwise_or_left_out(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    artifact = exported(
        tmp_path,
        LogisticRegression().fit(frame, two),
        frame,
        output_columns={"label": None, "probability_0": "stays", "probability": "leaves"},
    )
    assert [name for name, _ in stored(artifact)] == ["stays", "leaves"]
    assert [output.name for output in artifact.contract.outputs] == ["probabilities"]


def test_a_column_that_the_estimator_does_not_give_is_refused(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    with pytest.raises(ConfigError, match="'probabilty'") as caught:
        exported(
            tmp_path,
            LogisticRegression().fit(frame, two),
            frame,
            output_columns={"probabilty": "p"},
        )
    assert "did you mean 'probability'?" in caught.value.hint


def test_text_columns_have_an_input_each(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    mixed = frame[["a", "b"]].assign(city=np.random.default_rng(1).choice(["Oslo", "Rome"], ROWS))
    columns = ColumnTransformer(
        [("n", StandardScaler(), ["a", "b"]), ("t", OneHotEncoder(), ["city"])]
    )
    estimator = make_pipeline(columns, LogisticRegression()).fit(mixed, two)
    artifact = exported(tmp_path, estimator, mixed)
    assert [(i.name, i.dtype, i.features) for i in artifact.contract.inputs] == [
        ("a", "float32", ("a",)),
        ("b", "float32", ("b",)),
        ("city", "string", ("city",)),
    ]
    reference = artifact.card["reference"]["city"]
    assert reference["kind"] == "categorical"
    assert sum(reference["shares"].values()) == pytest.approx(1)


def test_columns_picked_by_name_have_an_input_each(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    columns = ColumnTransformer([("n", StandardScaler(), ["c", "a"])], remainder="passthrough")
    artifact = exported(
        tmp_path, make_pipeline(columns, LogisticRegression()).fit(frame, two), frame
    )
    assert [tensor.name for tensor in artifact.contract.inputs] == ["a", "b", "c"]


def test_a_feature_trained_with_missing_values_takes_null_as_nan(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    holes = frame.assign(a=frame.a.mask(frame.a > 1))
    boosted = HistGradientBoostingClassifier(max_iter=5).fit(holes.to_numpy(), two)
    artifact = exported(tmp_path, boosted, holes)
    assert null_policies(artifact) == {"a": "nan", "b": "reject", "c": "reject"}
    share = float(holes.a.isna().mean())
    assert artifact.card["reference"]["a"]["nulls"] == pytest.approx(share, abs=1e-6)


def test_a_forest_trained_without_missing_values_rejects_them(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    # its scikit-learn tags allow NaN, for which it would give a plausible answer
    forest = RandomForestClassifier(5, random_state=0).fit(frame, two)
    assert set(null_policies(exported(tmp_path, forest, frame)).values()) == {"reject"}


def test_null_policies_and_fills_can_be_stated(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    artifact = exported(
        tmp_path,
        LogisticRegression().fit(frame, two),
        frame,
        null_policies={"a": "nan"},
        fills={"b": 0},
    )
    assert null_policies(artifact) == {"a": "nan", "b": "fill", "c": "reject"}
    assert artifact.contract.feature("b").fill == 0
    with pytest.raises(ConfigError, match=r"'z'; the features are a, b, c"):
        exported(tmp_path, LogisticRegression().fit(frame, two), frame, fills={"z": 0})


def test_the_card_keeps_what_scikit_learn_says(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    estimator = LogisticRegression().fit(frame, two)
    card = exported(tmp_path, estimator, frame, parity_rows=64, training={"data": "drawn"}).card
    sample = pd.DataFrame(card["parity"]["features"])
    assert len(sample) == 64
    np.testing.assert_array_equal(
        card["parity"]["outputs"]["probability"], estimator.predict_proba(sample)[:, 1]
    )
    assert 0 < card["parity"]["max_abs_difference"] < card["parity"]["tolerance"] == 1e-5
    assert card["parity"]["rows_compared"] == ROWS
    assert card["training"]["data"] == "drawn"
    assert card["training"]["estimator"] == "LogisticRegression"
    assert card["training"]["library_versions"]["numpy"] == np.__version__


def test_decimals_are_fed_and_written_as_they_are(tmp_path: Path) -> None:
    prices = pa.array([Decimal("115.57"), Decimal("0.10"), Decimal("7.00")] * 10)
    table = pa.table({"price": prices})
    truth = np.array([float(value) for value in prices.to_pylist()])
    estimator = LinearRegression().fit(truth.reshape(-1, 1), truth * 2)
    card = exported(tmp_path, estimator, table).card
    assert card["parity"]["features"]["price"][:3] == [115.57, 0.1, 7.0]
    assert card["reference"]["price"]["quantiles"][-1] == 115.57


def test_a_graph_that_differs_from_the_estimator_is_refused(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    # float32 has seven digits, and the difference of two such numbers has none left
    wide = frame[["a"]].assign(a=1e8 + frame.a, b=1e8)
    steep = LinearRegression().fit(wide, frame.a)
    steep.coef_, steep.intercept_ = np.array([1000.0, -1000.0]), 0.0
    with pytest.raises(ArtifactError, match=r"'prediction' differs in .* ONNX .*, scikit-learn"):
        exported(tmp_path, steep, wide)
    assert list(tmp_path.iterdir()) == []


def test_scores_that_are_small_in_all_rows_have_their_signs(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    tied = LogisticRegression().fit(frame, frame.a > 0)
    # probabilities of a half, up to the ninth digit
    tied.coef_, tied.intercept_ = np.array([[1e-9, 0.0, -1e-9]]), np.array([0.0])
    exported(tmp_path, tied, frame)


def test_an_integer_that_float32_cannot_hold_is_refused(
    tmp_path: Path, frame: pd.DataFrame
) -> None:
    large = frame.assign(b=2**24 + 1)
    estimator = LinearRegression().fit(large, frame.a)
    with pytest.raises(ContractError, match=r"400 of 400 rows .* lossy_cast:b") as caught:
        exported(tmp_path, estimator, large)
    assert "dtype='float64'" in caught.value.hint
    artifact = exported(tmp_path, estimator, large, dtype="float64")
    assert artifact.contract.inputs[0].dtype == "float64"


def test_what_has_no_converter_is_refused_with_the_reason(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    estimator = make_pipeline(FunctionTransformer(np.abs), LogisticRegression()).fit(frame, two)
    with pytest.raises(ArtifactError, match="cannot convert Pipeline: FunctionTransformer is not"):
        exported(tmp_path, estimator, frame)


def test_features_in_another_order_are_refused(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    estimator = LogisticRegression().fit(frame, two)
    with pytest.raises(ContractError, match=r"fitted with .*\['a', 'b', 'c'\].*\['c', 'b', 'a'\]"):
        exported(tmp_path, estimator, frame[["c", "b", "a"]])
    with pytest.raises(ContractError, match="fitted with 3 features"):
        exported(tmp_path, LogisticRegression().fit(frame.to_numpy(), two), frame[["a"]])


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (np.zeros((3, 3)), "a ndarray without column names"),
        (pd.DataFrame({"a": []}), "it is empty"),
        (pd.DataFrame({"a": pd.to_datetime(["2024-01-31"])}), "'a' is timestamp"),
    ],
)
def test_features_that_no_table_could_have_are_refused(
    tmp_path: Path, features: Any, reason: str
) -> None:
    with pytest.raises(ContractError, match=reason):
        exported(tmp_path, DummyClassifier(), features)


def test_unsafe_names_are_refused(tmp_path: Path, frame: pd.DataFrame, two: pd.Series) -> None:
    with pytest.raises(ConfigError, match=r"'\.\./m'.*'Big Alias'"):
        exported(
            tmp_path, LogisticRegression().fit(frame, two), frame, name="../m", alias="Big Alias"
        )


def test_what_is_missing_is_told_before_anything_is_written(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    estimator = LogisticRegression().fit(frame, two)
    with pytest.raises(ConfigError, match="version is 2, not text"):
        exported(tmp_path, estimator, frame, version=2)
    with pytest.raises(ConfigError, match="alias is 'champion', but no registry is given"):
        exported(tmp_path, estimator, frame, alias="champion")
    with pytest.raises(ConfigError, match=r"folder of the registry .*seeds/r\.csv does not exist"):
        exported(tmp_path, estimator, frame, registry=tmp_path / "seeds" / "r.csv")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "dbt_project.yml").touch()
    exported(tmp_path, estimator, frame, registry=tmp_path / "seeds" / "r.csv")
    assert (tmp_path / "seeds" / "r.csv").exists()


def test_a_version_with_other_bytes_is_kept(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    first = exported(tmp_path, LogisticRegression().fit(frame, two), frame)
    other = LogisticRegression(C=0.01).fit(frame, two)
    with pytest.raises(ArtifactError, match="already exists and contains another model"):
        exported(tmp_path, other, frame)
    assert hashlib.sha256(first.path.read_bytes()).hexdigest() == first.sha256
    assert exported(tmp_path, other, frame, replace=True).sha256 != first.sha256


def test_the_registry_gets_a_row_and_an_alias_moves(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    registry = tmp_path / "model_registry.csv"
    estimator = LogisticRegression().fit(frame, two)
    for version, alias in (("1", "champion"), ("2", "champion"), ("1", None)):
        exported(tmp_path, estimator, frame, version=version, alias=alias, registry=registry)
    exported(tmp_path, estimator, frame, version="2", registry=registry)
    entries = Registry.from_csv(registry).entries
    assert [(e.model_version, e.alias) for e in entries] == [("1", None), ("2", "champion")]
    assert [e.artifact for e in entries] == ["m/1/model.onnx", "m/2/model.onnx"]


def test_the_registry_keeps_columns_and_rows_of_others(
    tmp_path: Path, frame: pd.DataFrame, two: pd.Series
) -> None:
    registry = tmp_path / "model_registry.csv"
    sha256 = "0" * 64
    registry.write_text(
        "model_name,model_version,alias,artifact,sha256,owner\n"
        f"other,7,champion,other/7/model.onnx,{sha256},ada\n"
    )
    estimator = LogisticRegression().fit(frame, two)
    exported(tmp_path, estimator, frame, alias="champion", registry=registry)
    with registry.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["model_name"], row["alias"], row["owner"]) for row in rows] == [
        ("other", "champion", "ada"),
        ("m", "champion", ""),
    ]


def test_the_same_estimator_gives_the_same_files_in_every_process(tmp_path: Path) -> None:
    program = """
import sys, numpy as np, pyarrow as pa, dbt_onnx
from sklearn.ensemble import GradientBoostingClassifier
rows = np.random.default_rng(0).normal(size=(200, 2))
model = GradientBoostingClassifier(n_estimators=3, random_state=0).fit(rows, rows[:, 0] > 0)
table = pa.table({"a": rows[:, 0], "b": rows[:, 1]})
dbt_onnx.export(model, table, name="m", version="1", artifacts=sys.argv[1])
"""
    # the order of a set of strings depends on the hash seed
    for seed in ("1", "2", "3"):
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / seed)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
    files = {
        tuple(hashlib.sha256((tmp_path / seed / "m" / "1" / name).read_bytes()).hexdigest()
              for name in ("model.onnx", "card.json"))
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(files) == 1


def test_a_distribution_has_a_share_per_bin_and_one_more_than_edges() -> None:
    numbers = describe(pa.array([None, *[0] * 70, *range(1, 30)], pa.int64()))
    assert numbers["nulls"] == 0.01
    assert numbers["edges"] == pytest.approx([0, 9.4, 19.2])
    assert len(numbers["shares"]) == len(numbers["edges"]) + 1
    assert numbers["shares"][0] == pytest.approx(70 / 99, abs=1e-6)
    assert sum(numbers["shares"]) == pytest.approx(1, abs=1e-5)
    assert (numbers["quantiles"][0], numbers["quantiles"][-1]) == (0.0, 29.0)


def test_values_below_a_frequent_one_have_a_bin_of_their_own() -> None:
    flags = describe(pa.array([0] * 5 + [1] * 95, pa.int64()))
    assert (flags["edges"], flags["shares"]) == ([0.0, 1.0], [0.05, 0.95, 0.0])


def test_a_distribution_of_text_keeps_the_most_frequent_values() -> None:
    many = [f"v{i}" for i in range(150)] + ["often"] * 50
    text = describe(pa.array([*many, None]))
    assert len(text["shares"]) == 100
    assert text["shares"]["often"] == 0.25
    assert text["other"] == pytest.approx(51 / 200)
    assert text["nulls"] == pytest.approx(1 / 201, abs=1e-6)


def test_a_distribution_of_nothing_known_is_still_json() -> None:
    nothing = describe(pa.array([None, None], pa.float64()))
    assert nothing["nulls"] == 1.0
    assert json.loads(json.dumps(nothing, allow_nan=False)) == nothing
