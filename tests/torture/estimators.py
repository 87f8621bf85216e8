"""A model that `export` accepts predicts on unseen rows what the estimator predicts, label by label."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators
from tests.torture import processes
from tests.torture.report import Attack

import dbt_onnx
from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.sample import score_sample
from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROMISE = "An exported model says what the estimator says"
ROWS, UNSEEN = 300, 2_000
# much wider than the parity that export requires, since export does not check these rows
NEAR = 1e-4
SCALES = (1.0, 1e-4, 1e5)
CLASSES: tuple[list[Any], ...] = ([0, 1], [1, 2, 3], ["no", "yes"], ["c", "a", "b", "d"])
CANNOT = "cannot be fitted"
CALLS_A_PROCESS, _TIMEOUT = 20, 1_800

INNER = [("tree", DecisionTreeClassifier(max_depth=3)), ("bayes", GaussianNB())]
BUILT: dict[str, Callable[[], Any]] = {
    "scaled logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "polynomial": lambda: make_pipeline(
        MinMaxScaler(), PolynomialFeatures(2), LogisticRegression(max_iter=500)
    ),
    "columns": lambda: make_pipeline(
        ColumnTransformer(
            [
                ("n", StandardScaler(), ["avg basket", "c"]),
                ("o", OneHotEncoder(handle_unknown="ignore"), ["b"]),
            ],
            remainder="passthrough",
        ),
        LogisticRegression(max_iter=500),
    ),
    "bins": lambda: make_pipeline(
        KBinsDiscretizer(5, quantile_method="averaged_inverted_cdf"), LogisticRegression()
    ),
    "clipped scores": lambda: SGDClassifier(loss="modified_huber"),
    "log loss": lambda: SGDClassifier(loss="log_loss"),
    "rest of clipped": lambda: OneVsRestClassifier(SGDClassifier(loss="modified_huber")),
    "rest of margins": lambda: OneVsRestClassifier(LinearSVC()),
    "pairs": lambda: OneVsOneClassifier(LogisticRegression()),
    "votes of a margin": lambda: SVC(decision_function_shape="ovo"),
    "calibrated margin": lambda: CalibratedClassifierCV(LinearSVC(), cv=2),
    "isotonic": lambda: CalibratedClassifierCV(GaussianNB(), method="isotonic", cv=2),
    "stack": lambda: StackingClassifier(INNER, final_estimator=LogisticRegression(), cv=2),
    "soft votes": lambda: VotingClassifier(INNER, voting="soft", flatten_transform=False),
    "hard votes": lambda: VotingClassifier(INNER, flatten_transform=False),
    "bagged trees": lambda: BaggingClassifier(DecisionTreeClassifier(), n_estimators=6),
    "two neighbours": lambda: KNeighborsClassifier(2),
    "six neighbours": lambda: KNeighborsClassifier(6, weights="distance"),
    "searched": lambda: GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
    "transformed target": lambda: TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
    "deep tree": DecisionTreeRegressor,
    **{
        f"{count} trees": partial(RandomForestClassifier, count) for count in (2, 5, 10, 20, 50, 64)
    },
}
WANTED = frozenset(
    {
        "AdaBoostClassifier", "BaggingRegressor", "BernoulliNB", "DecisionTreeClassifier",
        "DecisionTreeRegressor", "ElasticNet", "ExtraTreesClassifier", "ExtraTreesRegressor",
        "GaussianNB", "GradientBoostingClassifier", "GradientBoostingRegressor",
        "HistGradientBoostingClassifier", "HistGradientBoostingRegressor", "IsolationForest",
        "KMeans", "KNeighborsClassifier", "LinearRegression", "LinearSVC", "LogisticRegression",
        "MLPClassifier", "MLPRegressor", "MinMaxScaler", "PCA", "RandomForestClassifier",
        "RandomForestRegressor", "Ridge", "RidgeClassifier", "SVC", "StandardScaler",
        "TruncatedSVD", "scaled logistic", "polynomial", "columns", "stack", "soft votes",
        "calibrated margin", "20 trees", "50 trees",
    }
)  # fmt: skip
"""Estimators that export must accept at scale 1, so that refusing everything does not pass."""


def measure(folder: Path, *, seeds: int, every: int) -> Iterator[Attack]:
    """Export every `every`th estimator, fitted `seeds` times with different rows, classes and scales."""
    names = [*sorted(BUILT), *sorted(set(estimators()) - set(BUILT))][::every]
    # the seed is shifted by the estimator's number, so that smoke runs cover all scales and classes, too
    calls = [
        (name, seed, seed + number) for number, name in enumerate(names) for seed in range(seeds)
    ]
    attacks: dict[str, Attack] = {}
    for start in range(0, len(calls), CALLS_A_PROCESS):
        part = calls[start : start + CALLS_A_PROCESS]
        place = folder / str(start)
        for (name, _, number), (kind, refused, faults) in zip(
            part, processes.run(trials, place, part, timeout=_TIMEOUT)[1], strict=True
        ):
            if kind == CANNOT:
                continue
            # export may refuse an estimator at another scale
            is_wanted = name in WANTED and number % len(SCALES) == 0
            what = f"{kind}: {UNSEEN:,} unseen rows each"
            if refused is not None and not is_wanted:
                what = "refused, with a reason"
            harm = faults or (f"{name} is refused: {refused}" if refused and is_wanted else None)
            attacks.setdefault(what, Attack(PROMISE, what)).made(harm=harm)
    yield from attacks.values()


def trials(
    folder: Path, calls: list[tuple[str, int, int]]
) -> list[tuple[str, str | None, str | None]]:
    """In a child process: return the result of `trial` for each call."""
    found = []
    for place, call in enumerate(calls):
        (folder / str(place)).mkdir(parents=True)
        found.append(trial(folder / str(place), *call))
    return found


def estimators() -> dict[str, Callable[[], Any]]:
    """Return every scikit-learn estimator that needs no arguments, and our own pipelines, as name -> maker."""
    makers = dict(BUILT)
    makers.update(all_estimators())
    return makers


def trial(folder: Path, name: str, seed: int, number: int) -> tuple[str, str | None, str | None]:
    """Return the kind of estimator, why export refused it, and how the exported model differs from it."""
    warnings.simplefilter("ignore")
    scale, names = SCALES[number % len(SCALES)], CLASSES[number // len(SCALES) % len(CLASSES)]
    rows, unseen = _rows(seed, ROWS, scale), _rows(seed + 1_000, UNSEEN, scale)
    estimator = None
    for positive in (False, True):
        if positive:
            rows, unseen = rows.abs(), unseen.abs()
        for arguments in ({}, {"estimator": LogisticRegression()}, {"estimator": Ridge()}):
            for target in _targets(rows, seed, scale, names):
                estimator = estimator or _fitted(name, arguments, rows, target, seed)
        if estimator is not None:
            break
    if estimator is None:
        return CANNOT, None, None
    kind = _kind(estimator)
    where = f"{name}, seed {seed}, scale {scale:g}, {names}"
    try:
        entry = dbt_onnx.export(estimator, rows, name="m", version="1", artifacts=folder)
    except DbtOnnxError as error:
        return kind, error.message, None
    artifact = load_artifact(folder, entry)
    unseen = _that_it_takes(estimator, rows, unseen)
    columns = {column: unseen[column].tolist() for column in unseen.columns}
    said = score_sample(artifact.model_bytes, artifact.contract, columns)
    faults = _faults(estimator, unseen, said)
    return kind, None, f"{where}: {'; '.join(faults)}" if faults else None


def _targets(rows: pd.DataFrame, seed: int, scale: float, names: list[Any]) -> list[Any]:
    """Return the targets to try: classes, numbers, two columns, and None for unsupervised estimators."""
    score = _score(rows) * scale
    return [_classes(rows, seed, names), score, np.column_stack([score, -score]), None]


def _fitted(name: str, arguments: dict[str, Any], rows: Any, target: Any, seed: int) -> Any:
    """Return the fitted estimator, or None if it cannot be fitted to this target."""
    try:
        estimator = estimators()[name](**arguments)
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=seed)
        if is_regressor(estimator) and target is not None and target.dtype.kind != "f":
            return None
        if is_outlier_detector(estimator) or is_clusterer(estimator):
            target = None
        return estimator.fit(rows, target)
    except Exception:  # noqa: BLE001 (estimators raise errors without a common base class)
        return None


def _rows(seed: int, count: int, scale: float) -> pd.DataFrame:
    """Return rows with float32 values, so that the estimator and the model see the same numbers."""
    source = np.random.default_rng(seed)
    values = source.normal(size=(count, 4)) * scale
    values[:, 1] = source.integers(0, 5, count)
    values[:, 3] = np.abs(values[:, 3])
    exact = values.astype(np.float32).astype(np.float64)
    return pd.DataFrame(exact, columns=["avg basket", "b", "c", "d"])


def _score(rows: pd.DataFrame) -> np.ndarray:
    weights = [1.0, 0.5, -1.0, 0.3] / np.maximum(rows.std(), 1e-30)
    return np.asarray(rows @ weights)


def _classes(rows: pd.DataFrame, seed: int, names: list[Any]) -> np.ndarray:
    score = _score(rows) + np.random.default_rng(seed).normal(size=len(rows))
    cuts = np.quantile(score, np.arange(1, len(names)) / len(names))
    return np.array(names)[np.digitize(score, cuts)]


def _that_it_takes(estimator: Any, rows: pd.DataFrame, unseen: pd.DataFrame) -> pd.DataFrame:
    """Return the unseen rows, or rows of known values for an encoder that accepts only those."""
    try:
        getattr(estimator, "predict", getattr(estimator, "transform", None))(unseen)
    except Exception:  # noqa: BLE001 (estimators raise errors without a common base class)
        source = np.random.default_rng(2)
        return pd.DataFrame({name: source.choice(rows[name], UNSEEN) for name in rows.columns})
    return unseen


def _kind(estimator: Any) -> str:
    tests = {
        "classifiers": is_classifier, "regressors": is_regressor,
        "outlier detectors": is_outlier_detector, "clusterers": is_clusterer,
    }  # fmt: skip
    return next((kind for kind, test in tests.items() if test(estimator)), "transformers")


def _faults(estimator: Any, rows: pd.DataFrame, said: dict[str, list[Any]]) -> list[str]:
    faults = []
    for column, got in said.items():
        if any(value is None for value in got):
            faults.append(f"{column}: a row has no value")
        elif column == "label":
            labels = np.asarray(estimator.predict(rows))
            wrong = np.flatnonzero(labels != np.array(got))
            sure = [place for place in wrong if _is_sure(estimator, rows.iloc[[place]])]
            if sure:
                faults.append(f"{len(sure)} labels, row {sure[0]}: {got[sure[0]]}")
        else:
            truth = _truth(estimator, rows, column)
            apart = np.abs(np.array(got) - truth)
            size = 1.0 if column.startswith("probability") else np.abs(truth).mean(axis=0)
            wrong = ~(apart <= NEAR * np.maximum(np.abs(truth), size))
            if wrong.any():
                faults.append(f"{column}: {int(wrong.sum())} values, apart {np.max(apart):g}")
    return faults


def _is_sure(estimator: Any, row: pd.DataFrame) -> bool:
    """Whether `predict` gives one answer all around a row, so that rounding cannot explain a difference."""
    source = np.random.default_rng(1)
    around = pd.concat([row] * 200, ignore_index=True)
    around *= 1 + source.uniform(-1e-6, 1e-6, around.shape)
    return bool(len(set(estimator.predict(around).tolist())) == 1)


def _truth(estimator: Any, rows: pd.DataFrame, column: str) -> np.ndarray:
    if column == "probability":
        return np.asarray(estimator.predict_proba(rows)[:, 1])
    if column.startswith("probability_"):
        names = [f"probability_{item}" for item in estimator.classes_]
        return np.asarray(estimator.predict_proba(rows)[:, names.index(column)])
    if column in {"scores", "score_samples"}:
        function = "decision_function" if column == "scores" else column
        return np.asarray(getattr(estimator, function)(rows)).reshape(-1)
    if column in {"vector", "distances"}:
        values = estimator.transform(rows)
        return np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    values = np.asarray(estimator.predict(rows)).reshape(len(rows), -1)
    return np.asarray(values[:, int(column.partition("_")[2] or 1) - 1])
