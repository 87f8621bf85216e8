"""Splits a graph at its one tree ensemble or its one linear operator, so that the part before it can be run alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dbt_onnx.errors import ConfigError, format_items

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.kernel.tensors import Array

TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
LINEAR = ("LinearClassifier", "LinearRegressor")
PRODUCTS = ("MatMul", "Gemm")
ML = "ai.onnx.ml"
NODE_INPUT, RAW_SCORE = "__dbt_onnx_node_input", "__dbt_onnx_raw_score"
_FIRST_OPSET = 13
_HINT = (
    "a model can be explained if its graph has one tree ensemble or one linear operator, with encoders and "
    "scalers before it (docs/models/explanations.md)"
)


@dataclass(frozen=True, kw_only=True)
class Split:
    """A model, split at the operator that computes its scores.

    operator      the type of the operator
    attributes    its attributes by name; a tensor is an array
    weights       of a linear operator, float64 (columns, scores); None for trees
    before_bytes  a model with the output NODE_INPUT: the matrix that the operator reads
    raw_bytes     a model with the output RAW_SCORE: what the operator computes, before any transformation
    """

    operator: str
    attributes: Mapping[str, Any] = field(repr=False)
    weights: Array | None = field(repr=False)
    before_bytes: bytes = field(repr=False)
    raw_bytes: bytes = field(repr=False)


def split_model(artifact: Artifact, outputs: Collection[str]) -> Split:
    """Split a verified model. `outputs` are the names of the graph's outputs that are to be explained.

    Raises ConfigError if the model has no such operator, or several, or if an output also depends on the
    features in another way.
    """
    model = onnx.ModelProto.FromString(artifact.model_bytes)
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    node = _operator(model, constants, artifact)
    attributes = {item.name: _value(item) for item in node.attribute}
    weights = None
    ends = set(node.output)
    if node.op_type in PRODUCTS:
        weights = _factors(node, attributes, constants[node.input[1]])
        score = _with_intercept(graph, node, constants)
        ends.add(score)
        last = helper.make_node("Identity", [score], [RAW_SCORE])
    else:
        if node.op_type in LINEAR:
            weights = _coefficients(attributes, artifact)
        last = onnx.NodeProto()
        last.CopyFrom(node)
        is_classifier = node.op_type.endswith("Classifier")
        last.output[:] = ["__dbt_onnx_label", RAW_SCORE] if is_classifier else [RAW_SCORE]
        kept = [item for item in node.attribute if item.name != "post_transform"]
        del last.attribute[:]
        last.attribute.extend(kept)
    _refuse_other_paths(graph, outputs, ends, artifact)
    before = helper.make_node("Identity", [node.input[0]], [NODE_INPUT])
    return Split(
        operator=node.op_type,
        attributes=attributes,
        weights=weights,
        before_bytes=_cut(model, before, NODE_INPUT),
        raw_bytes=_cut(model, last, RAW_SCORE),
    )


def refused(artifact: Artifact, why: str) -> ConfigError:
    """Return the error for a model that cannot be explained."""
    return ConfigError(f"{artifact.model} cannot be explained: {why}", hint=_HINT)


def _operator(
    model: onnx.ModelProto, constants: Mapping[str, Any], artifact: Artifact
) -> onnx.NodeProto:
    every = [*_nested(model.graph.node), *(n for f in model.functions for n in _nested(f.node))]
    kinds = (
        [node for node in every if node.op_type in TREES and node.domain == ML],
        [node for node in every if node.op_type in LINEAR and node.domain == ML],
        [node for node in every if node.op_type in PRODUCTS],
    )
    own = list(model.graph.node)
    for found in kinds:
        if not found:
            continue
        [node, *others] = found
        is_usable = node in own and (node.op_type not in PRODUCTS or _is_usable(node, constants))
        if not others and is_usable:
            return node
        break
    counts = Counter(node.op_type for node in every)
    listed = [f"{count} {name}" for name, count in sorted(counts.items())]
    raise refused(
        artifact,
        "its graph does not have exactly one tree ensemble or linear operator that is computed for every row; "
        f"it has {', '.join(listed[:20])}{', ...' * (len(listed) > 20)}",
    )


def _is_usable(node: onnx.NodeProto, constants: Mapping[str, Any]) -> bool:
    """Whether a product multiplies a matrix of rows by constant weights."""
    transposes = any(item.name == "transA" and item.i for item in node.attribute)
    weights = constants.get(node.input[1])
    return weights is not None and len(weights.dims) in {1, 2} and not transposes


def _nested(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for item in node.attribute:
            for graph in (*([item.g] if item.HasField("g") else []), *item.graphs):
                yield from _nested(graph.node)


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [item.decode() for item in value]
    return value


def _factors(node: onnx.NodeProto, attributes: Mapping[str, Any], weights: Any) -> Array:
    """Return the weights of a MatMul or Gemm, (columns, scores)."""
    found = numpy_helper.to_array(weights).astype(np.float64)
    if node.op_type == "Gemm":
        found = (found.T if attributes.get("transB") else found) * attributes.get("alpha", 1.0)
    return found.reshape(len(found), -1)


def _with_intercept(
    graph: onnx.GraphProto, node: onnx.NodeProto, constants: Mapping[str, Any]
) -> str:
    """Return the name of the product, or of the sum with the intercept if a constant is added to it."""
    after = [item for item in graph.node if node.output[0] in item.input]
    if len(after) == 1 and after[0].op_type == "Add" and set(after[0].input) & constants.keys():
        return str(after[0].output[0])
    return str(node.output[0])


def _coefficients(attributes: Mapping[str, Any], artifact: Artifact) -> Array:
    """Return the weights of a LinearClassifier or LinearRegressor, (columns, scores)."""
    coefficients = np.asarray(attributes["coefficients"], dtype=np.float64)
    labels = attributes.get("classlabels_ints") or attributes.get("classlabels_strings") or ()
    scores = len(attributes.get("intercepts", ())) or len(labels) or attributes.get("targets", 1)
    if not len(coefficients) or len(coefficients) % scores:
        raise refused(artifact, f"{len(coefficients)} coefficients do not make {scores} score(s)")
    return coefficients.reshape(scores, -1).T


def _refuse_other_paths(
    graph: onnx.GraphProto, outputs: Collection[str], ends: Collection[str], artifact: Artifact
) -> None:
    """Raise ConfigError if an output depends on the features other than through the operator."""
    producers = {name: node for node in graph.node for name in node.output}
    inputs = {item.name for item in graph.input} - {item.name for item in graph.initializer}
    seen: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name in seen or name in ends:
            continue
        seen.add(name)
        # the number of rows is the same for all values
        if name in producers and producers[name].op_type != "Shape":
            waiting += _read_by(producers[name])
    if direct := sorted(seen & inputs):
        raise refused(
            artifact,
            f"its predictions depend on the input(s) {format_items(direct)} not only through the "
            "tree ensemble or linear operator",
        )


def _read_by(node: onnx.NodeProto) -> set[str]:
    return {name for inner in _nested([node]) for name in inner.input}


def _cut(model: onnx.ModelProto, last: onnx.NodeProto, output: str) -> bytes:
    """Return the model with one output, which the new node `last` makes, and only the nodes that it needs."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    producers = {name: i for i, node in enumerate(graph.node) for name in node.output}
    needed: set[int] = set()
    waiting = [*_read_by(last)]
    while waiting:
        place = producers.get(waiting.pop())
        if place is not None and place not in needed:
            needed.add(place)
            waiting += _read_by(graph.node[place])
    kept = [node for i, node in enumerate(model.graph.node) if i in needed]
    del graph.node[:], graph.output[:]
    graph.node.extend([*kept, last])
    graph.output.append(onnx.ValueInfoProto(name=output))
    if all(item.domain not in {"", "ai.onnx"} for item in cut.opset_import):
        cut.opset_import.append(helper.make_opsetid("", _FIRST_OPSET))
    return bytes(cut.SerializeToString())
