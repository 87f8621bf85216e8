"""Warehouse columns become the model's tensors exactly, or a row is rejected with a reason."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from dbt_onnx.errors import ContractError
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.kernel.encode import Encoded, encode
from dbt_onnx.kernel.relation import check_relation

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTPUTS = (Output(name="y", kind="value", dtype="float32", columns=("y",)),)
INTEGER_TENSORS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NUMBER_TENSORS = ("float16", "float32", "float64", *INTEGER_TENSORS)


def contract_of(features: Sequence[Feature], *inputs: Input) -> Contract:
    return Contract(features=tuple(features), inputs=inputs, outputs=OUTPUTS)


def single(dtype: str, *, rank: int = 2, **settings: Any) -> Contract:
    """Return a contract with one feature `f` in one input `x`."""
    tensor = Input(name="x", dtype=dtype, features=("f",), rank=rank)  # type: ignore[arg-type]
    return contract_of([Feature(name="f", **settings)], tensor)


def encode_column(column: pa.Array, dtype: str, **settings: Any) -> Encoded:
    contract = single(dtype, **settings)
    batch = pa.record_batch({"f": column})
    check_relation(contract, {"f": column.type}, where="main.features", model="m")
    return encode(batch, contract)


def from_duckdb(expression: str) -> pa.Array:
    """Return a column as DuckDB exports it."""
    with warehouse().cursor() as cursor:
        rows = cursor.sql(f"select unnest({expression}) as f").to_arrow_reader(1000)
        return rows.read_next_batch().column("f")


@cache
def warehouse() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def verdicts(encoded: Encoded) -> list[str | None]:
    """Return the reasons without the feature's name."""
    return [reason and reason.removesuffix(":f") for reason in encoded.reasons.to_pylist()]


# --- shapes -----------------------------------------------------------------------------------


def test_one_tensor_holds_all_features_in_the_order_of_the_input_not_of_the_table() -> None:
    contract = contract_of(
        [Feature(name="a"), Feature(name="b")],
        Input(name="x", dtype="float32", features=("b", "a")),
    )
    encoded = encode(pa.record_batch({"a": [1, 2], "other": ["u", "v"], "b": [0.5, 1.5]}), contract)
    np.testing.assert_array_equal(encoded.feeds["x"], np.array([[0.5, 1], [1.5, 2]], np.float32))
    assert encoded.feeds["x"].dtype == np.float32
    assert encoded.feeds["x"].flags.c_contiguous


@pytest.mark.parametrize(("rank", "shape"), [(1, (2,)), (2, (2, 1))])
def test_a_tensor_of_one_column_has_the_rank_that_the_contract_says(
    rank: int, shape: tuple[int, ...]
) -> None:
    encoded = encode(pa.record_batch({"f": [1, 2]}), single("int64", rank=rank))
    assert encoded.feeds["x"].shape == shape


def test_several_tensors_take_several_columns_each_and_may_share_one() -> None:
    contract = contract_of(
        [Feature(name="a"), Feature(name="b"), Feature(name="s")],
        Input(name="numbers", dtype="float32", features=("a", "b")),
        Input(name="whole", dtype="int64", features=("a",), rank=1),
        Input(name="words", dtype="string", features=("s",)),
    )
    encoded = encode(pa.record_batch({"a": [1, 2], "b": [0.5, 1.5], "s": ["u", "v"]}), contract)
    assert encoded.feeds["numbers"].tolist() == [[1, 0.5], [2, 1.5]]
    assert encoded.feeds["whole"].tolist() == [1, 2]
    assert encoded.feeds["words"].tolist() == [["u"], ["v"]]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float64()), pa.list_(pa.float64(), 2)]
)
def test_list_and_array_columns_are_vectors_beside_scalars_in_one_tensor(kind: pa.DataType) -> None:
    contract = contract_of(
        [Feature(name="a"), Feature(name="v", width=2), Feature(name="b")],
        Input(name="x", dtype="float32", features=("a", "v", "b")),
    )
    batch = pa.record_batch(
        {"a": [0, 1, 4], "v": pa.array([[9, 9], [2, 3], [5, 6]], kind), "b": [0, 7, 8]}
    )
    # sliced, so that offsets into the elements matter
    assert encode(batch.slice(1), contract).feeds["x"].tolist() == [[1, 2, 3, 7], [4, 5, 6, 8]]


