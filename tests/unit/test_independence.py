"""A model is refused if its answer for a row depends on other rows or on chance."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_models as models
import pytest
from onnx import TensorProto, helper

from dbt_onnx.artifacts.graph import read_graph
from dbt_onnx.authoring import trial
from dbt_onnx.authoring.infer import ModelOptions, describe_model
from dbt_onnx.errors import ContractError, ModelCrashError

if TYPE_CHECKING:
    from onnx import ModelProto

DEPENDS = "changes with the rows scored beside it, or from run to run"


def tried(model: ModelProto) -> int:
    content = model.SerializeToString()
    signature = read_graph(content, where="m")
    model_options = ModelOptions(features=["a", "b"])
    return describe_model(content, signature, model_options, where="m").trial.rows_tried


def graph(nodes: list[Any], constants: dict[str, Any], *, dtype: int = TensorProto.FLOAT) -> Any:
    """Return a model with y of x (rows, 2), both of this type."""
    return models.model(
        nodes,
        [models.tensor("x", ["n", 2], dtype)],
        [models.tensor("y", ["n", 2], dtype)],
        initializers=[
            models.constant(
                name, values, np.int64 if isinstance(values, int | list) else np.float32
            )
            for name, values in constants.items()
        ],
    )


def mixed_above(rows: int, share: float = 1.0) -> Any:
    """Add to x a share of the mean over all rows, in calls with more than `rows` rows."""
    return graph(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "zero"], ["count"]),
            helper.make_node("Greater", ["count", "rows"], ["is_many"]),
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Mul", ["mean", "share"], ["part"]),
            helper.make_node("Sub", ["part", "part"], ["nothing"]),
            helper.make_node("Where", ["is_many", "part", "nothing"], ["more"]),
            helper.make_node("Add", ["x", "more"], ["y"]),
        ],
        {"zero": 0, "rows": rows, "share": share},
    )


def reversed_above(value: float) -> Any:
    """Return the rows in reverse order if any value is larger than `value`."""
    return graph(
        [
            helper.make_node("Abs", ["x"], ["size"]),
            helper.make_node("ReduceMax", ["size"], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "value"], ["is_large"]),
            helper.make_node("Slice", ["x", "from", "to", "axis", "step"], ["back"]),
            helper.make_node("Where", ["is_large", "back", "x"], ["y"]),
        ],
        {"value": value, "from": [-1], "to": [-(2**40)], "axis": [0], "step": [-1]},
    )


def noisy(size: float) -> Any:
    return graph(
        [
            helper.make_node("RandomNormalLike", ["x"], ["noise"], scale=size),
            helper.make_node("Add", ["x", "noise"], ["y"]),
        ],
        {},
    )


def rolled() -> Any:
    """Shift the rows by half of the call's length."""
    return graph(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "places"], ["count"]),
            helper.make_node("Div", ["count", "two"], ["half"]),
            helper.make_node("Slice", ["x", "half", "count", "places"], ["last"]),
            helper.make_node("Slice", ["x", "places", "half", "places"], ["first"]),
            helper.make_node("Concat", ["last", "first"], ["y"], axis=0),
        ],
        {"places": [0], "two": [2]},
    )


def spread_nan() -> Any:
    """Make all rows of a call NaN if one row has a NaN."""
    return graph(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=1),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Add", ["x", "nothing"], ["y"]),
        ],
        {"zero": 0.0},
    )


def largest_of(axis: int) -> Any:
    """Divide x by the largest value of its column in the call (axis 0), or of its row (axis 1)."""
    return graph(
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], axes=[axis], keepdims=1),
            helper.make_node("Div", ["x", "largest"], ["y"]),
        ],
        {},
    )


