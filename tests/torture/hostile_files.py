"""Harmful model files, each with what onnxruntime does with it when nothing checks the file first.

All have the input `X` (rows, 2) and the output `y` (rows, 1) of the harmless model `line`. `SECRET`
is the first number in every file that a model must not read; the last number is an index, 0.
"""

from __future__ import annotations

import os
import pickle
import struct
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from graphs import field
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from warehouse import line_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SECRET = 31337.0
BYTES = struct.pack("<2fq", SECRET, 0, 0)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node, info = helper.make_node, helper.make_tensor_value_info


def place(folder: Path) -> None:
    """Put the files that must not be read wherever a model might look for them: in `folder`, in the
    working directory, next to the folder, and at the targets of links.
    """
    folder.mkdir(parents=True)
    for path in (folder / "secret.bin", folder.parent / "secret.bin"):
        path.write_bytes(BYTES)
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    os.link(folder.parent / "secret.bin", folder / "hard.bin")


def constant(name: str, values: Any, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def numbers(name: str, *values: int) -> TensorProto:
    return constant(name, values, np.int64)


def graph_of(
    nodes: Sequence[Any],
    initializers: Sequence[Any] = (),
    *,
    functions: Sequence[Any] = (),
    reads: str = "X",
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes), "g", [info(reads, FLOAT, ["n", 2])], [info("y", FLOAT, ["n", 1])],
        initializer=list(initializers),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    opsets += [helper.make_opsetid(name, 1) for name in ("own", "com.microsoft")]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def times(nodes: Sequence[Any] = (), initializers: Sequence[Any] = (), **more: Any) -> ModelProto:
    """y = X W, where W comes from `nodes`, `initializers` or anywhere else."""
    return graph_of([*nodes, node("MatMul", ["X", "W"], ["y"])], initializers, **more)


def plus(nodes: Sequence[Any], *initializers: Any) -> ModelProto:
    """y = the sum of a row + the largest number that the nodes compute."""
    return graph_of(
        [
            *nodes,
            node("ReduceMax", ["big"], ["most"], keepdims=0),
            node("Cast", ["most"], ["largest"], to=FLOAT),
            node("ReduceSum", ["X", "columns"], ["sum"], keepdims=1),
            node("Add", ["sum", "largest"], ["y"]),
        ],
        [numbers("columns", 1), *initializers],
    )


# --- external data


def external(location: str = "secret.bin", name: str = "W", **more: str) -> TensorProto:
    made = TensorProto(name=name, data_type=FLOAT, dims=[2, 1])
    made.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": "8", **more}.items():
        made.external_data.add(key=key, value=value)
    return made


def in_initializer(location: str, **more: str) -> ModelProto:
    return times(initializers=[external(location, **more)])


def in_constant(location: str = "secret.bin") -> ModelProto:
    return times([node("Constant", [], ["W"], value=external(location))])


def in_absolute(build: Callable[[str], ModelProto]) -> ModelProto:
    return build(str(Path.cwd() / "secret.bin"))


def sparse(*, indices: bool = False) -> SparseTensorProto:
    """W = (SECRET, 0) as a sparse tensor whose value, or whose index, is in the external file."""
    values, places = external(length="4"), numbers("", 0)
    if indices:
        values, places = constant("W", [SECRET]), external(offset="8", length="8")
        places.data_type = INT64
    values.dims[:], places.dims[:] = [1], [1]
    return SparseTensorProto(values=values, indices=places, dims=[2, 1])


def in_sparse_initializer(*, indices: bool = False) -> ModelProto:
    model = times()
    model.graph.sparse_initializer.append(sparse(indices=indices))
    return model


def in_sparse_attribute(*, indices: bool = False) -> ModelProto:
    return times([node("Constant", [], ["W"], sparse_value=sparse(indices=indices))])


def branch(name: str, nodes: Sequence[Any], initializers: Sequence[Any] = ()) -> Any:
    return helper.make_graph(list(nodes), name, [], [info(name, FLOAT, None)], list(initializers))


def reads(name: str = "W", location: str = "secret.bin") -> Any:
    return node("Constant", [], [name], value=external(location))


def in_branch(nodes: Sequence[Any], initializers: Sequence[Any] = ()) -> ModelProto:
    other = branch("e", [node("Constant", [], ["e"], value=constant("", [[1], [2]]))])
    taken = branch("t", nodes, initializers)
    return times(
        [node("If", ["yes"], ["W"], then_branch=taken, else_branch=other)],
        [constant("yes", True, np.bool_)],
    )


def body(
    nodes: Sequence[Any], *, kind: int = FLOAT, goes_on: str = "still", result: str = "next"
) -> Any:
    """Return the body of a Loop with one carried value."""
    return helper.make_graph(
        [node("Identity", ["on"], ["still"]), *nodes] if goes_on == "still" else list(nodes),
        "body",
        [info("i", INT64, []), info("on", BOOL, []), info("value", kind, None)],
        [info(goes_on, BOOL, []), info(result, kind, None)],
    )


def in_branch_constant(location: str = "secret.bin") -> ModelProto:
    return in_branch([reads("t", location)])


def in_loop() -> ModelProto:
    nodes = [reads("read"), node("Add", ["value", "read"], ["next"])]
    return times(
        [node("Loop", ["once", "yes", "zero"], ["W"], body=body(nodes))],
        [numbers("once", 1), constant("yes", True, np.bool_), constant("zero", [[0], [0]])],
    )


def in_scan() -> ModelProto:
    inner = helper.make_graph(
        [reads("read"), node("Add", ["state", "read"], ["next"]), node("Identity", ["x"], ["z"])],
        "scan",
        [info("state", FLOAT, [2, 1]), info("x", FLOAT, [])],
        [info("next", FLOAT, [2, 1]), info("z", FLOAT, [])],
    )
    return times(
        [node("Scan", ["zero", "one"], ["W", "unused"], body=inner, num_scan_inputs=1)],
        [constant("zero", [[0], [0]]), constant("one", [1])],
    )


def function(nodes: Sequence[Any], name: str = "F", **more: Any) -> Any:
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 18), ("own", 1))]
    made = helper.make_function("own", name, ["a"], ["b"], list(nodes), opsets)
    for key, value in more.items():
        setattr(made, key, value)
    return made