def test_two_list_columns_become_two_inputs_of_their_own() -> None:
    contract = contract_of(
        [Feature(name="u", width=2), Feature(name="v", width=1)],
        Input(name="left", dtype="int64", features=("u",)),
        Input(name="right", dtype="string", features=("v",)),
    )
    encoded = encode(pa.record_batch({"u": [[1, 2]], "v": [["w"]]}), contract)
    assert encoded.feeds["left"].tolist() == [[1, 2]]
    assert encoded.feeds["right"].tolist() == [["w"]]


def test_rejected_rows_are_not_fed_and_the_others_keep_their_order() -> None:
    encoded = encode_column(pa.array([1.0, None, 3.0, np.nan, 5.0]), "float32")
    assert encoded.feeds["x"].tolist() == [[1], [3], [5]]
    assert encoded.valid.tolist() == [True, False, True, False, True]
    assert encoded.reasons.to_pylist() == [None, "null:f", None, "nan:f", None]
    assert encoded.feeds["x"].flags.c_contiguous


def test_a_row_that_the_plan_rejected_keeps_that_reason_even_if_its_features_are_bad_too() -> None:
    planned = pa.array(["null_key", None, "null_as_of"], pa.string())
    batch = pa.record_batch({"f": [None, None, 1.0], "__dbt_onnx_rejected_reason": planned})
    encoded = encode(batch, single("float32"))
    assert encoded.reasons.to_pylist() == ["null_key", "null:f", "null_as_of"]
    assert encoded.feeds["x"].shape == (0, 1)


def test_the_first_failing_feature_in_the_order_of_the_contract_is_the_reason() -> None:
    contract = contract_of(
        [Feature(name="late"), Feature(name="early")],
        Input(name="x", dtype="float32", features=("early", "late")),
    )
    batch = pa.record_batch({"early": pa.array([None, None], pa.int32()), "late": [np.inf, 1.0]})
    assert encode(batch, contract).reasons.to_pylist() == ["infinite:late", "null:early"]


# --- warehouse types --------------------------------------------------------------------------

INTEGERS = (
    "tinyint", "smallint", "integer", "bigint", "hugeint",
    "utinyint", "usmallint", "uinteger", "ubigint", "uhugeint",
)  # fmt: skip
NUMBERS = (*INTEGERS, "decimal(4,1)", "decimal(18,0)", "decimal(38,6)", "float", "double")


@pytest.mark.parametrize("warehouse_type", NUMBERS)
@pytest.mark.parametrize("dtype", NUMBER_TENSORS)
def test_every_number_type_of_duckdb_goes_into_every_number_tensor(
    warehouse_type: str, dtype: str
) -> None:
    encoded = encode_column(from_duckdb(f"[0, 1, null, 100]::{warehouse_type}[]"), dtype)
    assert encoded.feeds["x"].tolist() == [[0], [1], [100]]
    assert encoded.feeds["x"].dtype == np.dtype(dtype)
    assert verdicts(encoded) == [None, None, "null", None]


@pytest.mark.parametrize("dtype", [*NUMBER_TENSORS, "bool"])
def test_booleans_are_zero_and_one(dtype: str) -> None:
    encoded = encode_column(from_duckdb("[true, false, null]"), dtype)
    assert encoded.feeds["x"].tolist() == [[1], [0]]


@pytest.mark.parametrize("warehouse_type", INTEGERS)
def test_only_zero_and_one_are_booleans(warehouse_type: str) -> None:
    encoded = encode_column(from_duckdb(f"[0, 1, 2]::{warehouse_type}[]"), "bool")
    assert encoded.feeds["x"].tolist() == [[False], [True]]
    assert verdicts(encoded) == [None, None, "lossy_cast"]


@pytest.mark.parametrize("kind", ["varchar", "enum('b', 'a', 'ü')"], ids=["varchar", "enum"])
def test_text_and_enums_are_strings(kind: str) -> None:
    encoded = encode_column(from_duckdb(f"['a', null, 'ü', 'a']::{kind}[]"), "string")
    assert encoded.feeds["x"].dtype == object
    assert encoded.feeds["x"].tolist() == [["a"], ["ü"], ["a"]]
    assert verdicts(encoded) == [None, "null", None, None]


