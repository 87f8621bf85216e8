"""Any contract over any columns: refused by name, or each row is encoded exactly or rejected with a reason."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from parts import contracts, fuzz

from dbt_onnx.errors import ContractError
from dbt_onnx.kernel.encode import REJECTED_COLUMN, encode
from dbt_onnx.kernel.relation import check_relation

if TYPE_CHECKING:
    from dbt_onnx.kernel.contract import Contract, Feature, Input

SECONDS = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}
UNITS = {name: count * 10**9 for name, count in SECONDS.items()}
UNITS |= {"millisecond": 10**6, "microsecond": 10**3, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
TOLERANCE = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-12}

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
INTEGERS += [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
DECIMALS = [pa.decimal128(5, 2), pa.decimal128(38, 0), pa.decimal128(38, 10), pa.decimal128(4, -2)]
DECIMALS += [pa.decimal32(5, 1), pa.decimal64(12, 0), pa.decimal256(40, 3), pa.decimal256(70, 0)]
TIMES = [pa.date32(), pa.date64(), *map(pa.timestamp, ("s", "ms", "us", "ns"))]
TIMES += [pa.timestamp("us", "UTC"), pa.timestamp("ns", "Asia/Tokyo")]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
FOREIGN = [
    pa.binary(), pa.time64("us"), pa.duration("s"), pa.struct({"a": pa.int8()}),
    pa.map_(pa.string(), pa.int8()), pa.dictionary(pa.int8(), pa.int64()), pa.list_view(pa.int8()),
    pa.list_(pa.list_(pa.int8())), pa.month_day_nano_interval(), pa.binary(2),
]  # fmt: skip
SCALARS = [pa.bool_(), pa.null(), *INTEGERS, *DECIMALS, *TIMES, *TEXTS, *FLOATS]


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values of an Arrow type as Python objects; times as counts of the type's unit."""
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_integer(kind) or kind in TIMES:
        bits = 32 if kind == pa.date32() else kind.bit_width
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        if str(kind).startswith("u"):
            low, high = 0, 2**bits - 1
        edges = st.sampled_from([low, low + 1, high - 1, high, 0, 1])
        return edges | st.integers(max(low, -300), min(high, 300)) | st.integers(low, high)
    if pa.types.is_decimal(kind):
        most = min(10**kind.precision - 1, 10**40)
        return st.builds(
            lambda number: Decimal(f"{number}e{-kind.scale}"),
            st.integers(-300, 300).filter(lambda n: abs(n) <= most) | st.integers(-most, most),
        )
    if pa.types.is_floating(kind):
        return st.floats(width=kind.bit_width) | st.integers(-200, 200).map(float)
    if kind in TEXTS:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    return st.none()


