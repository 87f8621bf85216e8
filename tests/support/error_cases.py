"""One function for each row of docs/errors.md. It breaks something real and returns the run that must fail.

Each function gets a warehouse with a successful run and a feature that has changed since, so that there is
a ledger to lose and a row to score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
import graphs
import killers
import onnx_models
from hardening import CONFIG
from warehouse import Warehouse, line_contract, line_model

from dbt_onnx.errors import (
    ArtifactError,
    ConfigError,
    ContractError,
    DataError,
    DbtOnnxError,
    RegistryError,
    ScoringError,
    WarehouseError,
)
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.runs.plan import SCORE_REASONS

if TYPE_CHECKING:
    from pathlib import Path

FEATURES = 'select * from "w"."main"."features"'
ROWS = ("scores__current", "scores__history")


@dataclass(frozen=True)
class Attempt:
    """A run that must fail with `kind`. `undo` repairs the damage, if a test checks the next run.

    `run_row` is 'error', or None if no run can be recorded: because the arguments are invalid, or the
    runs table does not belong to dbt_onnx.
    """

    kind: type[DbtOnnxError]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    undo: Callable[[], object] | None = None
    run_row: str | None = "error"


Case = Callable[[Warehouse], Attempt]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Register a case under its id: the function's name with hyphens."""
    CASES[function.__name__.replace("_", "-")] = function
    return function


def features_as(warehouse: Warehouse, query: str) -> dict[str, Any]:
    """Use a view `changed` as features, so that messages have the name of a relation."""
    warehouse.sql(f"create view changed as {query}")
    return {"features": 'select * from "w"."main"."changed"'}


def run(warehouse: Warehouse, arguments: Mapping[str, Any]) -> None:
    """Run as dbt would, with a relation of the project and the default limit of rejected rows."""
    warehouse.run(**{"features": FEATURES, "max_rejected_fraction": 0.1, **arguments})


# the arguments of score()


def no_run(**arguments: Any) -> Attempt:
    return Attempt(ConfigError, arguments, run_row=None)


@case
def argument_unknown(warehouse: Warehouse) -> Attempt:
    return no_run(refresh_aftr={"count": 1, "period": "day"})


@case
def model_spec_malformed(warehouse: Warehouse) -> Attempt:
    return no_run(model="line:1")


@case
def model_name_malformed(warehouse: Warehouse) -> Attempt:
    return no_run(model="../line")


@case
def model_alias_malformed(warehouse: Warehouse) -> Attempt:
    return no_run(model="line@Champion")


@case
def features_not_a_relation(warehouse: Warehouse) -> Attempt:
    # the test helper opens the features itself, so only `registry` can be wrong; both have the same check
    return Attempt(ConfigError, {"registry": "model_registry"}, run_row=None)


@case
def key_not_a_list(warehouse: Warehouse) -> Attempt:
    return no_run(key="id")


@case
def key_repeated(warehouse: Warehouse) -> Attempt:
    return no_run(key=["id", "ID"])


@case
def key_reserved(warehouse: Warehouse) -> Attempt:
    return no_run(key=["Status"])


@case
def as_of_not_a_name(warehouse: Warehouse) -> Attempt:
    return no_run(as_of=20240110)


@case
def refresh_after_malformed(warehouse: Warehouse) -> Attempt:
    return no_run(refresh_after={"count": 100_001, "period": ["day"]})


@case
def fraction_out_of_range(warehouse: Warehouse) -> Attempt:
    return no_run(max_rejected_fraction=10)


@case
def number_not_positive(warehouse: Warehouse) -> Attempt:
    return no_run(batch_rows=0)


@case
def threads_too_many(warehouse: Warehouse) -> Attempt:
    return no_run(threads=1_000_000)


@case
def keep_inputs_malformed(warehouse: Warehouse) -> Attempt:
    return no_run(keep_inputs="yes")


@case
def asked_for_another_model(warehouse: Warehouse) -> Attempt:
    return Attempt(ConfigError, {"requested_model": "spend/1"})


@case
def key_not_readable(warehouse: Warehouse) -> Attempt:
    return Attempt(ConfigError, features_as(warehouse, "select id::bit as id, a, b from features"))


@case
def feature_called_run_no(warehouse: Warehouse) -> Attempt:
    warehouse.register("2", contract=line_contract(features=("run_no", "b")))
    features = features_as(warehouse, "select id, a as run_no, b from features")
    return Attempt(ConfigError, features, undo=lambda: warehouse.promote("1"))


@case
def key_column_missing(warehouse: Warehouse) -> Attempt:
    return Attempt(ConfigError, {"key": ["customer_id"]})


@case
def as_of_column_missing(warehouse: Warehouse) -> Attempt:
    return Attempt(ConfigError, {"as_of": "day"})


@case
def as_of_not_a_date(warehouse: Warehouse) -> Attempt:
    features = "select *, [date '2024-01-01'] as days from features"
    return Attempt(ConfigError, {**features_as(warehouse, features), "as_of": "days"})


