"""Small ONNX models with outputs that can be computed by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

ELEMENT_TYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}


def tensor(name: str, dtype: str = "float32", shape: Sequence[int | str | None] = ("N", 1)) -> Any:
    """Return a graph input or output. A dimension that is text or None may have any size."""
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], list(shape))


def constant(name: str, values: Any, dtype: str = "float32") -> Any:
    """Return an initializer."""
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def build(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    constants: Sequence[Any] = (),
    opset: int = 17,
    ml_opset: int | None = None,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """Return the bytes of a model with these parts."""
    graph = helper.make_graph(
        list(nodes), "graph", list(inputs), list(outputs), initializer=list(constants)
    )
    opsets = [helper.make_opsetid("", opset)]
    if ml_opset is not None:
        opsets.append(helper.make_opsetid("ai.onnx.ml", ml_opset))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model.SerializeToString()  # type: ignore[no-any-return]


def linear() -> bytes:
    """`y = 2a - b + 0.5` over one input `x` float32 (N, 2); `y` is (N, 1)."""
    return build(
        [
            helper.make_node("MatMul", ["x", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ],
        [tensor("x", shape=("N", 2))],
        [tensor("y")],
        constants=[constant("weights", [[2.0], [-1.0]]), constant("bias", [0.5])],
    )


def linear_by_column(dtype: str = "float32", *, rank: int = 2) -> bytes:
    """`y = 2a - b + 0.5` over the inputs `a` and `b`, (N, 1), or (N,) when `rank` is 1."""
    shape = ("N", 1) if rank == 2 else ("N",)
    return build(
        [
            helper.make_node("Mul", ["a", "two"], ["doubled"]),
            helper.make_node("Sub", ["doubled", "b"], ["difference"]),
            helper.make_node("Add", ["difference", "half"], ["y"]),
        ],
        [tensor("a", dtype, shape), tensor("b", dtype, shape)],
        [tensor("y", dtype, shape)],
        constants=[constant("two", 2.0, dtype), constant("half", 0.5, dtype)],
    )


def echo(dtype: str, *, width: int = 1, rank: int = 2) -> bytes:
    """`y = x` for any type, so that a test can read the values that reached the model."""
    shape = ("N", width) if rank == 2 else ("N",)
    return build(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", dtype, shape)],
        [tensor("y", dtype, shape)],
    )


def embedding(width: int) -> bytes:
    """A vector `e[j] = (j + 1) * a` of `width` from one input `a` (N, 1)."""
    return build(
        [helper.make_node("MatMul", ["a", "weights"], ["e"])],
        [tensor("a")],
        [tensor("e", shape=("N", width))],
        constants=[constant("weights", [np.arange(1, width + 1)])],
    )


def square_root_and_reciprocal() -> bytes:
    """`root` is NaN below zero, `inverse` is infinite at zero; input `a` (N, 1)."""
    return build(
        [
            helper.make_node("Sqrt", ["a"], ["root"]),
            helper.make_node("Reciprocal", ["a"], ["inverse"]),
        ],
        [tensor("a")],
        [tensor("root"), tensor("inverse")],
    )


def fixed_batch() -> bytes:
    """`y = 2a - b + 0.5` over `x` (1, 2): one row at a time only."""
    return build(
        [
            helper.make_node("MatMul", ["x", "weights"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ],
        [tensor("x", shape=(1, 2))],
        [tensor("y", shape=(1, 1))],
        constants=[constant("weights", [[2.0], [-1.0]]), constant("bias", [0.5])],
    )


def first_row_only() -> bytes:
    """Returns only the first row of `x` (N, 2), whatever the number of rows."""
    return build(
        [
            helper.make_node("Gather", ["x", "first"], ["row"], axis=0),
            helper.make_node("Unsqueeze", ["row", "axis"], ["y"]),
        ],
        [tensor("x", shape=("N", 2))],
        [tensor("y", shape=("M", 2))],
        constants=[constant("first", 0, "int64"), constant("axis", [0], "int64")],
    )


def zipmap(classes: Sequence[int | str]) -> bytes:
    """Maps from `classes` to the columns of `x` float32 (N, classes)."""
    key = "classlabels_int64s" if isinstance(classes[0], int) else "classlabels_strings"
    node = helper.make_node("ZipMap", ["x"], ["maps"], domain="ai.onnx.ml", **{key: list(classes)})
    key_type = ELEMENT_TYPES["int64" if isinstance(classes[0], int) else "string"]
    floats = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(key_type, floats))
    return build(
        [node],
        [tensor("x", shape=("N", len(classes)))],
        [helper.make_value_info("maps", maps)],
        ml_opset=1,
    )


def lookup() -> bytes:
    """`y` is the element of [10, 20, 30] at `i` int64 (N, 1); another `i` makes the model fail."""
    return build(
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        [tensor("i", "int64")],
        [tensor("y")],
        constants=[constant("table", [10.0, 20.0, 30.0])],
    )


def field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited protobuf field, because onnx's own writer limits the depth."""
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
