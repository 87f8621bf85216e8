"""More rows of docs/errors.md: invalid registries, model files, cards and contracts.

As in `error_cases`, each function breaks something real.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import graphs
import onnx_models
from error_cases import (
    Attempt,
    Case,
    card_file,
    card_with,
    features_as,
    onnx_file,
    registered,
    registry_update,
)
from onnx import FunctionProto, TensorProto, helper
from warehouse import line_contract, line_model

from dbt_onnx.errors import (
    ArtifactError,
    ContractError,
    DataError,
    DbtOnnxError,
    RegistryError,
    WarehouseError,
)
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from warehouse import Warehouse

A, B = Feature(name="a"), Feature(name="b")
X = Input(name="x", dtype="float32", features=("a", "b"))
Y = Output(name="y", kind="value", dtype="float32", columns=("y",))

MODEL_CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a case under its id: the function's name with hyphens."""
    MODEL_CASES[function.__name__.replace("_", "-")] = function
    return function


# the registry

CELLS = {
    "registry-name-empty": "model_name = null",
    "registry-name-quoted": "model_name = '\"line\"'",
    "registry-alias-malformed": "alias = 'Champion'",
    "registry-path-empty": "artifact = null",
    "registry-path-absolute": "artifact = '/models/line.onnx'",
    "registry-path-with-backslashes": r"artifact = 'line\1\model.onnx'",
    "registry-path-with-blanks": "artifact = 'line/version 1/model.onnx'",
}


def _cell(assignment: str) -> Case:
    def break_it(warehouse: Warehouse) -> Attempt:
        registry_update(warehouse, assignment)
        return Attempt(RegistryError)

    return break_it


MODEL_CASES |= {name: _cell(assignment) for name, assignment in CELLS.items()}


@case
def registry_version_lost_its_zero(warehouse: Warehouse) -> Attempt:
    warehouse.register("01")
    warehouse.sql("delete from model_registry where model_version = '1'")
    warehouse.sql("alter table model_registry alter model_version type integer")
    return Attempt(ArtifactError)


@case
def registry_is_another_table(warehouse: Warehouse) -> Attempt:
    return Attempt(
        RegistryError,
        {"registry": warehouse.connection.cursor().query('select * from "w"."main"."features"')},
    )


@case
def registry_not_readable(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table model_registry rename to rows_of_it")
    warehouse.sql(
        "create view model_registry as "
        "select * replace (error('the sheet is gone') as sha256) from rows_of_it"
    )
    return Attempt(WarehouseError)


# the model file


@case
def artifact_folder_missing(warehouse: Warehouse) -> Attempt:
    undo = registry_update(warehouse, "artifact = 'line/9/model.onnx'")
    return Attempt(ArtifactError, undo=undo)


@case
def artifact_no_regular_file(warehouse: Warehouse) -> Attempt:
    onnx_file(warehouse).unlink()
    os.mkfifo(onnx_file(warehouse))
    return Attempt(ArtifactError)


@case
def artifact_too_large(warehouse: Warehouse) -> Attempt:
    os.truncate(onnx_file(warehouse), 2**31 + 1)  # a sparse file, which takes no space on disk
    return Attempt(ArtifactError)


@case
def artifact_empty(warehouse: Warehouse) -> Attempt:
    registered(warehouse, b"")
    return Attempt(ArtifactError)


@case
def artifact_of_onnxruntimes_format(warehouse: Warehouse) -> Attempt:
    registered(warehouse, b"\0\0\0\0ORTM" + bytes(100))
    return Attempt(ArtifactError)


@case
def artifact_with_a_name_that_is_no_text(warehouse: Warehouse) -> Attempt:
    registered(warehouse, line_model().replace(b"line", b"\xff\xfe\xff\xfe"))
    return Attempt(ArtifactError)


@case
def artifact_compiled(warehouse: Warehouse) -> Attempt:
    model = onnx_models.linear()
    model.graph.node.append(helper.make_node("EPContext", ["x"], ["z"], domain="com.microsoft"))
    registered(warehouse, model)
    return Attempt(ArtifactError)


@case
def artifact_nested_too_deep(warehouse: Warehouse) -> Attempt:
    # names without types: protobuf reads at most a hundred nested messages, and a type adds four levels
    names = [helper.make_empty_tensor_value_info("y")]
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], names)
    for _ in range(31):
        node = helper.make_node("If", ["x"], ["y"], then_branch=branch)
        branch = helper.make_graph([node], "g", [], names)
    model = onnx_models.identity(["n", 2])
    model.graph.node[0].CopyFrom(helper.make_node("If", ["x"], ["y"], then_branch=branch))
    registered(warehouse, model)
    return Attempt(ArtifactError)