def in_function() -> ModelProto:
    made = function([reads("w"), node("MatMul", ["a", "w"], ["b"])])
    return graph_of([node("F", ["X"], ["y"], domain="own")], functions=[made])


def in_training_info() -> ModelProto:
    model = ModelProto.FromString(line_model())
    model.training_info.add().algorithm.initializer.append(external())
    return model


def in_tensor_list() -> ModelProto:
    model = ModelProto.FromString(line_model())
    attribute = AttributeProto(name="spare", type=AttributeProto.TENSORS)
    attribute.tensors.append(external())
    model.graph.node[0].attribute.append(attribute)
    return model


def without_flag() -> ModelProto:
    model = in_initializer("secret.bin")
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    return model


# --- operators


def operator(name: str, domain: str, **attributes: Any) -> ModelProto:
    model = graph_of([node(name, ["X"], ["y"], domain=domain, **attributes)])
    if all(item.domain != domain for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def in_unknown_versions(**versions: int) -> ModelProto:
    model = ModelProto.FromString(line_model())
    model.ir_version = versions.get("ir", model.ir_version)
    model.opset_import[0].version = versions.get("opset", model.opset_import[0].version)
    return model


def flatbuffer() -> bytes:
    options, path = ort.SessionOptions(), Path("line.ort")
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(line_model(), options, providers=["CPUExecutionProvider"])
    return path.read_bytes()


# --- memory

HUGE = 2**15


def asked(maker: str, *names: str, **attributes: Any) -> Any:
    return node(maker, list(names), ["big"], **attributes)


def product() -> Any:
    """Compute the shape (HUGE, HUGE), which appears nowhere in the file."""
    return node("Mul", ["high", "wide"], ["shape"])


SIDES = (numbers("high", HUGE, 1), numbers("wide", 1, HUGE))


def computed(maker: str, *names: str, **attributes: Any) -> ModelProto:
    return plus(
        [product(), asked(maker, *names, **attributes)],
        *SIDES, constant("one", [[1]]), numbers("pads_low", 0, 0),
    )  # fmt: skip


def column() -> list[Any]:
    """Compute `column` (rows, 1) from the first number fed: it is not a constant, so onnxruntime cannot fold it."""
    return [
        node("ReduceMax", ["X"], ["first"], keepdims=0),
        node("Expand", ["first", "rows"], ["column"]),
        node("Transpose", ["column"], ["row"]),
    ]


def outer(maker: str, *names: str, **attributes: Any) -> ModelProto:
    return plus([*column(), asked(maker, *names, **attributes)], numbers("rows", HUGE, 1))


def doubling(maker: str = "Concat", **attributes: Any) -> ModelProto:
    return loop([node(maker, ["value", "value"], ["next"], **attributes)])


def growing_text() -> ModelProto:
    nodes = [node("StringConcat", ["value", "value"], ["next"])]
    model = graph_of(
        [
            node("Loop", ["", "yes", "text"], ["long"], body=body(nodes, kind=TensorProto.STRING)),
            node("StringNormalizer", ["long"], ["short"]),
            node("Shape", ["short"], ["shape"]),
            node("Cast", ["shape"], ["size"], to=FLOAT),
            node("ReduceSum", ["X", "columns"], ["sum"], keepdims=1),
            node("Add", ["sum", "size"], ["y"]),
        ],
        [
            constant("yes", True, np.bool_),
            helper.make_tensor("text", TensorProto.STRING, [1], [b"spam" * 64]),
            numbers("columns", 1),
        ],
    )
    model.opset_import[0].version = 20
    return model


def outer_eye() -> ModelProto:
    """The EyeLike of a huge matrix, which is the sum of a column and a row."""
    return plus(
        [*column(), node("Add", ["column", "row"], ["sum2"]), asked("EyeLike", "sum2")],
        numbers("rows", HUGE, 1),
    )


def growing_sequence() -> ModelProto:
    """A loop that keeps each of its 64 MB tensors in a sequence."""
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    inner = helper.make_graph(
        [
            node("Identity", ["on"], ["still"]),
            node("Expand", ["first", "rows"], ["column"]),
            node("SequenceInsert", ["value", "column"], ["next"]),
        ],
        "body",
        [info("i", INT64, []), info("on", BOOL, []), helper.make_value_info("value", sequence)],
        [info("still", BOOL, []), helper.make_value_info("next", sequence)],
    )
    return plus(
        [
            node("ReduceMax", ["X"], ["first"], keepdims=0),
            node("SequenceEmpty", [], ["empty"]),
            node("Loop", ["", "yes", "empty"], ["all"], body=inner),
            node("SequenceAt", ["all", "at"], ["big"]),
        ],
        constant("yes", True, np.bool_), numbers("rows", 2**24), constant("at", 0, np.int64),
    )  # fmt: skip


def folded() -> ModelProto:
    """Constants of 256 MB, each folded from small ones while onnxruntime loads the model."""
    nodes: list[Any] = [node("Transpose", ["column"], ["row"])]
    constants, total = [constant("column", np.ones((8192, 1)))], "X"
    for i in range(16):
        constants.append(constant(f"k{i}", i + 1))
        nodes += [
            node("Mul", ["column", f"k{i}"], [f"scaled{i}"]),
            node("Add", [f"scaled{i}", "row"], [f"big{i}"]),
            node("ReduceMax", ["X"], [f"max{i}"], keepdims=0),
            node("Mul", [f"big{i}", f"max{i}"], [f"fed{i}"]),
            node("ReduceMax", [f"fed{i}"], [f"r{i}"], keepdims=0),
            node("Add", [total, f"r{i}"], [f"total{i}"]),
        ]
        total = f"total{i}"
    nodes.append(node("ReduceSum", [total, "columns"], ["y"], keepdims=1))
    return graph_of(nodes, [*constants, numbers("columns", 1)])


# --- time


def loop(nodes: Sequence[Any], trips: str = "", **more: Any) -> ModelProto:
    repeated = node("Loop", [trips, "yes", "X"], ["big"], body=body(nodes, **more))
    return plus(
        [repeated], constant("yes", True, np.bool_), numbers("trips", 2**62), constant("one", [[1]])
    )


ADD = node("Add", ["value", "one"], ["next"])


def nested_loops() -> ModelProto:
    inner = helper.make_graph(
        [node("Identity", ["on2"], ["still2"]), node("Add", ["value2", "one"], ["next2"])],
        "inner",
        [info("i2", INT64, []), info("on2", BOOL, []), info("value2", FLOAT, None)],
        [info("still2", BOOL, []), info("next2", FLOAT, None)],
    )
    return loop([node("Loop", ["", "on", "value"], ["next"], body=inner)])


def loop_in_branch() -> ModelProto:
    repeated = node("Loop", ["", "yes", "X"], ["t"], body=body([ADD]))
    return plus(
        [
            node(
                "If", ["yes"], ["big"],
                then_branch=branch("t", [repeated]),
                else_branch=branch("e", [node("Identity", ["X"], ["e"])]),
            )
        ],
        constant("yes", True, np.bool_), constant("one", [[1]]),
    )  # fmt: skip


def loop_in_function() -> ModelProto:
    add = node("Add", ["value", "value"], ["next"])
    made = function(
        [
            node("Constant", [], ["yes"], value=constant("", True, np.bool_)),
            node("Loop", ["", "yes", "a"], ["b"], body=body([add])),
        ]
    )
    model = plus([node("F", ["X"], ["big"], domain="own")])
    model.functions.append(made)
    return model


def long_scan() -> ModelProto:
    inner = helper.make_graph(
        [node("Add", ["state", "x"], ["next"])],
        "scan",
        [info("state", FLOAT, []), info("x", FLOAT, [])],
        [info("next", FLOAT, [])],
    )
    return plus(
        [
            node("ReduceMax", ["X"], ["first"], keepdims=0),
            node("Expand", ["first", "rows"], ["many"]),
            node("Scan", ["first", "many"], ["big"], body=inner, num_scan_inputs=1),
        ],
        numbers("rows", 2**25),
    )


def long_kernel() -> ModelProto:
    """One operator that nothing interrupts: 2^15 products of a vector and a 16 MB matrix."""
    return plus(
        [
            node("ReduceMax", ["X"], ["first"], keepdims=0),
            *(node("Expand", ["first", f"{name}_shape"], [name]) for name in ("s", "w", "r")),
            node("RNN", ["s", "w", "r"], ["", "big"], hidden_size=2048),
        ],
        numbers("s_shape", 2**15, 1, 1), numbers("w_shape", 1, 2048, 1), numbers("r_shape", 1, 2048, 2048),
    )  # fmt: skip


def long_folding() -> ModelProto:
    """A chain of large matrix products that onnxruntime folds while it loads the model."""
    nodes = [node("Transpose", ["column"], ["row"]), node("Add", ["column", "row"], ["m0"])]
    nodes += [node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(30)]
    nodes += [node("ReduceMax", ["X"], ["first"], keepdims=0), asked("Mul", "m30", "first")]
    return plus(nodes, constant("column", np.ones((4096, 1))))


# --- functions, nesting, and malformed files


def calls(callee: str, count: int, domain: str = "own") -> list[Any]:
    names = ["a", *(f"v{i}" for i in range(count - 1)), "b"]
    return [node(callee, [names[i]], [names[i + 1]], domain=domain) for i in range(count)]


def with_functions(functions: Sequence[Any]) -> ModelProto:
    model = plus([node("F0", ["X"], ["big"], domain="own")])
    model.functions.extend(functions)
    return model


def exploding() -> ModelProto:
    made = [function(calls(f"F{i + 1}", 10), f"F{i}") for i in range(9)]
    return with_functions([*made, function(calls("Abs", 10, ""), "F9")])


def overloaded() -> ModelProto:
    """Two functions of the same name: the last one is harmless, but the graph calls the other one."""
    model = exploding()
    harmless = function(calls("Abs", 1, ""), "F1", overload="harmless")
    model.functions.append(harmless)
    return model


def recursive() -> ModelProto:
    return with_functions([function(calls("F1", 1), "F0"), function(calls("F0", 1), "F1")])


def deep_graphs(depth: int) -> bytes:
    content = branch("t", []).SerializeToString()
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))
    return line_model() + field(7, content)


