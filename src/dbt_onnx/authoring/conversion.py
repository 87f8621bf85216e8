"""Convert a fitted scikit-learn estimator to an ONNX graph, with skl2onnx."""

from __future__ import annotations

import ctypes
import threading
import warnings
from dataclasses import replace
from functools import partial
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, cast

from dbt_onnx.authoring.boosting import conversion_advice, register_converters
from dbt_onnx.authoring.distributions import is_text
from dbt_onnx.authoring.estimators import (
    FLOAT32,
    EstimatorOutput,
    final_step,
    library_of,
    names_columns,
)
from dbt_onnx.errors import ArtifactError
from dbt_onnx.kernel.contract import Class, Input, TensorType
from dbt_onnx.kernel.native import OverdueError, Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx
    import pyarrow as pa


# the newest opsets that onnxruntime 1.20, the oldest supported version, implements completely
TARGET_OPSET = {"": 18, "ai.onnx.ml": 3}
MAX_SECONDS = 300.0
_TIES = "dbt_onnx_ties_"


def inputs_for(
    estimator: Any, columns: dict[str, pa.Array], dtype: TensorType
) -> tuple[Input, ...]:
    """Return one input `features` (rows, features), or one input for each column (rows, 1).

    Each column has its own input if any column is text, or if a step picks columns by name.
    """
    if not names_columns(estimator) and not any(is_text(c.type) for c in columns.values()):
        return (Input(name="features", dtype=dtype, features=tuple(columns)),)
    return tuple(
        Input(name=key, dtype="string" if is_text(column.type) else dtype, features=(key,))
        for key, column in columns.items()
    )


def convert(
    estimator: Any, inputs: tuple[Input, ...], outputs: list[EstimatorOutput], *, name: str
) -> tuple[bytes, tuple[Input, ...]]:
    """Convert the estimator to a graph called `name`. Return its bytes, and the inputs with their names in it.

    The same estimator gives the same bytes. Raises ArtifactError if skl2onnx cannot convert the
    estimator, with skl2onnx's reason, or does not finish within MAX_SECONDS; for a torch module, the
    errors of `TorchModel.convert`.
    """
    if library_of(estimator) == "torch":
        return estimator.convert(inputs, name=name), inputs
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType

    register_converters(estimator)
    types = {"float32": FloatTensorType, "float64": DoubleTensorType, "string": StringTensorType}
    initial = [(i.name, types[i.dtype]([None, len(i.features)])) for i in inputs]
    options: dict[str, Any] = {}
    if any(output.kind == "probabilities" for output in outputs):
        options["zipmap"] = False
    if any("score_samples" in output.columns for output in outputs):
        options["score_samples"] = True
    model = converted(
        partial(
            convert_sklearn,
            estimator,
            # without a name, skl2onnx gives the graph a random one
            name=name,
            initial_types=initial,
            target_opset=TARGET_OPSET,
            options={id(final_step(estimator)): options} if options else None,
        ),
        converter=f"skl2onnx {installed_version('skl2onnx')}",
        model=type(estimator).__name__,
        late_hint="converting a tree trained with NaN may never end with dtype='float64': try float32, "
        "or fill missing values in an earlier step; or train a forest with fewer trees",
        hint=conversion_advice(estimator)
        or "replace the step that the message names; scikit-learn steps with a converter are listed "
        "at https://onnx.ai/sklearn-onnx/supported.html",
    )
    _declare_widths(model, outputs)
    # skl2onnx collects the domains in a set, and the order of a set differs between processes
    model.opset_import.sort(key=lambda item: item.domain)
    inputs = _renamed_inputs(model, inputs)
    return cast("bytes", model.SerializeToString(deterministic=True)), inputs


