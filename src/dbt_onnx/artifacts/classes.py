"""The class labels of a classifier's outputs, if the graph itself contains them.

The labels decide what a column of probabilities means. So they are taken only from the operator that
produces the output, or from an earlier operator if all operators in between keep the order of values.

That operator may still be an inner classifier: the last classifier of a stacking classifier numbers the
classes from 0, whatever their labels are. So a label output with the same number of labels overrules
it. In a file without a label output, an inner classifier cannot be told from an outer one.

This module does not import onnx: it takes a parsed GraphProto.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from dbt_onnx.kernel.contract import Class

    _Labels = tuple[Class, ...]

_LABEL_ATTRIBUTES = frozenset(
    {"classlabels_int64s", "classlabels_strings", "classlabels_ints", "classlabels_int64"}
)
_CLASSIFIERS = frozenset({"TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier", "ZipMap"})
_PASSED = frozenset(
    {"Cast", "Flatten", "Identity", "Normalizer", "Reshape", "Squeeze", "Unsqueeze"}
)

_STRING = 8
_INTEGER_BYTES = {6: 4, 7: 8}
_LABEL_TYPES = frozenset({7, _STRING})
_FLOATS = frozenset({1, 10, 11})


def classes_of_outputs(graph: Any) -> tuple[dict[str, _Labels], dict[str, _Labels]]:
    """Return {output: labels in the order of the probabilities}, and {output: overruled labels}.

    Outputs with unknown labels are left out. The second dict has only the outputs with labels that
    the label output overrules.
    """
    producers = {name: node for node in graph.node for name in node.output if name}
    constants = {item.name: item for item in graph.initializer}
    elements = cache(lambda name: _elements(constants[name]) if name in constants else ())
    known: dict[str, _Labels] = {}
    for output in graph.output:
        # each tensor is visited once, however many outputs depend on it
        trail: list[str] = []
        source: str | _Labels = output.name
        while isinstance(source, str) and source not in known:
            known[source] = ()  # ends a cycle: a tensor that depends on itself has no labels
            trail.append(source)
            source = _source(source, producers.get(source), elements)
        known |= dict.fromkeys(trail, known[source] if isinstance(source, str) else source)
    types = {item.name: item.type.tensor_type.elem_type for item in graph.output}
    labels = [known[name] for name, kind in types.items() if kind in _LABEL_TYPES and known[name]]
    classes = {name: known[name] for name in types if known[name]}
    overruled = {}
    if len(labels) == 1:
        for name, own in classes.items():
            # a map (ZipMap) is left out: it carries its own labels
            if types[name] in _FLOATS and len(own) == len(labels[0]) and own != labels[0]:
                classes[name], overruled[name] = labels[0], own
    return classes, overruled


def _source(name: str, node: Any, elements: Callable[[str], _Labels]) -> str | _Labels:
    """Return the labels of a tensor, or the name of the earlier tensor that has the same labels."""
    if node is None or not node.input:
        return ()
    if node.op_type in _CLASSIFIERS:
        return labels_of(node) if name in node.output[:2] else ()
    # skl2onnx picks the label from a constant list, by the position of the largest score
    if node.op_type == "ArrayFeatureExtractor":
        return elements(node.input[0])
    return str(node.input[0]) if node.op_type in _PASSED else ()


def labels_of(node: Any) -> _Labels:
    """Return the class labels in the attributes of a classifier or ZipMap; empty if there are none."""
    for attribute in node.attribute:
        if attribute.name in _LABEL_ATTRIBUTES and (attribute.ints or attribute.strings):
            return (
                *(int(item) for item in attribute.ints),
                *(item.decode() for item in attribute.strings),
            )
    return ()


def _elements(tensor: Any) -> _Labels:
    """Return the labels in an int32, int64 or string tensor; empty for another type."""
    if tensor.data_type == _STRING:
        return tuple(item.decode() for item in tensor.string_data)
    if tensor.data_type not in _INTEGER_BYTES:
        return ()
    if tensor.raw_data:
        width = _INTEGER_BYTES[tensor.data_type]
        return tuple(
            int.from_bytes(tensor.raw_data[i : i + width], "little", signed=True)
            for i in range(0, len(tensor.raw_data), width)
        )
    return tuple(int(item) for item in (*tensor.int32_data, *tensor.int64_data))
