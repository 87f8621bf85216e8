"""Export a fitted estimator or a torch module as an artifact: graph, card and registry row."""

from __future__ import annotations

import sys
from dataclasses import replace as changed
from functools import partial
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from dbt_onnx.artifacts.artifact import write_artifact
from dbt_onnx.artifacts.registry import RegistryEntry, alias_faults, name_faults
from dbt_onnx.artifacts.registry_file import put_entry
from dbt_onnx.authoring.boosting import (
    BOOSTING,
    as_estimator,
    boosting_libraries,
    check_boosting_installation,
    check_categories,
    conversion_advice,
)
from dbt_onnx.authoring.card_parts import SAMPLE_ROWS, card_parts
from dbt_onnx.authoring.conversion import convert, inputs_for, with_first_largest_label
from dbt_onnx.authoring.distributions import is_number, is_text
from dbt_onnx.authoring.estimators import (
    EstimatorOutput,
    check_library,
    is_at_label_boundary,
    known_library,
    library_of,
    mixed_rows,
    outputs_of,
    registration_advice,
    rows_for,
    text_advice,
)
from dbt_onnx.authoring.parity import (
    COMPARE_HINT,
    SCORE_HINT,
    Parity,
    Trial,
    compare,
    outputs_for,
    score_arrow_table,
)
from dbt_onnx.errors import ArtifactError, ConfigError, ContractError, DbtOnnxError
from dbt_onnx.kernel.contract import Contract, Feature, Fill, NullPolicy
from dbt_onnx.kernel.tensors import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.kernel.contract import Class


UNSEEN_ROWS = 2_000
_PACKAGES = ("onnx", "onnxruntime", "numpy")
_CONVERTER = {"scikit-learn": "sklearn", "skl2onnx": "skl2onnx"}
_TORCH_CONVERTER = {"torch": "torch", "onnxscript": "onnxscript"}
_TORCH_SCORE_HINT = (
    "a module gives NaN for NaN unless it replaces it, with torch.nan_to_num or fills={...}; a number that "
    "float32 cannot hold needs module.double(), or a smaller unit"
)


