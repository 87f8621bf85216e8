"""Finds constructs that a model file must not contain, before onnxruntime sees its bytes.

onnxruntime reads the files that a model names as external data, inlines functions without limit
and allocates any shape that a constant asks for. So every field of the message tree is visited by
reflection, and a model with any of these constructs is refused. This module does not import onnx: it
takes a parsed ModelProto.
"""

from __future__ import annotations

import struct
from math import prod
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator

    _Function = tuple[str, str, str]

OPERATOR_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
# of onnxruntime-extensions. Its other operators are refused: they read images, sound or tokenizer files, run
# Python, or match regular expressions, which can take exponential time or overflow the stack. Each of these
# was loaded with a path in all its attributes, and opened no file
TEXT_DOMAIN = "ai.onnx.contrib"
TEXT_OPERATORS = frozenset(
    {
        *("BasicTokenizer", "BertTokenizer", "CLIPTokenizer", "GPT2Tokenizer", "HfBertTokenizer"),
        *("RobertaTokenizer", "SentencepieceTokenizer", "WordpieceTokenizer"),
        *("StringConcat", "StringEqual", "StringJoin", "StringLength", "StringLower"),
        *("StringMapping", "StringSplit", "StringStrip", "StringToHashBucket"),
        *("StringToHashBucketFast", "StringToVector", "StringUpper"),
    }
)
MAX_ELEMENTS = 2**28
MAX_DEPTH = 32
MAX_MESSAGES = 1_000_000
MAX_INLINED_NODES = 10_000_000

_EXTERNAL = 1
_INT64 = 7
# the position of the input that determines the size of the output
_SHAPE_INPUTS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "Resize": 3}
_SHAPE_ATTRIBUTES = frozenset({"RandomNormal", "RandomUniform", "ConstantFill"})


def refuse_hostile(model: Any, *, where: str) -> None:
    """Raise ArtifactError if the ModelProto names other files, unknown operators or huge sizes.

    `where` names the file in messages. Raises UnicodeDecodeError if a name is not UTF-8.
    """
    own = {(function.domain, function.name) for function in model.functions}
    constants: dict[str, tuple[int, ...]] = {}
    nodes = []
    for message, trail in _limited_walk(model, where=where):
        kind = message.DESCRIPTOR.name
        if kind == "TensorProto":
            _refuse_external(message, where=where, trail=trail)
            _refuse_huge(tuple(message.dims), where=where, what=f"tensor {message.name!r}")
            _keep_largest(constants, message.name, _small_integers(message))
        elif kind == "SparseTensorProto":
            _refuse_huge(tuple(message.dims), where=where, what=f"sparse tensor {trail}")
        elif kind == "FunctionProto" and message.domain == TEXT_DOMAIN:
            raise ArtifactError(
                f"{where} defines function {message.name!r} in the domain {TEXT_DOMAIN!r}",
                hint="export the model without functions (inline them)",
            )
        elif kind == "NodeProto":
            _refuse_operator(message, own, where=where)
            nodes.append(message)
    for node in nodes:
        if node.op_type == "Constant" and node.output:
            for values in _constant_values(node):
                _keep_largest(constants, node.output[0], values)
    for node in nodes:
        for shape in _asked_shapes(node, constants):
            _refuse_huge(shape, where=where, what=f"operator {_label(node)}")
    _refuse_exploding_functions(model, where=where)


def external_tensors(model: Any, *, where: str) -> list[Any]:
    """Return every tensor of the ModelProto that has its data in another file. Raises as `refuse_hostile` does."""
    return [
        message
        for message, _ in _limited_walk(model, where=where)
        if message.DESCRIPTOR.name == "TensorProto" and _is_external(message)
    ]


def _limited_walk(model: Any, *, where: str) -> Iterator[tuple[Any, str]]:
    for count, (message, trail, depth) in enumerate(_walk(model)):
        if count > MAX_MESSAGES:
            raise ArtifactError(
                f"{where} is made of more than {MAX_MESSAGES:,} parts (nodes, attributes, ...)",
                hint="check where the file comes from: normal models have thousands of parts",
            )
        if depth > MAX_DEPTH:
            raise ArtifactError(
                f"{where} nests graphs {depth} deep; at most {MAX_DEPTH} are read",
                hint="export the model without nested If and Loop operators",
            )
        yield message, trail


def _walk(message: Any, trail: str = "", depth: int = 0) -> Iterator[tuple[Any, str, int]]:
    """Yield a message and all messages in it, each with its path and the number of graphs around it.

    The recursion is safe: protobuf reads no message that is nested more than 100 deep.
    """
    if message.DESCRIPTOR.name in {"GraphProto", "FunctionProto"}:
        depth += 1
    yield message, trail, depth
    for field, value in message.ListFields():
        path = f"{trail}.{field.name}" if trail else field.name
        if field.message_type is None:
            if field.type == field.TYPE_STRING:
                # for a name that is not UTF-8, protobuf either raises here or returns bytes
                _refuse_non_utf8(value)
        elif hasattr(value, "ListFields"):
            yield from _walk(value, path, depth)
        else:
            for i, item in enumerate(value):
                yield from _walk(item, f"{path}[{i}]", depth)


def _refuse_non_utf8(value: Any) -> None:
    for item in (value,) if isinstance(value, str | bytes) else value:
        if isinstance(item, bytes):
            item.decode()


def _is_external(tensor: Any) -> bool:
    return tensor.data_location == _EXTERNAL or bool(tensor.external_data)


