"""The outputs of a fitted scikit-learn estimator, which an exported graph must reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from dbt_onnx.authoring.distributions import is_text, to_floats
from dbt_onnx.errors import ContractError
from dbt_onnx.kernel.tensors import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from dbt_onnx.kernel.contract import Class, OutputKind
    from dbt_onnx.kernel.tensors import Array

FLOAT32 = DEFAULT_TOLERANCE["float32"]
NUDGES = 32
_VECTORIZERS = {"CountVectorizer", "TfidfVectorizer"}
_CONVERTERS = {
    "lightgbm": "onnxmltools.convert_lightgbm",
    "xgboost": "onnxmltools.convert_xgboost",
    "catboost": "its own save_model(path, format='onnx')",
    "torch": "torch.onnx.export",
    "keras": "tf2onnx",
    "tensorflow": "tf2onnx",
    "jax": "jax2onnx.to_onnx",
    "jaxlib": "jax2onnx.to_onnx",
    "flax": "jax2onnx.to_onnx",
    "pyspark": "onnxmltools.convert_sparkml",
    "h2o": "onnxmltools.convert_h2o",
}
_REGISTERED_ONLY = frozenset({"keras", "tensorflow", "jax", "jaxlib", "flax", "pyspark", "h2o"})


@dataclass(frozen=True, kw_only=True)
class EstimatorOutput:
    """One output of an estimator: its values (rows,) or (rows, k), and the default names of its columns.

    `columns` has the names of all its ledger columns, `unstored` those not stored by default.
    `is_rounded` (rows,) is for labels: True where the two best classes of a row are too close for
    float32 to separate. It is None if it is not known how the estimator decides.
    """

    kind: OutputKind
    values: Array
    columns: tuple[str, ...]
    unstored: tuple[str, ...] = ()
    classes: tuple[Class, ...] | None = None
    is_rounded: Array | None = None


def rows_for(estimator: Any, features: Any, columns: dict[str, pa.Array]) -> Any:
    """Return the sample in the form with which the estimator was fitted: a data frame or an array.

    Raises ContractError unless the estimator was fitted with the same columns in the same order.
    """
    fitted = _fitted_names(estimator)
    if fitted is None:
        wanted = getattr(estimator, "n_features_in_", len(columns))
        if wanted != len(columns):
            raise ContractError(
                f"the estimator was fitted with {wanted} features; "
                f"`features` has {len(columns)}: {', '.join(columns)}",
                hint="pass the columns that the estimator was fitted with, in the same order",
            )
        return np.column_stack(
            [
                column.to_numpy(zero_copy_only=False) if is_text(column.type) else to_floats(column)
                for column in columns.values()
            ]
        )
    # LightGBM replaces blanks in names
    if fitted not in ([*columns], [name.replace(" ", "_") for name in columns]):
        raise ContractError(
            f"the estimator was fitted with the features {fitted}; `features` has {list(columns)}",
            hint="pass the columns that the estimator was fitted with, in the same order",
        )
    if isinstance(features, pa.Table):
        raise ContractError(
            "the estimator was fitted on a data frame; `features` is an Arrow table",
            hint="pass a data frame, or fit the estimator on an array",
        )
    return features


def _fitted_names(estimator: Any) -> list[str] | None:
    """Return the columns of the data frame that the estimator was fitted with; None for an array."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None and library_of(estimator) == "catboost":
        names = getattr(estimator, "feature_names_", [])
        # CatBoost makes up these names when it is fitted on an array
        if list(names) == [str(number) for number in range(len(names))]:
            names = None
    return None if names is None else [str(name) for name in names]


