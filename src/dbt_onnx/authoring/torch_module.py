"""A torch module as `export` reads a model: its outputs for rows, and its graph. `export` imports it late."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from copy import deepcopy
from math import ceil
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto, helper

from dbt_onnx.artifacts.graph import read_graph
from dbt_onnx.authoring.conversion import TARGET_OPSET, converted, with_first_largest_label
from dbt_onnx.authoring.distributions import is_text
from dbt_onnx.authoring.estimators import EstimatorOutput, class_outputs
from dbt_onnx.authoring.trial import try_model
from dbt_onnx.errors import ConfigError, ContractError, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from dbt_onnx.kernel.contract import Class, Fill, Input, OutputKind, TensorType
    from dbt_onnx.kernel.tensors import Array

_PAGE = "docs/models/torch.md lists what can be exported"
_CHUNK_ROWS = 16_384
# torch.export treats an axis of 0 or 1 as fixed
_EXAMPLE_ROWS = 8
# how far probabilities in single precision may be from adding up to 1
_ROUNDING = 1e-4
_PRECISIONS: dict[Any, TensorType] = {torch.float32: "float32", torch.float64: "float64"}


class TorchModel:
    """A copy of a module in evaluation mode on the CPU. The caller's module is not changed.

    `columns` are the features in the order of the module's input, `fills` the values for NULL. `classes`
    says that the first output has their probabilities. `dtype` is None, or the module's precision.

    Raises ConfigError for bad classes, and for another precision than the module has; ContractError if it is
    no module, a column is text, or the module cannot be copied or is neither of float32 nor of float64.
    """

    library = "torch"

    def __init__(
        self,
        module: torch.nn.Module,
        columns: Mapping[str, pa.Array],
        *,
        fills: Mapping[str, Fill],
        classes: Sequence[Class] | None,
        dtype: TensorType | None,
    ) -> None:
        # torch.compile puts the module into another one
        module = getattr(module, "_orig_mod", module)
        self.name = type(module).__name__
        if not isinstance(module, torch.nn.Module):
            raise ContractError(
                f"export() takes a torch.nn.Module, not a {self.name} of torch",
                hint="pass the module itself",
            )
        if texts := [repr(key) for key, column in columns.items() if is_text(column.type)]:
            raise ContractError(
                f"{self.name} takes one tensor of numbers, but {', '.join(texts)} of `features` is text",
                hint="replace the text by numbers in the features model, as in the training",
            )
        self.dtype = _precision_of(module, self.name, dtype)
        self.classes = None if classes is None else _checked(classes)
        # a fill of another type is refused with the contract
        numbers = {key: float(fill) for key, fill in fills.items() if isinstance(fill, float | int)}
        self._fills = [numbers.get(key, np.nan) for key in columns]
        try:
            self._module = deepcopy(module).cpu().eval()
        except Exception as error:  # torch's exceptions have no common base class
            raise ContractError(
                f"{self.name} cannot be copied: {_reason(error)}",
                hint="make the module again and load its state_dict, then export that one",
            ) from error

    def outputs(self, rows: Array) -> list[EstimatorOutput]:
        """Return the outputs of the module for the rows (rows, features). NaN is filled if there is a fill.

        Raises ContractError if the module fails, gives anything but tensors with one entry per row, or,
        with `classes`, numbers that are not probabilities.
        """
        tensors = self._run(np.where(np.isnan(rows), self._fills, rows))
        outputs: list[EstimatorOutput] = []
        for key, values in tensors.items():
            if self.classes is not None and not outputs:
                shares = self._shares(values, self.classes)
                labels = np.array(self.classes)[shares.argmax(axis=1)]
                outputs += class_outputs(labels, shares, self.classes)
                continue
            kind, column = _kind_of(values)
            if len(tensors) > 1:
                column = key if isinstance(key, str) else f"{column}_{key}"
            outputs.append(
                EstimatorOutput(
                    kind=kind,
                    values=values if kind == "vector" else values.reshape(-1),
                    columns=(column,),
                )
            )
        return outputs

    def predict(self, rows: Array) -> Array:
        """Return the labels (rows,)."""
        return next(output.values for output in self.outputs(rows) if output.kind == "label")

    def convert(self, inputs: tuple[Input, ...], *, name: str) -> bytes:
        """Convert the module to a graph called `name`. The same module gives the same bytes.

        Raises ArtifactError if torch cannot convert it within MAX_SECONDS, and the errors of `try_model`.
        """
        (features,) = inputs
        example = torch.zeros(_EXAMPLE_ROWS, len(features.features), dtype=self._torch_dtype)
        graph = _Graph(self._module, self.name, self.classes)
        n_outputs = len(_tensors_of(self._call(example), self.name))

        def convert() -> bytes:
            with torch.no_grad():
                program = torch.export.export(
                    graph, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
                )
                model = torch.onnx.export(
                    program,
                    dynamo=True,
                    input_names=[features.name],
                    output_names=[f"output_{place}" for place in range(1, n_outputs + 1)],
                    opset_version=TARGET_OPSET[""],
                    external_data=False,
                    verbose=False,
                ).model_proto
            _strip(model)
            model.graph.name = name
            return cast("bytes", model.SerializeToString(deterministic=True))

        with _quiet():
            model_bytes: bytes = converted(
                convert,
                converter=f"torch {torch.__version__}",
                model=self.name,
                late_hint=f"{_PAGE}; convert it yourself, then `dbt-onnx register FILE`",
                hint=f"{_PAGE}; an `if` that depends on values becomes torch.where",
            )
        try:
            signature = read_graph(model_bytes, where=self.name)
            try_model(model_bytes, signature, inputs, dict.fromkeys(features.features, 1))
        except ContractError as error:
            raise ContractError(
                f"{self.name}: {error.message}",
                hint="a row must be predicted from its own features alone: normalise with running "
                "statistics, do not attend to other rows, and use nn.Dropout for dropout",
            ) from error
        return model_bytes if self.classes is None else _with_label(model_bytes, self.classes)

    @property
    def _torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def _run(self, rows: Array) -> dict[str | int, Array]:
        parts = []
        for chunk in np.array_split(rows, ceil(len(rows) / _CHUNK_ROWS)):
            tensors = _tensors_of(
                self._call(torch.tensor(chunk, dtype=self._torch_dtype)), self.name
            )
            for tensor in tensors.values():
                if tensor.ndim not in {1, 2} or len(tensor) != len(chunk):
                    raise ContractError(
                        f"{self.name} gives a tensor of shape {list(tensor.shape)} for {len(chunk)} rows",
                        hint="an output has the shape (rows,) or (rows, values): flatten further axes",
                    )
                is_label = tensor.dtype == torch.int64 and tensor.numel() == len(chunk)
                if tensor.dtype not in _PRECISIONS and not is_label:
                    raise ContractError(
                        f"{self.name} gives a tensor of {tensor.dtype} with shape {list(tensor.shape)}",
                        hint="return float32 or float64, or int64 (rows,) for a label",
                    )
            parts.append({key: tensor.detach().numpy() for key, tensor in tensors.items()})
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _call(self, tensor: torch.Tensor) -> Any:
        try:
            with torch.no_grad():
                return self._module(tensor)
        except Exception as error:  # torch's exceptions have no common base class
            raise ContractError(
                f"{self.name} fails on a tensor {tuple(tensor.shape)} of {self.dtype}: {_reason(error)}",
                hint="it is called with one tensor (rows, features), with the columns of `features` in "
                "their order; wrap a module that takes anything else in one that takes this tensor",
            ) from error

    def _shares(self, values: Array, classes: tuple[Class, ...]) -> Array:
        shares = values.reshape(len(values), -1)
        if shares.shape[1] == 1 and len(classes) == 2:
            shares = np.hstack([1 - shares, shares])
        if shares.shape[1] != len(classes):
            raise ContractError(
                f"`classes` has {len(classes)} classes; {self.name} gives {shares.shape[1]} values for a row",
                hint="name one class for each value, in the order of the module's output",
            )
        # a comparison with NaN is false: a run rejects such a row
        wrong = (shares < 0) | (shares > 1 + _ROUNDING)
        wrong |= np.abs(shares.sum(axis=1, keepdims=True) - 1) > _ROUNDING
        if wrong.any():
            row = int(wrong.any(axis=1).argmax())
            raise ContractError(
                f"{self.name} gives no probabilities of `classes`: row {row} of `features` has "
                f"{shortened(str(values[row].tolist()), 200)}",
                hint="end the module with torch.softmax(..., dim=1), or with torch.sigmoid for the "
                "probability of the second of two classes",
            )
        return shares


class _Graph(torch.nn.Module):  # type: ignore[misc]
    """The module with a tuple as its output, and two probabilities instead of that of the second class."""

    def __init__(
        self, module: torch.nn.Module, name: str, classes: tuple[Class, ...] | None
    ) -> None:
        super().__init__()
        self.module = module
        self.name = name
        self.is_pair = classes is not None and len(classes) == 2

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, *others = _tensors_of(self.module(features), self.name).values()
        if self.is_pair and (first.ndim == 1 or first.shape[1] == 1):
            second = first.reshape(-1, 1)
            first = torch.cat([1 - second, second], dim=1)
        return first, *others


def _kind_of(values: Array) -> tuple[OutputKind, str]:
    """Return the kind of an output, and the default name of its column."""
    if values.dtype == np.int64:
        return "label", "label"
    is_single = values.ndim == 1 or values.shape[1] == 1
    return ("value", "prediction") if is_single else ("vector", "vector")


def _tensors_of(result: Any, name: str) -> dict[str | int, torch.Tensor]:
    """Return {key of a dict, or place from 1: tensor}."""
    if isinstance(result, torch.Tensor):
        return {1: result}
    named: Any = dict(enumerate(result, 1)) if isinstance(result, tuple | list) else result
    tensors: dict[str | int, Any] = dict(named) if isinstance(named, dict) else {1: result}
    kinds = {type(item).__name__ for item in tensors.values() if not isinstance(item, torch.Tensor)}
    if kinds or not tensors:
        raise ContractError(
            f"{name} gives {', '.join(sorted(kinds)) or 'nothing'} instead of tensors",
            hint="return a tensor, or a tuple or a dict of tensors",
        )
    return tensors


def _precision_of(module: torch.nn.Module, name: str, dtype: TensorType | None) -> TensorType:
    found = {
        item.dtype for item in (*module.parameters(), *module.buffers()) if item.is_floating_point()
    }
    if not found:
        return dtype or "float32"
    if len(found) > 1 or not found <= set(_PRECISIONS):
        raise ContractError(
            f"{name} has parameters of {' and '.join(sorted(map(str, found)))}",
            hint="export module.float(), or module.double(): all parameters need one of these types",
        )
    precision = _PRECISIONS[found.pop()]
    if dtype not in {None, precision}:
        raise ConfigError(
            f"dtype={dtype!r}, but {name} has parameters of {precision}",
            hint="leave dtype out: a module is exported in its own precision",
        )
    return precision


def _checked(classes: Sequence[Class]) -> tuple[Class, ...]:
    try:
        # numpy's integers become Python's
        plain = tuple(item if isinstance(item, str) else int(item) for item in classes)
    except (TypeError, ValueError):
        plain = ()
    kinds = {type(item) for item in plain}
    if len(set(plain)) < max(2, len(plain)) or len(kinds) > 1 or plain != tuple(classes):
        raise ConfigError(
            f"classes={shortened(repr(classes), 200)} does not name two or more classes",
            hint="give distinct integers or distinct texts, such as classes=['stays', 'leaves']",
        )
    return plain


def _strip(message: Message) -> None:
    """Remove what does not change the graph: where its nodes come from, with paths of this machine."""
    for field in ("metadata_props", "doc_string"):
        if field in message.DESCRIPTOR.fields_by_name:
            message.ClearField(field)
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                _strip(part)


def _with_label(model_bytes: bytes, classes: tuple[Class, ...]) -> bytes:
    """Return the model with the most probable class as its first output."""
    model = ModelProto.FromString(model_bytes)
    kind = TensorProto.STRING if isinstance(classes[0], str) else TensorProto.INT64
    model.graph.output.insert(0, helper.make_tensor_value_info("label", kind, [None]))
    return with_first_largest_label(cast("bytes", model.SerializeToString()), classes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter says on the way, such as that torchvision is missing: the proof decides."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['?'])[0]:.200}"