def deep_types(depth: int) -> bytes:
    content = helper.make_tensor_type_proto(FLOAT, []).SerializeToString()
    for _ in range(depth):
        content = field(4, field(1, content))
    return line_model() + field(7, field(13, field(1, b"s") + field(2, content)))


def deep_unknown_fields(depth: int) -> bytes:
    """Nested groups of an unknown field, which are opened and never read."""
    return line_model() + b"\xf3\x06" * depth + b"\xf4\x06" * depth


def many(content: bytes, count: int) -> bytes:
    return line_model() + field(7, content * count)


def renamed(old: bytes, new: bytes) -> bytes:
    return line_model().replace(old, new)


def changed(**parts: Any) -> ModelProto:
    model = ModelProto.FromString(line_model())
    for name, value in parts.items():
        setattr(model.graph.initializer[0], name, value)
    return model


def with_dims(*dims: int, **more: Any) -> ModelProto:
    model = changed(**more)
    model.graph.initializer[0].dims[:] = dims
    return model


def huge_sparse() -> ModelProto:
    model = in_sparse_initializer()
    model.graph.sparse_initializer[0].CopyFrom(
        SparseTensorProto(
            values=constant("W", [1, 2]), indices=numbers("", 0, 1), dims=[2, HUGE * HUGE]
        )
    )
    return model