def is_at_label_boundary(
    estimator: Any, rows: Any, share: float, places: Array, one: Array, other: Array
) -> Array:
    """Return for which rows at `places` `predict` gives both labels, `one` and `other`, after tiny changes.

    A change moves each number of a row by `share` of itself, up or down at random.
    """
    nothing = np.zeros(len(places), dtype=bool)
    if not len(places):
        return nothing
    chosen = some_of(rows, places)
    # at first change integers, too; if `predict` fails, as with an encoder that meets a new value, only floats
    for kinds in ("fiu", "f"):
        source = np.random.default_rng(0)
        has_one = has_other = nothing
        try:
            for _ in range(NUDGES):
                near = _nudged(chosen, share, source, kinds)
                labels = _plain_labels(estimator.predict(near))
                has_one, has_other = has_one | (labels == one), has_other | (labels == other)
                if (has_one & has_other).all():
                    break
        except Exception:  # noqa: BLE001, S112 (estimators' exceptions have no common base class)
            continue
        return has_one & has_other
    return nothing


def _nudged(rows: Any, share: float, source: np.random.Generator, kinds: str) -> Any:
    """Return the rows with each number of these numpy kinds changed by `share` of itself, up or down."""

    def moved(values: Any) -> Any:
        if values.dtype.kind not in kinds:
            return values
        return values * (1 + share * source.choice([-1.0, 1.0], values.shape))

    if not hasattr(rows, "columns"):
        return moved(rows)
    columns = {name: rows[name] for name in rows.columns}
    for name, column in columns.items():
        if str(column.dtype).lower().startswith(("float", "int", "uint")):
            columns[name] = moved(column.to_numpy())
    return type(rows)(columns)


def some_of(rows: Any, places: Array) -> Any:
    """Return the rows at these positions of a data frame or an array."""
    if isinstance(rows, np.ndarray):
        return rows[places]
    from sklearn.utils import _safe_indexing

    chosen = _safe_indexing(rows, places)
    # index from 0: a data frame made of several columns aligns them by their index
    return chosen.reset_index(drop=True) if hasattr(chosen, "reset_index") else chosen


def mixed_rows(
    rows: Any, columns: dict[str, pa.Array], count: int
) -> tuple[Any, dict[str, pa.Array]]:
    """Return `count` new rows. Each of their values is copied from the same column of a random row.

    The result has the rows twice: in the form that the estimator takes, and as columns of a table.
    """
    source = np.random.default_rng(0)
    n_rows = len(next(iter(columns.values())))
    places = {name: source.integers(0, n_rows, count) for name in columns}
    table = {name: column.take(pa.array(places[name])) for name, column in columns.items()}
    if not hasattr(rows, "columns"):
        return np.column_stack([rows[chosen, i] for i, chosen in enumerate(places.values())]), table
    return type(rows)(
        {name: some_of(rows[name], places[str(name)]) for name in rows.columns}
    ), table


def names_columns(estimator: Any) -> bool:
    """Return whether a step picks columns by name, so that the graph needs an input for each column."""
    if any(names_columns(step) for _, step in getattr(estimator, "steps", [])):
        return True
    if getattr(estimator, "feature_names_in_", None) is None:
        return False
    chosen = [columns for _, _, columns in getattr(estimator, "transformers_", [])]
    ends = [[c.start, c.stop] if isinstance(c, slice) else c for c in chosen]
    return any(isinstance(name, str) for columns in ends for name in np.atleast_1d(columns))