@case
def artifact_function_calls_itself(warehouse: Warehouse) -> Attempt:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    call = helper.make_node("again", ["x"], ["y"], domain="own")
    function: FunctionProto = helper.make_function("own", "again", ["x"], ["y"], [call], opsets)
    model = onnx_models.model(
        [call],
        [onnx_models.tensor("x", ["n", 2])],
        [onnx_models.tensor("y", ["n", 2])],
        functions=[function],
        domains=["own"],
    )
    registered(warehouse, model)
    return Attempt(ArtifactError)


@case
def model_without_inputs(warehouse: Warehouse) -> Attempt:
    model = onnx_models.model(
        [helper.make_node("Identity", ["c"], ["y"])],
        [],
        [onnx_models.tensor("y", [1])],
        initializers=[onnx_models.constant("c", [1])],
    )
    registered(warehouse, model)
    return Attempt(ContractError)


@case
def input_is_no_tensor(warehouse: Warehouse) -> Attempt:
    model = onnx_models.identity(["n", 2])
    kind = helper.make_sequence_type_proto(
        helper.make_tensor_type_proto(onnx_models.FLOAT, ["n", 2])
    )
    model.graph.input[0].CopyFrom(helper.make_value_info("x", kind))
    registered(warehouse, model)
    return Attempt(ContractError)


@case
def input_of_a_type_without_columns(warehouse: Warehouse) -> Attempt:
    registered(warehouse, onnx_models.identity(["n", 2], TensorProto.COMPLEX64))
    return Attempt(ContractError)


# the card


@case
def card_too_large(warehouse: Warehouse) -> Attempt:
    os.truncate(card_file(warehouse), 2**26 + 1)
    return Attempt(ArtifactError)


CARDS = {
    "card-not-text": b'{"model_name": "\xff"}',
    "card-has-nan": b'{"format_version": 1, "training": {"auc": NaN}}',
    "card-nested-too-deep": b"[" * 100_000,
    "card-is-a-list": b"[]",
}
CARD_PARTS: dict[str, dict[str, Any]] = {
    "card-version-is-a-number": {"model_version": 1},
    "card-of-another-file": {"sha256": "0" * 64},
    "card-reference-of-text": {"reference": {"a": "between 0 and 1"}},
    "card-shares-do-not-add-up": {
        "reference": {
            "a": {"kind": "numeric", "rows": 3, "nulls": 0, "edges": [1], "shares": [0.2, 0.2]}
        }
    },
}


def _card(content: bytes) -> Case:
    def break_it(warehouse: Warehouse) -> Attempt:
        card_file(warehouse).write_bytes(content)
        return Attempt(ArtifactError)

    return break_it


def _card_part(changes: dict[str, Any], kind: type[DbtOnnxError] = ArtifactError) -> Case:
    def break_it(warehouse: Warehouse) -> Attempt:
        card_with(warehouse, **changes)
        return Attempt(kind)

    return break_it


MODEL_CASES |= {name: _card(content) for name, content in CARDS.items()}
MODEL_CASES |= {name: _card_part(changes) for name, changes in CARD_PARTS.items()}


# the contract alone