@case
def key_columns_changed(warehouse: Warehouse) -> Attempt:
    # as if somebody had added the column to the tables, so that it could be taken for a key column
    for table in ROWS:
        warehouse.sql(f"alter table {table} add column region integer")
    features = "select *, 1 as region from features"
    return Attempt(ConfigError, {**features_as(warehouse, features), "key": ["id", "region"]})


@case
def scoring_model_name_reserved(warehouse: Warehouse) -> Attempt:
    warehouse.name = "scores__current"
    return Attempt(ConfigError, undo=lambda: setattr(warehouse, "name", "scores"))


# the registry


def registry_update(warehouse: Warehouse, assignment: str) -> Callable[[], object]:
    rows = warehouse.sql("select * from model_registry")
    warehouse.sql(f"update model_registry set {assignment}")

    def undo() -> None:
        warehouse.sql("delete from model_registry")
        warehouse.connection.cursor().executemany(
            "insert into model_registry values (?, ?, ?, ?, ?)", rows
        )

    return undo


@case
def registry_column_missing(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table model_registry drop column sha256")
    return Attempt(RegistryError)


@case
def registry_empty(warehouse: Warehouse) -> Attempt:
    warehouse.sql("delete from model_registry")
    return Attempt(RegistryError)


@case
def registry_no_model(warehouse: Warehouse) -> Attempt:
    return Attempt(RegistryError, {"model": "lines"})


@case
def registry_no_version(warehouse: Warehouse) -> Attempt:
    return Attempt(RegistryError, {"model": "line/7"})


@case
def registry_no_alias(warehouse: Warehouse) -> Attempt:
    return Attempt(RegistryError, {"model": "line@challenger"})


@case
def registry_two_champions(warehouse: Warehouse) -> Attempt:
    warehouse.register("2", alias=None)
    undo = registry_update(warehouse, "alias = 'champion'")
    return Attempt(RegistryError, undo=undo)


@case
def registry_version_twice(warehouse: Warehouse) -> Attempt:
    warehouse.register("2", alias=None)
    return Attempt(RegistryError, undo=registry_update(warehouse, "model_version = '1'"))


@case
def registry_version_is_a_number(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table model_registry alter model_version type double")
    return Attempt(RegistryError)


@case
def registry_names_differ_in_case(warehouse: Warehouse) -> Attempt:
    warehouse.register("2", alias=None, name="LINE")
    undo = "delete from model_registry where model_version = '2'"
    return Attempt(RegistryError, undo=lambda: warehouse.sql(undo))


@case
def registry_card_malformed(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table model_registry add column card_sha256 varchar")
    warehouse.sql("update model_registry set card_sha256 = 'none'")
    undo = "update model_registry set card_sha256 = null"
    return Attempt(RegistryError, undo=lambda: warehouse.sql(undo))


@case
def registry_name_unsafe(warehouse: Warehouse) -> Attempt:
    undo = registry_update(warehouse, "model_name = 'line; drop table x'")
    return Attempt(RegistryError, undo=undo)


@case
def registry_path_outside(warehouse: Warehouse) -> Attempt:
    undo = registry_update(warehouse, "artifact = 'line/../../secret.onnx'")
    return Attempt(RegistryError, undo=undo)


@case
def registry_sha256_malformed(warehouse: Warehouse) -> Attempt:
    return Attempt(RegistryError, undo=registry_update(warehouse, "sha256 = upper(sha256)"))


# the model file and its card


def onnx_file(warehouse: Warehouse) -> Path:
    return warehouse.artifacts / "line" / "1" / "model.onnx"


def card_file(warehouse: Warehouse) -> Path:
    return onnx_file(warehouse).with_name("card.json")


def rewritten(path: Path, content: bytes) -> Callable[[], object]:
    """Write other bytes into a file. Returns a function that restores the old ones."""
    before = path.read_bytes()
    path.write_bytes(content)
    return lambda: path.write_bytes(before)


def card_with(warehouse: Warehouse, **changes: Any) -> Callable[[], object]:
    path = card_file(warehouse)
    return rewritten(path, json.dumps({**json.loads(path.read_text()), **changes}).encode())


def registered(warehouse: Warehouse, model: Any, contract: Contract | None = None) -> None:
    """Register another file as version 1 with the correct sha256, so that checks of its content apply."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    warehouse.register("1", content, contract)


@case
def artifact_missing(warehouse: Warehouse) -> Attempt:
    path = onnx_file(warehouse)
    content = path.read_bytes()
    path.unlink()
    return Attempt(ArtifactError, undo=lambda: path.write_bytes(content))


@case
def artifact_truncated(warehouse: Warehouse) -> Attempt:
    path = onnx_file(warehouse)
    return Attempt(ArtifactError, undo=rewritten(path, path.read_bytes()[:-20]))


@case
def artifact_bit_flipped(warehouse: Warehouse) -> Attempt:
    content = bytearray(onnx_file(warehouse).read_bytes())
    content[len(content) // 2] ^= 1
    return Attempt(ArtifactError, undo=rewritten(onnx_file(warehouse), bytes(content)))


@case
def artifact_lfs_pointer(warehouse: Warehouse) -> Attempt:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
    return Attempt(ArtifactError, undo=rewritten(onnx_file(warehouse), pointer))


@case
def artifact_replaced(warehouse: Warehouse) -> Attempt:
    warehouse.register("1", line_model(a=3.0))
    return Attempt(ArtifactError, undo=lambda: warehouse.register("1"))


@case
def artifact_not_onnx(warehouse: Warehouse) -> Attempt:
    registered(warehouse, b"\x80\x04\x95 a pickle, say")
    return Attempt(ArtifactError, undo=lambda: registered(warehouse, line_model()))


@case
def artifact_is_a_directory(warehouse: Warehouse) -> Attempt:
    undo = registry_update(warehouse, "artifact = 'line/1'")
    return Attempt(ArtifactError, undo=undo)


@case
def artifact_is_a_link(warehouse: Warehouse) -> Attempt:
    path = onnx_file(warehouse)
    elsewhere = warehouse.folder / "elsewhere.onnx"
    path.replace(elsewhere)
    path.symlink_to(elsewhere)
    return Attempt(ArtifactError, undo=lambda: elsewhere.replace(path))


@case
def artifact_external_data(warehouse: Warehouse) -> Attempt:
    model = onnx_models.linear()
    model.graph.initializer.append(onnx_models.external())
    registered(warehouse, model)
    return Attempt(ArtifactError)


@case
def artifact_unknown_domain(warehouse: Warehouse) -> Attempt:
    model = onnx_models.linear()
    model.graph.node[0].domain = "com.example"
    registered(warehouse, model)
    return Attempt(ArtifactError)


@case
def artifact_no_text_operator(warehouse: Warehouse) -> Attempt:
    model = onnx_models.linear()
    model.graph.node[0].domain = "ai.onnx.contrib"
    registered(warehouse, model)
    return Attempt(ArtifactError)


@case
def artifact_huge(warehouse: Warehouse) -> Attempt:
    node = onnx_models.helper.make_node("ConstantOfShape", ["shape"], ["huge"])
    model = onnx_models.linear()
    model.graph.node.append(node)
    model.graph.initializer.append(
        onnx_models.constant("shape", [200_000, 200_000], onnx_models.np.int64)
    )
    registered(warehouse, model)
    return Attempt(ArtifactError)


@case
def artifact_not_loadable(warehouse: Warehouse) -> Attempt:
    model = onnx_models.ModelProto.FromString(line_model())
    model.opset_import[0].version = 99
    warehouse.register("2", model.SerializeToString())
    return Attempt(ArtifactError)


@case
def card_missing(warehouse: Warehouse) -> Attempt:
    content = card_file(warehouse).read_bytes()
    card_file(warehouse).unlink()
    return Attempt(ArtifactError, undo=lambda: card_file(warehouse).write_bytes(content))


@case
def card_unreadable(warehouse: Warehouse) -> Attempt:
    undo = rewritten(card_file(warehouse), card_file(warehouse).read_bytes()[:-3])
    return Attempt(ArtifactError, undo=undo)


@case
def card_changed(warehouse: Warehouse) -> Attempt:
    content = card_file(warehouse).read_bytes()
    warehouse.sql("alter table model_registry add column card_sha256 varchar")
    warehouse.sql(
        f"update model_registry set card_sha256 = '{hashlib.sha256(content).hexdigest()}'"
    )
    edited = content.replace(b'"reject"', b'"nan"', 1)
    return Attempt(ArtifactError, undo=rewritten(card_file(warehouse), edited))


@case
def card_number_too_large(warehouse: Warehouse) -> Attempt:
    content = card_file(warehouse).read_bytes().replace(b"{", b'{"training": {"rows": 1e999}, ', 1)
    return Attempt(ArtifactError, undo=rewritten(card_file(warehouse), content))


@case
def card_key_twice(warehouse: Warehouse) -> Attempt:
    content = card_file(warehouse).read_bytes().replace(b"{", b'{"sha256": "", ', 1)
    return Attempt(ArtifactError, undo=rewritten(card_file(warehouse), content))


@case
def card_incomplete(warehouse: Warehouse) -> Attempt:
    return Attempt(ArtifactError, undo=card_with(warehouse, contract=None))


@case
def card_describes_wrongly(warehouse: Warehouse) -> Attempt:
    numbers = {"kind": "numeric", "rows": 3, "nulls": 0, "edges": [2, 1], "shares": [0, 0, 1]}
    reference = {"a": numbers, "b": {**numbers, "kind": "histogram"}}
    return Attempt(ArtifactError, undo=card_with(warehouse, reference=reference))


@case
def card_of_another_format(warehouse: Warehouse) -> Attempt:
    return Attempt(ArtifactError, undo=card_with(warehouse, format_version=2))


@case
def card_of_another_model(warehouse: Warehouse) -> Attempt:
    return Attempt(ArtifactError, undo=card_with(warehouse, model_version="2"))


# the contract between card, graph and features


@case
def card_against_graph(warehouse: Warehouse) -> Attempt:
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="x", dtype="float64", features=("a",)),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    registered(warehouse, line_model(), contract)
    return Attempt(ContractError, undo=lambda: registered(warehouse, line_model()))


@case
def contract_malformed(warehouse: Warehouse) -> Attempt:
    contract = line_contract().to_dict()
    contract["features"][0]["null_policy"] = "ignore"
    contract["outputs"][0]["kind"] = "score"
    return Attempt(ContractError, undo=card_with(warehouse, contract=contract))


@case
def contract_value_of_another_type(warehouse: Warehouse) -> Attempt:
    contract = line_contract().to_dict()
    contract["features"][0] |= {"tolerance": "small", "width": "2"}
    return Attempt(ContractError, undo=card_with(warehouse, contract=contract))


@case
def contract_unreadable(warehouse: Warehouse) -> Attempt:
    contract = line_contract().to_dict()
    contract["features"][0]["nulls"] = "reject"
    return Attempt(ContractError, undo=card_with(warehouse, contract=contract))


@case
def output_reserved(warehouse: Warehouse) -> Attempt:
    contract = line_contract().to_dict()
    contract["outputs"][0]["columns"] = ["Status"]
    return Attempt(ContractError, undo=card_with(warehouse, contract=contract))


@case
def output_is_the_key(warehouse: Warehouse) -> Attempt:
    registered(warehouse, line_model(), line_contract("ID"))
    return Attempt(ContractError)


@case
def output_type_changed(warehouse: Warehouse) -> Attempt:
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="x", dtype="int64", features=("a",)),),
        outputs=(Output(name="y", kind="value", dtype="int64", columns=("y",)),),
    )
    warehouse.register("2", graphs.echo("int64"), contract)
    return Attempt(ContractError, undo=lambda: warehouse.promote("1"))


@case
def batch_fixed(warehouse: Warehouse) -> Attempt:
    registered(warehouse, onnx_models.identity([8, 2]))
    return Attempt(ContractError)


@case
def batch_on_another_axis(warehouse: Warehouse) -> Attempt:
    registered(warehouse, onnx_models.identity([2, "batch"]))
    return Attempt(ContractError)


@case
def scalar_input(warehouse: Warehouse) -> Attempt:
    registered(warehouse, onnx_models.identity([]))
    return Attempt(ContractError)


@case
def stateful_model(warehouse: Warehouse) -> Attempt:
    registered(warehouse, onnx_models.recurrent(state_input=True, state_shape=[1, "n", 2]))
    return Attempt(ContractError)


@case
def feature_missing(warehouse: Warehouse) -> Attempt:
    return Attempt(ContractError, features_as(warehouse, "select id, a, b as bb from features"))


@case
def feature_renamed_in_case(warehouse: Warehouse) -> Attempt:
    return Attempt(ContractError, features_as(warehouse, 'select id, a as "A", b from features'))


@case
def feature_of_another_type(warehouse: Warehouse) -> Attempt:
    return Attempt(
        ContractError, features_as(warehouse, "select id, a::varchar as a, [b] as b from features")
    )


@case
def feature_is_a_date(warehouse: Warehouse) -> Attempt:
    return Attempt(
        ContractError, features_as(warehouse, "select id, current_date as a, b from features")
    )


# the rows


@case
def features_empty(warehouse: Warehouse) -> Attempt:
    warehouse.features()
    return Attempt(DataError, undo=lambda: warehouse.features((1, 1.0, 1.0)))


@case
def keys_duplicate(warehouse: Warehouse) -> Attempt:
    warehouse.sql("insert into features values (2, 0, 0), (2, 0, 1), (3, 0, 0)")
    return Attempt(DataError, undo=lambda: warehouse.features((1, 1.0, 1.0)))


@case
def key_follows_a_collation(warehouse: Warehouse) -> Attempt:
    for table in (*ROWS, "scores__inputs"):
        warehouse.sql(
            f"alter table {table} alter id set data type struct(name varchar) using {{'name': id::varchar}}"
        )
    warehouse.sql("set global default_collation = 'nocase'")
    features = "select * replace ({'name': id::varchar} as id) from features"
    return Attempt(ConfigError, features_as(warehouse, features))


@case
def as_of_in_the_future(warehouse: Warehouse) -> Attempt:
    features = "select *, date '2024-01-11' as day from features"
    return Attempt(DataError, {**features_as(warehouse, features), "as_of": "day"})


@case
def as_of_beyond_the_calendar(warehouse: Warehouse) -> Attempt:
    features = "select *, timestamp '12000-01-01' as day from features"
    return Attempt(DataError, {**features_as(warehouse, features), "as_of": "day"})


@case
def as_of_before_the_calendar(warehouse: Warehouse) -> Attempt:
    features = "select *, timestamp '-infinity' as day from features"
    return Attempt(DataError, {**features_as(warehouse, features), "as_of": "day"})


@case
def clock_at_the_beginning(warehouse: Warehouse) -> Attempt:
    warehouse.clock = "0001-01-01"
    return Attempt(DataError, undo=lambda: setattr(warehouse, "clock", "2024-01-10 00:00:00"))


@case
def features_in_another_form(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table features alter b type boolean")
    path = str(warehouse.folder / "w.duckdb")
    warehouse.connection.close()
    config = {**CONFIG, "arrow_lossless_conversion": "true"}
    warehouse.connection = duckdb.connect(path, config=config)
    return Attempt(ContractError)


@case
def moments_missing(warehouse: Warehouse) -> Attempt:
    features = "select *, null::date as day from features"
    return Attempt(DataError, {**features_as(warehouse, features), "as_of": "day"})


@case
def keys_missing(warehouse: Warehouse) -> Attempt:
    return Attempt(
        DataError, features_as(warehouse, "select null::integer as id, a, b from features")
    )


@case
def all_rows_rejected(warehouse: Warehouse) -> Attempt:
    return Attempt(
        DataError, features_as(warehouse, "select id, null::double as a, b from features")
    )


@case
def too_many_rejected(warehouse: Warehouse) -> Attempt:
    features = "select id, case when id = 1 then 'nan' else a end::double as a, b from features"
    return Attempt(DataError, features_as(warehouse, features))


@case
def values_infinite(warehouse: Warehouse) -> Attempt:
    return Attempt(
        DataError, features_as(warehouse, "select id, 'infinity'::double as a, b from features")
    )


@case
def values_do_not_fit(warehouse: Warehouse) -> Attempt:
    # no 32-bit float has the value 2^24 + 1
    return Attempt(DataError, features_as(warehouse, "select id, 16_777_217 as a, b from features"))


# the model at work


@case
def model_gives_other_rows(warehouse: Warehouse) -> Attempt:
    contract = Contract(
        features=(Feature(name="a"), Feature(name="b")),
        inputs=(Input(name="x", dtype="float32", features=("a", "b")),),
        outputs=(Output(name="y", kind="values", dtype="float32", columns=("y", "z")),),
    )
    warehouse.register("2", graphs.first_row_only(), contract)
    return Attempt(ScoringError, undo=lambda: warehouse.promote("1"))


@case
def model_gives_another_type(warehouse: Warehouse) -> Attempt:
    # the file says that y is float32 (N, 1); it is (N, 2)
    model = onnx_models.ModelProto.FromString(graphs.echo("float32", width=2))
    model.graph.output[0].CopyFrom(graphs.tensor("y", "float32", (None, None)))
    contract = Contract(
        features=(Feature(name="a"), Feature(name="b")),
        inputs=(Input(name="x", dtype="float32", features=("a", "b")),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    warehouse.register("2", model.SerializeToString(), contract)
    return Attempt(ScoringError, undo=lambda: warehouse.promote("1"))


@case
def model_fails(warehouse: Warehouse) -> Attempt:
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="i", dtype="int64", features=("a",)),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    warehouse.register("2", graphs.lookup(), contract)
    warehouse.sql("update features set a = 99")
    return Attempt(ScoringError, undo=lambda: warehouse.promote("1"))


@case
def model_fails_on_many(warehouse: Warehouse) -> Attempt:
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="i", dtype="int64", features=("a",)),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    warehouse.register("2", graphs.lookup(), contract)
    warehouse.sql("update features set a = case when id = 1 then 0 else 99 end")
    return Attempt(DataError, {"max_rejected_fraction": 0.5}, undo=lambda: warehouse.promote("1"))


@case
def model_kills_when_loaded(warehouse: Warehouse) -> Attempt:
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="x", dtype="float32", features=("a",)),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    warehouse.register("2", killers.far_region(), contract)
    _died(warehouse)
    return Attempt(ArtifactError, undo=lambda: warehouse.promote("1"))


@case
def model_kills_on_every_row(warehouse: Warehouse) -> Attempt:
    warehouse.register("2", killers.division("float32"), _DIVISION)
    warehouse.sql("alter table features alter a type bigint")
    warehouse.sql("alter table features alter b type bigint")
    warehouse.sql(f"update features set a = {killers.SMALLEST}, b = -1")
    _died(warehouse)
    return Attempt(ScoringError, undo=lambda: warehouse.promote("1"))


_DIVISION = Contract(
    features=(Feature(name="a"), Feature(name="b")),
    inputs=(
        Input(name="dividend", dtype="int64", features=("a",)),
        Input(name="divisor", dtype="int64", features=("b",)),
    ),
    outputs=(Output(name="quotient", kind="value", dtype="float32", columns=("y",)),),
)


def _died(warehouse: Warehouse) -> None:
    """Add a run that the next run found interrupted, because its process died."""
    warehouse.sql(
        "insert into dbt_onnx_runs (run_no, run_id, scoring_model, status, started_at) values "
        f"(nextval('dbt_onnx_run_no'), 'run-0', '{warehouse.name}', 'interrupted', cast(now() at time zone 'UTC' as timestamp))"
    )


@case
def rows_differ_when_read_again(warehouse: Warehouse) -> Attempt:
    # with so many rows, it is practically impossible to read the same number twice
    warehouse.sql(
        "create view restless as select i::integer as id, 1.0::double as a, 1.0::double as b "
        "from range(200_000) as rows(i) where i <= (select random() * 200_000)"
    )
    return Attempt(
        ScoringError, {"features": 'select * from "w"."main"."restless"', "full_refresh": True}
    )


@case
def values_differ_when_read_again(warehouse: Warehouse) -> Attempt:
    warehouse.sql(
        "create view trembling as select id, random() as a, 1.0::double as b from features"
    )
    return Attempt(
        ScoringError, {"features": 'select * from "w"."main"."trembling"', "full_refresh": True}
    )


@case
def changes_differ_when_read_again(warehouse: Warehouse) -> Attempt:
    warehouse.sql(
        "create view wavering as select id, random() as a, 1.0::double as b from features"
    )
    return Attempt(ScoringError, {"features": 'select * from "w"."main"."wavering"'})


# the tables of the warehouse


@case
def ledger_name_is_a_view(warehouse: Warehouse) -> Attempt:
    warehouse.sql("create view taken as select 1 as id")
    warehouse.name = "taken"
    return Attempt(WarehouseError, undo=lambda: warehouse.sql("drop view taken"))


@case
def ledger_name_is_taken(warehouse: Warehouse) -> Attempt:
    warehouse.sql("create table taken as select 1 as id, 'theirs' as note")
    warehouse.name = "taken"
    return Attempt(WarehouseError, undo=lambda: warehouse.sql("drop table taken"))


@case
def written_by_an_older_version(warehouse: Warehouse) -> Attempt:
    """Write tables with the columns by which an old version is recognized. `undo` executes the hint's statements."""
    warehouse.sql("drop view scores")
    for table in (*ROWS, "scores__presence"):
        warehouse.sql(f"drop table {table}")
    warehouse.sql("create table scores as select id, 0.5 as y, 'run-1' as run_id from features")
    warehouse.sql("create table scores__latest as from scores")
    warehouse.sql("alter table dbt_onnx_runs drop column run_no")
    tables = ("dbt_onnx_runs", "scores", "scores__latest", "scores__inputs")
    renames = "; ".join(f"alter table {table} rename to {table}_before" for table in tables)
    return Attempt(WarehouseError, undo=lambda: warehouse.sql(renames), run_row=None)


@case
def written_before_presence_had_a_table(warehouse: Warehouse) -> Attempt:
    """`undo` executes the hint's statements."""
    warehouse.sql("drop table scores__presence")
    for column in ("confirmed_as_of", "last_seen_as_of"):
        warehouse.sql(f"alter table scores__current add column {column} timestamp")
    undo = (
        "create table scores__presence as select id, run_no, greatest(as_of, confirmed_as_of) as confirmed_as_of, "
        "last_seen_as_of from scores__current where confirmed_as_of > as_of or last_seen_as_of is not null; "
        "alter table scores__current drop column confirmed_as_of; "
        "alter table scores__current drop column last_seen_as_of"
    )
    return Attempt(WarehouseError, undo=lambda: warehouse.sql(undo))


@case
def written_before_answers_on_request(warehouse: Warehouse) -> Attempt:
    """`undo` executes the hint's statements."""
    known = ", ".join(f"'{reason}'" for reason in SCORE_REASONS)
    retype = "alter table {} alter column score_reason set data type ENUM({})"
    for table in ROWS:
        warehouse.sql(retype.format(table, known.removesuffix(", 'real_time'")))
    undo = "; ".join(retype.format(table, known) for table in ROWS)
    return Attempt(WarehouseError, undo=lambda: warehouse.sql(undo))


@case
def ledger_key_dropped(warehouse: Warehouse) -> Attempt:
    for table in ROWS:
        warehouse.sql(f"alter table {table} drop column id")
    return Attempt(WarehouseError)


@case
def ledger_output_dropped(warehouse: Warehouse) -> Attempt:
    for table in ROWS:
        warehouse.sql(f"alter table {table} drop column y")
    return Attempt(WarehouseError)


def renamed(warehouse: Warehouse, *tables: str) -> Callable[[], object]:
    """Rename tables. Returns a function that restores their names."""
    for table in tables:
        warehouse.sql(f"alter table {table} rename to {table}_old")

    def undo() -> None:
        for table in tables:
            warehouse.sql(f"alter table {table}_old rename to {table}")

    return undo


@case
def current_gone(warehouse: Warehouse) -> Attempt:
    return Attempt(WarehouseError, undo=renamed(warehouse, "scores__current"))


@case
def history_gone(warehouse: Warehouse) -> Attempt:
    return Attempt(WarehouseError, undo=renamed(warehouse, "scores__history"))


@case
def presence_gone(warehouse: Warehouse) -> Attempt:
    return Attempt(WarehouseError, undo=renamed(warehouse, "scores__presence"))


@case
def current_and_history_gone(warehouse: Warehouse) -> Attempt:
    return Attempt(WarehouseError, undo=renamed(warehouse, *ROWS))


@case
def current_name_is_a_view(warehouse: Warehouse) -> Attempt:
    back = renamed(warehouse, "scores__current")
    warehouse.sql("create view scores__current as from scores__current_old")

    def undo() -> None:
        warehouse.sql("drop view scores__current")
        back()

    return Attempt(WarehouseError, undo=undo)


@case
def history_name_is_a_view(warehouse: Warehouse) -> Attempt:
    back = renamed(warehouse, "scores__history")
    warehouse.sql("create view scores__history as from scores__history_old")

    def undo() -> None:
        warehouse.sql("drop view scores__history")
        back()

    return Attempt(WarehouseError, undo=undo)


@case
def current_name_is_taken(warehouse: Warehouse) -> Attempt:
    warehouse.sql("create table taken__current as select 1 as id, 'theirs' as note")
    warehouse.name = "taken"
    return Attempt(WarehouseError, undo=lambda: warehouse.sql("drop table taken__current"))


@case
def history_name_is_taken(warehouse: Warehouse) -> Attempt:
    warehouse.sql("create table taken__history as select 1 as id, 'theirs' as note")
    warehouse.name = "taken"
    return Attempt(WarehouseError, undo=lambda: warehouse.sql("drop table taken__history"))


@case
def current_column_dropped(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table scores__current drop column features_hash")
    return Attempt(WarehouseError)


@case
def history_column_dropped(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table scores__history drop column is_late")
    return Attempt(WarehouseError)


@case
def current_column_of_another_type(warehouse: Warehouse) -> Attempt:
    for table in ROWS:
        warehouse.sql(f"alter table {table} alter as_of type date")
    return Attempt(WarehouseError)


@case
def history_column_of_another_type(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table scores__history alter is_late type tinyint")
    return Attempt(WarehouseError)


@case
def column_of_one_table_dropped(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table scores__history drop column y")
    return Attempt(WarehouseError)


@case
def column_of_one_table_added(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table scores__current add column note varchar")
    return Attempt(
        WarehouseError, undo=lambda: warehouse.sql("alter table scores__current drop column note")
    )


@case
def column_of_one_table_of_another_type(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table scores__history alter y type varchar")
    return Attempt(
        WarehouseError, undo=lambda: warehouse.sql("alter table scores__history alter y type float")
    )


@case
def current_rows_doubled(warehouse: Warehouse) -> Attempt:
    warehouse.sql("create table before as from scores__current")
    warehouse.sql("insert into scores__current from scores__current")

    def undo() -> None:
        warehouse.sql("create or replace table scores__current as from before")

    return Attempt(WarehouseError, undo=undo)


@case
def inputs_name_is_a_view(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table scores__inputs rename to kept_inputs")
    warehouse.sql("create view scores__inputs as from kept_inputs")
    return Attempt(WarehouseError, undo=lambda: warehouse.sql("drop view scores__inputs"))


@case
def inputs_name_is_taken(warehouse: Warehouse) -> Attempt:
    warehouse.sql("drop table scores__inputs")
    warehouse.sql("create table scores__inputs (day date, kilometres double)")
    return Attempt(WarehouseError, undo=lambda: warehouse.sql("drop table scores__inputs"))


@case
def constraint_added(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table scores__inputs add column note varchar default 'none'")
    warehouse.sql("alter table scores__inputs alter note set not null")
    warehouse.sql("alter table scores__inputs alter note drop default")
    return Attempt(
        WarehouseError,
        undo=lambda: warehouse.sql("alter table scores__inputs alter note drop not null"),
    )


@case
def index_added(warehouse: Warehouse) -> Attempt:
    warehouse.sql("create unique index one_row_each on scores__inputs (id)")
    return Attempt(WarehouseError, undo=lambda: warehouse.sql("drop index one_row_each"))


@case
def key_type_changed(warehouse: Warehouse) -> Attempt:
    return Attempt(
        WarehouseError, features_as(warehouse, "select id::varchar as id, a, b from features")
    )


@case
def runs_name_is_a_view(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table dbt_onnx_runs rename to kept_runs")
    warehouse.sql("create view dbt_onnx_runs as from kept_runs")
    return Attempt(WarehouseError, run_row=None)


@case
def runs_gone(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table dbt_onnx_runs rename to kept_runs")
    undo = "alter table kept_runs rename to dbt_onnx_runs"
    return Attempt(WarehouseError, undo=lambda: warehouse.sql(undo), run_row=None)


@case
def runs_name_is_taken(warehouse: Warehouse) -> Attempt:
    warehouse.sql("drop table dbt_onnx_runs")
    warehouse.sql("create table dbt_onnx_runs (day date, kilometres double)")
    return Attempt(WarehouseError, run_row=None)


@case
def runs_column_dropped(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table dbt_onnx_runs drop column status")
    return Attempt(WarehouseError, run_row=None)


@case
def runs_column_of_another_type(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table dbt_onnx_runs alter scored_at type varchar")
    return Attempt(WarehouseError, run_row=None)


@case
def references_name_is_a_view(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table dbt_onnx_references rename to kept_references")
    warehouse.sql("create view dbt_onnx_references as from kept_references")
    return Attempt(WarehouseError, run_row=None)


@case
def references_name_is_taken(warehouse: Warehouse) -> Attempt:
    warehouse.sql("drop table dbt_onnx_references")
    warehouse.sql("create table dbt_onnx_references (title varchar, year integer)")
    return Attempt(WarehouseError, run_row=None)


@case
def references_column_of_another_type(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table dbt_onnx_references alter rows type varchar")
    return Attempt(WarehouseError, run_row=None)


@case
def erasures_name_is_a_view(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table dbt_onnx_erasures rename to kept_erasures")
    warehouse.sql("create view dbt_onnx_erasures as from kept_erasures")
    return Attempt(WarehouseError, run_row=None)


@case
def erasures_name_is_taken(warehouse: Warehouse) -> Attempt:
    warehouse.sql("drop table dbt_onnx_erasures")
    warehouse.sql("create table dbt_onnx_erasures (word varchar, at_place integer)")
    return Attempt(WarehouseError, run_row=None)


@case
def erasures_column_dropped(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table dbt_onnx_erasures drop column run_no")
    return Attempt(WarehouseError, run_row=None)


@case
def erasures_column_of_another_type(warehouse: Warehouse) -> Attempt:
    warehouse.sql("alter table dbt_onnx_erasures alter erased_at type varchar")
    return Attempt(WarehouseError, run_row=None)


@case
def features_not_readable(warehouse: Warehouse) -> Attempt:
    # a view upstream whose cast fails on one row
    features = "select id, case when id = 1 then 'n/a' else '1' end::double as a, b from features"
    return Attempt(WarehouseError, features_as(warehouse, features))


# unusual cases that are not errors: each function checks the result of the run itself

Tolerated = Callable[[Warehouse], None]
TOLERATED: dict[str, Tolerated] = {}


def tolerated(function: Tolerated) -> Tolerated:
    TOLERATED[function.__name__.replace("_", "-")] = function
    return function


@tolerated
def null_key(warehouse: Warehouse) -> None:
    warehouse.sql("insert into features values (null, 1, 1)")
    run(warehouse, {"max_rejected_fraction": 0.5})
    assert warehouse.last_run("status, rows_in, rows_rejected") == ("success", 4, 1)
    rejected = warehouse.sql("select id, y, rejected_reason from scores where status = 'rejected'")
    assert rejected == [(None, None, "null_key")]


@tolerated
def unfit_value(warehouse: Warehouse) -> None:
    warehouse.sql("update features set a = 'infinity' where id = 1")
    run(warehouse, {"max_rejected_fraction": 0.5})
    assert warehouse.last_run("status, rows_scored, rows_rejected") == ("success", 1, 1)
    rejected = warehouse.sql("select id, y, rejected_reason from scores where status = 'rejected'")
    assert rejected == [(1, None, "infinite:a")]


@tolerated
def row_fails_the_model(warehouse: Warehouse) -> None:
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="i", dtype="int64", features=("a",)),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    warehouse.register("2", graphs.lookup(), contract)
    warehouse.sql("update features set a = case when id = 1 then 99 else 0 end")
    run(warehouse, {"max_rejected_fraction": 0.5})
    [(number, reason)] = warehouse.sql(
        "select id, rejected_reason from scores where status = 'rejected'"
    )
    assert (number, reason.partition(":")[0]) == (1, "model_error")


@tolerated
def row_kills_the_process(warehouse: Warehouse) -> None:
    warehouse.register("1", killers.division("float32"), _DIVISION)
    warehouse.name = "fresh"
    warehouse.sql(
        f"create or replace table features as select 1 as id, {killers.SMALLEST} as a, -1::bigint as b "
        "union all select 2, 7, 2"
    )
    _died(warehouse)
    run(warehouse, {"max_rejected_fraction": 0.5})
    assert warehouse.sql("select id, y, rejected_reason from fresh order by id") == [
        (1, None, "model_crashed"),
        (2, 3.0, None),
    ]
    assert warehouse.last_run("in_child_process") == (True,)


@tolerated
def ledger_dropped(warehouse: Warehouse) -> None:
    before = warehouse.ledger()
    warehouse.sql("update features set a = 3 where id = 2")  # as it was when scored
    warehouse.sql("drop view scores")
    run(warehouse, {})
    assert warehouse.ledger() == before
    assert warehouse.last_run("status, rows_unchanged") == ("success", 3)


@tolerated
def run_left_running(warehouse: Warehouse) -> None:
    warehouse.sql(
        "insert into dbt_onnx_runs (run_no, run_id, scoring_model, status, started_at) values "
        "(nextval('dbt_onnx_run_no'), 'run-0', 'scores', 'running', timestamp '2024-01-09 00:00:00')"
    )
    run(warehouse, {})
    assert warehouse.sql("select run_id, status from dbt_onnx_runs order by run_id") == [
        ("run-0", "interrupted"),
        ("run-1", "success"),
        ("run-2", "success"),
    ]


@tolerated
def batch_of_one(warehouse: Warehouse) -> None:
    contract = Contract(
        features=(Feature(name="a"), Feature(name="b")),
        inputs=(Input(name="x", dtype="float32", features=("a", "b")),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    warehouse.register("2", graphs.fixed_batch(), contract)
    run(warehouse, {})
    assert warehouse.last_run("status, rows_scored") == ("success", 3)
    assert warehouse.sql("select y from scores where model_version = '2' order by id") == [
        (0.5,),
        (13.5,),
        (0.5,),
    ]