def final_step(estimator: Any) -> Any:
    """Return the last step of a pipeline, which may be nested; any other estimator as it is."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def outputs_of(estimator: Any, rows: Any) -> list[EstimatorOutput]:
    """Return all outputs of the estimator for the rows, in the order of the graph's outputs.

    Raises ContractError if it gives several labels per row, is of no supported kind, or uses a threshold.
    """
    if library_of(estimator) == "torch":
        return cast("list[EstimatorOutput]", estimator.outputs(rows))
    from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor

    if is_classifier(estimator):
        return _classifier(estimator, rows)
    if is_outlier_detector(estimator):
        return _outlier_detector(estimator, rows)
    if is_clusterer(estimator) and hasattr(estimator, "predict"):
        labels = _label(estimator.predict(rows))
        if not hasattr(estimator, "transform"):
            return [labels]
        # there may be many distances, one for each centre: store them as one vector
        return [labels, _vector("distances", estimator.transform(rows))]
    if is_regressor(estimator) or type(final_step(estimator)).__name__.endswith("Ranker"):
        return [_values("prediction", estimator.predict(rows))]
    if hasattr(estimator, "transform"):
        return [_vector("vector", estimator.transform(rows))]
    raise ContractError(
        f"{type(estimator).__name__} is not a classifier, regressor, outlier detector, clusterer "
        "or transformer",
        hint=registration_advice(estimator)
        or "convert it yourself and write its card with `dbt-onnx register FILE`",
    )


def parts_of(model: Any) -> list[Any]:
    """Return a model and all models inside it: steps, transformers, and the members of an ensemble."""
    parts = [model]
    for part in parts:
        inner = [item[1] for item in getattr(part, "steps", None) or ()]
        inner += [item[1] for item in getattr(part, "transformers_", None) or ()]
        for name in ("estimators_", "calibrated_classifiers_"):
            # a forest has an array of trees
            members = getattr(part, name, None)
            inner += members if isinstance(members, list) else []
        inner += [
            getattr(part, name, None)
            for name in ("estimator", "best_estimator_", "final_estimator_")
        ]
        parts += [item for item in inner if item is not None and not isinstance(item, str | type)]
    return parts


def library_of(part: Any) -> str:
    """Return the top-level module that a model is from."""
    return str(getattr(part, "library", None) or type(part).__module__.partition(".")[0])


def known_library(part: Any) -> str | None:
    """Return the library of _CONVERTERS that a model is from, or that its class inherits from; None if of none."""
    names = [library_of(part), *(base.__module__.partition(".")[0] for base in type(part).__mro__)]
    return next((name for name in names if name in _CONVERTERS), None)


def check_library(model: Any) -> None:
    """Raise ContractError if the model is from a library that `export` does not take."""
    library = known_library(model)
    if library is not None and library in _REGISTERED_ONLY:
        raise ContractError(
            f"export() does not take a {type(model).__name__} of {library}",
            hint=_way_out(model, library),
        )


def registration_advice(estimator: Any) -> str | None:
    """Return advice for registering a model of another library; None if the model has no part of one."""
    for part in parts_of(estimator):
        if library := known_library(part):
            return _way_out(part, library)
    return None


def text_advice(estimator: Any) -> str | None:
    """Return advice for a model that splits text into words; None if it does not."""
    if not any(type(part).__name__ in _VECTORIZERS for part in parts_of(estimator)):
        return None
    return (
        "docs/models/text.md lists what is converted: a vectorizer in a ColumnTransformer, with lowercase=False "
        'and all letters by name, as in token_pattern="[a-z0-9äöüß]{2,}"'
    )


def _way_out(part: Any, library: str) -> str:
    return (
        f"{type(part).__name__} is from {library}: write an ONNX file with {_CONVERTERS[library]}, then "
        "`dbt-onnx register FILE --name ... --version ... --features ...`"
    )


def _classifier(estimator: Any, rows: Any) -> list[EstimatorOutput]:
    _refuse_threshold(estimator)
    labels = _plain_labels(estimator.predict(rows))
    if labels.ndim > 1:
        raise ContractError(
            f"{type(estimator).__name__} gives {labels.shape[1]} labels per row",
            hint="export one estimator per label",
        )
    if not hasattr(estimator, "predict_proba"):
        # only the label: converters return a decision function in different shapes
        return [_label(labels)]
    shares = np.asarray(estimator.predict_proba(rows))
    text = labels.dtype.kind in "OU"
    classes = tuple(str(item) if text else int(item) for item in estimator.classes_)
    return class_outputs(labels, shares, classes)


def class_outputs(
    labels: Array, shares: Array, classes: tuple[Class, ...]
) -> list[EstimatorOutput]:
    """Return the outputs of a classifier: its labels (rows,), and the probabilities (rows, classes)."""
    names = tuple(f"probability_{item}" for item in classes)
    unstored: tuple[str, ...] = ()
    if len(classes) == 2:
        names, unstored = (names[0], "probability"), names[:1]
    return [
        _label(labels, is_rounded=is_rounded_label(labels, shares, np.array(classes))),
        EstimatorOutput(
            kind="probabilities", values=shares, columns=names, unstored=unstored, classes=classes
        ),
    ]


def _refuse_threshold(estimator: Any) -> None:
    """Refuse a tuned or fixed threshold: the converter leaves it out, so the labels would differ."""
    decider = final_step(estimator)
    while hasattr(decider, "best_estimator_"):
        decider = final_step(decider.best_estimator_)
    if type(decider).__name__ in {"TunedThresholdClassifierCV", "FixedThresholdClassifier"}:
        threshold = getattr(decider, "best_threshold_", getattr(decider, "threshold", None))
        raise ContractError(
            f"{type(decider).__name__} applies a threshold ({threshold}), which skl2onnx does not convert",
            hint="export its `.estimator_`, and compare `probability` with the threshold in SQL",
        )


def is_rounded_label(labels: Array, shares: Array, classes: Array) -> Array | None:
    """Return which rows have two largest probabilities that differ by no more than float32 rounding.

    Equal probabilities do not count, since there is a rule for a tie. None if `predict` does not take
    the largest probability: it has a threshold, votes one against one, or clips its scores.
    """
    ordered = np.sort(shares, axis=1)
    gaps = ordered[:, -1] - ordered[:, -2] if len(classes) > 1 else np.ones(len(shares))
    is_largest = np.asarray(classes)[shares.argmax(axis=1)] == labels
    return (gaps > 0) & (gaps <= FLOAT32) if is_largest[gaps > 0].all() else None


def _outlier_detector(estimator: Any, rows: Any) -> list[EstimatorOutput]:
    scores = np.asarray(estimator.decision_function(rows)).reshape(-1)
    labels = np.asarray(estimator.predict(rows))
    is_rounded = np.abs(scores) <= FLOAT32 * np.abs(scores).mean()
    by_sign = (labels == np.where(scores < 0, -1, 1)) | is_rounded
    outputs = [
        _label(labels, is_rounded=is_rounded if by_sign.all() else None),
        _values("scores", scores),
    ]
    # for these two the converter can add `score_samples` as a third output
    if type(final_step(estimator)).__name__ in {"IsolationForest", "LocalOutlierFactor"}:
        outputs.append(_values("score_samples", estimator.score_samples(rows)))
    return outputs


def _label(values: Any, *, is_rounded: Array | None = None) -> EstimatorOutput:
    labels = _plain_labels(values)
    return EstimatorOutput(kind="label", values=labels, columns=("label",), is_rounded=is_rounded)


def _plain_labels(values: Any) -> Array:
    labels: Array = np.asarray(values)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.reshape(-1)  # as CatBoost gives them
    return labels if labels.dtype.kind in "OU" else labels.astype(np.int64)


def _values(name: str, values: Any) -> EstimatorOutput:
    values = np.asarray(values)
    if values.ndim == 1 or values.shape[1] == 1:
        return EstimatorOutput(kind="value", values=values.reshape(-1), columns=(name,))
    names = tuple(f"{name}_{number}" for number in range(1, values.shape[1] + 1))
    return EstimatorOutput(kind="values", values=values, columns=names)


def _vector(name: str, values: Any) -> EstimatorOutput:
    if hasattr(values, "toarray"):
        values = values.toarray()
    return EstimatorOutput(kind="vector", values=np.asarray(values), columns=(name,))