def export(
    estimator: Any,
    features: Any,
    *,
    name: str,
    version: str,
    artifacts: str | Path = "artifacts",
    registry: str | Path | None = None,
    alias: str | None = None,
    classes: Sequence[Class] | None = None,
    output_columns: Mapping[str, str | None] | None = None,
    null_policies: Mapping[str, NullPolicy] | None = None,
    fills: Mapping[str, Fill] | None = None,
    training: Mapping[str, Any] | None = None,
    dtype: Literal["float32", "float64"] | None = None,
    tolerance: float = 1e-5,
    parity_rows: int = SAMPLE_ROWS,
    replace: bool = False,
) -> RegistryEntry:
    """Write `artifacts/<name>/<version>/model.onnx` and its `card.json`; return the registry row.

    estimator       fitted: classifier, regressor, outlier detector, clusterer, transformer, or a
                    pipeline that ends in one; also a ColumnTransformer over text columns. Or a
                    torch.nn.Module that takes a float tensor (rows, features). It is exported in
                    evaluation mode.
    features        (rows, features): the training rows, or many of them, as a data frame with the
                    columns that the estimator was fitted with; an Arrow table if it was fitted on
                    an array. The warehouse columns must have the same names. A module gets the
                    columns in their order.
    registry        path of the registry seed, in a folder that exists or that belongs in a dbt
                    project. If given, the row is written there, too. An `alias` is taken from the
                    version that had it; without one an existing row keeps its own.
    classes         for a torch module: its first output has the probabilities of these classes, or
                    of the second of two. The columns are those of a classifier.
    output_columns  {default column: column in the ledger, or None to not store it}. Defaults:
                    classifier          label; with two classes, probability (of the second class)
                                        and probability_<class> of the first, which is not stored;
                                        with more classes, probability_<class> of each
                    regressor           prediction, or prediction_1, prediction_2, ...
                    outlier detector    label, scores, score_samples
                    clusterer           label, distances (an array)
                    transformer         vector (an array)
                    torch module        prediction for (rows,) or (rows, 1); label, if it is int64;
                                        vector for (rows, k). Several outputs are numbered by
                                        their place: prediction_1, vector_2. Those of a dict have
                                        its keys.
    null_policies   {feature: "reject" | "nan"}. Default: `nan` for a feature with missing values
                    in `features`, since the estimator was trained with them; else `reject`. (A
                    forest trained without missing values accepts NaN, too, and predicts anyway.)
    fills           {feature: the value to use for NULL}.
    training        more facts for the card, as JSON types: data, rows, metrics. The versions of
                    scikit-learn, skl2onnx, onnx, onnxruntime and numpy are added, or of torch and
                    onnxscript.
    dtype           type of the numeric inputs: float32, or the precision of a module. Use float64 only if float32 is not precise enough,
                    as for integers above 2^24: graphs are slower with float64, and many converters
                    compute in float32 anyway.
    tolerance       the largest difference allowed between graph and estimator, as a share of the
                    number, or of the mean size of its column where that is larger; probabilities
                    have the size 1. Labels have no tolerance: they may differ only where single
                    precision cannot decide, see `docs/registering.md`.
    parity_rows     how many rows of `features`, evenly spaced, the card keeps for `verify`. The
                    export itself compares all rows, and 2,000 new rows mixed from their values.
    replace         overwrite a version that exists with other bytes, before it has scored anything:
                    afterwards, runs refuse the new file.

    Numeric features share one input tensor (rows, features), named `features`. With a text feature,
    or a step that picks columns by name, each column has its own input (rows, 1). The input has the
    column's name, or a generated name if the converter would change the column's. The same
    estimator gives the same bytes.

    Raises ConfigError without the extra that the model needs (`export`, `boosting`, `torch`), for a bad name,
    an unknown column, or an alias without a registry;
    ContractError if estimator and `features` do not match, or if a value of `features` would lose
    precision in the input's type; ArtifactError if the estimator cannot be converted, if graph and
    estimator differ by more than the tolerance, or if the version exists with other bytes;
    RegistryError if the registry seed is not valid.
    """
    check_library(estimator)
    _check_installation(estimator)
    _check_names(name, version, alias)
    _check_registry(registry, alias)
    columns = _columns(features)
    check_categories(estimator, features, columns)
    described = _features(columns, null_policies or {}, fills or {})
    if known_library(estimator) == "torch":
        from dbt_onnx.authoring.torch_module import TorchModel

        estimator = TorchModel(estimator, columns, fills=fills or {}, classes=classes, dtype=dtype)
        dtype = estimator.dtype
    elif classes is not None:
        raise ConfigError(
            f"classes is for torch modules; {type(estimator).__name__} is from {library_of(estimator)}",
            hint="leave classes out: a classifier knows its classes",
        )
    dtype = dtype or "float32"
    estimator = as_estimator(estimator)
    renamed = output_columns or {}
    rows = rows_for(estimator, features, columns)
    estimator_outputs = _outputs(estimator, rows)
    inputs = inputs_for(estimator, columns, dtype)
    model_bytes, inputs = convert(estimator, inputs, estimator_outputs, name=f"{name}_{version}")
    trials = _trials(estimator, rows, columns, estimator_outputs, share=DEFAULT_TOLERANCE[dtype])

    def fitted(candidate: bytes) -> tuple[bytes, Contract, pa.Table, Parity]:
        outputs = outputs_for(candidate, estimator_outputs, renamed)
        try:
            contract = Contract(features=described, inputs=inputs, outputs=outputs)
        except ContractError as error:
            raise ContractError(
                error.message,
                hint="rename the columns of `features`, or rename the ledger columns with "
                "output_columns; null_policies and fills must fit the type of a feature",
            ) from error
        hint = conversion_advice(estimator) or text_advice(estimator) or COMPARE_HINT
        own, *others = trials
        predictions = score_arrow_table(candidate, own.table, contract, hint=_score_hint(estimator))
        parity = compare(predictions, own, renamed, tolerance=tolerance, hint=hint)
        for unseen in others:
            scored = score_arrow_table(candidate, unseen.table, contract, may_reject=True)
            compare(scored, unseen, renamed, tolerance=tolerance, scales=parity.scales, hint=hint)
        return candidate, contract, predictions, parity

    try:
        fit = fitted(model_bytes)
    except ArtifactError as error:
        known = next((output.classes for output in estimator_outputs if output.classes), None)
        if known is None or library_of(estimator) == "torch":
            raise
        try:
            fit = fitted(with_first_largest_label(model_bytes, known))
        except ArtifactError:
            raise error from None
    model_bytes, contract, predictions, parity = fit
    entry = write_artifact(
        Path(artifacts),
        model_bytes,
        model_name=name,
        model_version=version,
        contract=contract,
        replace=replace,
        **card_parts(
            columns, predictions, parity, contract, tolerance=tolerance, sample_rows=parity_rows
        ),
        training={
            **(training or {}),
            "estimator": _estimator_name(estimator),
            "library_versions": _versions(estimator),
        },
    )
    entry = changed(entry, alias=alias)
    return entry if registry is None else put_entry(Path(registry), entry)