@st.composite
def columns(
    draw: st.DrawFn, feature: Feature, dtypes: set[str], n_rows: int
) -> tuple[pa.Array, list[Any]]:
    """A column that usually fits the feature, and its values in Python."""
    odd = draw(st.integers(0, 15)) == 0
    fitting = [pa.bool_(), pa.null(), *INTEGERS]
    if odd:
        fitting = SCALARS + FOREIGN
    elif "string" in dtypes:
        fitting = TEXTS
    elif feature.time_unit is not None:
        fitting = TIMES
    elif "bool" not in dtypes:
        fitting += DECIMALS + FLOATS * 3
    kind = draw(st.sampled_from(fitting))
    if kind in FOREIGN:
        return pa.nulls(n_rows, kind), [None] * n_rows
    element = st.one_of(st.none(), *[values_of(kind)] * 5)
    feature_width = draw(st.integers(0, 3)) if odd else feature.width or 0
    if not feature_width or kind == pa.null():
        values = draw(st.lists(element, min_size=n_rows, max_size=n_rows))
        return _array(values, kind), values
    form = draw(st.sampled_from(["list", "large_list", "fixed"]))
    if form == "fixed":
        rows = st.lists(element, min_size=feature_width, max_size=feature_width)
        whole = pa.list_(kind, feature_width)
    else:
        rows = st.lists(element, min_size=feature_width, max_size=feature_width) | st.lists(
            element, max_size=4
        )
        whole = pa.list_(kind) if form == "list" else pa.large_list(kind)
    values = draw(st.lists(st.none() | rows | rows, min_size=n_rows, max_size=n_rows))
    return _array(values, whole), values


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        flat = [item for row in values for item in (row or [None] * kind.list_size)]
        mask = pa.array([row is None for row in values], pa.bool_())
        return pa.FixedSizeListArray.from_arrays(
            _array(flat, kind.value_type), kind.list_size, mask=mask
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        flat = [item for row in values for item in row or ()]
        ends = [0]
        for row in values:
            ends.append(ends[-1] + len(row or ()))
        offsets = pa.array(ends, pa.int32() if pa.types.is_list(kind) else pa.int64())
        mask = pa.array([row is None for row in values], pa.bool_())
        made = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
        return made.from_arrays(offsets, _array(flat, kind.value_type), mask=mask)
    if kind in TIMES:
        counts = pa.array(values, pa.int32() if kind == pa.date32() else pa.int64())
        return counts.view(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode().cast(kind)
    return pa.array(values, kind)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Contract, pa.RecordBatch, dict[str, list[Any]]]:
    contract = draw(contracts())
    n_rows, start = draw(st.integers(0, 6)), draw(st.integers(0, 3))
    arrays, values = {}, {}
    for feature in contract.features:
        if draw(st.integers(0, 30)):
            dtypes = {i.dtype for i in contract.inputs if feature.name in i.features}
            arrays[feature.name], rows = draw(columns(feature, dtypes, n_rows + start))
            values[feature.name] = rows[start:]
    planned = draw(
        st.lists(st.sampled_from([None] * 5 + ["null_key"]), min_size=n_rows, max_size=n_rows)
    )
    values[REJECTED_COLUMN] = planned
    arrays[REJECTED_COLUMN] = pa.array(["before"] * start + planned, pa.string())
    # batches from a warehouse are often slices of larger ones
    return contract, pa.record_batch(arrays).slice(start), values


@given(drawn=batches())
@fuzz(4.0)
def test_rows_are_fed_exactly_or_rejected_with_the_first_reason(
    drawn: tuple[Contract, pa.RecordBatch, dict[str, list[Any]]],
) -> None:
    contract, batch, values = drawn
    try:
        kinds = dict(zip(batch.schema.names, batch.schema.types, strict=True))
        check_relation(contract, kinds, where="features", model="m/1")
    except ContractError as error:
        assert any(repr(name) in error.message for name in contract.feature_names)
        return
    encoded = encode(batch, contract)
    rows = [
        _row({name: column[number] for name, column in values.items()}, contract, kinds)
        for number in range(batch.num_rows)
    ]
    assert encoded.reasons.to_pylist() == [reason for reason, _ in rows]
    assert encoded.valid.tolist() == [reason is None for reason, _ in rows]
    for tensor in contract.inputs:
        fed = encoded.feeds[tensor.name]
        wanted = [fed_row[tensor.name] for reason, fed_row in rows if reason is None]
        width = sum(contract.feature(name).width or 1 for name in tensor.features)
        assert fed.shape == ((len(wanted),) if tensor.rank == 1 else (len(wanted), width))
        assert fed.dtype == np.dtype(object if tensor.dtype == "string" else tensor.dtype)
        assert fed.flags.c_contiguous
        for came, value in zip(fed.reshape(-1), [v for row in wanted for v in row], strict=True):
            assert _is_same(came, value, tensor.dtype), (came, value)


def _is_same(came: Any, value: Any, dtype: str) -> bool:
    if dtype == "string":
        return bool(came == value) and type(came) is str
    if isinstance(value, float) and math.isnan(value):
        return math.isnan(came)
    if isinstance(value, Fraction):  # from a DECIMAL or a time: within half a step of float64
        nearest = np.dtype(dtype).type(float(value))
        step = float(np.spacing(abs(nearest)))
        return bool(math.isclose(came, nearest, rel_tol=2e-15, abs_tol=step))
    return bool(came == value)


# --- the oracle: one value at a time, in exact arithmetic -------------------------------------


def _row(
    row: dict[str, Any], contract: Contract, kinds: dict[str, pa.DataType]
) -> tuple[str | None, dict[str, list[Any]]]:
    """Return why the row is rejected, or what each input is fed."""
    reasons = [row[REJECTED_COLUMN]] if row[REJECTED_COLUMN] else []
    fed: dict[tuple[str, int], list[Any]] = {}
    for feature in contract.features:
        values = _elements(row[feature.name], feature)
        if values is None:
            reasons.append(f"wrong_length:{feature.name}")
            break
        if feature.null_policy == "reject" and None in values:
            reasons.append(f"null:{feature.name}")
            break
        for tensor in contract.inputs:
            for place, name in enumerate(tensor.features):
                if name != feature.name:
                    continue
                judged = [_judged(v, feature, tensor, kinds[name]) for v in values]
                for word in ("nan", "infinite", "lossy_cast"):
                    if any(verdict == word for verdict, _ in judged):
                        reasons.append(f"{word}:{feature.name}")
                fed[tensor.name, place] = [value for _, value in judged]
        if reasons:
            break
    if reasons:
        return reasons[0], {}
    return None, {
        tensor.name: [v for place in range(len(tensor.features)) for v in fed[tensor.name, place]]
        for tensor in contract.inputs
    }


def _elements(value: Any, feature: Feature) -> list[Any] | None:
    if feature.width is None:
        return [value]
    if value is None:
        return [None] * feature.width
    return value if len(value) == feature.width else None


def _judged(
    value: Any, feature: Feature, tensor: Input, kind: pa.DataType
) -> tuple[str | None, Any]:
    """Return what is wrong with a value, or its converted value."""
    dtype = tensor.dtype
    if value is None:
        if feature.null_policy != "fill":
            return None, math.nan
        fill = feature.fill
        return None, fill if dtype == "string" else np.dtype(dtype).type(fill)
    if dtype == "string":
        return None, value
    kind = getattr(kind, "value_type", kind)
    tolerance = feature.tolerance if feature.tolerance is not None else TOLERANCE.get(dtype, 0.0)
    if kind in TIMES:
        return _time(value, kind, UNITS[feature.time_unit or ""], dtype, tolerance)
    if isinstance(value, float):
        bits = kind.bit_width
        return _float(value, feature, dtype, 0 if _bits(dtype) >= bits else tolerance)
    exact = Fraction(value)
    if exact.denominator == 1 and (not isinstance(value, Decimal) or kind.scale <= 0):
        return _whole(int(exact), dtype)
    if dtype in TOLERANCE:
        verdict, _ = _float(float(value), feature, dtype, tolerance)
        return verdict, exact
    return _whole(int(exact), dtype) if exact.denominator == 1 else ("lossy_cast", None)


def _bits(dtype: str) -> int:
    return np.dtype(dtype).itemsize * 8 if dtype in TOLERANCE else 0


def _whole(value: int, dtype: str) -> tuple[str | None, Any]:
    if dtype == "bool":
        return (None, bool(value)) if value in (0, 1) else ("lossy_cast", None)
    if dtype in TOLERANCE:
        with np.errstate(over="ignore"):
            there = float(np.dtype(dtype).type(float(value)))
        is_exact = math.isfinite(there) and int(there) == value
    else:
        is_exact = np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    return (None, value) if is_exact else ("lossy_cast", None)


def _float(value: float, feature: Feature, dtype: str, tolerance: float) -> tuple[str | None, Any]:
    if math.isnan(value):
        return (None, value) if feature.null_policy == "nan" else ("nan", None)
    if math.isinf(value):
        return "infinite", None
    if dtype not in TOLERANCE:
        return _whole(int(value), dtype) if value.is_integer() else ("lossy_cast", None)
    with np.errstate(over="ignore"):
        there = np.dtype(dtype).type(value)
    if np.isinf(there):
        return "lossy_cast", None
    change = abs(Fraction(float(there)) - Fraction(value))
    is_near = change <= Fraction(tolerance) * abs(Fraction(value))
    return (None, there) if is_near else ("lossy_cast", None)


def _time(
    count: int, kind: pa.DataType, unit: int, dtype: str, tolerance: float
) -> tuple[str | None, Any]:
    tick = {pa.date32(): UNITS["day"], pa.date64(): UNITS["ms"]}.get(kind) or UNITS[kind.unit]
    most = 2 ** (31 if kind == pa.date32() else 63) - 1
    if abs(count) == most:  # DuckDB's infinity
        return "infinite", None
    exact = Fraction(count * tick, unit)
    if exact.denominator == 1:
        if abs(exact) >= 2**63:
            return "lossy_cast", None
        return _whole(int(exact), dtype)
    if dtype not in TOLERANCE:
        return "lossy_cast", None
    there = float(exact)
    with np.errstate(over="ignore"):
        narrow = float(np.dtype(dtype).type(there))
    near = math.isfinite(narrow) and abs(Fraction(narrow) - Fraction(there)) <= Fraction(
        tolerance
    ) * abs(Fraction(there))
    return (None, exact) if near or dtype == "float64" else ("lossy_cast", None)
