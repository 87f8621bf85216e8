"""The inputs and outputs of an ONNX graph, read from the file's bytes without running the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import onnx
from google.protobuf.message import DecodeError

from dbt_onnx.artifacts.classes import classes_of_outputs, labels_of
from dbt_onnx.artifacts.hostile import refuse_hostile
from dbt_onnx.errors import ArtifactError, ContractError
from dbt_onnx.kernel.contract import Class, TensorType
from dbt_onnx.kernel.native import Memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Dimension = int | str | None
TensorKind = Literal["tensor", "map_sequence", "sequence", "other"]

MAX_INPUTS = 10_000
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_EXPORT_HINT = (
    "export the model so that every input is a tensor of numbers, text or booleans that has the "
    "batch on its first axis, with a dynamic size (torch: dynamic_axes={'x': {0: 'batch'}})"
)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output as the file declares it. The declaration of an output may be wrong.

    `shape` has an int for each fixed axis, and a name or None for each dynamic axis; it is None if the
    rank is not declared. For a `map_sequence` (ZipMap), `dtype` is the type of the values and `key_dtype`
    the type of the keys. `classes` are the class labels of a classifier's output, if the file has them.
    `overruled` are the labels of an inner classifier that the label output contradicts.
    """

    name: str
    kind: TensorKind
    dtype: str | None = None
    shape: tuple[Dimension, ...] | None = None
    key_dtype: str | None = None
    classes: tuple[Class, ...] | None = None
    overruled: tuple[Class, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class GraphSignature:
    """The inputs (without initializers) and outputs of a graph, and the metadata of its file.

    `batch_rows` is 1 if the graph takes one row at a time, else None. `has_halves` is true if
    any part of the graph computes in 16-bit floats.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metadata: dict[str, str]
    batch_rows: int | None
    has_halves: bool = False


def read_graph(model_bytes: bytes, *, where: str) -> GraphSignature:
    """Read the signature of a model with the batch on the first axis of its inputs.

    Raises ArtifactError if the bytes are not ONNX, or hostile (see `hostile`); ContractError,
    with every fault, if the inputs cannot be fed with rows. `where` names the file in messages.
    """
    try:
        model = _parse(model_bytes)
        refuse_hostile(model, where=where)
        signature = _signature(model)
        faults = _batch_faults(model, signature)
    except (DecodeError, UnicodeDecodeError) as error:
        is_name = isinstance(error, UnicodeDecodeError)
        reason = f"a name in it is not text: {error}" if is_name else str(error)
        raise ArtifactError(
            f"{where} is not an ONNX model, or is cut short ({len(model_bytes):,} bytes): {reason}",
            hint="export the model as ONNX again; a file from Git LFS needs `git lfs pull` first",
        ) from error
    if faults:
        raise ContractError(
            f"{where} cannot score a table: " + "; ".join(faults), hint=_EXPORT_HINT
        )
    return signature


def without_zipmaps(model_bytes: bytes, classes: Mapping[str, tuple[Class, ...]]) -> bytes:
    """Replace each ZipMap at an output by its input tensor, which is faster, and return the new model.

    A ZipMap turns a tensor (rows, classes) into one Python dict per row, with the same numbers.
    `classes` are the class labels by output, in the order of the columns. A ZipMap with other
    labels stays. `model_bytes` must have passed `read_graph`.
    """
    model = onnx.ModelProto.FromString(model_bytes)
    producers = {name: node for node in model.graph.node for name in node.output}
    consumed = {name for node in _nested_nodes(model.graph) for name in node.input}
    # the Identity operator needs the standard domain
    has_identity = any(item.domain in {"", "ai.onnx"} for item in model.opset_import)
    for output in model.graph.output:
        node = producers.get(output.name)
        if node is None or node.op_type != "ZipMap" or output.name in consumed or not has_identity:
            continue
        if labels_of(node) != classes.get(output.name):
            continue
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        output.type.Clear()
        output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return bytes(model.SerializeToString())


def _parse(model_bytes: bytes) -> onnx.ModelProto:
    # onnxruntime would read these bytes in its own format, even if protobuf can parse them
    if model_bytes[4:8] == b"ORTM":
        raise DecodeError("it is in onnxruntime's own format (.ort)")
    # a parsed file may take a hundred times its size in memory
    with Memory().bounded():
        model: onnx.ModelProto = onnx.ModelProto.FromString(model_bytes)
    if not model.HasField("graph") or not model.graph.output or not model.opset_import:
        raise DecodeError("it has no graph with outputs")
    return model


def _signature(model: onnx.ModelProto) -> GraphSignature:
    graph = model.graph
    constant = {item.name for item in graph.initializer}
    constant |= {item.values.name for item in graph.sparse_initializer}
    classes, overruled = classes_of_outputs(graph)
    inputs = tuple(_tensor(item) for item in graph.input if item.name not in constant)
    return GraphSignature(
        inputs=inputs,
        outputs=tuple(
            replace(
                _tensor(item), classes=classes.get(item.name), overruled=overruled.get(item.name)
            )
            for item in graph.output
        ),
        metadata={item.key: item.value for item in model.metadata_props},
        batch_rows=1 if any((item.shape or ())[:1] == (1,) for item in inputs) else None,
        has_halves=_has_halves(graph),
    )


def _has_halves(graph: onnx.GraphProto) -> bool:
    halves = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    types = [item.data_type for item in graph.initializer]
    types += [item.type.tensor_type.elem_type for item in (*graph.input, *graph.output)]
    casts = (node for node in graph.node if node.op_type == "Cast")
    types += [attribute.i for node in casts for attribute in node.attribute]
    return not halves.isdisjoint(types)


def _tensor(info: onnx.ValueInfoProto) -> Tensor:
    kind = info.type.WhichOneof("value")
    if kind == "tensor_type":
        return Tensor(
            name=info.name,
            kind="tensor",
            dtype=_dtype(info.type.tensor_type.elem_type),
            shape=_shape(info.type.tensor_type),
        )
    element = info.type.sequence_type.elem_type
    if kind == "sequence_type" and element.WhichOneof("value") == "map_type":
        return Tensor(
            name=info.name,
            kind="map_sequence",
            dtype=_dtype(element.map_type.value_type.tensor_type.elem_type),
            key_dtype=_dtype(element.map_type.key_type),
        )
    return Tensor(name=info.name, kind="sequence" if kind == "sequence_type" else "other")


def _dtype(number: int) -> str | None:
    try:
        name = str(onnx.TensorProto.DataType.Name(number)).lower()
    except ValueError:
        return None
    return {"float": "float32", "double": "float64"}.get(name, name)


def _shape(tensor: Any) -> tuple[Dimension, ...] | None:
    if not tensor.HasField("shape"):
        return None
    # some converters write 0 or -1 for "any"
    return tuple(
        dim.dim_value if dim.dim_value > 0 else (dim.dim_param or None) for dim in tensor.shape.dim
    )


def _batch_faults(model: onnx.ModelProto, signature: GraphSignature) -> list[str]:
    if not 0 < len(signature.inputs) <= MAX_INPUTS:
        return [f"it has {len(signature.inputs) or 'no'} inputs; 1 to {MAX_INPUTS:,} are read"]
    faults = []
    states = _state_inputs(model.graph)
    for tensor in signature.inputs:
        where = f"input {tensor.name!r}"
        if tensor.name in states:
            faults.append(f"{where} is the state of a recurrent operator, kept from call to call")
        elif tensor.kind != "tensor":
            faults.append(f"{where} is not a tensor but a sequence, map, sparse or optional value")
        elif tensor.dtype not in get_args(TensorType):
            faults.append(
                f"{where} has elements of type {tensor.dtype}, which is not supported (float16 "
                "to float64, int8 to uint64, text and booleans are)"
            )
        elif tensor.shape is not None and (fault := _shape_fault(tensor.shape)):
            faults.append(f"{where} {fault}")
    return faults


def _shape_fault(shape: tuple[Dimension, ...]) -> str | None:
    shown = f"(shape {list(shape)})"
    if not shape:
        return "is a scalar, without a batch axis"
    named = [i for i, dim in enumerate(shape) if isinstance(dim, str) and "batch" in dim.lower()]
    dynamic = [i for i, dim in enumerate(shape) if not isinstance(dim, int)]
    if named and named[0] > 0:
        return f"has the batch on axis {named[0]}, not on the first {shown}"
    if dynamic and 0 not in dynamic:
        return f"has its only dynamic axis at {dynamic[0]}, so the batch is not first {shown}"
    if isinstance(shape[0], int) and shape[0] > 1:
        return f"has a fixed batch of {shape[0]} rows {shown}"
    return None


def _state_inputs(graph: onnx.GraphProto) -> set[str]:
    """Return the graph inputs that feed the initial state of a recurrent operator, but not its sequence."""
    nodes = _nested_nodes(graph)
    recurrent = [node for node in nodes if node.op_type in _RECURRENT]
    if not recurrent:
        return set()
    names = {item.name for item in graph.input} - {item.name for item in graph.initializer}
    sources = {name: 1 << place for place, name in enumerate(sorted(names))}
    producers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    reaching = [0] * len(nodes)

    def reach(inputs: Iterable[str]) -> int:
        """Return the graph inputs that these tensors depend on, one bit for each."""
        found = 0
        for name in inputs:
            found |= sources.get(name, 0)
            found |= reaching[producers[name]] if name in producers else 0
        return found

    # visit each node once, after the nodes that it depends on, so that a hostile file cannot make this slow
    begun: set[int] = set()
    stack = [(place, False) for place in reversed(range(len(nodes)))]
    while stack:
        place, is_after_its_inputs = stack.pop()
        inputs = nodes[place].input
        if is_after_its_inputs:
            reaching[place] = reach(inputs)
        elif place not in begun:
            begun.add(place)
            stack.append((place, True))
            stack += [(producers[name], False) for name in inputs if name in producers]
    states = 0
    for node in recurrent:
        states |= reach(node.input[5:7]) & ~reach(node.input[:1])
    return {name for name, bit in sources.items() if states & bit}


def _nested_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    nodes = []
    stack = [graph]
    while stack:
        for node in stack.pop().node:
            nodes.append(node)
            for attribute in node.attribute:
                stack += [attribute.g] if attribute.HasField("g") else []
                stack += attribute.graphs
    return cast("list[onnx.NodeProto]", nodes)