def test_other_arrow_texts_are_strings_too() -> None:
    for kind in (pa.large_string(), pa.string_view()):
        column = pa.array(["x", "a", None], kind).slice(1)
        encoded = encode_column(column, "string", null_policy="fill", fill="?")
        assert encoded.feeds["x"].tolist() == [["a"], ["?"]]


@pytest.mark.parametrize("dtype", ["float64", "int64"])
@pytest.mark.parametrize(
    ("expression", "unit", "expected"),
    [
        ("date '1970-02-01'", "day", 31),
        ("date '1970-01-02'", "minute", 1440),
        ("timestamp '1970-01-02 01:00:00'", "hour", 25),
        ("timestamp_s '1969-12-31 23:59:59'", "second", -1),
        ("timestamp_ms '1970-01-01 00:00:01.5'", "millisecond", 1500),
        ("timestamp_ns '1970-01-01 00:00:00.000007'", "microsecond", 7),
        ("timestamp '2026-01-01 00:00:00'", "microsecond", 1_767_225_600_000_000),
        ("timestamptz '1970-01-01 01:00:00+01'", "hour", 0),
    ],
)
def test_times_are_units_since_1970_in_utc(
    expression: str, unit: str, expected: int, dtype: str
) -> None:
    encoded = encode_column(from_duckdb(f"[{expression}, null]"), dtype, time_unit=unit)
    assert encoded.feeds["x"].tolist() == [[expected]]
    assert verdicts(encoded) == [None, "null"]


def test_a_part_of_a_unit_goes_into_a_float_and_not_into_an_integer() -> None:
    noon = from_duckdb("[timestamp '1970-01-03 12:00', timestamp '1970-01-03 00:00']")
    assert encode_column(noon, "float32", time_unit="day").feeds["x"].tolist() == [[2.5], [2]]
    assert verdicts(encode_column(noon, "int32", time_unit="day")) == ["lossy_cast", None]


def test_a_moment_just_before_1970_is_rounded_once() -> None:
    column = from_duckdb("[timestamp '1969-12-31 23:59:59.999', timestamp '1969-12-30 12:00']")
    encoded = encode_column(column, "float64", time_unit="day")
    assert encoded.feeds["x"].tolist() == [[-1 / 86_400_000], [-1.5]]


def test_whole_times_are_integers_and_no_float_may_round_them() -> None:
    times = pa.array([16_777_216, 16_777_217], pa.timestamp("s"))
    assert verdicts(encode_column(times, "float32", time_unit="second")) == [None, "lossy_cast"]


def test_a_part_of_a_unit_in_a_batch_changes_nothing_for_the_whole_ones() -> None:
    times = pa.array([500, 16_777_217_000, 16_777_217_500], pa.timestamp("ms"))
    encoded = encode_column(times, "float32", time_unit="second")
    assert verdicts(encoded) == [None, "lossy_cast", None]


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
@pytest.mark.parametrize("unit", ["day", "microsecond"])
def test_infinite_times_are_infinite(kind: str, unit: str) -> None:
    column = from_duckdb(f"['infinity', '-infinity', '1970-01-01']::{kind}[]")
    encoded = encode_column(column, "float64", time_unit=unit)
    assert verdicts(encoded) == ["infinite", "infinite", None]


def test_a_time_beyond_64_bits_of_its_unit_is_lossy() -> None:
    column = pa.array([dt.date(9999, 12, 31), dt.date(1, 1, 1)]).cast(pa.date32())
    far = pa.array([2_000_000_000], pa.int32()).cast(pa.date32())
    assert verdicts(encode_column(column, "int64", time_unit="microsecond")) == [None, None]
    assert verdicts(encode_column(far, "int64", time_unit="microsecond")) == ["lossy_cast"]


