"""What is scored again: a value that the model would read differently, but not numerical noise."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from warehouse import Warehouse, line_contract

from dbt_onnx.engines.duckdb.feature_types import hashed
from dbt_onnx.errors import ConfigError
from dbt_onnx.kernel.casts import cast_elements
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.runs.precisions import precisions_of

if TYPE_CHECKING:
    from pathlib import Path

# DuckDB adds doubles in the order in which its threads deliver them; here the order differs each night
SUMS = """
    select id, sum(d / 1000 order by hash(d, {night})) as a, avg(d / 1000 order by hash(d, {night})) as b
    from payments group by id"""
ONNX_TYPES = {
    "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64,
    "string": TensorProto.STRING,
}  # fmt: skip


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Warehouse:
    warehouse = new_warehouse(tmp_path)
    warehouse.register("1")
    return warehouse


def identity(warehouse: Warehouse, dtype: Any, features: tuple[str, ...] = ("a", "b")) -> None:
    """Register a model that returns the first feature, in a tensor of this type."""
    kind = ONNX_TYPES[dtype]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["X", "first"], ["y"], axis=1)],
        "identity",
        [helper.make_tensor_value_info("X", kind, ["N", len(features)])],
        [helper.make_tensor_value_info("y", kind, ["N", 1])],
        [helper.make_tensor("first", TensorProto.INT64, [1], [0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    contract = Contract(
        features=tuple(Feature(name=name) for name in features),
        inputs=(Input(name="X", dtype=dtype, features=features),),
        outputs=(Output(name="y", kind="value", dtype=dtype, columns=("y",)),),
    )
    warehouse.register("2", model.SerializeToString(), contract)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_doubles_that_are_built_anew_are_no_change(
    warehouse: Warehouse, dtype: str
) -> None:
    if dtype == "float64":
        identity(warehouse, dtype)
    warehouse.sql(
        "create table payments as select (hash(i) % 20000)::integer as id, "
        "(hash(i * 7 + 1) % 1000000) / 7.0::double as d from range(500000) as t (i)"
    )
    warehouse.sql(f"create table sums as {SUMS.format(night=0)}")
    assert warehouse.run(features="from sums").rows_scored == 20_000
    for night in range(1, 4):
        warehouse.sql(f"create or replace table again as {SUMS.format(night=night)}")
        # otherwise the test would prove nothing
        assert warehouse.sql(
            "select count(*) > 500 from sums join again using (id) where sums.a <> again.a"
        )[0][0]
        assert warehouse.run(features="from again").rows_scored == 0


def test_the_smallest_step_of_the_model_is_a_change(warehouse: Warehouse) -> None:
    value = np.float32(1234.567)
    warehouse.features((1, float(value), 1.0), (2, float(value), 1.0), (3, 5.0, 1.0))
    warehouse.run()
    warehouse.features(
        (1, float(np.nextafter(value, np.float32(9e9))), 1.0),
        (2, float(value) * (1 + 1e-15), 1.0),
        (3, 5.0, 1.0),
    )
    assert warehouse.run().per_reason["features_changed"] == 1
    assert warehouse.sql("select id from scores where run_id = 'run-2'") == [(1,)]


@pytest.mark.parametrize(
    ("digits", "changed"), [(5, [0, 1, 2]), (9, [0, 1, 2, 3, 4, 5, 6]), (17, list(range(15)))]
)  # fmt: skip
def test_digits_of_a_float64_that_count_are_what_score_says(
    warehouse: Warehouse, digits: int, changed: list[int]
) -> None:
    identity(warehouse, "float64")
    value = 8.123456789012345
    steps = [10.0**-place for place in range(1, 16)]
    rows = [(i, value, 1.0) for i in range(len(steps))]
    warehouse.features(*rows)
    warehouse.run(significant_digits=digits)
    warehouse.features(*((i, value + step, 1.0) for (i, *_), step in zip(rows, steps, strict=True)))
    warehouse.run(significant_digits=digits)
    again = [
        row[0] for row in warehouse.sql("select id from scores where run_id = 'run-2' order by 1")
    ]
    # one unit in the last significant digit may or may not round to another value
    assert set(changed) <= set(again) <= {*changed, len(changed), len(changed) + 1}


def test_other_digits_are_told_as_another_hash(warehouse: Warehouse) -> None:
    identity(warehouse, "float64")
    warehouse.features((1, 0.1, 1.0))
    warehouse.run()
    assert warehouse.run(significant_digits=12).per_reason["hash_changed"] == 1
    assert warehouse.last_run("feature_precisions") == (["12 digits", "12 digits"],)


@pytest.mark.parametrize("digits", [0, 18, None, True, 9.0, "9"])
def test_significant_digits_are_a_whole_number(warehouse: Warehouse, digits: object) -> None:
    with pytest.raises(ConfigError, match="significant_digits must be a whole number from 1 to 17"):
        warehouse.run(significant_digits=digits)


UNITS = [
    # SQL type, a value, the value one unit above, type of the tensor
    ("decimal(18, 0)", "9007199254740992", "9007199254740993", "int64"),
    ("decimal(38, 0)", "9223372036854775806", "9223372036854775807", "int64"),
    ("decimal(20, 1)", "9007199254740992.0", "9007199254740993.0", "int64"),
    ("hugeint", "-9223372036854775808", "-9223372036854775807", "int64"),
    ("ubigint", "9007199254740992", "9007199254740993", "int64"),
    ("bigint", "9223372036854775806", "9223372036854775807", "int64"),
    ("double", "4503599627370496", "4503599627370497", "int64"),
    ("decimal(18, 2)", "9999999999999.98", "9999999999999.99", "float64"),
    ("decimal(15, 15)", "0.123456789012344", "0.123456789012345", "float64"),
    ("double", "9007199254740990", "9007199254740991", "float64"),
    ("bigint", "9007199254740991", "9007199254740992", "float64"),
    ("float", "16777214", "16777215", "float64"),
    ("varchar", "'a'", "'A'", "string"),
    ("enum('a', 'b')", "'a'", "'b'", "string"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "after", "dtype"), UNITS)
def test_one_unit_is_a_change_where_it_reaches_the_model(
    warehouse: Warehouse, kind: str, before: str, after: str, dtype: str
) -> None:
    identity(warehouse, dtype, ("a",))
    for value, scored in ((before, 1), (before, 0), (after, 1)):
        summary = warehouse.run(features=f"select 1 as id, {value}::{kind} as a")
        assert (summary.rows_scored, summary.rows_rejected) == (scored, 0)
    [(said,)] = warehouse.sql("select y from scores where run_id = 'run-3'")
    assert said == (after.strip("'") if dtype == "string" else getattr(np, dtype)(Decimal(after)))


@pytest.mark.parametrize(
    ("before", "after"),
    [("integer", "bigint"), ("float", "double"), ("decimal(9, 2)", "decimal(12, 3)"), ("decimal(9, 2)", "double"),
     ("bigint", "decimal(18, 0)"), ("hugeint", "decimal(38, 0)"), ("float[3]", "double[]"), ("utinyint[]", "bigint[]")],
)  # fmt: skip
def test_a_wider_type_is_no_change(warehouse: Warehouse, before: str, after: str) -> None:
    value = "3"
    if before.endswith("]"):
        value = "[1, 2, 3]"
        model = helper.make_model(
            helper.make_graph(
                [helper.make_node("ReduceSum", ["X", "axis"], ["y"])],
                "sum",
                [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 3])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
                [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
            ),
            opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
        )  # fmt: skip
        contract = Contract(
            features=(Feature(name="a", width=3),),
            inputs=(Input(name="X", dtype="float32", features=("a",)),),
            outputs=line_contract().outputs,
        )
        warehouse.register("2", model.SerializeToString(), contract)
    for kind, scored in ((before, 1), (after, 0)):
        summary = warehouse.run(features=f"select 1 as id, {value}::{kind} as a, 1.0::double as b")
        assert (summary.rows_scored, summary.rows_rejected) == (scored, 0)


def encoded(value: float, dtype: Any, tolerance: float | None) -> tuple[Any, ...]:
    """Return how the encoder itself changes a value on its way to the model, and its verdicts."""
    feature = Feature(name="a", tolerance=tolerance)
    cast = cast_elements(pa.array([value], pa.float64()), dtype=dtype, feature=feature)
    verdicts = [m is not None and bool(m[0]) for m in (cast.nan, cast.infinite, cast.lossy)]
    # in SQL, as in arithmetic, both zeros are equal
    return (None if any(verdicts) else repr(cast.values[0].item() or 0), *verdicts)


DOUBLES = st.one_of(
    st.floats(),
    st.floats(width=32).map(lambda x: x * (1 + 2.0**-24)),
    st.integers(-(2**53), 2**53).map(float),
    st.sampled_from([3.4028235677973366e38, 65519.9, 2.0**-126, 2.0**-127, 6e-8, 1e-46, -0.0]),
)


@given(
    x=DOUBLES,
    y=DOUBLES | st.none(),
    steps=st.integers(0, 2**31),
    dtype=st.sampled_from(["float16", "float32", "int32", "int64"]),
    tolerance=st.sampled_from([None, 0.0, 1e-9, 1e-3]),
)
@example(x=2.0**24 + 1, y=2.0**24, steps=0, dtype="float32", tolerance=0.0)
@example(x=2269.0, y=None, steps=1, dtype="float16", tolerance=None)
@example(x=1e39, y=2e39, steps=0, dtype="float32", tolerance=None)
@settings(max_examples=300, deadline=None)
def test_values_with_one_hash_are_one_value_for_the_model(
    x: float, y: float | None, steps: int, dtype: Any, tolerance: float | None
) -> None:
    if y is None:
        # the float that is `steps` floats away from x
        bits = min(int(np.float64(abs(x)).view(np.int64)) + steps, 2**63 - 1)
        y = float(np.copysign(np.int64(bits).view(np.float64), x))
    contract = Contract(
        features=(Feature(name="a", tolerance=tolerance),),
        inputs=(Input(name="X", dtype=dtype, features=("a",)),),
        outputs=line_contract().outputs,
    )
    [precision] = precisions_of(contract, significant_digits=9).values()
    [(one,), (two,)] = duckdb.execute(
        f"select hash({hashed('a', 'DOUBLE', precision)}) "
        "from (values (1, $1::double), (2, $2::double)) as t (i, a) order by i",
        [x, y],
    ).fetchall()
    if one == two:
        assert encoded(x, dtype, tolerance) == encoded(y, dtype, tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_a_decimal_reaches_a_float_model_as_python_reads_it(
    warehouse: Warehouse, seed: int
) -> None:
    identity(warehouse, "float64", ("a",))
    chance = random.Random(seed)
    precision = chance.randint(10, 38)
    scale = chance.randint(1, precision) if seed else 2
    digits = [chance.randrange(10 ** chance.randint(1, precision)) for _ in range(5_000)]
    values = [Decimal(n).scaleb(-scale) for n in digits]
    table = pa.table({"id": range(len(values)), "a": pa.array(values, pa.decimal128(38, scale))})
    warehouse.connection.register("decimals", table)
    warehouse.connection.execute("create table given as from decimals")
    warehouse.run(features="from given")
    assert dict(warehouse.sql("select id, y from scores")) == dict(enumerate(map(float, values)))


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("hugeint", "0", "-1"),
        ("decimal(38, 0)", "18446744073709551617", "36893488147419103234"),
        ("decimal(38, 2)", "0", "-0.01"),
    ],
)
def test_numbers_of_128_bits_that_duckdb_hashes_alike_are_two(
    warehouse: Warehouse, kind: str, before: str, after: str
) -> None:
    [(alike,)] = duckdb.execute(f"select hash({before}::{kind}) = hash({after}::{kind})").fetchall()
    assert alike
    identity(warehouse, "int64", ("a",))
    # first the value is a feature; then it is the key, and one entity takes the place of another
    feature = f"select 1 as id, {{}}::{kind} as a"
    warehouse.run(features=feature.format(before))
    assert warehouse.run(features=feature.format(after)).rows_unchanged == 0
    other = Warehouse(warehouse.folder, name="other")
    key = f"select {{}}::{kind} as id, 1.0::double as a, 1.0::double as b"
    other.run(features=key.format(before), model="line/1")
    assert other.run(features=key.format(after), model="line/1").rows_scored == 1