def cyclic() -> ModelProto:
    return times(
        [node("Add", ["W", "one"], ["V"]), node("Add", ["V", "one"], ["W"])],
        [constant("one", [[1], [1]])],
    )


def twice() -> ModelProto:
    return times(
        [node("Identity", ["V"], ["W"]), node("Identity", ["V"], ["W"])],
        [constant("V", [[1], [1]])],
    )


def many_of_one_name() -> ModelProto:
    """Three bounds with 3,000 values each: 27 billion combinations, none of them huge."""
    model = plus([asked("Range", "from", "to", "step"), node("Exec", ["X"], ["unused"])])
    for name, value in (("from", 0), ("to", 1), ("step", 1)):
        model.graph.initializer.extend([constant(name, value, np.int64)] * 3_000)
    return model


def many_states() -> ModelProto:
    """6,000 recurrent operators in a chain: each takes the one before it as its state."""
    model = ModelProto.FromString(line_model())
    states = ["X", *(f"h{i}" for i in range(6_000))]
    for before, after in pairwise(states):
        model.graph.node.append(node("RNN", ["s", "w", "r", "", "", before], ["", after]))
    return model


def named(name: str) -> ModelProto:
    return graph_of([node("ReduceSum", [name, "one"], ["y"])], [numbers("one", 1)], reads=name)