# --- lossy casts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "dtype", "expected"),
    [
        ("[16777216, 16777217, -16777217]::bigint[]", "float32", "kxx"),
        ("[2048, 2049, 70000]::integer[]", "float16", "kxx"),
        ("[9007199254740992, 9007199254740993]::bigint[]", "float64", "kx"),
        ("[9223372036854775807, -9223372036854775808]::bigint[]", "float64", "xk"),
        ("[18446744073709551615, 9223372036854775808]::ubigint[]", "float32", "xk"),
        ("[127, 128, -128, -129, 300]::integer[]", "int8", "kxkxx"),
        ("[-1, 0, 255, 256]::bigint[]", "uint8", "xkkx"),
        ("[-1, 1]::bigint[]", "uint64", "xk"),
        ("[9223372036854775807, 9223372036854775808]::ubigint[]", "int64", "kx"),
        ("[9223372036854775807, 9223372036854775808, -1]::hugeint[]", "int64", "kxk"),
        ("[18446744073709551615, 18446744073709551616, -1]::hugeint[]", "uint64", "kxx"),
        ("[1180591620717411303424, 1180591620717411303425]::hugeint[]", "float32", "kx"),
        ("[-1180591620717411303424, -1180591620717411303425, 7]::hugeint[]", "float64", "kxk"),
        ("[16777217, 18446744073709551616]::hugeint[]", "float32", "xk"),
        # 2^117 + 2^64: its upper half alone has too many digits
        ("[166153499473114502559719956244594688]::hugeint[]", "float64", "x"),
        ("[16777217]::decimal(18,0)[]", "float32", "x"),
        ("[1.0, 1.5, -3]::decimal(9,2)[]", "int32", "kxk"),
        ("[300.00, 3]::decimal(9,2)[]", "int8", "xk"),
        ("[12345678901234567890123.5, 7]::decimal(38,1)[]", "int64", "xk"),
        ("[0.1, 1234567.89]::decimal(18,2)[]", "float32", "kk"),
        ("[1.0, 1.5, -0.0, 128, 127]::double[]", "int8", "kxkxk"),
        ("[9223372036854775808, -9223372036854775808]::double[]", "int64", "xk"),
        ("[18446744073709551616, 9223372036854775808, -1]::double[]", "uint64", "xkx"),
        ("[0.1, 1e39, 1e-60, 1e-42, 0, -3e38]::double[]", "float32", "kxxxkk"),
        ("[0.1, 65504, 70000, 1e-9, 0]::float[]", "float16", "kkxxk"),
        ("[0.1, 1e300, 5e-324]::double[]", "float64", "kkk"),
    ],
)
def test_a_value_that_the_cast_would_change_is_lossy(
    expression: str, dtype: str, expected: str
) -> None:
    encoded = encode_column(from_duckdb(expression), dtype)
    marks = "".join("x" if reason == "lossy_cast" else "k" for reason in verdicts(encoded))
    assert marks == expected


@pytest.mark.parametrize(("tolerance", "reason"), [(1e-9, "lossy_cast"), (1e-7, None)])
@pytest.mark.parametrize(
    "column", [pa.array([0.1]), pa.array([Decimal("0.1")])], ids=["double", "decimal"]
)
def test_the_tolerance_of_a_feature_replaces_the_default(
    column: pa.Array, tolerance: float, reason: str | None
) -> None:
    # 0.1 in float32 has a relative error of 1.5e-8
    assert verdicts(encode_column(column, "float32", tolerance=tolerance)) == [reason]


def test_a_tolerance_does_not_soften_integers() -> None:
    column = pa.array([16_777_217])
    assert verdicts(encode_column(column, "float32", tolerance=0.1)) == ["lossy_cast"]


# --- NULL, NaN, infinity ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected", "fed"),
    [
        ({}, ["null", "nan", "infinite", "infinite", None], [1]),
        ({"null_policy": "nan"}, [None, None, "infinite", "infinite", None], [None, None, 1]),
        (
            {"null_policy": "fill", "fill": -1},
            [None, "nan", "infinite", "infinite", None],
            [-1, 1],
        ),
    ],
    ids=["reject", "nan", "fill"],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("source", [pa.float16(), pa.float32(), pa.float64()])
def test_the_null_policy_decides_over_null_and_nan_and_nothing_over_infinity(
    policy: dict[str, Any], expected: list[str], fed: list[float], dtype: str, source: pa.DataType
) -> None:
    column = pa.array([None, np.nan, np.inf, -np.inf, 1.0], pa.float32()).cast(source)
    encoded = encode_column(column, dtype, **policy)
    assert verdicts(encoded) == expected
    got = [None if np.isnan(value) else value for value in encoded.feeds["x"].ravel()]
    assert got == fed


