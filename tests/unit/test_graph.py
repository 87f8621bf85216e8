"""A graph is described correctly, or refused before anything runs it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_models as models
import pytest
from graphs import field
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, TypeProto, helper

from dbt_onnx.artifacts.graph import read_graph
from dbt_onnx.errors import ArtifactError, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable


def read(model: ModelProto) -> Any:
    return read_graph(model.SerializeToString(), where="m.onnx")


def hostile(model: ModelProto | bytes) -> str:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(ArtifactError) as caught:
        read_graph(content, where="m.onnx")
    assert "m.onnx" in caught.value.message
    return caught.value.message


def unscorable(model: ModelProto) -> str:
    with pytest.raises(ContractError) as caught:
        read(model)
    assert "m.onnx cannot score a table" in caught.value.message
    return caught.value.message


def test_inputs_and_outputs_are_described() -> None:
    signature = read(models.linear(metadata={"feature_names": "a,b"}))
    (x,), (y,) = signature.inputs, signature.outputs
    assert (x.name, x.kind, x.dtype, x.shape) == ("x", "tensor", "float32", ("n", 2))
    assert (y.name, y.dtype, y.shape) == ("y", "float32", None)
    assert signature.metadata == {"feature_names": "a,b"}
    assert signature.batch_rows is None


def test_an_initializer_listed_among_the_inputs_is_no_input() -> None:
    model = models.linear()
    model.graph.input.append(models.tensor("w", [2, 1]))
    assert [item.name for item in read(model).inputs] == ["x"]


def test_a_zipmap_output_has_keys_values_and_classes() -> None:
    label, probabilities = read(models.classifier(["no", "yes"], zipmap=True)).outputs
    assert (label.dtype, label.classes) == ("string", ("no", "yes"))
    assert probabilities.kind == "map_sequence"
    assert (probabilities.key_dtype, probabilities.dtype) == ("string", "float32")
    assert probabilities.classes == ("no", "yes")


def test_a_tensor_of_probabilities_has_the_classes_of_its_classifier() -> None:
    assert [item.classes for item in read(models.classifier([3, 7, 9])).outputs] == [(3, 7, 9)] * 2


def test_classes_of_an_inner_classifier_are_not_taken() -> None:
    model = models.classifier([0, 1])
    model.graph.node[-1].CopyFrom(helper.make_node("Sub", ["scores", "scores"], ["probabilities"]))
    assert read(model).outputs[1].classes is None


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.BOOL, "bool"),
        (TensorProto.STRING, "string"),
    ],
)
def test_every_tensor_type_has_its_name(kind: int, dtype: str) -> None:
    assert read(models.identity(["n", 3], kind)).inputs[0].dtype == dtype


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        (None, None),
        (["n"], ("n",)),
        ([None, 3], (None, 3)),
        ([0, 3], (None, 3)),
        ([-1, 3], (None, 3)),
        (["batch", "seq", 3], ("batch", "seq", 3)),
    ],
)
def test_a_dynamic_first_axis_is_accepted(shape: Any, seen: Any) -> None:
    signature = read(models.identity(shape))
    assert signature.inputs[0].shape == seen
    assert signature.batch_rows is None


def test_a_batch_fixed_at_one_is_accepted_and_told() -> None:
    assert read(models.identity([1, 3])).batch_rows == 1


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ([], "input 'x' is a scalar"),
        ([8, 3], "fixed batch of 8 rows (shape [8, 3])"),
        ([3, "batch"], "batch on axis 1"),
        (["seq", "batch_size", 3], "batch on axis 1"),
        ([1, "n", 3], "its only dynamic axis at 1"),
    ],
)
def test_a_batch_elsewhere_is_refused(shape: Any, fault: str) -> None:
    assert fault in unscorable(models.identity(shape))


@pytest.mark.parametrize("shape", [[1, "n", 2], ["n", "n", 2], [1, 1, 2]])
def test_a_recurrent_state_among_the_inputs_is_refused(shape: Any) -> None:
    message = unscorable(models.recurrent(state_input=True, state_shape=shape))
    assert "input 'h0' is the state of a recurrent operator" in message


def test_a_recurrent_model_without_state_input_is_accepted() -> None:
    signature = read(models.recurrent(state_input=False, state_shape=[]))
    assert [item.name for item in signature.inputs] == ["x"]


def test_a_state_computed_from_the_sequence_itself_is_accepted() -> None:
    model = models.recurrent(state_input=True, state_shape=[])
    del model.graph.input[1]
    model.graph.node.insert(1, helper.make_node("Identity", ["steps"], ["h0"]))
    assert [item.name for item in read(model).inputs] == ["x"]


def test_a_sequence_input_is_refused() -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(models.FLOAT, ["n"]))
    model = models.linear()
    model.graph.input.append(helper.make_value_info("s", kind))
    assert "input 's' is not a tensor" in unscorable(model)


def test_an_optional_input_is_refused() -> None:
    kind = TypeProto()
    kind.optional_type.elem_type.CopyFrom(helper.make_tensor_type_proto(models.FLOAT, ["n"]))
    model = models.linear()
    model.graph.input.append(helper.make_value_info("o", kind))
    assert "input 'o' is not a tensor" in unscorable(model)


def test_an_input_of_a_type_that_no_column_holds_is_refused() -> None:
    assert "type complex64" in unscorable(models.identity(["n", 2], TensorProto.COMPLEX64))


def test_a_model_without_inputs_is_refused() -> None:
    model = models.model(
        [helper.make_node("Constant", [], ["y"], value_float=1.0)], [], [models.tensor("y", [])]
    )
    assert "it has no inputs" in unscorable(model)


def test_every_fault_of_the_inputs_is_named_at_once() -> None:
    model = models.identity([8, 2])
    model.graph.input.append(models.tensor("z", []))
    message = unscorable(model)
    assert "input 'x' has a fixed batch" in message
    assert "input 'z' is a scalar" in message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a model at all",
        b"<!DOCTYPE html><html></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        b"\x80\x04\x95pickle",
        bytes(1000),
        ModelProto().SerializeToString(),
    ],
)
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    assert "is not an ONNX model, or is cut short" in hostile(content)


def test_a_truncated_model_is_refused_or_lacks_its_graph() -> None:
    content = models.linear().SerializeToString()
    refused = 0
    for length in range(len(content) - 1):
        try:
            read_graph(content[:length], where="m.onnx")
        except (ArtifactError, ContractError):
            refused += 1
    # a cut through the trailing opset imports goes unnoticed here; the sha256 catches it
    assert refused >= len(content) - 25


def test_a_name_that_is_not_text_is_refused() -> None:
    content = models.linear().SerializeToString().replace(b"MatMul", b"\xff\xfeMul!")
    assert "is not an ONNX model" in hostile(content)


def test_onnxruntimes_own_format_is_refused() -> None:
    content = b"\x12\x06ab" + b"ORTM" + models.linear().SerializeToString()
    assert "onnxruntime's own format" in hostile(content)


def in_initializer() -> ModelProto:
    model = models.linear()
    model.graph.initializer[0].CopyFrom(models.external())
    return model


def in_constant() -> ModelProto:
    model = models.linear()
    del model.graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=models.external()))
    return model


def in_tensor_list() -> ModelProto:
    model = models.linear()
    attribute = AttributeProto(name="spare", type=AttributeProto.TENSORS)
    attribute.tensors.append(models.external())
    model.graph.node[0].attribute.append(attribute)
    return model


def in_sparse_initializer() -> ModelProto:
    model = models.linear()
    model.graph.sparse_initializer.append(
        SparseTensorProto(values=models.external(), indices=models.constant("i", [0]), dims=[2, 1])
    )
    return model


def in_sparse_attribute() -> ModelProto:
    sparse = SparseTensorProto(
        values=models.constant("v", [1]), indices=models.external(), dims=[2, 1]
    )
    model = models.linear()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], sparse_value=sparse))
    return model


def branch(name: str, tensor: TensorProto) -> Any:
    return helper.make_graph(
        [helper.make_node("Constant", [], [name], value=tensor)],
        name,
        [],
        [models.tensor(name, [2, 1])],
    )


def in_if() -> ModelProto:
    model = models.linear()
    node = helper.make_node(
        "If",
        ["flag"],
        ["picked"],
        then_branch=branch("t", models.constant("v", [[1], [2]])),
        else_branch=branch("e", models.external()),
    )
    model.graph.node.insert(0, node)
    return model


def in_loop_within_if() -> ModelProto:
    body = helper.make_graph([], "body", [], [], initializer=[models.external()])
    outer = branch("t", models.constant("v", [[1], [2]]))
    outer.node.append(helper.make_node("Loop", ["", "go"], [], body=body))
    model = models.linear()
    model.graph.node.insert(0, helper.make_node("If", ["flag"], ["picked"], then_branch=outer))
    return model


def in_function() -> ModelProto:
    function = helper.make_function(
        "own",
        "F",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["w"], value=models.external()),
            helper.make_node("Mul", ["a", "w"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    return models.model(
        [helper.make_node("F", ["x"], ["y"], domain="own")],
        [models.tensor("x", ["n", 1])],
        [models.tensor("y", ["n", 1])],
        functions=[function],
        domains=["own"],
    )


def in_training_info() -> ModelProto:
    model = models.linear()
    model.training_info.add().algorithm.initializer.append(models.external())
    return model


def without_the_flag() -> ModelProto:
    model = in_initializer()
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    return model


@pytest.mark.parametrize(
    "build",
    [
        in_initializer, in_constant, in_tensor_list, in_sparse_initializer, in_sparse_attribute,
        in_if, in_loop_within_if, in_function, in_training_info, without_the_flag,
    ],
)  # fmt: skip
def test_external_data_is_refused_wherever_it_hides(build: Callable[[], ModelProto]) -> None:
    message = hostile(build())
    assert "external data" in message
    assert "'../secret.bin'" in message


def test_an_unknown_operator_domain_is_refused() -> None:
    model = models.linear()
    model.graph.node[0].domain = "com.example.custom"
    message = hostile(model)
    assert "MatMul" in message
    assert "unknown domain 'com.example.custom'" in message


def test_an_unknown_domain_within_a_subgraph_is_refused() -> None:
    model = in_if()
    then = next(item for item in model.graph.node[0].attribute if item.name == "else_branch")
    then.g.node[0].CopyFrom(helper.make_node("Read", [], ["e"], domain="com.example"))
    assert "unknown domain 'com.example'" in hostile(model)


def test_functions_of_the_file_itself_are_known() -> None:
    model = in_function()
    model.functions[0].node[0].attribute[0].t.CopyFrom(models.constant("w", [[1.0]]))
    assert [item.name for item in read(model).inputs] == ["x"]


def test_a_compiled_context_is_refused() -> None:
    model = models.linear()
    model.graph.node[0].CopyFrom(
        helper.make_node("EPContext", ["x"], ["xw"], domain="com.microsoft", embed_mode=0)
    )
    assert "reads a compiled file" in hostile(model)


def asks_for(node: Any, *constants: Any) -> ModelProto:
    model = models.linear()
    model.graph.node.insert(0, node)
    model.graph.initializer.extend(constants)
    return model


HUGE = [200_000, 200_000]


@pytest.mark.parametrize(
    "model",
    [
        asks_for(
            helper.make_node("ConstantOfShape", ["s"], ["h"]), models.constant("s", HUGE, np.int64)
        ),
        asks_for(
            helper.make_node("Expand", ["c", "s"], ["h"]), models.constant("s", HUGE, np.int64)
        ),
        asks_for(helper.make_node("Tile", ["x", "s"], ["h"]), models.constant("s", HUGE, np.int64)),
        asks_for(
            helper.make_node("Range", ["i", "j", "k"], ["h"]),
            models.constant("i", 0, np.int64),
            models.constant("j", 40_000_000_000, np.int64),
            models.constant("k", 1, np.int64),
        ),
        asks_for(helper.make_node("RandomNormal", [], ["h"], shape=HUGE)),
        asks_for(
            helper.make_node("ConstantOfShape", ["s"], ["h"]),
            TensorProto(name="s", data_type=TensorProto.INT64, dims=[2], int64_data=HUGE),
        ),
        asks_for(helper.make_node("Abs", ["t"], ["h"]), TensorProto(name="t", dims=HUGE)),
    ],
    ids=["ConstantOfShape", "Expand", "Tile", "Range", "RandomNormal", "typed data", "dims"],
)
def test_a_constant_that_asks_for_huge_memory_is_refused(model: ModelProto) -> None:
    assert "asks for 40,000,000,000 elements" in hostile(model)


def test_a_constant_node_that_asks_for_huge_memory_is_refused() -> None:
    model = asks_for(helper.make_node("ConstantOfShape", ["s"], ["h"]))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], value_ints=HUGE))
    assert "ConstantOfShape asks for 40,000,000,000" in hostile(model)


def test_values_are_read_by_their_number_whatever_the_dims_say() -> None:
    model = asks_for(helper.make_node("ConstantOfShape", ["s"], ["h"]))
    model.graph.initializer.add(
        name="s", data_type=TensorProto.INT64, dims=[-1], raw_data=bytes(8 * 10_000_000)
    )
    assert read(model).inputs[0].name == "x"


@pytest.mark.parametrize("limit", [1, 40_000_000_000])
def test_bounds_that_are_given_many_times_are_picked_once(limit: int) -> None:
    model = asks_for(helper.make_node("Range", ["i", "j", "k"], ["h"]))
    for name, value in (("i", 0), ("j", limit), ("k", 1)):
        model.graph.initializer.extend([models.constant(name, value, np.int64)] * 3_000)
    if limit == 1:
        assert read(model).inputs[0].name == "x"
    else:
        assert "asks for 40,000,000,000 elements" in hostile(model)


def test_a_file_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbt_onnx.artifacts.hostile.MAX_MESSAGES", 1_000)
    content = models.linear().SerializeToString() + field(7, field(1, b"") * 1_001)
    assert "is made of more than 1,000 parts" in hostile(content)


def test_a_huge_sparse_tensor_is_refused() -> None:
    model = in_sparse_initializer()
    model.graph.sparse_initializer[0].values.CopyFrom(models.constant("v", [1]))
    model.graph.sparse_initializer[0].dims[:] = HUGE
    assert "sparse tensor" in hostile(model)


@pytest.mark.parametrize("depth", [33, 500])
def test_deep_nesting_is_refused(depth: int) -> None:
    inner = branch("t", models.constant("v", [[1], [2]]))
    content = inner.SerializeToString()
    for _ in range(depth):
        content = nested(content)
    model = models.linear().SerializeToString() + field(7, field(1, field(5, field(6, content))))
    with pytest.raises(ArtifactError) as caught:
        read_graph(model, where="m.onnx")
    assert "m.onnx" in caught.value.message


def nested(graph: bytes) -> bytes:
    """Return the bytes of GraphProto.node.attribute.g = graph."""
    return field(1, field(5, field(6, graph)))


def calling(name: str, callee: str, times: int) -> Any:
    nodes = [
        helper.make_node(callee, ["a"], ["b"], domain="own" if callee[0] == "F" else "")
        for _ in range(times)
    ]
    return helper.make_function(name, "x", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])


def with_functions(functions: dict[str, tuple[str, int]]) -> ModelProto:
    made = []
    for name, (callee, times) in functions.items():
        function = calling("own", callee, times)
        function.name = name
        made.append(function)
    return models.model(
        [helper.make_node("F0", ["x"], ["y"], domain="own")],
        [models.tensor("x", ["n", 1])],
        [models.tensor("y", ["n", 1])],
        functions=made,
        domains=["own"],
    )


def test_functions_that_unfold_without_end_are_refused() -> None:
    laughs = {f"F{i}": (f"F{i + 1}", 10) for i in range(9)} | {"F9": ("Abs", 10)}
    assert "its functions expand to 10,000,000,000 operators" in hostile(with_functions(laughs))


def test_an_overload_hides_no_function() -> None:
    laughs = {f"F{i}": (f"F{i + 1}", 10) for i in range(9)} | {"F9": ("Abs", 10)}
    model = with_functions(laughs)
    model.functions.add().CopyFrom(calling("F1", "Abs", 1))
    model.functions[-1].name, model.functions[-1].overload = "F1", "harmless"
    assert "its functions expand to 10,000,000,000 operators" in hostile(model)


def test_functions_that_call_themselves_are_refused() -> None:
    loop = {"F0": ("F1", 1), "F1": ("F0", 1)}
    assert "calls itself" in hostile(with_functions(loop))


def test_functions_that_call_each_other_in_turn_are_accepted() -> None:
    chain = {"F0": ("F1", 2), "F1": ("Abs", 3)}
    assert read(with_functions(chain)).inputs[0].name == "x"


# --- small files that once took long ----------------------------------------------------------


def in_a_moment(model: ModelProto) -> Any:
    content = model.SerializeToString()
    began = time.process_time()
    signature = read_graph(content, where="m.onnx")
    assert time.process_time() - began < 5
    return signature


def test_a_long_chain_of_recurrent_operators_is_read_at_once() -> None:
    nodes = [
        helper.make_node("LSTM", [f"x{i}", "w", "r", "", "", f"x{i}"], [f"x{i + 1}"])
        for i in range(3_000)
    ]
    in_a_moment(
        models.model(nodes, [models.tensor("x0", ["n", 1])], [models.tensor("x3000", None)])
    )


def test_many_outputs_of_a_long_chain_are_read_at_once() -> None:
    classifier = models.classifier().graph.node[0]
    classifier.output[:] = ["label", "x0"]
    chain = [helper.make_node("Identity", [f"x{i}"], [f"x{i + 1}"]) for i in range(3_000)]
    outputs = [models.tensor(f"x{i}", None) for i in range(3_000, 0, -1)]
    signature = in_a_moment(
        models.model([classifier, *chain], [models.tensor("x", ["n", 2])], outputs)
    )
    assert {item.classes for item in signature.outputs} == {(0, 1)}


def test_a_state_through_operators_in_any_order_is_found() -> None:
    model = models.recurrent(state_input=True, state_shape=["n", 2])
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    lstm.input[5] = "state"
    model.graph.node.append(helper.make_node("Identity", ["again"], ["state"]))
    model.graph.node.append(helper.make_node("Add", ["h0", "state"], ["again"]))  # closes a circle
    assert "'h0' is the state of a recurrent operator" in unscorable(model)


def test_a_model_of_very_many_inputs_is_refused() -> None:
    inputs = [models.tensor(f"x{i}", ["n", 1]) for i in range(10_001)]
    model = models.model(
        [helper.make_node("Identity", ["x0"], ["y"])], inputs, [models.tensor("y", None)]
    )
    assert "it has 10001 inputs; 1 to 10,000 are read" in unscorable(model)
