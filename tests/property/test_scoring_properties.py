"""However the rows are cut into batches, the table is the same and exact, and its counts add up."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

import graphs
import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.neural_network import MLPClassifier

from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.kernel.encode import encode
from dbt_onnx.kernel.scoring import count_reasons, prediction_schema, score_batches
from dbt_onnx.kernel.session import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Sequence

settings.register_profile("small", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("small")

INTEGER_TENSORS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
SIGNIFICAND_BITS = {"float16": 11, "float32": 24, "float64": 53}
LARGEST = {"float16": 65504.0, "float32": (2 - 2.0**-23) * 2.0**127, "float64": math.inf}
TOLERANCE = {"float16": Fraction(1, 10**3), "float32": Fraction(1, 10**6)}

FLOATS = st.one_of(
    st.none(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(-100, 100),
    st.sampled_from([0.0, -0.0, 0.5, 127.0, 128.0, 2.0**63, -(2.0**63), 1e-42, 6e-8, 65519.0]),
)


def contract_of(dtype: str, **feature: Any) -> Contract:
    return Contract(
        features=(Feature(name="f", **feature),),
        inputs=(Input(name="x", dtype=dtype, features=("f",)),),  # type: ignore[arg-type]
        outputs=(Output(name="y", kind="value", dtype=dtype, columns=("y",)),),  # type: ignore[arg-type]
    )


@cache
def echo(dtype: str) -> OnnxSession:
    return OnnxSession(graphs.echo(dtype), output_names=["y"], threads=1)


def score_table(
    batches: Sequence[pa.RecordBatch], contract: Contract, scorer: Any, part_rows: int = 65_536
) -> tuple[pa.Table, dict[str, str]]:
    examples: dict[str, str] = {}
    out = score_batches(batches, scorer, contract=contract, part_rows=part_rows, examples=examples)
    return pa.Table.from_batches(out, prediction_schema(batches[0].schema, contract)), examples


# --- the same table for any batch sizes -------------------------------------------------------


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), FLOATS, st.booleans()), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    part_rows=st.integers(1, 50),
    policy=st.sampled_from([{}, {"null_policy": "nan"}, {"null_policy": "fill", "fill": 0.5}]),
)
def test_any_cut_of_the_stream_and_any_batch_size_give_the_same_balanced_table(
    rows: list[tuple[int, float | None, bool]],
    cuts: list[int],
    part_rows: int,
    policy: dict[str, Any],
) -> None:
    contract = contract_of("float32", **policy)
    planned = pa.array([None if keep else "null_key" for *_, keep in rows], pa.string())
    whole = pa.record_batch(
        {
            "__dbt_onnx_key_0": pa.array([key for key, *_ in rows]),
            "__dbt_onnx_key_1": pa.array([f"row {row}" for row in range(len(rows))]),
            "f": pa.array([value for _, value, _ in rows], pa.float64()),
            "__dbt_onnx_rejected_reason": planned,
        }
    )
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    pieces = [whole.slice(a, b - a) for a, b in itertools.pairwise(edges)]

    table, examples = score_table([whole], contract, echo("float32"))
    again, examples_again = score_table(pieces, contract, echo("float32"), part_rows)

    assert again.combine_chunks() == table.combine_chunks() or _same(again, table)
    assert examples_again == examples
    for name in ("__dbt_onnx_key_0", "__dbt_onnx_key_1"):
        assert table[name].to_pylist() == whole[name].to_pylist()
    reasons = table["rejected_reason"].to_pylist()
    counts = Counter(reason for reason in reasons if reason)
    assert count_reasons(again.to_batches()) == counts
    assert set(examples) == set(counts)
    assert [y is None for y in table["y"].to_pylist()] == [bool(reason) for reason in reasons]


@cache
def estimators() -> dict[str, tuple[bytes, Contract]]:
    """A network and a boosted forest over ten features, to test matrix products and trees."""
    chance = np.random.default_rng(0)
    x = chance.random((300, 10), dtype=np.float32)
    y = (x[:, 0] + x[:, 1] > x[:, 2]).astype(int)
    names = tuple(f"f{i}" for i in range(10))
    contract = Contract(
        features=tuple(Feature(name=name) for name in names),
        inputs=(Input(name="X", dtype="float32", features=names),),
        outputs=(
            Output(
                name="probabilities", kind="probabilities", dtype="float32", columns=("no", "yes"),
                classes=(0, 1),
            ),
        ),
    )  # fmt: skip
    models = (
        MLPClassifier((16,), solver="lbfgs", max_iter=5_000),
        GradientBoostingClassifier(n_estimators=9),
    )
    return {
        type(model).__name__: (
            to_onnx(model.fit(x, y), x[:1], options={"zipmap": False}).SerializeToString(), contract
        )
        for model in models
    }  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(
    name=st.sampled_from(["MLPClassifier", "GradientBoostingClassifier"]),
    rows=st.integers(1, 300),
    part_rows=st.integers(1, 120),
    batch_rows=st.integers(1, 70),
    workers=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_workers_change_no_bit(
    name: str, rows: int, part_rows: int, batch_rows: int, workers: int, seed: int
) -> None:
    model, contract = estimators()[name]
    x = np.random.default_rng(seed).random((rows, 10), dtype=np.float32)
    batch = pa.record_batch(
        {"__dbt_onnx_key_0": pa.array(range(rows))}
        | {feature: pa.array(x[:, i]) for i, feature in enumerate(contract.feature_names)}
    )
    scorer = OnnxSession(model, output_names=["probabilities"], batch_rows=batch_rows)
    out = score_batches([batch], scorer, contract=contract, workers=workers, part_rows=part_rows)
    table = pa.Table.from_batches(out)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    plain = ort.InferenceSession(model, options)
    expected = [
        plain.run(["probabilities"], {"X": x[start : min(start + batch_rows, end)]})[0]
        for part in range(0, rows, part_rows)
        for end in [min(part + part_rows, rows)]
        for start in range(part, end, batch_rows)
    ]
    said = np.column_stack([table["no"].to_numpy(), table["yes"].to_numpy()])
    assert said.tobytes() == np.concatenate(expected).tobytes()
    assert table["__dbt_onnx_key_0"].to_pylist() == list(range(rows))


def _same(one: pa.Table, other: pa.Table) -> bool:
    return bool(one.schema == other.schema and repr(one.to_pylist()) == repr(other.to_pylist()))


# --- the cast of a value, against arithmetic without rounding ---------------------------------


@given(values=st.lists(FLOATS, min_size=1, max_size=20))
@example(values=[None, math.nan, math.inf, -math.inf, 0.0])
@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        *itertools.product(["reject", "nan", "fill"], ["float16", "float32", "float64"]),
        *itertools.product(["reject", "fill"], ["int8", "int64", "uint64"]),
    ],
)
def test_null_nan_infinity_and_lossy_values_by_policy_and_type(
    values: list[float | None], policy: str, dtype: str
) -> None:
    fill = {"fill": 1} if policy == "fill" else {}
    contract = contract_of(dtype, null_policy=policy, **fill)
    encoded = encode(pa.record_batch({"f": pa.array(values, pa.float64())}), contract)
    expected = [_verdict(value, policy, dtype) for value in values]
    assert [r and r.partition(":")[0] for r in encoded.reasons.to_pylist()] == expected

    fed = [
        (1 if policy == "fill" else math.nan) if value is None else value
        for value, verdict in zip(values, expected, strict=True)
        if verdict is None
    ]
    np.testing.assert_array_equal(encoded.feeds["x"].ravel(), np.array(fed).astype(dtype))


def _verdict(value: float | None, policy: str, dtype: str) -> str | None:
    if value is None:
        return "null" if policy == "reject" else None
    if math.isnan(value):
        return None if policy == "nan" else "nan"
    if math.isinf(value):
        return "infinite"
    if dtype in INTEGER_TENSORS:
        return None if value.is_integer() and _fits(int(value), dtype) else "lossy_cast"
    with np.errstate(over="ignore"):
        there = float(np.dtype(dtype).type(value))
    if math.isinf(there):
        return "lossy_cast"
    change = abs(Fraction(there) - Fraction(value))
    limit = TOLERANCE.get(dtype, Fraction(0)) * abs(Fraction(value))
    return "lossy_cast" if change > limit else None


def _fits(value: int, dtype: str) -> bool:
    bits = int(dtype.rpartition("t")[2])
    if dtype.startswith("u"):
        return 0 <= value < 2**bits
    return -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


def _is_exact(value: int, dtype: str) -> bool:
    """Whether the type can hold this integer, computed from its bits without a cast."""
    if dtype == "bool":
        return value in (0, 1)
    if dtype in INTEGER_TENSORS:
        return _fits(value, dtype)
    size = abs(value)
    significant = size.bit_length() - ((size & -size).bit_length() - 1) if size else 0
    return significant <= SIGNIFICAND_BITS[dtype] and size <= LARGEST[dtype]


WHOLE = st.one_of(
    st.integers(-(2**127) + 1, 2**127 - 1),
    st.integers(-300, 300),
    # around every power of two, and multiples of large powers
    st.builds(
        lambda sign, power, off: sign * 2**power + off,
        st.sampled_from([1, -1]), st.integers(0, 125), st.integers(-2, 2),
    ),
    st.builds(lambda factor, power: factor << power, st.integers(-(2**55), 2**55), st.integers(0, 70)),
)  # fmt: skip


@given(values=st.lists(WHOLE, min_size=1, max_size=20))
@pytest.mark.parametrize("dtype", [*SIGNIFICAND_BITS, *INTEGER_TENSORS, "bool"])
def test_integers_of_up_to_128_bits_arrive_exactly_or_not_at_all(
    values: list[int], dtype: str
) -> None:
    values = [value for value in values if abs(value) < 10**38] or [0]
    column = pa.array([Decimal(value) for value in values], pa.decimal128(38, 0))
    _check_integers(column, values, dtype)


@given(data=st.data())
@pytest.mark.parametrize("source", INTEGER_TENSORS)
def test_integers_of_every_type_arrive_exactly_or_not_at_all(
    data: st.DataObject, source: str
) -> None:
    dtype = data.draw(st.sampled_from([*SIGNIFICAND_BITS, *INTEGER_TENSORS, "bool"]))
    bits = int(source.rpartition("t")[2])
    low, high = (0, 2**bits - 1) if source[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    edge = st.sampled_from([low, low + 1, high - 1, high, 0, 1])
    values = data.draw(st.lists(edge | st.integers(low, high), min_size=1, max_size=20))
    _check_integers(pa.array(values, getattr(pa, source)()), values, dtype)


def _check_integers(column: pa.Array, values: list[int], dtype: str) -> None:
    encoded = encode(pa.record_batch({"f": column}), contract_of(dtype))
    exact = [_is_exact(value, dtype) for value in values]
    assert encoded.valid.tolist() == exact
    kept = [value for value, keep in zip(values, exact, strict=True) if keep]
    assert [int(value) for value in encoded.feeds["x"].ravel()] == kept


@given(
    values=st.lists(st.decimals(-(10**9), 10**9, places=3), min_size=1, max_size=20),
    dtype=st.sampled_from(["float16", "float32", "float64", "int8", "int32", "uint64"]),
)
def test_decimals_arrive_within_the_tolerance_or_whole(values: list[Decimal], dtype: str) -> None:
    encoded = encode(
        pa.record_batch({"f": pa.array(values, pa.decimal128(20, 3))}), contract_of(dtype)
    )
    # a DECIMAL is compared at float64 precision, well within every default tolerance used here
    expected = [_verdict(float(value), "reject", dtype) is None for value in values]
    if dtype == "float64":
        assert encoded.valid.all()
    else:
        assert encoded.valid.tolist() == expected


# --- vectors ----------------------------------------------------------------------------------


@given(
    rows=st.lists(
        st.none() | st.lists(st.none() | st.integers(0, 9), max_size=4), min_size=1, max_size=20
    ),
    policy=st.sampled_from(["reject", "nan", "fill"]),
    start=st.integers(0, 19),
)
def test_lists_are_vectors_of_their_width_or_rejected(
    rows: list[list[int | None] | None], policy: str, start: int
) -> None:
    fill = {"fill": 7} if policy == "fill" else {}
    contract = contract_of("float32", width=2, null_policy=policy, **fill)
    batch = pa.record_batch({"f": pa.array(rows, pa.list_(pa.int32()))}).slice(start)
    encoded = encode(batch, contract)
    expected: list[str | None] = []
    fed: list[list[float]] = []
    for row in rows[start:]:
        if row is not None and len(row) != 2:
            expected.append("wrong_length:f")
        elif policy == "reject" and (row is None or None in row):
            expected.append("null:f")
        else:
            expected.append(None)
            absent = 7 if policy == "fill" else math.nan
            fed.append([absent if value is None else value for value in row or [None, None]])
    assert encoded.reasons.to_pylist() == expected
    np.testing.assert_array_equal(encoded.feeds["x"], np.array(fed).reshape(-1, 2))