@pytest.mark.parametrize("source", [pa.int32(), pa.bool_(), pa.decimal128(9, 2), pa.null()])
def test_a_null_among_values_that_have_no_nan_can_become_nan(source: pa.DataType) -> None:
    column = pa.nulls(2, source)
    encoded = encode_column(column, "float32", null_policy="nan")
    assert np.isnan(encoded.feeds["x"]).tolist() == [[True], [True]]


@pytest.mark.parametrize(
    ("column", "dtype", "fill"),
    [
        (pa.array([None, 5]), "int64", 7),
        (pa.array([None, 0.5]), "float32", 0.25),
        (pa.array([None, "b"]), "string", "?"),
        (pa.array([None, "b"]).dictionary_encode(), "string", "?"),
        (pa.array([None, True]), "bool", False),
        (pa.array([None, Decimal(12345678901234567890)]), "uint64", 7),
        (pa.array([None, dt.date(1970, 1, 3)]), "int64", -1),
    ],
)
def test_a_fill_takes_the_place_of_null(column: pa.Array, dtype: str, fill: Any) -> None:
    settings = {"time_unit": "day"} if pa.types.is_date(column.type) else {}
    encoded = encode_column(column, dtype, null_policy="fill", fill=fill, **settings)
    assert encoded.feeds["x"][0].tolist() == [fill]
    assert encoded.feeds["x"].shape == (2, 1)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float64(), 2)])
def test_null_elements_follow_the_policy_of_their_feature(kind: pa.DataType) -> None:
    column = pa.array([[0, 0], [1, None], None, [np.nan, 2], [3, np.inf], [4, 5]], kind).slice(1)

    encoded = encode_column(column, "float32", width=2)
    assert verdicts(encoded) == ["null", "null", "nan", "infinite", None]
    assert encoded.feeds["x"].tolist() == [[4, 5]]

    encoded = encode_column(column, "float32", width=2, null_policy="fill", fill=9)
    assert verdicts(encoded) == [None, None, "nan", "infinite", None]
    assert encoded.feeds["x"].tolist() == [[1, 9], [9, 9], [4, 5]]

    encoded = encode_column(column, "float32", width=2, null_policy="nan")
    assert verdicts(encoded) == [None, None, None, "infinite", None]
    expected = np.array([[1, np.nan], [np.nan] * 2, [np.nan, 2], [4, 5]], np.float32)
    np.testing.assert_array_equal(encoded.feeds["x"], expected)


@pytest.mark.parametrize(
    ("policy", "fed"), [({}, []), ({"null_policy": "fill", "fill": 9}, [[9, 9]])]
)
def test_what_lies_under_a_null_array_is_not_looked_at(policy: Any, fed: list[Any]) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array([np.nan, np.inf]), 2, mask=pa.array([True]))
    encoded = encode_column(column, "float32", width=2, **policy)
    assert encoded.feeds["x"].tolist() == fed
    assert verdicts(encoded) == [None if fed else "null"]


def test_a_list_of_another_length_is_rejected_whatever_the_policy() -> None:
    column = pa.array([[1, 2], [1], [], None, [1, 2, 3], [3, 4]], pa.list_(pa.int64()))
    wrong = "wrong_length"
    encoded = encode_column(column, "float32", width=2)
    assert verdicts(encoded) == [None, wrong, wrong, "null", wrong, None]
    assert encoded.feeds["x"].tolist() == [[1, 2], [3, 4]]
    encoded = encode_column(column, "float32", width=2, null_policy="nan")
    assert verdicts(encoded) == [None, wrong, wrong, None, wrong, None]


def test_lists_of_text_of_another_length_are_rejected_whatever_the_arrow_type() -> None:
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        column = pa.array([["a", "b"], ["c"], None], pa.list_(kind))
        encoded = encode_column(column, "string", width=2)
        assert verdicts(encoded) == [None, "wrong_length", "null"]
        assert encoded.feeds["x"].tolist() == [["a", "b"]]


def test_one_lossy_element_rejects_its_row() -> None:
    column = pa.array([[1, 16_777_217], [1, 2]])
    assert verdicts(encode_column(column, "float32", width=2)) == ["lossy_cast", None]