def altered(
    features: dict[str, Any] | None = None,
    inputs: dict[str, Any] | None = None,
    outputs: dict[str, Any] | None = None,
    **parts: Any,
) -> dict[str, Any]:
    """Return the contract of `line` with changes of the first feature, input or output, or with other parts."""
    contract = line_contract().to_dict()
    for part, changes in (("features", features), ("inputs", inputs), ("outputs", outputs)):
        contract[part][0] |= changes or {}
    return contract | parts


C = {"name": "c"}
TWO = {"kind": "probabilities", "columns": ["no", "yes"]}
CONTRACTS: dict[str, dict[str, Any]] = {
    "contract-part-missing": {k: v for k, v in altered().items() if k != "outputs"},
    "contract-text-for-a-list": altered(inputs={"features": "ab"}),
    "contract-name-missing": altered(inputs={"name": None}),
    "contract-prefix-reserved": altered(
        features={"name": "__dbt_onnx_a"}, inputs={"features": ["__dbt_onnx_a", "b"]}
    ),
    "contract-feature-unread": altered(inputs={"features": ["a"]}),
    "contract-feature-undeclared": altered(inputs={"features": ["a", "b", "c"]}),
    "contract-feature-twice": altered(features={"name": "B"}, inputs={"features": ["B", "b"]}),
    "contract-fill-without-policy": altered(features={"fill": 0}),
    "contract-policy-without-fill": altered(features={"null_policy": "fill"}),
    "contract-fill-of-another-type": altered(features={"null_policy": "fill", "fill": "none"}),
    "contract-nan-for-integers": altered(
        features={"null_policy": "nan"}, inputs={"dtype": "int64"}
    ),
    "contract-time-unit-for-text": altered(
        features={"time_unit": "day"}, inputs={"dtype": "string"}
    ),
    "contract-rank-one-of-several": altered(inputs={"rank": 1}),
    "contract-no-output-stored": altered(outputs={"columns": [None]}),
    "contract-output-column-twice": altered(outputs={"kind": "values", "columns": ["y", "Y"]}),
    "contract-output-without-name": altered(outputs={"columns": [""]}),
    "contract-columns-miscounted": altered(outputs={"columns": ["y", "z"]}),
    "contract-probabilities-without-classes": altered(outputs=TWO | {"columns": []}),
    "contract-classes-repeated": altered(outputs=TWO | {"classes": ["no", "no"]}),
    "contract-vector-without-width": altered(outputs={"kind": "vector"}),
}


MODEL_CASES |= {
    name: _card_part({"contract": contract}, ContractError) for name, contract in CONTRACTS.items()
}


# the contract compared with the graph

CLASSES = Output(
    name="probabilities",
    kind="probabilities",
    dtype="float32",
    columns=("p_no", "p_yes"),
    classes=("no", "yes"),
)
LABELS = ("no", "yes")
GRAPHS: dict[str, tuple[Any, Contract]] = {
    "graph-without-the-input": (
        onnx_models.linear(),
        Contract(features=(A, B), inputs=(replace(X, name="z"),), outputs=(Y,)),
    ),
    "graph-without-the-output": (
        onnx_models.linear(),
        Contract(features=(A, B), inputs=(X,), outputs=(replace(Y, name="z"),)),
    ),
    "graph-wants-another-type": (
        onnx_models.linear(),
        Contract(features=(A, B), inputs=(replace(X, dtype="float64"),), outputs=(Y,)),
    ),
    "graph-wants-another-width": (
        onnx_models.linear(),
        Contract(features=(A,), inputs=(replace(X, features=("a",)),), outputs=(Y,)),
    ),
    "graph-wants-another-rank": (
        onnx_models.linear(shape=["n", 2, 1]),
        Contract(features=(A, B), inputs=(X,), outputs=(Y,)),
    ),
    "graph-gives-another-type": (
        graphs.echo("float32", width=2),
        Contract(features=(A, B), inputs=(X,), outputs=(replace(Y, dtype="float64"),)),
    ),
    "graph-gives-no-labels": (
        graphs.echo("float32", width=2),
        Contract(features=(A, B), inputs=(X,), outputs=(replace(Y, kind="label"),)),
    ),
    "graph-gives-maps": (
        onnx_models.classifier(LABELS, zipmap=True),
        Contract(features=(A, B), inputs=(X,), outputs=(replace(Y, name="probabilities"),)),
    ),
    "graph-gives-no-probabilities": (
        onnx_models.classifier((0, 1)),
        Contract(
            features=(A, B),
            inputs=(X,),
            outputs=(replace(CLASSES, name="label", dtype="int64", classes=(0, 1)),),
        ),
    ),
    "graph-has-other-classes": (
        onnx_models.classifier(LABELS),
        Contract(features=(A, B), inputs=(X,), outputs=(replace(CLASSES, classes=("yes", "no")),)),
    ),
    "graph-has-classes-of-another-type": (
        onnx_models.classifier(LABELS, zipmap=True),
        Contract(features=(A, B), inputs=(X,), outputs=(replace(CLASSES, classes=(0, 1)),)),
    ),
}