def huge_list() -> ModelProto:
    model = ModelProto.FromString(line_model())
    model.graph.node[0].attribute.append(helper.make_attribute("spare", [1] * 5_000_000))
    return model


READS, HANGS, FILLS, LOADS = "reads the file", "hangs", "asks for too much memory", "runs"
CRASHES, REFUSES = "crashes", "refuses"

# family: {file: (what onnxruntime alone does with it, function that makes it in the folder under attack)}
FAMILIES: dict[str, dict[str, tuple[str, Callable[[], Any]]]] = {
    "external data": {
        "initializer: file in the project": (REFUSES, partial(in_initializer, "secret.bin")),
        "initializer: absolute": (REFUSES, partial(in_absolute, in_initializer)),
        "initializer: ..": (REFUSES, partial(in_initializer, "../secret.bin")),
        "initializer: symbolic link": (REFUSES, partial(in_initializer, "link.bin")),
        "initializer: hard link": (REFUSES, partial(in_initializer, "hard.bin")),
        "initializer: device": (REFUSES, partial(in_initializer, "/dev/zero", length="8")),
        "initializer: empty name": (REFUSES, partial(in_initializer, "")),
        "initializer: huge offset": (
            REFUSES,
            partial(in_initializer, "secret.bin", offset=str(2**62), length="8"),
        ),
        "initializer: in memory": (
            REFUSES,
            partial(in_initializer, "*/_ORT_MEM_ADDR_/*", offset="4096", length="8"),
        ),
        "initializer: no flag": (REFUSES, without_flag),
        "attribute: file in the project": (REFUSES, in_constant),
        "attribute: absolute": (REFUSES, partial(in_absolute, in_constant)),
        "attribute: ..": (REFUSES, partial(in_constant, "../secret.bin")),
        "attribute: symbolic link": (REFUSES, partial(in_constant, "link.bin")),
        "attribute: hard link": (REFUSES, partial(in_constant, "hard.bin")),
        "attribute: list of tensors": (REFUSES, in_tensor_list),
        "sparse initializer: values": (READS, in_sparse_initializer),
        "sparse initializer: indices": (READS, partial(in_sparse_initializer, indices=True)),
        "sparse attribute: values": (READS, in_sparse_attribute),
        "sparse attribute: indices": (READS, partial(in_sparse_attribute, indices=True)),
        "branch: file in the project": (READS, in_branch_constant),
        "branch: absolute": (REFUSES, partial(in_absolute, in_branch_constant)),
        "branch: ..": (REFUSES, partial(in_branch_constant, "../secret.bin")),
        "branch: symbolic link": (REFUSES, partial(in_branch_constant, "link.bin")),
        "branch: hard link": (REFUSES, partial(in_branch_constant, "hard.bin")),
        "branch: initializer": (READS, partial(in_branch, [], [external(name="t")])),
        "Loop": (READS, in_loop),
        "Scan": (READS, in_scan),
        "function": (REFUSES, in_function),
        "training": (LOADS, in_training_info),
    },
    "foreign operators and formats": {
        "unknown domain": (REFUSES, partial(operator, "Read", "com.example")),
        "onnxruntime-extensions": (REFUSES, partial(operator, "PyOp", "ai.onnx.contrib")),
        "internal domain": (REFUSES, partial(operator, "Conv", "com.ms.internal.nhwc")),
        "unknown operator": (REFUSES, partial(operator, "Exec", "")),
        "unknown domain in a branch": (
            REFUSES,
            partial(in_branch, [node("Read", [], ["t"], domain="com.example")]),
        ),
        "compiled context": (
            REFUSES,
            partial(
                operator, "EPContext", "com.microsoft", embed_mode=0, ep_cache_context="secret.bin"
            ),
        ),
        "opset of the future": (REFUSES, partial(in_unknown_versions, opset=999)),
        "IR of the future": (REFUSES, partial(in_unknown_versions, ir=999)),
        "onnxruntime's own format": (LOADS, flatbuffer),
        "pickle": (REFUSES, partial(pickle.dumps, [1])),
    },
    "huge shapes in constants": {
        "ConstantOfShape": (
            FILLS,
            partial(plus, [asked("ConstantOfShape", "s")], numbers("s", HUGE, HUGE)),
        ),
        "ConstantOfShape of a node": (
            FILLS,
            partial(
                plus,
                [
                    node("Constant", [], ["s"], value_ints=[HUGE, HUGE]),
                    asked("ConstantOfShape", "s"),
                ],
            ),
        ),
        "Expand": (FILLS, partial(plus, [asked("Expand", "X", "s")], numbers("s", HUGE, HUGE, 2))),
        "Tile": (FILLS, partial(plus, [asked("Tile", "X", "s")], numbers("s", 2**14 + 1, 2**14))),
        "Range": (
            FILLS,
            partial(
                plus,
                [asked("Range", "from", "to", "step")],
                constant("from", 0, np.int64),
                constant("to", 2**40, np.int64),
                constant("step", 1, np.int64),
            ),
        ),
        "RandomNormal": (FILLS, partial(plus, [asked("RandomNormal", shape=[HUGE, HUGE])])),
        "sparse": (REFUSES, huge_sparse),
        "dims without data": (REFUSES, partial(with_dims, HUGE, HUGE)),
        "dims that overflow": (REFUSES, partial(with_dims, 2**32, 2**32)),
        "dims that overflow to the right size": (REFUSES, partial(with_dims, 2**63 - 1, 2)),
        "negative dims": (REFUSES, partial(with_dims, -2, -1)),
        "one negative dim": (REFUSES, partial(with_dims, -2, 1)),
        "too little data": (REFUSES, partial(with_dims, 2, 1, raw_data=b"1234")),
    },
    "memory at work": {
        "doubling in a loop": (FILLS, partial(doubling, axis=0)),
        "text doubling in a loop": (FILLS, growing_text),
        "ConstantOfShape of a product": (FILLS, partial(computed, "ConstantOfShape", "shape")),
        "Expand to a product": (FILLS, partial(computed, "Expand", "one", "shape")),
        "Tile by a product": (FILLS, partial(computed, "Tile", "one", "shape")),
        "outer product": (FILLS, partial(outer, "MatMul", "column", "row")),
        "outer sum": (FILLS, partial(outer, "Add", "column", "row")),
        "Einsum": (FILLS, partial(outer, "Einsum", "column", "row", equation="ij,kl->il")),
        "Pad": (
            FILLS,
            lambda: plus(
                [node("Mul", ["p", "factor"], ["pads"]), asked("Pad", "X", "pads")],
                numbers("p", 0, 0, HUGE, 1),
                numbers("factor", 1, 1, 1, HUGE),
            ),
        ),
        "OneHot": (
            FILLS,
            lambda: plus(
                [
                    *column(),
                    node("Mul", ["d", "d"], ["depth"]),
                    node("Cast", ["X"], ["places"], to=INT64),
                    asked("OneHot", "places", "depth", "values", axis=-1),
                ],
                numbers("rows", HUGE, 1),
                constant("d", HUGE, np.int64),
                constant("values", [0, 1]),
            ),
        ),
        "EyeLike": (FILLS, outer_eye),
        "Resize": (
            FILLS,
            lambda: plus([asked("Resize", "X", "", "scales")], constant("scales", [HUGE, HUGE])),
        ),
        "sequence growing in a loop": (FILLS, growing_sequence),
        "constants folded while loading": (FILLS, folded),
    },
    "loops and long work": {
        "endless loop": (HANGS, partial(loop, [ADD])),
        "loop of 2^62 trips": (HANGS, partial(loop, [ADD], "trips")),
        "endless loop of nothing": (HANGS, partial(loop, [], goes_on="on", result="value")),
        "endless loop of Identity": (
            HANGS,
            partial(loop, [node("Identity", ["value"], ["next"])]),
        ),
        "nested loops": (HANGS, nested_loops),
        "loop in a branch": (HANGS, loop_in_branch),
        "loop in a function": (HANGS, loop_in_function),
        "Scan of 2^25 steps": (HANGS, long_scan),
        "one long operator": (HANGS, long_kernel),
        "long work while loading": (HANGS, long_folding),
    },
    "functions and nesting": {
        "functions that unfold without end": (HANGS, exploding),
        "the same, hidden by an overload": (HANGS, overloaded),
        "functions that call each other": (REFUSES, recursive),
        "40 graphs deep": (REFUSES, partial(deep_graphs, 40)),
        "10,000 graphs deep": (REFUSES, partial(deep_graphs, 10_000)),
        "10,000 types deep": (REFUSES, partial(deep_types, 10_000)),
        "a million unknown fields deep": (REFUSES, partial(deep_unknown_fields, 1_000_000)),
    },
    "files that are not well formed": {
        "cycle": (REFUSES, cyclic),
        "an output made twice": (REFUSES, twice),
        "bounds given 3,000 times each": (REFUSES, many_of_one_name),
        "6,000 states of each other": (REFUSES, many_states),
        "name of an operator not UTF-8": (REFUSES, partial(renamed, b"Gemm", b"\xff\xfe\xfdm")),
        "name of an input not UTF-8": (REFUSES, partial(renamed, b"X", b"\xff")),
        "SQL as the name of an input": (LOADS, partial(named, "x'); drop table canary; --")),
        "path as the name of an input": (LOADS, partial(named, "../../secret.bin")),
        "10 million empty nodes": (FILLS, partial(many, field(1, b""), 10_000_000)),
        "10 million empty tensors": (FILLS, partial(many, field(5, b""), 10_000_000)),
        "an attribute of 5 million numbers": (REFUSES, huge_list),
        "text where numbers belong": (REFUSES, partial(changed, data_type=TensorProto.STRING)),
        "an unknown type": (REFUSES, partial(changed, data_type=99)),
        "no bytes": (REFUSES, bytes),
    },
}
