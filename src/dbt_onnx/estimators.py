"""What a fitted scikit-learn estimator answers: the truth that an exported graph must repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dbt_onnx.distributions import to_floats
from dbt_onnx.errors import ContractError

if TYPE_CHECKING:
    from dbt_onnx.contract import Class, OutputKind
    from dbt_onnx.integers import Array


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One output: its values (rows,) or (rows, k), and what its columns are called by default.

    `columns` has a name for every column, `stored` whether it is stored unless somebody asks.
    `margin` (rows,), for labels: how far a row is from getting another one; none: unknown.
    """

    kind: OutputKind
    values: Array
    columns: tuple[str, ...]
    stored: tuple[bool, ...]
    classes: tuple[Class, ...] | None = None
    margin: Array | None = None


def rows_for(estimator: Any, features: Any, columns: dict[str, pa.Array]) -> Any:
    """The sample in the form in which the estimator was fitted: a data frame, or an array.

    Raises ContractError when the names are not those that it was fitted with, in that order.
    """
    fitted = getattr(estimator, "feature_names_in_", None)
    if fitted is None:
        wanted = getattr(estimator, "n_features_in_", len(columns))
        if wanted != len(columns):
            raise ContractError(
                f"the estimator was fitted with {wanted} features; "
                f"`features` has {len(columns)}: {', '.join(columns)}",
                hint="pass the columns that it was fitted with, in that order",
            )
        return np.column_stack([_plain(column) for column in columns.values()])
    if list(fitted) != list(columns):
        raise ContractError(
            f"the estimator was fitted with the features {list(fitted)}; "
            f"`features` has {list(columns)}",
            hint="pass the columns that it was fitted with, in that order",
        )
    if isinstance(features, pa.Table):
        raise ContractError(
            "the estimator was fitted on a data frame; `features` is an Arrow table",
            hint="pass a data frame, or fit the estimator on an array",
        )
    return features


def _plain(column: pa.Array) -> Array:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return to_floats(column)


def names_columns(estimator: Any) -> bool:
    """Whether a step picks columns by name, so that the graph needs an input for each column."""
    steps = [step for _, step in getattr(estimator, "steps", [])]
    if any(names_columns(step) for step in steps if step is not None):
        return True
    picked = [item[2] for item in getattr(estimator, "transformers_", [])]
    if not picked or getattr(estimator, "feature_names_in_", None) is None:
        return False
    return any(
        isinstance(columns, str) or any(isinstance(name, str) for name in columns)
        for columns in picked
    )


def final_step(estimator: Any) -> Any:
    """The estimator itself, or the last step of a pipeline (of pipelines)."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def answers_of(estimator: Any, rows: Any) -> list[Answer]:
    """All that the estimator says about the rows, in the order of the graph's outputs.

    Raises ContractError when it has more than one label per row, or answers nothing.
    """
    from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor

    if is_classifier(estimator):
        return _classifier(estimator, rows)
    if is_outlier_detector(estimator):
        return _outlier_detector(estimator, rows)
    if is_clusterer(estimator):
        # distances to the centres belong together and are many: one vector
        return [_label(estimator.predict(rows)), _vector("distances", estimator.transform(rows))]
    if is_regressor(estimator):
        return [_values("prediction", estimator.predict(rows))]
    if hasattr(estimator, "transform"):
        return [_vector("vector", estimator.transform(rows))]
    raise ContractError(
        f"{type(estimator).__name__} is no classifier, regressor, outlier detector, clusterer or "
        "transformer",
        hint="convert it yourself and write its card with `dbt-onnx register FILE`",
    )


def _classifier(estimator: Any, rows: Any) -> list[Answer]:
    labels = np.asarray(estimator.predict(rows))
    if labels.ndim > 1:
        raise ContractError(
            f"{type(estimator).__name__} gives {labels.shape[1]} labels for a row",
            hint="export one estimator per label",
        )
    if labels.dtype.kind not in "OU":
        labels = labels.astype(np.int64)
    if not hasattr(estimator, "predict_proba"):
        # a decision function comes back in other shapes from one converter to the next
        return [_label(labels)]
    shares = np.asarray(estimator.predict_proba(rows))
    text = labels.dtype.kind in "OU"
    classes = tuple(str(item) if text else int(item) for item in estimator.classes_)
    names = tuple(f"probability_{item}" for item in classes)
    stored = (True,) * len(classes)
    if len(classes) == 2:
        names, stored = (names[0], "probability"), (False, True)
    best = np.sort(shares, axis=1)
    return [
        _label(labels, margin=best[:, -1] - best[:, -2] if len(classes) > 1 else None),
        Answer(kind="probabilities", values=shares, columns=names, stored=stored, classes=classes),
    ]


def _outlier_detector(estimator: Any, rows: Any) -> list[Answer]:
    scores = np.asarray(estimator.decision_function(rows)).reshape(-1)
    answers = [
        _label(estimator.predict(rows), margin=np.abs(scores)),
        _values("scores", scores),
    ]
    if offers_score_samples(estimator):
        answers.append(_values("score_samples", estimator.score_samples(rows)))
    return answers


def offers_score_samples(estimator: Any) -> bool:
    """Whether the converter can give this estimator's `score_samples` as a third output."""
    return type(final_step(estimator)).__name__ in {"IsolationForest", "LocalOutlierFactor"}


def _label(values: Any, *, margin: Array | None = None) -> Answer:
    values = np.asarray(values)
    if values.dtype.kind not in "OU":
        values = values.astype(np.int64)
    return Answer(kind="label", values=values, columns=("label",), stored=(True,), margin=margin)


def _values(name: str, values: Any) -> Answer:
    values = np.asarray(values)
    if values.ndim == 1 or values.shape[1] == 1:
        return Answer(kind="value", values=values.reshape(-1), columns=(name,), stored=(True,))
    names = tuple(f"{name}_{number}" for number in range(1, values.shape[1] + 1))
    return Answer(kind="values", values=values, columns=names, stored=(True,) * len(names))


def _vector(name: str, values: Any) -> Answer:
    if hasattr(values, "toarray"):
        values = values.toarray()
    return Answer(kind="vector", values=np.asarray(values), columns=(name,), stored=(True,))