def converted(
    call: Callable[[], Any], *, converter: str, model: str, late_hint: str, hint: str
) -> Any:
    """Return what the converter's `call` returns.

    Raises ArtifactError with the `hint` and the converter's reason if it fails, and with the `late_hint` if
    it does not finish within MAX_SECONDS.
    """
    work = _Conversion(call)
    try:
        return Threads().run(work.run, max_seconds=MAX_SECONDS, cancel=work.stop)
    except OverdueError as error:
        raise ArtifactError(
            f"{converter} did not convert {model} within {MAX_SECONDS:g} s", hint=late_hint
        ) from error
    except Exception as error:  # converters' exceptions have no common base class
        reason = (str(error).strip().splitlines() or ["?"])[0]
        raise ArtifactError(
            f"{converter} cannot convert {model}: {reason:.200}", hint=hint
        ) from error


def _renamed_inputs(model: onnx.ModelProto, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """Return the inputs with their names in the graph.

    skl2onnx keeps the order of the inputs, but changes some of their names. Such an input is renamed
    to `column_<place>`, in the graph and in the result. Features keep their names.
    """
    if len(model.graph.input) != len(inputs):
        return inputs
    taken = {name.casefold() for node in model.graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name.casefold() for tensor in (*inputs, *model.graph.initializer)}
    names: dict[str, str] = {}
    renamed = []
    for place, (info, tensor) in enumerate(zip(model.graph.input, inputs, strict=True), start=1):
        if info.name != tensor.name:
            name = f"column_{place}"
            while name in taken:
                name += "_"
            names[info.name] = name
            info.name = name
        renamed.append(replace(tensor, name=info.name))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
    return tuple(renamed)


def with_first_largest_label(model_bytes: bytes, classes: Sequence[Class]) -> bytes:
    """Return the model with a new rule for its label: the first of the most probable classes.

    scikit-learn breaks a tie like this. Probabilities that differ only by single-precision rounding
    count as equal: in onnxruntime 10 shares of 0.05 add up to more than 0.5, so without this rule a
    forest of 20 trees that vote 10 to 10 would choose the second class.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.ModelProto.FromString(model_bytes)
    graph = model.graph
    label, shares = graph.output[0], graph.output[1]
    kind = shares.type.tensor_type.elem_type
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == label.name:
                    names[place] = _TIES + name
    text = isinstance(classes[0], str)
    constants: list[tuple[str, int, Any]] = [
        ("axis", TensorProto.INT64, [1]),
        ("rounding", kind, [FLOAT32]),
        ("classes", TensorProto.STRING if text else TensorProto.INT64, list(classes)),
    ]
    for name, dtype, values in constants:
        graph.initializer.append(helper.make_tensor(_TIES + name, dtype, [len(values)], values))
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("ReduceMax", [shares.name, _TIES + "axis"], _TIES + "largest", {"keepdims": 1}),
        ("Sub", [_TIES + "largest", _TIES + "rounding"], _TIES + "nearly", {}),
        ("GreaterOrEqual", [shares.name, _TIES + "nearly"], _TIES + "reached", {}),
        ("Cast", [_TIES + "reached"], _TIES + "flags", {"to": TensorProto.INT32}),
        ("ArgMax", [_TIES + "flags"], _TIES + "place", {"axis": 1, "keepdims": 0}),
        ("Gather", [_TIES + "classes", _TIES + "place"], label.name, {"axis": 0}),
    ]
    for operator, inputs, output, attributes in steps:
        graph.node.append(helper.make_node(operator, inputs, [output], **attributes))
    return cast("bytes", model.SerializeToString(deterministic=True))


class _Conversion:
    """A converter call that can be stopped: it is Python code, so an exception raised in its thread ends it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._thread: int | None = None

    def run(self) -> Any:
        self._thread = threading.get_ident()
        with warnings.catch_warnings():
            # only skl2onnx can fix its deprecated calls of protobuf, numpy and scikit-learn
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return self._call()

    def stop(self) -> None:
        if self._thread is not None:
            # SystemExit, since a converter may catch every Exception and go on
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread), ctypes.py_object(SystemExit)
            )


def _declare_widths(model: onnx.ModelProto, outputs: list[EstimatorOutput]) -> None:
    """Correct the output widths that forests with several targets declare: onnxruntime warns at every batch."""
    for info, output in zip(model.graph.output, outputs, strict=False):
        dims = info.type.tensor_type.shape.dim
        if len(dims) == 2 and output.values.ndim == 2:
            dims[1].dim_value = output.values.shape[1]
