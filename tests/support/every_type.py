"""Every SQL type that a model can read, with its edge values and the results expected by Python.

`check_type` tests a type in a first run, a night without changes, a night with changes, a replay, the history, and
after the column of kept inputs gets a wider type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, getcontext
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.feature_types import converted, kept_as, widened
from dbt_onnx.engines.duckdb.history import read_history
from dbt_onnx.engines.duckdb.replaying import replay_run
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from warehouse import Warehouse

SCORES = TableName(database="w", schema="main", identifier="scores")
INTEGERS = {
    "TINYINT": (-(2**7), 2**7 - 1), "SMALLINT": (-(2**15), 2**15 - 1), "INTEGER": (-(2**31), 2**31 - 1),
    "BIGINT": (-(2**63), 2**63 - 1), "HUGEINT": (-(2**127), 2**127 - 1),
    "UTINYINT": (0, 2**8 - 1), "USMALLINT": (0, 2**16 - 1), "UINTEGER": (0, 2**32 - 1), "UBIGINT": (0, 2**64 - 1),
}  # fmt: skip
FLOATS = {
    "FLOAT": ["0.1", "16777217", "3.4028234663852886e38", "1.17549435e-38", "1e-45", "nan", "inf"],
    "DOUBLE": [
        "0.1", "0.30000000000000004", "9007199254740991", "1.7976931348623157e308", "2.2250738585072014e-308",
        "5e-324", "1e39", "nan", "-inf",
    ],
}  # fmt: skip
DECIMALS = [
    "DECIMAL(4,1)",
    "DECIMAL(9,9)",
    "DECIMAL(18,2)",
    "DECIMAL(18,0)",
    "DECIMAL(38,10)",
    "DECIMAL(38,38)",
]
TEXTS = ["", " ", "a", "A", "é", "e\u0301", "🦆", "null", "[1, 2]", "a'b\"c", "a,b", "x" * 100_000]
MOMENTS = {
    "DATE": ["0001-01-01", "1969-12-31", "1970-01-01", "9999-12-31"],
    "TIMESTAMP": ["1969-12-31 23:59:59.999999", "2024-02-29 12:00:00", "9999-12-31 23:59:59.999999"],
    "TIMESTAMP_S": ["1969-12-31 23:59:59", "2024-02-29 12:00:00"],
    "TIMESTAMP_MS": ["1969-12-31 23:59:59.999", "2024-02-29 12:00:00.001"],
    "TIMESTAMP_NS": ["1969-12-31 23:59:59.999999", "2024-02-29 12:00:00.000001"],
    "TIMESTAMP WITH TIME ZONE": ["1719-02-08 18:15:26+00", "2024-03-31 02:30:00+01", "2024-02-29 12:00:00-11"],
    "TIMESTAMPTZ_NS": ["2024-03-31 02:30:00+01"],
}  # fmt: skip
# DuckDB's type of an untyped column, which a model reads as NULL
UNTYPED = '"NULL"'
# refused: values in the upper half of the type are negative in Arrow
REFUSED = {"UHUGEINT"}


def decimal_edges(kind: str) -> list[str]:
    precision, scale = map(int, kind[8:-1].split(","))
    getcontext().prec = 80
    digits = [
        0,
        1,
        10**precision - 1,
        -(10**precision) + 1,
        min(2**53 + 1, 10**precision - 2),
        11557 % 10**precision,
    ]
    return [format(Decimal(n).scaleb(-scale), "f") for n in digits]


def values_of(kind: str) -> list[str]:
    """Return values as text that SQL can cast to the type."""
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return [
            str(n)
            for n in sorted({low, -1, 0, 1, 2**53, 2**53 + 1, 2**24 + 1, high - 1, high})
            if low <= n <= high
        ]
    if kind in FLOATS:
        return FLOATS[kind]
    if kind.startswith("DECIMAL"):
        return decimal_edges(kind)
    if kind in MOMENTS:
        return MOMENTS[kind]
    return {
        "VARCHAR": TEXTS, "JSON": ['{"a": [1, null]}', '"A"', '"a"'],
        "UUID": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
        "ENUM('small', 'l]ar''ge(', 'é')": ["small", "l]ar'ge(", "é"], "BOOLEAN": ["true", "false"],
    }[kind]  # fmt: skip


TYPES = [
    *INTEGERS, *FLOATS, *DECIMALS, *MOMENTS, "VARCHAR", "JSON", "UUID", "ENUM('small', 'l]ar''ge(', 'é')", "BOOLEAN",
]  # fmt: skip


def tensor_types(kind: str) -> list[str]:
    if kind in {"VARCHAR", "JSON", "UUID"} or kind.startswith("ENUM"):
        return ["string"]
    return ["float32", "float64", "int64"]


def oracle(kind: str, text: str, dtype: str) -> Any:
    """Compute with Python the value that the model must read; None if the row must be rejected."""
    if dtype == "string":
        return text
    exact: Any
    if kind == "BOOLEAN":
        exact = Fraction(text == "true")
    elif kind in MOMENTS:
        moment = datetime.fromisoformat(text)
        since = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        exact = Fraction(since.days) + Fraction(
            since.seconds * 10**6 + since.microseconds, 86_400 * 10**6
        )
    elif kind in FLOATS:
        number = float(np.float32(text)) if kind == "FLOAT" else float(text)
        if not math.isfinite(number):
            return None
        exact = Fraction(number)
    else:
        exact = Fraction(text)
    if dtype == "int64":
        return int(exact) if exact.denominator == 1 and -(2**63) <= exact < 2**63 else None
    with np.errstate(over="ignore"):
        nearest = np.dtype(dtype).type(float(exact))
    if kind in INTEGERS or kind.endswith(",0)") or (kind in MOMENTS and exact.denominator == 1):
        return nearest if Fraction(float(nearest)) == exact else None
    tolerance = {"float32": 1e-6, "float64": 1e-12}[dtype]
    near = math.isfinite(nearest) and abs(Fraction(float(nearest)) - exact) <= Fraction(
        tolerance
    ) * abs(exact)
    return nearest if near else None


def identity(warehouse: Warehouse, kind: str, dtype: Any, width: int | None) -> None:
    """Register a model that returns its input."""
    proto = {
        "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "int64": TensorProto.INT64,
        "string": TensorProto.STRING,
    }[dtype]  # fmt: skip
    columns = width or 1
    graph = helper.make_graph(
        [helper.make_node("Identity", ["X"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("X", proto, ["N", columns])],
        [helper.make_tensor_value_info("y", proto, ["N", columns])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    contract = Contract(
        features=(Feature(name="f", width=width, time_unit="day" if kind in MOMENTS else None),),
        inputs=(Input(name="X", dtype=dtype, features=("f",)),),
        outputs=(
            Output(
                name="y",
                kind="values" if width else "value",
                dtype=dtype,
                columns=tuple(f"y{i}" for i in range(columns)),
            ),
        ),
    )
    warehouse.register("1", model.SerializeToString(), contract)


def relation(kind: str, shape: str, texts: list[list[str]]) -> str:
    """Return SQL for a relation with one row for each list of texts."""

    def cell(row: list[str]) -> str:
        values = [f"cast('{text.replace(chr(39), chr(39) * 2)}' as {kind})" for text in row]
        return values[0] if shape == "" else f"cast([{', '.join(values)}] as {kind}{shape})"

    rows = [f"select {i} as id, {cell(row)} as f" for i, row in enumerate(texts)]
    return " union all ".join(rows)


def registry_of(warehouse: Warehouse) -> Registry:
    names = [row[0] for row in warehouse.sql("describe model_registry")]
    rows = [dict(zip(names, row, strict=True)) for row in warehouse.sql("from model_registry")]
    return Registry.from_rows(rows, where="model_registry")


def check_replay(warehouse: Warehouse, run_id: str) -> None:
    replay = replay_run(
        warehouse.connection,
        SCORES,
        run_id,
        registry=registry_of(warehouse),
        artifacts=warehouse.artifacts,
    )
    assert not replay.findings
    assert replay.identical == replay.rows_kept > 0


def check_type(
    warehouse: Warehouse, kind: str, shape: str, dtype: str, *, values: list[str] | None = None
) -> None:
    """Check that the model reads each value as `oracle` does, and that all other values are rejected."""
    warehouse.sql("set global TimeZone = 'Pacific/Apia'")
    identity(warehouse, kind, dtype, 2 if shape else None)
    values = values or values_of(kind)
    rows = [[value, values[0]] if shape else [value] for value in values]
    seen = [[oracle(kind, text, dtype) for text in row] for row in rows]
    expected = {i: row if None not in row else [None] * len(row) for i, row in enumerate(seen)}
    features = relation(kind, shape, rows)
    warehouse.run(features=features)
    outputs = ", ".join(f"y{i}" for i in range(len(rows[0])))
    scored = {key: rest for key, *rest in warehouse.sql(f"select id, {outputs} from scores")}
    assert scored == expected
    assert warehouse.run(features=features).rows_unchanged == len(rows)
    # each entity gets the value of the next entity, and is scored again if the model reads another value
    warehouse.run(features=relation(kind, shape, [*rows[1:], rows[0]]))
    again = {row[0] for row in warehouse.sql("select id from scores where run_id = 'run-3'")}
    for i, row in expected.items():
        after = expected[(i + 1) % len(rows)]
        # the hash has the moment itself, and two moments may be the same float
        if None not in row and None not in after and (row != after or kind not in MOMENTS):
            assert (i in again) == (row != after), (rows[i], rows[(i + 1) % len(rows)])
    check_replay(warehouse, "run-1")
    for i in again:
        changes = read_history(warehouse.connection, SCORES, [str(i)])[-1].changed_inputs
        assert isinstance(changes, Mapping)
    # the column of kept inputs becomes wider for another type, and converts back to the same values
    kept = kept_as(kind + shape)
    wider = widened(kept, f"VARCHAR{shape}")
    using = converted("f", kept, wider)
    warehouse.sql(f"alter table scores__inputs alter f set data type {wider} using {using}")
    check_replay(warehouse, "run-1")
