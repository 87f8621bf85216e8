"""LightGBM, XGBoost and CatBoost, alone or as steps of a scikit-learn pipeline.

`as_estimator` gives a native booster the interface of a scikit-learn estimator. `register_converters`
teaches skl2onnx the converters of onnxmltools, and CatBoost's own. Whether a converted graph says the
same as the model is not decided here: `export` compares the two.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dbt_onnx.authoring.distributions import is_text
from dbt_onnx.authoring.estimators import library_of, parts_of, registration_advice
from dbt_onnx.errors import ConfigError, ContractError, format_items

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pyarrow as pa

BOOSTING = {"lightgbm": "LightGBM", "xgboost": "XGBoost", "catboost": "CatBoost"}
"""Module -> the name that people use."""

_OPTIONS = {"zipmap": [True, False, "columns"], "nocl": [True, False]}


def boosting_libraries(model: Any) -> list[str]:
    """Return the modules of BOOSTING that have a part of the model, such as the last step of a pipeline."""
    found = {library_of(part) for part in parts_of(model)}
    return [name for name in BOOSTING if name in found]


def conversion_advice(model: Any) -> str | None:
    """Return what to do about a model that cannot be converted, or was converted wrongly; None if unknown."""
    if library_of(model) == "torch":
        return "docs/models/torch.md lists what can be exported; for the rest: write an ONNX file, then `dbt-onnx register FILE`"
    advice = registration_advice(model)
    if not boosting_libraries(model):
        return advice
    return (
        "docs/models lists what can be exported: categories need an encoder in the pipeline, a scaler before "
        f"the trees needs dtype='float64'; for the rest: {advice}"
    )


def check_boosting_installation(model: Any) -> None:
    """Raise ConfigError if the model has a part that cannot be converted without onnxmltools."""
    libraries = [name for name in boosting_libraries(model) if name != "catboost"]
    if libraries and find_spec("onnxmltools") is None:
        names = " and ".join(BOOSTING[name] for name in libraries)
        raise ConfigError(
            f"export() of {names} needs onnxmltools", hint="pip install 'dbt-onnx[boosting]'"
        )


def check_categories(model: Any, features: Any, columns: Mapping[str, pa.Array]) -> None:
    """Raise ContractError if a boosted model reads categories without an encoder before it.

    `features` are the rows that `columns` were read from: a data frame knows which columns are categories.
    """
    library = library_of(model)
    if library not in BOOSTING:
        return
    names = [
        name
        for name, column in columns.items()
        if is_text(column.type)
        or str(getattr(features[name], "dtype", "")).lower().startswith("categor")
    ]
    if names:
        raise ContractError(
            f"{BOOSTING[library]} reads categories in {format_items(names)}: it replaces them by codes that "
            "depend on the training data, and an ONNX file does not have them",
            hint=f"put an encoder into a pipeline with the model, see docs/models/{library}.md",
        )


def as_estimator(model: Any) -> Any:
    """Return a native booster as a fitted scikit-learn estimator, any other model as it is.

    Raises ContractError if it is not known what the booster's objective predicts.
    """
    native = {
        ("lightgbm", "Booster"): _of_lightgbm,
        ("xgboost", "Booster"): _of_xgboost,
        ("catboost", "CatBoost"): _of_catboost,
    }.get((library_of(model), type(model).__name__))
    return model if native is None else native(model)


def register_converters(model: Any) -> None:
    """Teach skl2onnx the converters of the libraries that the model needs."""
    for library in boosting_libraries(model):
        _CONVERTERS[library]()


def _of_lightgbm(booster: Any) -> Any:
    from dbt_onnx.authoring.lightgbm_booster import LightGBMClassifier, LightGBMRegressor

    objective = booster.dump_model().get("objective", "").split(" ")[0]
    if not objective or objective == "custom":
        raise _unknown_objective("LightGBM", objective)
    is_classifier = objective in {"binary", "multiclass", "multiclassova"}
    return (LightGBMClassifier if is_classifier else LightGBMRegressor)(booster)


def _of_xgboost(booster: Any) -> Any:
    import xgboost

    objective = json.loads(booster.save_config())["learner"]["objective"]["name"]
    kinds = {
        "binary": xgboost.XGBClassifier,
        "multi": xgboost.XGBClassifier,
        "rank": xgboost.XGBRanker,
    }
    estimator = kinds.get(objective.partition(":")[0], xgboost.XGBRegressor)()
    estimator.load_model(bytearray(booster.save_raw("ubj")))
    return estimator


def _of_catboost(model: Any) -> Any:
    import catboost

    loss = model.get_all_params()["loss_function"].partition(":")[0]
    kind = catboost.CatBoostRegressor
    if loss in {"Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll"}:
        kind = catboost.CatBoostClassifier
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.cbm")
        model.save_model(path)
        return kind().load_model(path)


def _unknown_objective(library: str, objective: str) -> ContractError:
    return ContractError(
        f"a {library} booster with the objective {objective!r} gives raw scores: it is not known what they mean",
        hint="export the estimator of its scikit-learn interface, or write an ONNX file that ends with "
        "your own formula, then `dbt-onnx register FILE`",
    )


def _register(
    classifiers: Iterable[type],
    others: Iterable[type],
    convert: Callable[..., None],
    *,
    parser: Callable[..., Any] | None = None,
) -> None:
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes as shapes_of_classifier,
    )
    from skl2onnx.common.shape_calculator import (
        calculate_linear_regressor_output_shapes as shapes_of_regressor,
    )

    single = partial(_convert_in_single_precision, convert)
    for kind in classifiers:
        # scikit-learn calibrates the raw scores of an estimator that has them
        raw_scores = {"raw_scores": [True, False]} if hasattr(kind, "decision_function") else {}
        update_registered_converter(
            kind,
            _alias(kind),
            shapes_of_classifier,
            single,
            parser=parser,
            options=_OPTIONS | raw_scores,
        )
    for kind in others:
        update_registered_converter(kind, _alias(kind), shapes_of_regressor, single)


class _Step(SimpleNamespace):
    """What a converter reads of an operator of skl2onnx."""

    @property
    def input_full_names(self) -> list[str]:
        return [item.full_name for item in self.inputs]

    @property
    def output_full_names(self) -> list[str]:
        return [item.full_name for item in self.outputs]


def _convert_in_single_precision(
    convert: Callable[..., None], scope: Any, operator: Any, container: Any
) -> None:
    """Convert trees, whose outputs are float32. In a graph of float64, cast what enters and leaves them."""
    from onnx import TensorProto
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, guess_tensor_type

    if not isinstance(guess_tensor_type(operator.inputs[0].type), DoubleTensorType):
        inputs, outputs, casts = operator.inputs, operator.outputs, []
    else:
        single = FloatTensorType(operator.inputs[0].type.shape)
        name = scope.get_unique_variable_name("single")
        inputs = [SimpleNamespace(full_name=name, raw_name=name, type=single)]
        container.add_node("Cast", operator.inputs[0].full_name, name, to=TensorProto.FLOAT)
        *labels, numbers = operator.outputs
        name = scope.get_unique_variable_name("trees")
        outputs = [*labels, SimpleNamespace(full_name=name, raw_name=name, type=single)]
        casts = [(name, numbers.full_name)]
    step = _Step(
        full_name=operator.full_name,
        raw_operator=operator.raw_operator,
        inputs=inputs,
        outputs=outputs,
    )
    convert(scope, step, container)
    for trees, output in casts:
        container.add_node("Cast", trees, output, to=TensorProto.DOUBLE)


def _alias(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}".replace(".", "_")


def _register_lightgbm() -> None:
    import lightgbm
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

    from dbt_onnx.authoring.lightgbm_booster import LightGBMClassifier, LightGBMRegressor

    def convert(scope: Any, operator: Any, container: Any) -> None:
        convert_lightgbm(scope, operator, container)
        # only a calibration asks for raw scores
        if container.get_options(operator.raw_operator, {}).get("raw_scores"):
            (trees,) = (node for node in container.nodes if node.name == operator.full_name)
            for item in trees.attribute:
                if item.name == "post_transform":
                    item.s = b"NONE"

    _register(
        [lightgbm.LGBMClassifier, LightGBMClassifier],
        [lightgbm.LGBMRegressor, lightgbm.LGBMRanker, LightGBMRegressor],
        convert,
    )


def _register_xgboost() -> None:
    import xgboost
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    def convert(scope: Any, operator: Any, container: Any) -> None:
        # the converter finds a feature by its number, so it needs the names f0, f1, ...
        numbered = type(operator.raw_operator)()
        numbered.load_model(bytearray(operator.raw_operator.get_booster().save_raw("ubj")))
        numbered.get_booster().feature_names = None
        operator.raw_operator = numbered
        convert_xgboost(scope, operator, container)

    _register(
        [xgboost.XGBClassifier, xgboost.XGBRFClassifier],
        [xgboost.XGBRegressor, xgboost.XGBRFRegressor, xgboost.XGBRanker],
        convert,
    )


def _register_catboost() -> None:
    import catboost

    _register(
        [catboost.CatBoostClassifier],
        [catboost.CatBoostRegressor, catboost.CatBoostRanker],
        _convert_catboost,
        parser=_parse_catboost_classifier,
    )


def _parse_catboost_classifier(
    scope: Any,
    model: Any,
    inputs: Any,
    custom_parsers: Any = None,  # noqa: ARG001, skl2onnx gives it by this name
) -> Any:
    """Declare label and probabilities. skl2onnx does so by itself for subclasses of ClassifierMixin only."""
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType, guess_tensor_type

    operator = scope.declare_local_operator(_alias(type(model)), model)
    operator.inputs = inputs
    is_text = model.classes_.dtype.kind in "OU"
    label = StringTensorType() if is_text else Int64TensorType()
    for name, kind in (("label", label), ("probabilities", guess_tensor_type(inputs[0].type))):
        operator.outputs.append(scope.declare_local_variable(name, kind))
    return operator.outputs


def _convert_catboost(scope: Any, operator: Any, container: Any) -> None:
    """Copy the tree ensemble of the graph that CatBoost writes: its only node beside a ZipMap."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        operator.raw_operator.save_model(path, format="onnx")
        graph = onnx.load(path).graph
    nodes = [node for node in graph.node if node.op_type != "ZipMap"]
    if len(nodes) != 1 or graph.initializer:
        found = ", ".join(node.op_type for node in graph.node)
        raise ValueError(f"CatBoost wrote the operators {found}, not one tree ensemble")
    container.add_node(
        nodes[0].op_type,
        [operator.inputs[0].full_name],
        [output.full_name for output in operator.outputs],
        op_domain="ai.onnx.ml",
        op_version=1,
        name=scope.get_unique_operator_name(nodes[0].op_type),
        **{item.name: onnx.helper.get_attribute_value(item) for item in nodes[0].attribute},
    )


_CONVERTERS = {
    "lightgbm": _register_lightgbm,
    "xgboost": _register_xgboost,
    "catboost": _register_catboost,
}
