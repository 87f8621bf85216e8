"""ONNX models small enough to compute by hand, and some that must be refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    initializers: Sequence[Any] = (),
    functions: Sequence[Any] = (),
    metadata: dict[str, str] | None = None,
    domains: Sequence[str] = (),
) -> ModelProto:
    """Return a model with opset 17 and ai.onnx.ml 3, which also imports `domains`."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=list(initializers))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    opsets += [helper.make_opsetid(domain, 1) for domain in domains]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))
    helper.set_model_props(made, metadata or {})
    return made


def tensor(name: str, shape: Sequence[int | str | None] | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, values: Any, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def linear(
    *, shape: Sequence[int | str | None] | None = ("n", 2), metadata: dict[str, str] | None = None
) -> ModelProto:
    """y = 2a - b + 0.5 for x = (a, b), y of shape (rows, 1)."""
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("Add", ["xw", "c"], ["y"]),
        ],
        [tensor("x", shape)],
        [tensor("y", None)],
        initializers=[constant("w", [[2], [-1]]), constant("c", [0.5])],
        metadata=metadata,
    )


def columns() -> ModelProto:
    """total = 2a - b for tensors a (rows, 1) and b (rows,)."""
    return model(
        [
            helper.make_node("Squeeze", ["a", "axes"], ["flat"]),
            helper.make_node("Mul", ["flat", "two"], ["twice"]),
            helper.make_node("Sub", ["twice", "b"], ["total"]),
        ],
        [tensor("a", ["n", 1]), tensor("b", ["n"])],
        [tensor("total", ["n"])],
        initializers=[constant("two", [2]), constant("axes", [1], np.int64)],
    )


def classifier(labels: Sequence[int] | Sequence[str] = (0, 1), *, zipmap: bool = False) -> Any:
    """Return a classifier in which class k has the score k * a - b. The probabilities are the softmax of the scores."""
    strings = isinstance(labels[0], str)
    count = len(labels)
    names: dict[str, Any] = {"classlabels_strings" if strings else "classlabels_ints": labels}
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=[float(item) for k in range(count) for item in (k, -1)],
            intercepts=[0.0] * count,
            post_transform="SOFTMAX",
            **names,
        )
    ]
    outputs = [tensor("label", ["n"], STRING if strings else INT64)]
    if zipmap:
        keys = {"classlabels_strings" if strings else "classlabels_int64s": labels}
        nodes.append(
            helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", **keys)
        )
        kind = helper.make_map_type_proto(
            STRING if strings else INT64, helper.make_tensor_type_proto(FLOAT, [])
        )
        outputs.append(
            helper.make_value_info("probabilities", helper.make_sequence_type_proto(kind))
        )
    else:
        nodes.append(helper.make_node("Identity", ["scores"], ["probabilities"]))
        outputs.append(tensor("probabilities", ["n", count]))
    return model(nodes, [tensor("x", ["n", 2])], outputs)


def vector(width: int = 3, *, name: str = "embedding") -> ModelProto:
    """Return a model with the output (a, 2a, 3a, ...) - b for the row (a, b)."""
    weights = [[k + 1 for k in range(width)], [-1] * width]
    return model(
        [helper.make_node("MatMul", ["x", "w"], [name])],
        [tensor("x", ["n", 2])],
        [tensor(name, ["n", width])],
        initializers=[constant("w", weights)],
    )


def identity(shape: Sequence[int | str | None] | None, kind: int = FLOAT) -> ModelProto:
    """Return a model y = x whose input is declared with this shape."""
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", shape, kind)],
        [tensor("y", shape, kind)],
    )


def recurrent(*, state_input: bool, state_shape: Sequence[int | str | None]) -> ModelProto:
    """Return an LSTM over (rows, 1). Its initial state is an input of the graph, or zero."""
    size = 2
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["steps"]),
        helper.make_node(
            "LSTM",
            ["steps", "w", "r", "", "", "h0" if state_input else ""],
            ["", "h"],
            hidden_size=size,
        ),
        helper.make_node("Squeeze", ["h", "axis"], ["y"]),
    ]
    inputs = [tensor("x", ["n", 1])]
    if state_input:
        inputs.append(tensor("h0", state_shape))
    return model(
        nodes,
        inputs,
        [tensor("y", ["n", size])],
        initializers=[
            constant("w", np.ones((1, 4 * size, 1))),
            constant("r", np.ones((1, 4 * size, size))),
            constant("axis", [0], np.int64),
        ],
    )


def external(name: str = "w", location: str = "../secret.bin") -> TensorProto:
    """Return a tensor that refers to another file for its data."""
    made = TensorProto(name=name, data_type=FLOAT, dims=[2, 1])
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value=location)
    return made