@pytest.mark.parametrize(
    "model",
    [
        mixed_above(0),
        mixed_above(1),
        mixed_above(17),
        mixed_above(1_000),
        mixed_above(5_000),
        mixed_above(20_000),
        mixed_above(1_000, 0.1),
        reversed_above(0.0),
        reversed_above(100.0),
        reversed_above(50_000.0),
        noisy(1e-1),
        noisy(1e-4),
        noisy(1e-6),
        rolled(),
        spread_nan(),
        largest_of(0),
    ],
    ids=lambda model: ",".join(node.op_type for node in model.graph.node)[:40],
)
def test_other_rows_and_chance_are_found(model: Any) -> None:
    with pytest.raises(ContractError, match=DEPENDS):
        tried(model)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_rows_that_only_pass_are_let_through(dtype: int) -> None:
    assert tried(models.identity(["n", 2], dtype)) == trial.MOST_ROWS


@pytest.mark.parametrize(
    "model",
    [models.linear(), models.classifier([0, 1, 2]), models.vector(7), largest_of(1)],
    ids=["linear", "classifier", "vector", "own row"],
)
def test_rows_by_themselves_are_let_through(model: Any) -> None:
    assert tried(model) == trial.MOST_ROWS


@pytest.mark.parametrize("seed", range(3))
def test_rounding_in_a_deep_network_is_no_other_row(seed: int) -> None:
    source = np.random.default_rng(seed)
    widths = [2, 64, 256, 256, 64, 3]
    nodes, weights, name = [], [], "x"
    for place, (rows, columns) in enumerate(itertools.pairwise(widths)):
        weights.append(
            models.constant(f"w{place}", source.normal(size=(rows, columns)) / rows**0.5)
        )
        nodes.append(helper.make_node("MatMul", [name, f"w{place}"], [f"h{place}"]))
        nodes.append(helper.make_node("LeakyRelu", [f"h{place}"], [f"a{place}"], alpha=0.1))
        name = f"a{place}"
    nodes.append(helper.make_node("LayerNormalization", [name, "one"], ["n"], axis=-1))
    nodes.append(helper.make_node("Softmax", ["n"], ["y"]))
    weights.append(models.constant("one", [1.0] * widths[-1]))
    model = models.model(
        nodes, [models.tensor("x", ["n", 2])], [models.tensor("y", ["n", 3])], initializers=weights
    )
    assert tried(model) >= 256


def test_a_slow_model_is_tried_with_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_SECONDS", 0.0)
    assert 1 <= tried(models.linear()) < trial.MOST_ROWS


def test_values_that_kill_the_process_are_told() -> None:
    # for x above 100 it divides the smallest integer by -1, an overflow that kills the process
    model = models.model(
        [
            helper.make_node("Greater", ["x", "limit"], ["is_large"]),
            helper.make_node("Where", ["is_large", "smallest", "x"], ["dividend"]),
            helper.make_node("Where", ["is_large", "minus", "limit"], ["divisor"]),
            helper.make_node("Div", ["dividend", "divisor"], ["y"]),
        ],
        [models.tensor("x", ["n", 1], models.INT64)],
        [models.tensor("y", ["n", 1], models.INT64)],
        initializers=[
            models.constant(name, [value], np.int64)
            for name, value in {"limit": 100, "smallest": -(2**63), "minus": -1}.items()
        ],
    )
    content = model.SerializeToString()
    with pytest.raises(ModelCrashError, match="the process in which it ran"):
        describe_model(
            content, read_graph(content, where="m"), ModelOptions(features=["a"]), where="m"
        )


def test_a_wide_model_is_tried_with_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_MAX_VALUES", 5_000)
    # two values per row, in one input or in two
    assert tried(models.linear()) == 2_048
    content = models.columns().SerializeToString()
    signature = read_graph(content, where="m")
    assert describe_model(content, signature, ModelOptions(), where="m").trial.rows_tried == 2_048


def test_values_that_a_model_fails_on_are_left_out() -> None:
    # an embedding table with eight rows
    model = models.model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [models.tensor("x", ["n"], models.INT64)],
        [models.tensor("y", ["n", 3])],
        initializers=[models.constant("table", np.arange(24).reshape(8, 3))],
    )
    content = model.SerializeToString()
    signature = read_graph(content, where="m")
    description = describe_model(content, signature, ModelOptions(features=["a"]), where="m")
    assert description.trial.rows_tried == trial.MOST_ROWS
