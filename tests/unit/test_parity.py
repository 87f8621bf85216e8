"""An export has the estimator's labels, and numbers that are equally close in every unit."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import dbt_onnx
from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.sample import largest_difference, scales_of, score_sample
from dbt_onnx.artifacts.verification import verify_entry
from dbt_onnx.authoring import export as exporter
from dbt_onnx.errors import ArtifactError, ContractError
from dbt_onnx.runs.replay import DIFFERENT, WITHIN_TOLERANCE, verdicts_on

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.artifacts.registry import RegistryEntry

UNITS = [1e-9, 1e-6, 1.0, 1e7]


def rows_of(seed: int, count: int) -> pd.DataFrame:
    """Return rows with float32 values, so that estimator and graph read the same numbers."""
    source = np.random.default_rng(seed)
    values = source.normal(size=(count, 4)).astype(np.float32).astype(np.float64)
    values[:, 1] = source.integers(0, 5, count)
    return pd.DataFrame(values, columns=list("abcd"))


def classes_of(rows: pd.DataFrame, seed: int, names: list[Any]) -> np.ndarray:
    noise = np.random.default_rng(seed + 1).normal(size=len(rows))
    score = (rows @ [1, 0.5, -1, 0.3]).to_numpy() + noise
    cuts = np.quantile(score, np.arange(1, len(names)) / len(names))
    return np.array(names)[np.digitize(score, cuts)]


def exported(folder: Path, estimator: Any, features: Any, **options: Any) -> RegistryEntry:
    return dbt_onnx.export(
        estimator, features, name="m", version="1", artifacts=folder, replace=True, **options
    )


def labels_of(folder: Path, entry: RegistryEntry, rows: pd.DataFrame) -> np.ndarray:
    artifact = load_artifact(folder, entry)
    features = {name: rows[name].tolist() for name in rows.columns}
    return np.array(score_sample(artifact.model_bytes, artifact.contract, features)["label"])


CLASSIFIERS = {
    "clipped scores": lambda: SGDClassifier(loss="modified_huber", random_state=0),
    "calibrated": lambda: CalibratedClassifierCV(SGDClassifier(random_state=0), cv=2),
    "isotonic": lambda: CalibratedClassifierCV(GaussianNB(), method="isotonic", cv=2),
    "rest": lambda: OneVsRestClassifier(SGDClassifier(loss="modified_huber", random_state=0)),
    "one against one": lambda: OneVsOneClassifier(LogisticRegression()),
    "votes of a margin": lambda: SVC(decision_function_shape="ovo"),
    "two neighbours": lambda: KNeighborsClassifier(2),
    "ten trees": lambda: RandomForestClassifier(10, random_state=0),
    "twenty trees": lambda: RandomForestClassifier(20, random_state=0),
    "fifty trees": lambda: RandomForestClassifier(50, random_state=0),
}


REFUSED = {"clipped scores", "rest", "one against one", "isotonic"}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("names", [[0, 1], ["c", "a", "b"]], ids=str)
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_labels_are_those_of_predict_or_export_refuses(
    tmp_path: Path, kind: str, names: list[Any], seed: int
) -> None:
    rows, unseen = rows_of(seed, 300), rows_of(seed + 100, 2_000)
    estimator = CLASSIFIERS[kind]().fit(rows, classes_of(rows, seed, names))
    try:
        entry = exported(tmp_path, estimator, rows)
    except ArtifactError as error:
        assert "does not reproduce" in error.message or "cannot load" in error.message
        assert kind in REFUSED
        return
    wrong = labels_of(tmp_path, entry, unseen) != estimator.predict(unseen)
    assert not wrong.any()


def test_ties_that_clipping_makes_are_no_excuse(tmp_path: Path) -> None:
    rows = rows_of(0, 600)
    estimator = SGDClassifier(loss="modified_huber", random_state=0).fit(
        rows, classes_of(rows, 0, [0, 1, 2])
    )
    tied = np.ptp(np.sort(estimator.predict_proba(rows), axis=1)[:, -2:], axis=1) == 0
    assert tied.sum() > 20
    with pytest.raises(ArtifactError, match="'label' differs in"):
        exported(tmp_path, estimator, rows)


@pytest.mark.parametrize(
    ("estimator", "threshold"),
    [
        (FixedThresholdClassifier(LogisticRegression(), threshold=0.4999), "0.4999"),
        (TunedThresholdClassifierCV(LogisticRegression(), cv=2), r"0\.\d+"),
        (
            make_pipeline(StandardScaler(), TunedThresholdClassifierCV(LogisticRegression(), cv=2)),
            r"0\.\d+",
        ),
    ],
    ids=["fixed", "tuned", "pipeline"],
)
def test_a_threshold_that_the_converter_leaves_out_is_refused(
    tmp_path: Path, estimator: Any, threshold: str
) -> None:
    rows = rows_of(0, 50)
    estimator.fit(rows, classes_of(rows, 0, [0, 1]))
    with pytest.raises(ContractError, match=rf"applies a threshold \({threshold}") as caught:
        exported(tmp_path, estimator, rows)
    assert "in SQL" in caught.value.hint


def test_a_rule_that_is_lost_between_the_rows_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on these 40 rows another threshold gives the same labels; mixed into more rows, it does not
    rows = rows_of(0, 2_000)
    estimator = LogisticRegression().fit(rows, classes_of(rows, 0, [0, 1]))
    far = rows[np.abs(estimator.decision_function(rows)) > 1.5].iloc[:40]
    other = LogisticRegression().fit(rows, classes_of(rows, 0, [0, 1]))
    other.intercept_ = other.intercept_ + 0.2
    replace_graph(monkeypatch, other)
    hidden = {"probability": None}
    assert (other.predict(far) == estimator.predict(far)).all()
    with pytest.raises(ArtifactError, match="of 2,000 rows mixed from `features`"):
        exported(tmp_path, estimator, far, output_columns=hidden)


def test_near_probabilities_alone_excuse_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(0, 400)
    estimator = LogisticRegression().fit(rows, classes_of(rows, 0, [0, 1]))
    # on the decision boundary, and up to 1e-4 away from it
    weights, shift = estimator.coef_[0], np.linspace(-1e-4, 1e-4, 400)
    rows["a"] = (
        -(rows[["b", "c", "d"]] @ weights[1:] + estimator.intercept_[0] + shift) / weights[0]
    )
    other = LogisticRegression().fit(rows_of(0, 400), classes_of(rows, 0, [0, 1]))
    other.coef_, other.intercept_ = estimator.coef_, estimator.intercept_ + 2e-5
    replace_graph(monkeypatch, other)
    assert np.abs(other.predict_proba(rows) - estimator.predict_proba(rows)).max() < 1e-5
    with pytest.raises(ArtifactError, match="'label' differs in"):
        exported(tmp_path, estimator, rows)


def test_what_single_precision_cannot_tell_is_excused(tmp_path: Path) -> None:
    rows = rows_of(0, 400)
    estimator = LogisticRegression().fit(rows, classes_of(rows, 0, [0, 1]))
    weights = estimator.coef_[0]
    shift = np.random.default_rng(0).normal(scale=1e-8, size=400)
    rows["a"] = (
        -(rows[["b", "c", "d"]] @ weights[1:] + estimator.intercept_[0] + shift) / weights[0]
    )
    entry = exported(tmp_path, estimator, rows)
    assert (labels_of(tmp_path, entry, rows) != estimator.predict(rows)).any()


@pytest.mark.parametrize("contamination", [0.1, 0.25, "auto"])
def test_outliers_are_those_of_predict(tmp_path: Path, contamination: Any) -> None:
    # with 101 rows, the eleventh is exactly at the limit
    rows, unseen = rows_of(3, 101), rows_of(4, 2_000)
    forest = IsolationForest(n_estimators=20, contamination=contamination, random_state=0).fit(
        rows.to_numpy()
    )
    entry = exported(tmp_path, forest, pa.Table.from_pandas(rows))
    wrong = labels_of(tmp_path, entry, unseen) != forest.predict(unseen.to_numpy())
    assert not (wrong & (np.abs(forest.decision_function(unseen.to_numpy())) > 1e-6)).any()


def replace_graph(monkeypatch: pytest.MonkeyPatch, other: Any) -> None:
    """Make export convert another estimator instead."""
    convert = exporter.convert
    monkeypatch.setattr(exporter, "convert", lambda _, *args, **kw: convert(other, *args, **kw))


def linear(coefficients: Any, unit: float) -> LinearRegression:
    model = LinearRegression()
    model.coef_, model.intercept_ = np.array(coefficients) * unit, 0.5 * unit
    model.n_features_in_ = len(coefficients)
    return model


@pytest.mark.parametrize("unit", UNITS)
def test_a_good_model_passes_in_every_unit(tmp_path: Path, unit: float) -> None:
    rows = rows_of(0, 400)
    entry = exported(tmp_path, linear([2.0, -1.0, 0.5, 3.0], unit), rows)
    assert verify_entry(tmp_path, entry).fault is None


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("off", [1.7, 1 + 5e-5])
def test_a_model_that_is_off_is_refused_in_every_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: float, off: float
) -> None:
    rows = rows_of(0, 400)
    replace_graph(monkeypatch, linear([2.0, -1.0, 0.5, 3.0], unit * off))
    with pytest.raises(ArtifactError, match="'prediction' differs"):
        exported(tmp_path, linear([2.0, -1.0, 0.5, 3.0], unit), rows)


@pytest.mark.parametrize("unit", UNITS)
def test_digits_that_single_precision_loses_are_missed_in_every_unit(
    tmp_path: Path, unit: float
) -> None:
    rows = rows_of(0, 400)
    wide = pd.DataFrame({"a": 1e8 + rows.a, "b": 1e8})
    with pytest.raises(ArtifactError, match="'prediction' differs"):
        exported(tmp_path, linear([1.0, -1.0], unit), wide)


@pytest.mark.parametrize("unit", UNITS)
def test_each_value_of_a_vector_has_a_size_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: float
) -> None:
    rows = rows_of(0, 400)
    rows["a"] *= np.float32(unit)
    scaler, other = StandardScaler().fit(rows), StandardScaler().fit(rows)
    for model in (scaler, other):
        # the first value is in `unit`, the others are about 1
        model.scale_ = np.array([1.0, 1.0, 1.0, 1.0])
    entry = exported(tmp_path, scaler, rows)
    sizes = scales_of(load_artifact(tmp_path, entry).card)["vector"]
    np.testing.assert_allclose(sizes, np.abs(scaler.transform(rows)).mean(axis=0))
    other.scale_ = np.array([1.7, 1.0, 1.0, 1.0])
    replace_graph(monkeypatch, other)
    with pytest.raises(ArtifactError, match="'vector' differs in 400 of 1,600 values"):
        exported(tmp_path, scaler, rows)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "estimator",
    [PCA(4), make_pipeline(StandardScaler(), PCA(4)), StandardScaler()],
    ids=lambda estimator: type(estimator).__name__,
)
def test_values_that_are_rounding_alone_pass(tmp_path: Path, estimator: Any, unit: float) -> None:
    # one column is constant, and one is another column doubled
    rows = rows_of(0, 400).assign(b=0.1)
    rows["d"] = 2 * rows["a"] + 1
    rows *= unit
    entry = exported(tmp_path, estimator.fit(rows), rows)
    assert verify_entry(tmp_path, entry).fault is None


@pytest.mark.parametrize("unit", UNITS)
def test_verify_has_the_same_verdict_in_every_unit(tmp_path: Path, unit: float) -> None:
    rows = rows_of(0, 400)
    entry = exported(tmp_path, linear([2.0, -1.0, 0.5, 3.0], unit), rows)
    # without card_sha256, since the test changes the card
    entry = replace(entry, card_sha256=None)
    path = tmp_path / "m" / "1" / "card.json"
    for factor, fault in ((1.7, True), (1 + 5e-5, True), (1 + 2e-6, False)):
        card = json.loads(path.read_text())
        written = path.read_text()
        card["parity"]["outputs"]["prediction"] = [
            value * factor for value in card["parity"]["outputs"]["prediction"]
        ]
        path.write_text(json.dumps(card))
        artifact = load_artifact(tmp_path, entry)
        actual = score_sample(artifact.model_bytes, artifact.contract, card["parity"]["features"])
        _, faults = largest_difference(
            card["parity"]["outputs"], actual, scales=scales_of(artifact.card)
        )
        assert bool(faults) is fault
        path.write_text(written)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("scale", [1.0, [1.0, 2.0]], ids=["number", "vector"])
def test_a_replay_has_the_same_verdict_in_every_unit(unit: float, scale: Any) -> None:
    sizes = np.asarray(scale) * unit
    said = np.full((3, 2) if sizes.ndim else 3, 0.5 * unit) * (sizes / unit)
    for factor, verdict in ((1.7, DIFFERENT), (1 + 5e-5, DIFFERENT), (1 + 5e-6, WITHIN_TOLERANCE)):
        arrays = []
        for values in (said, said * factor):
            flat = pa.array(values.ravel())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, 2) if sizes.ndim else flat)
        assert set(verdicts_on(*arrays, 1e-5, scale=sizes)) == {verdict}


@pytest.mark.parametrize("scales", [[1.0], {"y": "1"}, {"y": [None]}, {"y": -1.0}, {"y": True}])
def test_scales_that_are_no_numbers_are_refused(scales: Any) -> None:
    with pytest.raises(
        ArtifactError, match="scales of the card's sample are not non-negative numbers"
    ):
        scales_of({"parity": {"scales": scales}})
