"""LightGBM, XGBoost and CatBoost are exported as they predict, or refused with the rows that differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import dbt_onnx
from dbt_onnx.artifacts.artifact import Artifact, load_artifact
from dbt_onnx.artifacts.sample import score_sample
from dbt_onnx.artifacts.verification import verify_entry
from dbt_onnx.authoring import boosting
from dbt_onnx.errors import ArtifactError, ConfigError, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS, TREES = 1_000, 20
COMMON = {"n_estimators": TREES, "n_jobs": 1, "random_state": 0}
CAT: dict[str, Any] = {
    "iterations": TREES, "verbose": 0, "thread_count": 1, "random_seed": 0, "allow_writing_files": False,
}  # fmt: skip
NATIVE = {"verbose": -1, "num_threads": 1}


def lgbm(**options: Any) -> Any:
    return lightgbm.LGBMClassifier(verbose=-1, **COMMON, **options)


def lgbm_regressor(**options: Any) -> Any:
    return lightgbm.LGBMRegressor(verbose=-1, **COMMON, **options)


def xgb(**options: Any) -> Any:
    return xgboost.XGBClassifier(**COMMON, **options)


def xgb_regressor(**options: Any) -> Any:
    return xgboost.XGBRegressor(**COMMON, **options)


def cat(**options: Any) -> Any:
    return catboost.CatBoostClassifier(**CAT, **options)


SOURCE = np.random.default_rng(0)
X = pd.DataFrame(
    {
        # a name that LightGBM changes and XGBoost's converter does not take
        "avg basket": SOURCE.normal(size=ROWS),
        "visits": SOURCE.integers(0, 50, ROWS).astype(float),
        "spend": SOURCE.normal(size=ROWS).round(2),
    }
)
X.loc[SOURCE.random(ROWS) < 0.1, "spend"] = np.nan
FULL = X.fillna(0.0)
NUMBER = X["avg basket"] + X.visits / 25 - 1 + X.spend.fillna(0.3) ** 2
TWO = (NUMBER > 0.7).astype(int)
THREE = np.digitize(NUMBER, [0.0, 1.2])
TEXT = np.where(TWO, "leaves", "stays")
CITY = pd.DataFrame(
    {"amount": SOURCE.normal(size=ROWS), "city": SOURCE.choice(["Oslo", "Rome", "Bonn"], ROWS)}
)
MOVES = ((CITY.amount > 0) ^ (CITY.city == "Oslo")).astype(int)
CODES = pd.DataFrame({"amount": CITY.amount, "code": SOURCE.choice([3, 7, 11], ROWS)}).astype(
    {"code": "category"}
)
CODED = ((CODES.amount > 0) ^ (CODES.code == 7)).astype(int)
GROUPS = np.repeat(np.arange(10), ROWS // 10)


def encoded(last: Any) -> Any:
    encode = [("n", "passthrough", ["amount"]), ("c", OneHotEncoder(), ["city"])]
    return make_pipeline(ColumnTransformer(encode), last)


def lgbm_native(labels: Any, **parameters: Any) -> Any:
    return lightgbm.train({**NATIVE, **parameters}, lightgbm.Dataset(X, labels), TREES)


def xgb_native(labels: Any, **parameters: Any) -> Any:
    return xgboost.train({"nthread": 1, **parameters}, xgboost.DMatrix(X, label=labels), TREES)


EARLY = {"early_stopping_rounds": 2, "eval_metric": "mlogloss"}

EXPORTED: dict[str, tuple[Callable[[], Any], pd.DataFrame]] = {
    "LightGBM, two classes": (lambda: lgbm().fit(X, TWO), X),
    "LightGBM, three classes": (lambda: lgbm().fit(X, THREE), X),
    "LightGBM, text labels": (lambda: lgbm().fit(X, TEXT), X),
    "LightGBM, numbers": (lambda: lgbm_regressor().fit(X, NUMBER), X),
    "LightGBM, counts": (lambda: lgbm_regressor(objective="poisson").fit(X, NUMBER.abs()), X),
    "LightGBM, quantile": (
        lambda: lgbm_regressor(objective="quantile", alpha=0.9).fit(X, NUMBER), X),
    "LightGBM, dart": (lambda: lgbm(boosting_type="dart").fit(X, TWO), X),
    "LightGBM, no missing values": (lambda: lgbm(use_missing=False).fit(FULL, TWO), FULL),
    "LightGBM, whole numbers as categories": (
        lambda: lgbm().fit(CODES.astype(float), CODED, categorical_feature=["code"]), CODES.astype(float)),
    "LightGBM, ranking": (
        lambda: lightgbm.LGBMRanker(verbose=-1, **COMMON).fit(X, THREE, group=[100] * 10), X),
    "LightGBM, booster of two": (lambda: lgbm_native(TWO, objective="binary"), X),
    "LightGBM, booster of three": (
        lambda: lgbm_native(THREE, objective="multiclass", num_class=3), X),
    "LightGBM, booster of numbers": (lambda: lgbm_native(NUMBER, objective="regression"), X),
    "XGBoost, two classes": (lambda: xgb().fit(X, TWO), X),
    "XGBoost, three classes": (lambda: xgb().fit(X, THREE), X),
    "XGBoost, numbers": (lambda: xgb_regressor().fit(X, NUMBER), X),
    "XGBoost, base_score of classes": (lambda: xgb(base_score=0.2).fit(X, TWO), X),
    "XGBoost, base_score of numbers": (lambda: xgb_regressor(base_score=7.5).fit(X, NUMBER), X),
    "XGBoost, counts": (
        lambda: xgb_regressor(objective="count:poisson").fit(X, NUMBER.abs()), X),
    "XGBoost, forest": (lambda: xgboost.XGBRFClassifier(**COMMON).fit(X, TWO), X),
    "XGBoost, stopped early": (
        lambda: xgb(**EARLY).fit(
            X[:500], THREE[:500], eval_set=[(X[500:], THREE[500:])], verbose=False), X),
    "XGBoost, ranking": (lambda: xgboost.XGBRanker(**COMMON).fit(X, THREE, qid=GROUPS), X),
    "XGBoost, booster of two": (lambda: xgb_native(TWO, objective="binary:logistic"), X),
    "XGBoost, booster of three": (
        lambda: xgb_native(THREE, objective="multi:softprob", num_class=3), X),
    "XGBoost, booster of numbers": (lambda: xgb_native(NUMBER), X),
    "CatBoost, two classes": (lambda: cat().fit(X, TWO), X),
    "CatBoost, three classes": (lambda: cat().fit(X, THREE), X),
    "CatBoost, text labels": (lambda: cat().fit(X, TEXT), X),
    "CatBoost, numbers": (lambda: catboost.CatBoostRegressor(**CAT).fit(X, NUMBER), X),
    "CatBoost, NaN as the largest": (lambda: cat(nan_mode="Max").fit(X, TWO), X),
    "CatBoost, native": (
        lambda: catboost.CatBoost({"loss_function": "Logloss", **CAT}).fit(X, TWO), X),
    "a scaler before LightGBM": (lambda: make_pipeline(StandardScaler(), lgbm()).fit(FULL, TWO), FULL),
    "a scaler before CatBoost": (lambda: make_pipeline(StandardScaler(), cat()).fit(FULL, TWO), FULL),
    "categories before LightGBM": (lambda: encoded(lgbm()).fit(CITY, MOVES), CITY),
    "categories before XGBoost": (lambda: encoded(xgb()).fit(CITY, MOVES), CITY),
    "categories before CatBoost": (lambda: encoded(cat()).fit(CITY, MOVES), CITY),
    "two stacked": (
        lambda: StackingClassifier(
            [("l", lgbm()), ("x", xgb())], LogisticRegression()).fit(FULL, TWO), FULL),
    "a calibrated XGBoost": (
        lambda: CalibratedClassifierCV(xgb(), cv=2, method="sigmoid").fit(FULL, TWO), FULL),
    "a calibrated LightGBM": (
        lambda: CalibratedClassifierCV(lgbm(), cv=2, method="sigmoid").fit(FULL, TWO), FULL),
    "a calibrated LightGBM, three classes": (
        lambda: CalibratedClassifierCV(lgbm(), cv=2, method="sigmoid").fit(FULL, THREE), FULL),
}  # fmt: skip

REFUSED: dict[str, tuple[Callable[[], Any], pd.DataFrame, str]] = {
    "LightGBM, forest": (
        lambda: lgbm(boosting_type="rf", subsample=0.7, subsample_freq=1).fit(X, TWO), X,
        "does not reproduce LightGBM within 1e-05: 'label' differs in .* first in row"),
    "LightGBM, linear trees": (
        lambda: lgbm_regressor(linear_tree=True).fit(X, NUMBER), X, "does not reproduce LightGBM"),
    "LightGBM, zero as missing": (
        lambda: lgbm(zero_as_missing=True).fit(X, TWO), X, "does not reproduce LightGBM"),
    "LightGBM, one against all": (
        lambda: lgbm_native(THREE, objective="multiclassova", num_class=3), X,
        "does not reproduce LightGBM"),
    "LightGBM, cross entropy": (
        lambda: lgbm_native(TWO, objective="cross_entropy"), X, "cannot convert LightGBMRegressor"),
    "an isotonic LightGBM": (
        lambda: CalibratedClassifierCV(lgbm(), cv=2, method="isotonic").fit(FULL, TWO), FULL,
        "does not reproduce LightGBM"),
    "XGBoost, linear": (
        lambda: xgb(booster="gblinear").fit(FULL, TWO), FULL, "cannot convert XGBClassifier"),
    "XGBoost, dart": (lambda: xgb(booster="dart").fit(X, TWO), X, "cannot convert XGBClassifier"),
    "XGBoost, zero as missing": (
        lambda: xgb(missing=0.0).fit(FULL, TWO), FULL, "does not reproduce XGBoost"),
    "XGBoost, two targets": (
        lambda: xgb_regressor().fit(X, np.c_[NUMBER, -NUMBER]), X, "does not reproduce XGBoost"),
    "a scaler before XGBoost": (
        lambda: make_pipeline(StandardScaler(), xgb()).fit(FULL, TWO), FULL,
        "does not reproduce XGBoost"),
    "CatBoost, counts": (
        lambda: catboost.CatBoostRegressor(loss_function="Poisson", **CAT).fit(X, NUMBER.abs()), X,
        "does not reproduce CatBoost"),
    "CatBoost, one against all": (
        lambda: cat(loss_function="MultiClassOneVsAll").fit(X, THREE), X,
        "does not reproduce CatBoost"),
}  # fmt: skip


CATEGORIES: dict[str, tuple[Callable[[], Any], pd.DataFrame, str]] = {
    "LightGBM, text": (
        lambda: lgbm().fit(CITY.astype({"city": "category"}), MOVES),
        CITY.astype({"city": "category"}), "LightGBM reads categories in .*'city'"),
    "LightGBM, numbers": (
        lambda: lgbm().fit(CODES, CODED), CODES, "LightGBM reads categories in .*'code'"),
    "XGBoost, numbers": (
        lambda: xgb(enable_categorical=True).fit(CODES, CODED), CODES,
        "XGBoost reads categories in .*'code'"),
    "CatBoost, text": (
        lambda: cat(cat_features=["city"]).fit(CITY, MOVES), CITY, "CatBoost reads categories in .*'city'"),
}  # fmt: skip


def exported(folder: Path, model: Any, features: Any, **options: Any) -> Artifact:
    entry = dbt_onnx.export(
        model, features, **{"name": "m", "version": "1", "artifacts": folder, **options}
    )
    assert verify_entry(folder, entry).fault is None
    return load_artifact(folder, entry)


@pytest.mark.parametrize("case", EXPORTED)
def test_it_is_exported(tmp_path: Path, case: str) -> None:
    make, features = EXPORTED[case]
    artifact = exported(tmp_path, make(), features)
    assert artifact.contract.feature_names == tuple(features.columns)
    assert artifact.card["parity"]["rows_compared"] == ROWS


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_converter_gets_wrong_is_refused_with_what_to_do(tmp_path: Path, case: str) -> None:
    make, features, message = REFUSED[case]
    with pytest.raises(ArtifactError, match=message) as caught:
        exported(tmp_path, make(), features)
    assert "docs/models" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", CATEGORIES)
def test_categories_without_an_encoder_are_refused_by_name(tmp_path: Path, case: str) -> None:
    make, features, message = CATEGORIES[case]
    with pytest.raises(ContractError, match=message) as caught:
        exported(tmp_path, make(), features)
    assert "put an encoder into a pipeline" in str(caught.value.hint)


def test_a_scaler_before_xgboost_is_exact_in_double_precision(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), xgb()).fit(FULL, TWO)
    artifact = exported(tmp_path, model, FULL, dtype="float64")
    assert artifact.contract.inputs[0].dtype == "float64"


@pytest.mark.parametrize(
    ("library", "make"),
    [
        ("lightgbm", lambda: lgbm().fit(X, TWO)),
        ("lightgbm", lambda: lgbm_native(TWO, objective="binary")),
        ("xgboost", lambda: xgb_native(TWO, objective="binary:logistic")),
        ("catboost", lambda: cat().fit(X, TWO)),
    ],
)
def test_new_rows_get_the_answers_of_the_native_library(
    tmp_path: Path, library: str, make: Callable[[], Any]
) -> None:
    model = make()
    artifact = exported(tmp_path, model, X)
    source = np.random.default_rng(1)
    new = pd.DataFrame({name: source.permutation(X[name]) for name in X})
    if isinstance(model, xgboost.Booster):
        truth = model.predict(xgboost.DMatrix(new))
    elif isinstance(model, lightgbm.Booster):
        truth = model.predict(new)
    else:
        truth = model.predict_proba(new)[:, 1]
    columns = {name: [None if v != v else v for v in new[name]] for name in new}
    scores = score_sample(artifact.model_bytes, artifact.contract, columns)
    np.testing.assert_allclose(scores["probability"], truth, atol=1e-5)
    versions = artifact.card["training"]["library_versions"]
    assert versions[library]
    assert [f.null_policy for f in artifact.contract.features] == ["reject", "reject", "nan"]


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    for model in (lgbm().fit(X, TWO), xgb().fit(X, TWO), cat().fit(X, TWO)):
        with pytest.raises(ContractError, match="was fitted with the features"):
            exported(tmp_path, model, X[["visits", "avg basket", "spend"]])


def test_a_booster_of_raw_scores_is_refused(tmp_path: Path) -> None:
    def squared(scores: Any, data: Any) -> tuple[Any, Any]:
        return scores - data.get_label(), np.ones_like(scores)

    booster = lgbm_native(NUMBER, objective=squared)
    with pytest.raises(ContractError, match="gives raw scores"):
        exported(tmp_path, booster, X)


def test_without_onnxmltools_it_says_which_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosting, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="LightGBM needs onnxmltools") as caught:
        exported(tmp_path, lgbm().fit(X, TWO), X)
    assert caught.value.hint == "pip install 'dbt-onnx[boosting]'"
    exported(tmp_path, cat().fit(X, TWO), X)
