"""Find the class of each value of an output, and check the classes against the model's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dbt_onnx.errors import ContractError, format_items

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.artifacts.graph import GraphSignature, Tensor
    from dbt_onnx.kernel.contract import Class
    from dbt_onnx.kernel.tensors import Array

_CLEARLY = 1e-3


def classes_of(
    tensor: Tensor,
    values: Any,
    signature: GraphSignature,
    outputs: Mapping[str, Any],
    given: Mapping[str, Sequence[str]],
) -> tuple[Class, ...] | None:
    """Return the classes of an output, in the order of its values; None if they are not known.

    The classes are the owner's (`given`), else those that the graph has for this output, the keys of its
    maps, or the classes of the label output. Raises ContractError if the owner's classes contradict the
    output, or if the labels on the trial's rows contradict the classes.
    """
    labels = [item for item in signature.outputs if is_label(outputs[item.name])]
    label = labels[0] if len(labels) == 1 and labels[0].name != tensor.name else None
    known = tensor.classes or _keys(values) or (label.classes if label else None)
    classes = known
    if tensor.name in given:
        classes = _typed_classes(tensor, given[tensor.name], signature)
        _check_given(tensor, classes, known, values)
    if classes and label is not None:
        predicted = np.asarray(outputs[label.name]).reshape(-1)
        is_sure = tensor.name in given or (label.classes == classes and not tensor.overruled)
        _check_labels(tensor, classes, predicted, values, is_sure=is_sure)
    return classes


def _keys(values: Any) -> tuple[Class, ...] | None:
    if not isinstance(values, list):
        return None
    return tuple(sorted({key for item in values if isinstance(item, dict) for key in item})) or None


def _matrix(values: Any, classes: tuple[Class, ...]) -> Array | None:
    """Return the output as (rows, classes); None if it has another shape."""
    if isinstance(values, list):
        if any(not isinstance(item, dict) or set(item) != set(classes) for item in values):
            return None
        return np.array([[item[key] for key in classes] for item in values], dtype=np.float64)
    if values.dtype.kind != "f" or values.ndim != 2 or values.shape[1] != len(classes):
        return None
    return np.asarray(values, dtype=np.float64)


def _check_given(
    tensor: Tensor, given: tuple[Class, ...], known: tuple[Class, ...] | None, values: Any
) -> None:
    width = len(known or ()) if isinstance(values, list) else values.shape[-1]
    is_wide = isinstance(values, list) or values.ndim == 2
    if not is_wide or len(given) != width or len(set(given)) != width:
        raise ContractError(
            f"--classes names {len(given)} classes of output {tensor.name!r}, which gives "
            f"{width if is_wide else 1} value(s) per row",
            hint=f"name each class once, in the model's order: {_example(tensor, known, width)}",
        )
    is_declared = isinstance(values, list) or (tensor.classes and given != tensor.overruled)
    if known and given != known and is_declared:
        raise ContractError(
            f"--classes says {format_items(given)} for output {tensor.name!r}; the file says "
            f"{format_items(known)}, in this order",
            hint="leave --classes out; to rename the columns, use "
            f"--output '{tensor.name}:probabilities=...'",
        )


def _check_labels(
    tensor: Tensor, classes: tuple[Class, ...], labels: Array, output: Any, *, is_sure: bool
) -> None:
    """Raise ContractError if the labels contradict the classes.

    A label must be the class with the largest value, unless a threshold explains the labels. With
    `is_sure`, other labels are accepted, too, unless they are the classes in another order.
    """
    values = _matrix(output, classes)
    if values is None:
        return
    is_text = all(isinstance(item, str) for item in classes)
    if is_text and labels.dtype.kind == "i" and ((labels >= 0) & (labels < len(classes))).all():
        labels = np.array(classes, dtype=object)[labels]  # labels that are positions
    best = values.argmax(axis=1)
    others = np.where(np.arange(len(classes)) == best[:, None], -np.inf, values).max(axis=1)
    clear = values.max(axis=1) > others + _CLEARLY
    pairs = set(zip(best[clear].tolist(), labels[clear].tolist(), strict=True))
    if set(labels.tolist()) <= set(classes):
        if all(classes[place] == label for place, label in pairs):
            return
        if len(classes) == 2 and _has_threshold(values[:, 1], labels == classes[1]):
            return
        is_one_to_one = len({p for p, _ in pairs}) == len(pairs) == len({la for _, la in pairs})
        if is_sure and not (is_one_to_one and len(pairs) > 1):
            return
    raise ContractError(
        f"output {tensor.name!r} would have the classes {format_items(classes)}, but the model's labels "
        f"contradict them: on generated rows the largest value is "
        + ", ".join(
            f"number {place + 1} where the label is {label!r}" for place, label in sorted(pairs)[:5]
        ),
        hint="name the classes in the order of the values: "
        + _example(tensor, None, len(classes))
        + f", or store the values as they are: --output '{tensor.name}:vector={tensor.name}'",
    )


def _has_threshold(scores: Array, is_second: Array) -> bool:
    """Return whether a threshold explains the labels: no row of the second class has a smaller score."""
    return bool(
        is_second.all()
        or not is_second.any()
        or scores[is_second].min() >= scores[~is_second].max()
    )


def _example(tensor: Tensor, known: tuple[Class, ...] | None, width: int) -> str:
    names = known or tuple("abcdefgh"[:width])
    return f"--classes '{tensor.name}={','.join(map(str, names[:8]))}{',...' if width > 8 else ''}'"


def _typed_classes(
    tensor: Tensor, given: Sequence[str], signature: GraphSignature
) -> tuple[Class, ...]:
    types = {item.dtype for item in signature.outputs if item.dtype in {"int64", "string"}}
    wants_numbers = (tensor.key_dtype or (types.pop() if len(types) == 1 else "")) == "int64"
    if wants_numbers and all(item.lstrip("-").isdecimal() for item in given):
        return tuple(int(item) for item in given)
    return tuple(given)


def is_label(values: Any) -> bool:
    """Return whether an output has one int64 or text value per row."""
    return isinstance(values, np.ndarray) and (
        (values.dtype.kind in "OU" or values.dtype == np.int64)
        and (values.ndim == 1 or values.shape[1:] == (1,))
    )
