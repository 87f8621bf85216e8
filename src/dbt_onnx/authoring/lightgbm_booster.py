"""A `lightgbm.Booster` as a fitted scikit-learn estimator. Imports scikit-learn, so `boosting` imports it late."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin


class _LightGBMBooster(BaseEstimator):  # type: ignore[misc]
    """`boosting_type` and `booster_` are what the converter of onnxmltools reads."""

    library = "lightgbm"

    def __init__(self, booster_: Any) -> None:
        self.booster_ = booster_
        self.boosting_type = "rf" if booster_.dump_model()["average_output"] else "gbdt"
        self.n_features_in_ = booster_.num_feature()
        names = booster_.feature_name()
        # LightGBM makes up these names when it is trained on an array
        if names != [f"Column_{number}" for number in range(len(names))]:
            self.feature_names_in_ = np.array(names, dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True


class LightGBMClassifier(ClassifierMixin, _LightGBMBooster):  # type: ignore[misc]
    """Classes are the numbers 0, 1, ... that the booster was trained with."""

    def __init__(self, booster_: Any) -> None:
        super().__init__(booster_)
        self.classes_ = np.arange(max(2, booster_.num_model_per_iteration()))

    def predict_proba(self, rows: Any) -> Any:
        """Return the probabilities (rows, classes)."""
        shares = self.booster_.predict(rows)
        return np.column_stack([1 - shares, shares]) if shares.ndim == 1 else shares

    def predict(self, rows: Any) -> Any:
        """Return the most probable class (rows,); of two that are equal, the first."""
        return self.classes_[self.predict_proba(rows).argmax(axis=1)]


class LightGBMRegressor(RegressorMixin, _LightGBMBooster):  # type: ignore[misc]
    """Also for rankings, and every other objective with one number for a row."""

    def predict(self, rows: Any) -> Any:
        """Return the predictions (rows,)."""
        return self.booster_.predict(rows)
