"""Whatever a model returns, decoding gives one error, or exactly the columns that the contract names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from parts import DTYPES, TEXT, fuzz

from dbt_onnx.errors import ScoringError
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output, arrow_type_of
from dbt_onnx.kernel.decode import decode

if TYPE_CHECKING:
    from dbt_onnx.kernel.contract import OutputKind

FLOATS = ("float16", "float32", "float64")
KINDS: tuple[OutputKind, ...] = ("label", "probabilities", "value", "values", "vector")
JUNK = st.sampled_from(
    [None, 1, "a", b"a", [], [[]], {}, [{}], [None], [1.0], (1.0,), np.float32(1), np.array(None),
     np.zeros(()), np.zeros((1, 1, 1)), [np.zeros(1)], np.zeros(2, "M8[s]"), np.zeros(2, "S1"),
     np.array([{}, []], object), np.array(["a", None], object), np.array([["\ud800"]], object),
     np.array([1, "a"], object), np.zeros(2, [("a", "f4")]), np.zeros(2, complex)]
)  # fmt: skip
ODD = st.sampled_from(["\ud800", None, [], b"a", {}, [1.0], "a\ud800", 10**400, object()])


@st.composite
def outputs(draw: st.DrawFn, number: int) -> Output:
    kind = draw(st.sampled_from(KINDS))
    dtype = draw(st.sampled_from(FLOATS if kind == "probabilities" else DTYPES))
    columns: tuple[str | None, ...] = (f"c{number}",)
    classes, width = None, None
    if kind in {"probabilities", "values"}:
        stored = draw(st.lists(st.booleans(), min_size=1, max_size=3))
        columns = tuple(
            f"c{number}_{i}" if is_stored else None for i, is_stored in enumerate(stored)
        )
    if kind == "probabilities":
        labels = st.integers(-3, 3) if draw(st.booleans()) else TEXT
        size = len(columns)
        classes = tuple(draw(st.lists(labels, min_size=size, max_size=size, unique=True)))
    if kind == "vector":
        width = draw(st.integers(1, 3))
    return Output(
        name=f"o{number}", kind=kind, dtype=dtype, columns=columns, classes=classes, width=width
    )


@st.composite
def arrays(draw: st.DrawFn, output: Output, n_rows: int) -> Any:
    """Arrays that fit the contract, in various memory layouts: strided, Fortran order, reversed, read-only."""
    width = output.width or len(output.columns)
    shape: tuple[int, ...] = (n_rows, width)
    if output.kind in {"label", "value"} and draw(st.booleans()):
        shape = (n_rows,)
    if output.dtype == "string":
        value: st.SearchStrategy[Any] = TEXT
    elif output.dtype in FLOATS:
        special = st.sampled_from([math.nan, math.inf, -math.inf])
        value = st.floats(width=int(output.dtype[5:])) | st.floats(0, 1, width=16) | special  # type: ignore[arg-type]
    else:
        value = st.integers(0, 1)
    count = n_rows * width
    flat = draw(st.lists(value, min_size=count, max_size=count))
    made = np.empty(count, object if output.dtype == "string" else output.dtype)
    made[:] = flat
    made = made.reshape(shape)
    layout = draw(st.sampled_from(["plain", "fortran", "strided", "reversed", "locked", "fixed"]))
    if layout == "fortran":
        made = np.asfortranarray(made)
    elif layout == "strided":
        made = np.repeat(made, 2, axis=0)[::2]
    elif layout == "reversed":
        made = np.ascontiguousarray(made[::-1])[::-1]
    elif layout == "fixed" and output.dtype == "string":
        made = made.astype(str)
    made.flags.writeable = layout != "locked"
    return made


@st.composite
def answers(draw: st.DrawFn) -> tuple[Contract, list[Any], int, bool]:
    """Return outputs, and whether they fit the contract."""
    n_rows = draw(st.integers(0, 4))
    chosen = tuple(draw(outputs(number)) for number in range(draw(st.integers(1, 3))))
    if not any(name for output in chosen for name in output.columns):
        chosen = (*chosen, Output(name="o", kind="value", dtype="float32", columns=("c",)))
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="x", dtype="float32", features=("a",)),),
        outputs=chosen,
    )
    came: list[Any] = [draw(arrays(output, n_rows)) for output in chosen]
    for place, output in enumerate(chosen):
        if output.classes and draw(st.booleans()):
            came[place] = [
                dict(zip(output.classes, row, strict=True)) for row in came[place].tolist()
            ]
    if draw(st.booleans()):
        return contract, came, n_rows, True
    place = draw(st.integers(0, len(came) - 1))
    value, output = came[place], chosen[place]
    shape = (n_rows, output.width or len(output.columns))
    changes = ["junk", "rows", "width", "type", "number"]
    if isinstance(value, list):
        changes += ["map", "value in a map"] * (3 if value else 0)
    elif output.dtype == "string" and n_rows:
        changes += ["object"] * 5
    change = draw(st.sampled_from(changes))
    if change == "junk":
        value = draw(JUNK)
    elif change == "rows":
        value = value[:-1] if n_rows else np.zeros((1, shape[1]))
    elif change == "width":
        value = np.zeros((n_rows, 4), "float32")
    elif change == "type":
        value = np.zeros(shape, "float64" if output.dtype != "float64" else "int64")
    elif change == "number":
        came.append(value)
    elif change == "map":
        value[-1] = draw(st.sampled_from([{}, {"o": 1.0}, None, [], value[-1] | {"o": 1.0}]))
    elif change == "value in a map":
        value[-1][draw(st.sampled_from(output.classes))] = draw(ODD)
    else:
        value = np.full(shape, "a", object)
        value[-1, -1] = draw(ODD)
    came[place] = value
    if isinstance(value, list) and not value and not n_rows and output.classes:
        # with no rows, an empty list of maps is valid
        return contract, came, n_rows, len(came) == len(chosen)
    if change == "object" and output.columns[-1] is None and isinstance(value[-1, -1], str):
        value[-1, -1] = "b"  # a lone surrogate is no fault in an output that is not stored
        return contract, came, n_rows, True
    return contract, came, n_rows, False


@given(drawn=answers())
@fuzz(4.0)
def test_the_columns_are_what_came_or_there_is_one_error(
    drawn: tuple[Contract, list[Any], int, bool],
) -> None:
    contract, came, n_rows, is_sound = drawn
    try:
        decoded = decode(came, contract, n_rows)
    except ScoringError as error:
        assert not is_sound, error
        assert error.hint
        return
    assert is_sound, "taken, and not what the contract says"
    columns, faults = _expected(contract, came, n_rows)
    assert [column.type for column in decoded.columns] == [
        field.type for field in contract.output_fields()
    ]
    assert repr([column.to_pylist() for column in decoded.columns]) == repr(columns)
    assert {name: rows.tolist() for name, rows in decoded.faults.items()} == faults
    assert list(decoded.faults) == list(faults)


def _expected(
    contract: Contract, came: list[Any], n_rows: int
) -> tuple[list[list[Any]], dict[str, list[bool]]]:
    columns: list[list[Any]] = []
    faults: dict[str, list[bool]] = {}
    for output, value in zip(contract.outputs, came, strict=True):
        if isinstance(value, list):
            rows = [[row[label] for label in output.classes or ()] for row in value]
        else:
            rows = [item if isinstance(item, list) else [item] for item in value.tolist()]
        narrow = arrow_type_of(output.dtype)
        rows = [pa.array(row, narrow).to_pylist() for row in rows]
        if output.kind == "vector":
            assert output.columns[0]
            columns.append(rows)
            _note(output.columns[0], rows, faults)
            continue
        for place, name in enumerate(output.columns):
            column = [row[place] for row in rows]
            if name is not None:
                columns.append(column)
            if name is not None or output.kind == "probabilities":
                _note(name or output.name, [[item] for item in column], faults)
    return columns, faults


def _note(name: str, rows: list[list[Any]], faults: dict[str, list[bool]]) -> None:
    for word, is_wrong in (("nan", math.isnan), ("infinite", math.isinf)):
        wrong = [any(isinstance(v, float) and is_wrong(v) for v in row) for row in rows]
        if any(wrong):
            reason = f"{word}_output:{name}"
            before = faults.get(reason, [False] * len(wrong))
            faults[reason] = [a or b for a, b in zip(before, wrong, strict=True)]
