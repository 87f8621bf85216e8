"""The class labels of a classifier's outputs, where the graph itself says them.

The names of probabilities decide what a column means, so a label set is taken only from the
operator that makes the output, through operators that do not change the meaning of positions. A
classifier inside an ensemble (one against the rest, voting) does not count. This module needs no
onnx: it takes a parsed GraphProto.
"""

from __future__ import annotations

from typing import Any

Class = int | str

_LABELS = frozenset(
    {"classlabels_int64s", "classlabels_strings", "classlabels_ints", "classlabels_int64"}
)
_CLASSIFIERS = frozenset({"TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier", "ZipMap"})
_PASSED = frozenset(
    {"Cast", "Flatten", "Identity", "Normalizer", "Reshape", "Squeeze", "Unsqueeze"}
)

_STRING = 8
_INTEGER_BYTES = {6: 4, 7: 8}


def classes_of_outputs(graph: Any) -> dict[str, tuple[Class, ...]]:
    """Returns {output: labels in the order of the probabilities}; unknown outputs are left out."""
    producers = {name: node for node in graph.node for name in node.output if name}
    constants = {item.name: item for item in graph.initializer}
    found = {}
    for output in graph.output:
        classes = _trace(output.name, producers, constants)
        if classes:
            found[output.name] = classes
    return found


def _trace(name: str, producers: dict[str, Any], constants: dict[str, Any]) -> tuple[Class, ...]:
    for _ in range(len(producers) + 1):
        node = producers.get(name)
        if node is None or not node.input:
            return ()
        if node.op_type in _CLASSIFIERS:
            return labels_of(node)
        # skl2onnx picks the label out of a constant list by the position of the largest score
        if node.op_type == "ArrayFeatureExtractor":
            labels = constants.get(node.input[0])
            return () if labels is None else _elements(labels)
        if node.op_type not in _PASSED:
            return ()
        name = node.input[0]
    return ()


def labels_of(node: Any) -> tuple[Class, ...]:
    """The class labels that a classifier or a ZipMap has as an attribute, none without."""
    for attribute in node.attribute:
        if attribute.name in _LABELS and (attribute.ints or attribute.strings):
            return (
                *(int(item) for item in attribute.ints),
                *(item.decode() for item in attribute.strings),
            )
    return ()


def _elements(tensor: Any) -> tuple[Class, ...]:
    """The labels in an int32, int64 or string tensor; none for another type."""
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