def _graph(model: Any, contract: Contract) -> Case:
    def break_it(warehouse: Warehouse) -> Attempt:
        registered(warehouse, model, contract)
        return Attempt(ContractError)

    return break_it


MODEL_CASES |= {name: _graph(*parts) for name, parts in GRAPHS.items()}


# the contract compared with the features

V = Output(name="y", kind="vector", dtype="float32", columns=("v",), width=2)


def echo(warehouse: Warehouse, dtype: Any, feature: Feature, **input_parts: Any) -> None:
    """Register a model that returns `feature` unchanged, with an input of this type."""
    width = feature.width or 1
    contract = Contract(
        features=(feature,),
        inputs=(Input(name="x", dtype=dtype, features=(feature.name,), **input_parts),),
        outputs=(V if width == 2 else Output(name="y", kind="value", dtype=dtype, columns=("v",)),),
    )
    model = graphs.echo(dtype, width=width, **input_parts)
    warehouse.register("2", model, contract)


@case
def feature_of_a_type_too_wide(warehouse: Warehouse) -> Attempt:
    features = "select id, a::uhugeint as a, b from features"
    return Attempt(ContractError, features_as(warehouse, features))


@case
def feature_is_no_list(warehouse: Warehouse) -> Attempt:
    echo(warehouse, "float32", Feature(name="a", width=2))
    return Attempt(ContractError, undo=lambda: warehouse.promote("1"))


@case
def feature_of_another_width(warehouse: Warehouse) -> Attempt:
    echo(warehouse, "float32", Feature(name="a", width=2))
    features = "select id, array_value(a, b, a) as a from features"
    return Attempt(
        ContractError, features_as(warehouse, features), undo=lambda: warehouse.promote("1")
    )


@case
def feature_is_no_text(warehouse: Warehouse) -> Attempt:
    echo(warehouse, "string", Feature(name="a"), rank=1)
    return Attempt(ContractError, undo=lambda: warehouse.promote("1"))


@case
def feature_is_no_date(warehouse: Warehouse) -> Attempt:
    echo(warehouse, "int64", Feature(name="a", time_unit="day"))
    return Attempt(ContractError, undo=lambda: warehouse.promote("1"))


@case
def fill_does_not_fit(warehouse: Warehouse) -> Attempt:
    echo(warehouse, "int8", Feature(name="a", null_policy="fill", fill=999))
    return Attempt(ContractError, undo=lambda: warehouse.promote("1"))


@case
def lists_of_another_length(warehouse: Warehouse) -> Attempt:
    echo(warehouse, "float32", Feature(name="a", width=2))
    features = "select id, [a] as a from features"
    return Attempt(DataError, features_as(warehouse, features), undo=lambda: warehouse.promote("1"))


@case
def model_gives_no_number(warehouse: Warehouse) -> Attempt:
    warehouse.register("2", line_model(a=float("inf")))
    return Attempt(DataError, undo=lambda: warehouse.promote("1"))
