"""Find the kind of each output of a model from a trial run, and the columns that it fills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

import numpy as np

from dbt_onnx.authoring.output_classes import classes_of, is_label
from dbt_onnx.errors import ConfigError, ContractError, format_items
from dbt_onnx.kernel.contract import FLOAT_TYPES, Class, Output, OutputKind, TensorType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.artifacts.graph import GraphSignature, Tensor

_SUM_TOLERANCE = 1e-3


class _OutputOptions(NamedTuple):
    """The owner's options for an output: None if not given; empty `columns` leave the output out."""

    kind: OutputKind | None = None
    columns: tuple[str | None, ...] | None = None


class _ObservedOutput(NamedTuple):
    """An output of the trial: `width` values for each row, its kind, and its classes if known."""

    tensor: Tensor
    width: int
    kind: OutputKind
    classes: tuple[Class, ...] | None


def describe_outputs(
    signature: GraphSignature,
    outputs: Mapping[str, Any],
    *,
    columns: Mapping[str, Sequence[str]],
    classes: Mapping[str, Sequence[str]],
) -> tuple[Output, ...]:
    """Return the outputs to store, with their kinds, types and columns.

    `outputs` is {output: values in a trial run}. `columns` is {output or output:kind: names}: `-` is a
    value that is not stored, and an output without names is left out. `classes` is {output: labels in
    the order of the probabilities}. Raises ConfigError if a key of `columns` or `classes` names no
    output of the model, ContractError if a ledger cannot store an output.
    """
    names = [tensor.name for tensor in signature.outputs]
    options_of = _read_options(columns, names)
    _refuse_unknown(classes, names, what="--classes")
    seen = []
    for tensor in signature.outputs:
        options = options_of.get(tensor.name, _OutputOptions())
        if options.columns == ():
            continue
        labels = None
        if options.kind in {None, "probabilities"}:
            labels = classes_of(tensor, outputs[tensor.name], signature, outputs, classes)
        item = _observe(tensor, outputs[tensor.name], labels, options)
        if tensor.name in classes and item.kind != "probabilities":
            raise ContractError(
                f"--classes names the classes of output {tensor.name!r}, whose values are taken "
                f"as {item.kind}: on generated rows they do not add up to 1"
                if options.kind is None
                else f"--classes and --output '{tensor.name}:{options.kind}=' contradict each other",
                hint="leave --classes out, or state the kind and a column for each value: "
                f"--output '{tensor.name}:probabilities=...'",
            )
        seen.append(item)
    return tuple(
        _output(item, seen, options_of.get(item.tensor.name, _OutputOptions()).columns)
        for item in seen
    )


def _read_options(
    columns: Mapping[str, Sequence[str]], names: Sequence[str]
) -> dict[str, _OutputOptions]:
    options_of = {}
    for key, wanted in columns.items():
        stem, _, kind = key.rpartition(":")
        # TensorFlow names outputs like `Identity:0`, so the part after a colon may not be a kind
        has_kind = key not in names and kind in get_args(OutputKind)
        name = stem if has_kind else key
        _refuse_unknown([name], names, what="--output")
        stored = tuple(None if item == "-" else item for item in wanted)
        options_of[name] = _OutputOptions(cast("OutputKind", kind) if has_kind else None, stored)
    return options_of


def _refuse_unknown(given: Any, names: Sequence[str], *, what: str) -> None:
    for name in given:
        if name not in names:
            raise ConfigError(
                f"{what} names output {name!r}; the model has {', '.join(names)}",
                hint="write OUTPUT=COLUMN, or OUTPUT:KIND=COLUMN,... with a kind of "
                + ", ".join(get_args(OutputKind)),
            )


def _observe(
    tensor: Tensor, values: Any, classes: tuple[Class, ...] | None, options: _OutputOptions
) -> _ObservedOutput:
    if isinstance(values, list) and tensor.kind == "map_sequence":
        return _ObservedOutput(tensor, len(classes or ()), options.kind or "probabilities", classes)
    if not isinstance(values, np.ndarray) or values.ndim > 2:
        fault = f"has shape {list(values.shape)}" if hasattr(values, "shape") else "is not a tensor"
        raise ContractError(
            f"output {tensor.name!r} {fault}; a ledger stores outputs with one or two axes",
            hint=f"leave it out with --output '{tensor.name}='",
        )
    width = 1 if values.ndim == 1 else values.shape[1]
    return _ObservedOutput(
        tensor, width, options.kind or _guess(values, width, classes, options), classes
    )


def _guess(
    values: Any, width: int, classes: tuple[Class, ...] | None, options: _OutputOptions
) -> OutputKind:
    if width == 1:
        return "label" if is_label(values) else "value"
    if classes and len(classes) == width and _are_probabilities(values):
        return "probabilities"
    return "values" if options.columns and len(options.columns) == width else "vector"


def _are_probabilities(values: Any) -> bool:
    return bool(
        values.dtype.kind == "f"
        and (values >= 0).all()
        and np.allclose(values.astype("float64").sum(axis=1), 1, atol=_SUM_TOLERANCE)
    )


def _output(
    item: _ObservedOutput,
    seen: Sequence[_ObservedOutput],
    given_columns: tuple[str | None, ...] | None,
) -> Output:
    name, dtype = item.tensor.name, cast("TensorType", item.tensor.dtype)
    columns = given_columns or _default_columns(item, seen)
    if item.kind == "probabilities":
        if not item.classes or len(item.classes) != item.width or dtype not in FLOAT_TYPES:
            raise ContractError(
                f"output {name!r} gives {item.width} {dtype} value(s) per row for the classes "
                f"{format_items(item.classes or ())}",
                hint=f"name them in the model's order: --classes '{name}=no,yes', "
                f"or store it as --output '{name}:vector={name}'",
            )
        if given_columns and len(columns) == 1 and item.width == 2:
            columns = (None, columns[0])
    wanted = {"values": item.width, "probabilities": item.width}.get(item.kind, 1)
    if len(columns) != wanted:
        raise ContractError(
            f"output {name!r} gives {item.width} value(s) per row and, as {item.kind}, fills {wanted} "
            f"column(s), but {len(columns)} name(s) are given",
            hint=f"write --output '{name}:{item.kind}=...' with {wanted} name(s) ('-' for a value "
            "that is not stored), or another kind",
        )
    return Output(
        name=name,
        kind=item.kind,
        dtype=dtype,
        columns=columns,
        classes=item.classes if item.kind == "probabilities" else None,
        width=item.width if item.kind == "vector" else None,
    )


def _default_columns(
    item: _ObservedOutput, seen: Sequence[_ObservedOutput]
) -> tuple[str | None, ...]:
    name = item.tensor.name
    alone = sum(other.kind == item.kind for other in seen) == 1
    stems = {"label": "label", "value": "prediction", "probabilities": "probability"}
    stem = stems.get(item.kind, name) if alone else name
    if item.kind == "probabilities":
        if item.width == 2:
            return (None, stem)
        return tuple(f"{stem}_{label}" for label in item.classes or ())
    if item.kind == "values":
        return tuple(f"{name}_{position}" for position in range(1, item.width + 1))
    return (stem,)