def test_an_empty_batch_makes_empty_tensors() -> None:
    contract = contract_of(
        [Feature(name="a"), Feature(name="v", width=3)],
        Input(name="x", dtype="float32", features=("a", "v")),
    )
    schema = pa.schema([("a", pa.decimal128(38, 0)), ("v", pa.list_(pa.float32()))])
    batch = pa.RecordBatch.from_pylist([], schema=schema)
    assert encode(batch, contract).feeds["x"].shape == (0, 4)


# --- the check before scoring -----------------------------------------------------------------


def faults_of(contract: Contract, **columns: pa.DataType) -> str:
    with pytest.raises(ContractError) as caught:
        check_relation(contract, columns, where="main.features", model="churn")
    return caught.value.message


@pytest.mark.parametrize(
    ("kind", "dtype", "settings", "message"),
    [
        (pa.string(), "float32", {}, "is string, which cannot be cast to float32 for input 'x'"),
        (pa.string(), "bool", {}, "is string, which cannot be cast to bool for input 'x'"),
        (pa.int64(), "string", {}, "is int64, which cannot be cast to string for input 'x'"),
        (pa.bool_(), "string", {}, "is bool, which cannot be cast to string for input 'x'"),
        (pa.date32(), "string", {}, "cannot be cast to string for input 'x'"),
        (pa.float64(), "bool", {}, "is double, which cannot be cast to bool for input 'x'"),
        (pa.decimal128(9, 2), "bool", {}, "cannot be cast to bool for input 'x'"),
        (pa.binary(), "string", {}, "is binary, which cannot be cast to"),
        (pa.decimal256(40, 0), "int64", {}, "is decimal256(40, 0), which cannot be cast to"),
        (pa.time64("us"), "float32", {}, "cannot be cast to float32 for input 'x'"),
        (pa.date32(), "float32", {}, "has no time_unit"),
        (pa.timestamp("us", tz="UTC"), "int64", {}, "has no time_unit"),
        (
            pa.int64(),
            "int64",
            {"time_unit": "day"},
            "has a time_unit, which is only for a DATE or TIMESTAMP",
        ),
        (pa.list_(pa.int64()), "int64", {}, "the model reads one int64 value from it"),
        (pa.int64(), "int64", {"width": 3}, "the model reads a list of 3 values from it"),
        (pa.list_(pa.int64(), 2), "int64", {"width": 3}, "has 2 elements, but the model reads 3"),
        (pa.list_(pa.string()), "int64", {"width": 3}, "is list<item: string>, which cannot"),
        (pa.list_(pa.list_(pa.int64())), "int64", {"width": 3}, "which cannot be cast to"),
        (pa.int64(), "int8", {"null_policy": "fill", "fill": 300}, "fill 300 of feature 'f' does"),
        (pa.int64(), "int64", {"null_policy": "fill", "fill": 0.5}, "fill 0.5 of feature 'f' does"),
        (pa.int64(), "float16", {"null_policy": "fill", "fill": 1e9}, "does not fit float16"),
    ],
)
def test_a_type_that_cannot_be_cast_is_an_error_before_anything_is_scored(
    kind: pa.DataType, dtype: str, settings: dict[str, Any], message: str
) -> None:
    assert message in faults_of(single(dtype, **settings), f=kind)


def test_all_faults_are_listed_at_once_with_a_guess_at_what_was_meant() -> None:
    names = ("Recency", "frequency", "monetary", "tenure")
    contract = contract_of(
        [Feature(name=name) for name in names], Input(name="x", dtype="float32", features=names)
    )
    message = faults_of(
        contract,
        recency=pa.int64(),
        frequencies=pa.int64(),
        monetary=pa.string(),
        tenure=pa.int64(),
        __dbt_onnx_key_0=pa.int64(),
    )
    assert "model 'churn' cannot read main.features" in message
    assert (
        "column 'Recency' is called 'recency' in main.features: names must match exactly" in message
    )
    assert "column 'frequency' is missing (is it 'frequencies'?)" in message
    assert "column 'monetary' is string" in message
    assert "tenure' is" not in message
    assert message.endswith(
        "main.features has the columns 'recency', 'frequencies', 'monetary', 'tenure'"
    )


def test_a_good_relation_passes_in_silence_and_may_have_more_columns() -> None:
    check_relation(
        single("float32"), {"f": pa.int64(), "F": pa.string()}, where="main.features", model="m"
    )