def _outputs(estimator: Any, rows: Any) -> list[EstimatorOutput]:
    try:
        return outputs_of(estimator, rows)
    except DbtOnnxError:
        raise
    except Exception as error:  # estimators' exceptions have no common base class
        reason = (str(error).strip().splitlines() or ["?"])[0]
        raise ContractError(
            f"{type(estimator).__name__} fails on `features`: {type(error).__name__}: {reason:.200}",
            hint=registration_advice(estimator)
            or text_advice(estimator)
            or "fit the estimator, and pass the rows that it was fitted with",
        ) from error


def _trials(
    estimator: Any,
    rows: Any,
    columns: dict[str, pa.Array],
    estimator_outputs: list[EstimatorOutput],
    *,
    share: float,
) -> list[Trial]:
    """Return two trials: the rows, and new rows mixed from them. Some converter errors show only in the latter.

    If the estimator refuses the mixed rows, only the first trial is returned.
    """
    is_at_boundary = partial(is_at_label_boundary, estimator, rows, share)
    origin = _origin(estimator)
    own = Trial("`features`", pa.table(columns), estimator_outputs, is_at_boundary, origin)
    try:
        unseen, table = mixed_rows(rows, columns, UNSEEN_ROWS)
        more = outputs_of(estimator, unseen)
    except Exception:  # noqa: BLE001 (the estimator may refuse a mixed row)
        return [own]
    where = f"{UNSEEN_ROWS:,} rows mixed from `features`"
    is_at_boundary = partial(is_at_label_boundary, estimator, unseen, share)
    return [own, Trial(where, pa.table(table), more, is_at_boundary, origin)]


def _check_installation(model: Any) -> None:
    """Raise ConfigError if the packages that convert the model are missing."""
    is_torch = known_library(model) == "torch"
    needed = _TORCH_CONVERTER if is_torch else _CONVERTER
    missing = [package for package, module in needed.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"export() needs {' and '.join(missing)}",
            hint=f"pip install 'dbt-onnx[{'torch' if is_torch else 'export'}]'",
        )
    check_boosting_installation(model)


def _check_names(name: str, version: str, alias: str | None) -> None:
    faults = [
        f"{what} is {value!r}, not text"
        for what, value in (("name", name), ("version", version))
        if not isinstance(value, str)
    ]
    if not faults:
        faults = name_faults(name, what="name") + name_faults(version, what="version")
        faults += alias_faults(alias) if alias is not None else []
    if faults:
        raise ConfigError(
            "; ".join(faults), hint="choose plain names, such as name='churn', version='1'"
        )