def _refuse_external(tensor: Any, *, where: str, trail: str) -> None:
    if not _is_external(tensor):
        return
    location = next((item.value for item in tensor.external_data if item.key == "location"), "")
    raise ArtifactError(
        f"{where} keeps tensor {tensor.name!r} (at {trail}) as external data, "
        f"in the file {location!r}; a model must be one file",
        hint="save it as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
    )


def _refuse_operator(node: Any, own: set[tuple[str, str]], *, where: str) -> None:
    if node.domain == TEXT_DOMAIN:
        if node.op_type not in TEXT_OPERATORS:
            raise ArtifactError(
                f"{where} uses operator {_label(node)} of {TEXT_DOMAIN}; of this domain only text "
                f"operators are run: {', '.join(sorted(TEXT_OPERATORS))}",
                hint="export the model with one of them, or prepare this input in SQL",
            )
    elif node.domain not in OPERATOR_DOMAINS and (node.domain, node.op_type) not in own:
        known = ", ".join(sorted(domain for domain in OPERATOR_DOMAINS if domain))
        raise ArtifactError(
            f"{where} uses operator {_label(node)} of the unknown domain {node.domain!r}; "
            f"known are {known} and the functions that the file defines",
            hint="export the model with standard operators; custom operator libraries are not "
            "loaded",
        )
    # an attribute of this operator names a file of compiled code
    if node.op_type == "EPContext":
        raise ArtifactError(
            f"{where} uses operator {_label(node)}, which reads a compiled file beside the model",
            hint="export the model for onnxruntime's CPU provider, without compiled contexts",
        )


def _refuse_huge(shape: tuple[int, ...], *, where: str, what: str) -> None:
    if prod(shape) > MAX_ELEMENTS:
        raise ArtifactError(
            f"{where}: {what} asks for {prod(shape):,} elements, shape {list(shape)}; "
            f"at most {MAX_ELEMENTS:,} are allowed",
            hint="look at the model with `dbt-onnx inspect`, and check where it comes from",
        )


def _refuse_exploding_functions(model: Any, *, where: str) -> None:
    """Raise ArtifactError if the functions expand to too many nodes, since onnxruntime inlines them.

    Ten functions, each calling the next one ten times, make 10^10 nodes.
    """
    functions = {_called(item, item.name): item for item in model.functions}
    sizes: dict[_Function, int] = {}

    def unfolded(graph: Any, callers: tuple[_Function, ...]) -> int:
        nodes = (item for item, _, _ in _walk(graph) if item.DESCRIPTOR.name == "NodeProto")
        callees = (_called(node, node.op_type) for node in nodes)
        return sum(size_of(item, callers) if item in functions else 1 for item in callees)

    def size_of(key: _Function, callers: tuple[_Function, ...]) -> int:
        if key in callers or len(callers) > MAX_DEPTH:
            raise ArtifactError(
                f"{where}: function {key[1]!r} of domain {key[0]!r} calls itself, or the calls "
                f"nest deeper than {MAX_DEPTH}",
                hint="export the model without functions (inline them)",
            )
        if key not in sizes:
            sizes[key] = unfolded(functions[key], (*callers, key))
        return sizes[key]

    total = unfolded(model.graph, ()) if functions else 0
    if total > MAX_INLINED_NODES:
        raise ArtifactError(
            f"{where}: its functions expand to {total:,} operators; "
            f"at most {MAX_INLINED_NODES:,} are allowed",
            hint="export the model without functions (inline them)",
        )


def _called(message: Any, name: str) -> _Function:
    return message.domain, name, message.overload


def _keep_largest(
    constants: dict[str, tuple[int, ...]], name: str, values: tuple[int, ...]
) -> None:
    """Keep the largest constant of a name: subgraphs may reuse a name, a hostile graph may repeat it."""
    if values and (name not in constants or prod(values) > prod(constants[name])):
        constants[name] = values


def _asked_shapes(node: Any, constants: dict[str, tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    position = _SHAPE_INPUTS.get(node.op_type)
    if position is not None and position < len(node.input):
        yield constants.get(node.input[position], ())
    if node.op_type in _SHAPE_ATTRIBUTES:
        yield from (tuple(item.ints) for item in node.attribute if item.name == "shape")
    if node.op_type == "Range" and len(node.input) == 3:
        bounds = [constants.get(name, ()) for name in node.input]
        if all(len(bound) == 1 for bound in bounds) and bounds[2][0]:
            (start,), (limit,), (step,) = bounds
            yield (max(0, (limit - start) // step),)


def _constant_values(node: Any) -> Iterator[tuple[int, ...]]:
    for attribute in node.attribute:
        if attribute.name == "value":
            yield _small_integers(attribute.t)
        elif attribute.name == "value_ints":
            yield tuple(attribute.ints)
        elif attribute.name == "value_int":
            yield (attribute.i,)


def _small_integers(tensor: Any) -> tuple[int, ...]:
    """Return the elements of an int64 tensor that is small enough to be a shape, else nothing."""
    # `dims` may be wrong, so count the data instead
    count = len(tensor.raw_data) // 8
    if tensor.data_type != _INT64 or max(count, len(tensor.int64_data)) > MAX_DEPTH:
        return ()
    if tensor.raw_data:
        return struct.unpack(f"<{count}q", tensor.raw_data[: count * 8])
    return tuple(tensor.int64_data)


def _label(node: Any) -> str:
    return f"{node.op_type} ({node.name!r})" if node.name else str(node.op_type)