def _check_registry(registry: str | Path | None, alias: str | None) -> None:
    """Raise ConfigError if the registry is in no dbt project and no folder, or if an alias is given without it."""
    if registry is None and alias is not None:
        raise ConfigError(
            f"alias is {alias!r}, but no registry is given to write it to",
            hint="add registry='seeds/model_registry.csv', the seed that the scoring models read",
        )
    if registry is None:
        return
    folder = Path(registry).absolute().parent
    if not folder.is_dir() and not (folder.parent / "dbt_project.yml").is_file():
        raise ConfigError(
            f"the folder of the registry {registry} does not exist in {Path.cwd()}",
            hint="call export() in the folder of the dbt project, or create the folder of its seeds",
        )


def _columns(features: Any) -> dict[str, pa.Array]:
    """Return {name: column}. NaN, None and NA of a data frame become NULL."""
    if isinstance(features, pa.Table):
        columns = {key: features.column(key).combine_chunks() for key in features.column_names}
    elif hasattr(features, "columns"):
        # all data frame libraries can convert a column to a numpy array
        columns = {
            str(key): pa.array(features[key].to_numpy(), from_pandas=True)
            for key in features.columns
        }
    else:
        raise ContractError(
            f"`features` is a {type(features).__name__} without column names",
            hint="pass a data frame or an Arrow table: features are found by name in the warehouse",
        )
    faults = [
        f"{key!r} is {column.type}"
        for key, column in columns.items()
        if not (is_number(column.type) or is_text(column.type) or pa.types.is_boolean(column.type))
    ]
    if faults or not columns or not len(next(iter(columns.values()))):
        raise ContractError(
            f"`features` cannot be exported: {', '.join(faults) or 'it is empty'}",
            hint="pass rows with numeric, boolean or text columns",
        )
    return columns


def _features(
    columns: dict[str, pa.Array], policies: Mapping[str, NullPolicy], fills: Mapping[str, Fill]
) -> tuple[Feature, ...]:
    if unknown := sorted({*policies, *fills} - set(columns)):
        raise ConfigError(
            f"null_policies or fills name {', '.join(map(repr, unknown))}; "
            f"the features are {', '.join(columns)}",
            hint="use the names of `features`",
        )
    features = []
    for key, column in columns.items():
        seen: NullPolicy = "nan" if column.null_count and not is_text(column.type) else "reject"
        policy = "fill" if key in fills else policies.get(key, seen)
        features.append(Feature(name=key, null_policy=policy, fill=fills.get(key)))
    return tuple(features)


def _versions(estimator: Any) -> dict[str, str]:
    """Return {package: version} of everything that made the graph."""
    converter = _TORCH_CONVERTER if library_of(estimator) == "torch" else _CONVERTER
    versions = {package: installed_version(package) for package in (*converter, *_PACKAGES)}
    for library in boosting_libraries(estimator):
        versions[library] = sys.modules[library].__version__
        if find_spec("onnxmltools") is not None:
            versions["onnxmltools"] = installed_version("onnxmltools")
    return versions


def _origin(estimator: Any) -> str:
    """Return the name of the original in messages."""
    if library_of(estimator) == "torch":
        return "PyTorch"
    libraries = [BOOSTING[name] for name in boosting_libraries(estimator)]
    return " and ".join(libraries) or "scikit-learn"


def _score_hint(estimator: Any) -> str:
    return _TORCH_SCORE_HINT if library_of(estimator) == "torch" else SCORE_HINT


def _estimator_name(estimator: Any) -> str:
    if library_of(estimator) == "torch":
        return str(estimator.name)
    steps = getattr(estimator, "steps", None)
    if not steps:
        return type(estimator).__name__
    return " > ".join(_estimator_name(step) for _, step in steps)
