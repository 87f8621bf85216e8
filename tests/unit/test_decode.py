"""A model's outputs become columns, or an error names what was expected and what the model returned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dbt_onnx.errors import ScoringError
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.kernel.decode import Decoded, decode


def contract_of(*outputs: Output) -> Contract:
    return Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="x", dtype="float32", features=("a",)),),
        outputs=outputs,
    )


def label(dtype: Any = "int64") -> Output:
    return Output(name="label", kind="label", dtype=dtype, columns=("churned",))


def value(dtype: Any = "float32") -> Output:
    return Output(name="variable", kind="value", dtype=dtype, columns=("spend",))


def probabilities(*classes: Any, columns: tuple[str | None, ...] | None = None) -> Output:
    return Output(
        name="probabilities",
        kind="probabilities",
        dtype="float32",
        columns=columns or tuple(f"p_{c}" for c in classes),
        classes=classes,
    )


def values(*columns: str | None) -> Output:
    return Output(name="targets", kind="values", dtype="float32", columns=columns)


def vector(width: int, dtype: Any = "float32") -> Output:
    return Output(name="embedding", kind="vector", dtype=dtype, columns=("e",), width=width)


def decode_one(output: Output, came: Any, n_rows: int = 2) -> Decoded:
    contract = contract_of(output)
    decoded = decode([came], contract, n_rows)
    assert [column.type for column in decoded.columns] == [f.type for f in contract.output_fields()]
    return decoded


def columns_of(output: Output, came: Any, n_rows: int = 2) -> list[Any]:
    return [column.to_pylist() for column in decode_one(output, came, n_rows).columns]


def floats(came: Any) -> Any:
    return np.array(came, np.float32)


def text(came: Any) -> Any:
    return np.array(came, object)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_labels_are_integers_or_text_of_one_or_two_axes(shape: tuple[int, ...]) -> None:
    assert columns_of(label(), np.array([1, 0]).reshape(shape)) == [[1, 0]]
    assert columns_of(label("string"), text(["no", "ü"]).reshape(shape)) == [["no", "ü"]]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8", "bool"])
def test_values_keep_their_type_of_one_or_two_axes(shape: tuple[int, ...], dtype: str) -> None:
    assert columns_of(value(dtype), np.array([1, 0]).astype(dtype).reshape(shape)) == [[1, 0]]


def test_half_floats_are_stored_as_floats() -> None:
    (column,) = decode_one(value("float16"), np.array([0.5, 0.1], np.float16)).columns
    assert column.type == pa.float32()
    assert column.to_pylist() == [0.5, float(np.float16(0.1))]


def test_a_tensor_of_probabilities_has_a_column_for_each_class() -> None:
    came = floats([[0.25, 0.5, 0.25], [1, 0, 0]])
    assert columns_of(probabilities(0, 1, 2), came) == [[0.25, 1], [0.5, 0], [0.25, 0]]


@pytest.mark.parametrize("classes", [(0, 1, 5), ("a", "ü", "c")])
def test_maps_of_probabilities_are_read_by_class_and_not_by_position(classes: Any) -> None:
    first, second, third = classes
    came = [
        {third: 0.25, first: 0.5, second: 0.25},
        {first: 1.0, second: 0.0, third: 0.0},
    ]
    assert columns_of(probabilities(*classes), came) == [[0.5, 1], [0.25, 0], [0.25, 0]]


def test_a_map_of_one_class_is_one_column() -> None:
    assert columns_of(probabilities("only"), [{"only": 1.0}, {"only": 0.5}]) == [[1, 0.5]]


def test_an_unnamed_class_is_not_stored() -> None:
    output = probabilities(0, 1, columns=(None, "probability"))
    assert columns_of(output, floats([[0.75, 0.25], [0, 1]])) == [[0.25, 1]]
    assert columns_of(output, [{0: 0.75, 1: 0.25}, {0: 0.0, 1: 1.0}]) == [[0.25, 1]]


def test_several_targets_are_several_columns() -> None:
    assert columns_of(values("u", None, "w"), floats([[1, 2, 3], [4, 5, 6]])) == [[1, 4], [3, 6]]


def test_a_vector_is_one_array() -> None:
    assert columns_of(vector(3), floats([[1, 2, 3], [4, 5, 6]])) == [[[1, 2, 3], [4, 5, 6]]]
    # a transposed array is not contiguous in memory
    assert columns_of(vector(2), floats([[1, 2], [3, 4]]).T) == [[[1, 3], [2, 4]]]


def test_several_outputs_come_in_the_order_of_the_contract() -> None:
    contract = contract_of(label(), values("u", "w"), vector(1, "int64"))
    decoded = decode([np.array([7]), floats([[1, 2]]), np.array([[9]])], contract, 1)
    assert [column.to_pylist() for column in decoded.columns] == [[7], [1], [2], [[9]]]


def faults_of(decoded: Decoded) -> dict[str, list[bool]]:
    return {reason: rows.tolist() for reason, rows in decoded.faults.items()}


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinity_are_faults_of_their_rows(shape: tuple[int, ...], dtype: str) -> None:
    came = np.array([1, np.nan, np.inf, -np.inf]).astype(dtype).reshape(shape)
    assert faults_of(decode_one(value(dtype), came, 4)) == {
        "nan_output:spend": [False, True, False, False],
        "infinite_output:spend": [False, False, True, True],
    }


def test_one_bad_element_is_a_fault_of_its_vector() -> None:
    assert faults_of(decode_one(vector(2), floats([[1, 2], [3, np.inf]]))) == {
        "infinite_output:e": [False, True]
    }


def test_good_outputs_have_no_faults() -> None:
    assert decode_one(value(), floats([3e38, -0.0])).faults == {}


def test_an_unstored_value_may_be_infinite_but_an_unstored_probability_may_not() -> None:
    came = floats([[np.inf, 1], [0, 1]])
    assert decode_one(values(None, "w"), came).faults == {}
    assert faults_of(decode_one(probabilities(0, 1, columns=(None, "p")), came)) == {
        "infinite_output:probabilities": [True, False]
    }


@pytest.mark.parametrize(
    ("output", "came", "expected", "got"),
    [
        (value(), floats([1]), "float32[2] or [2, 1]", "float32[1]"),
        (value(), floats([1, 2, 3]), "float32[2] or [2, 1]", "float32[3]"),
        (value(), floats([[1, 2]]), "float32[2] or [2, 1]", "float32[1, 2]"),
        (value(), floats(1), "float32[2] or [2, 1]", "float32[]"),
        (value(), np.array([1.0, 2.0]), "float32[2] or [2, 1]", "float64[2]"),
        (value(), text(["a", "b"]), "float32[2] or [2, 1]", "string[2]"),
        (value(), [1.0, 2.0], "float32[2] or [2, 1]", "a list"),
        (label(), text(["a", "b"]), "int64[2] or [2, 1]", "string[2]"),
        (label("string"), np.array([1, 2]), "string[2] or [2, 1]", "int64[2]"),
        (label("string"), text([["a", "b"], ["c", "d"]]), "string[2] or [2, 1]", "string[2, 2]"),
        (probabilities(0, 1), floats([[1, 0, 0]] * 2), "float32[2, 2]", "float32[2, 3]"),
        (probabilities(0, 1), floats([0, 1]), "float32[2, 2]", "float32[2]"),
        (probabilities(0, 1), [{0: 1.0, 1: 0.0}], "2 maps of the classes [0, 1]", "1 maps"),
        (
            probabilities(0, 1),
            [{0: 1.0, 1: 0.0}, {0: 1.0, 2: 0.0}],
            "2 maps of the classes [0, 1]",
            "a map of [0, 2]",
        ),
        (
            probabilities(0, 1),
            [{0: 1.0, 1: 0.0, 2: 0.0}, {0: 1.0, 1: 0.0}],
            "2 maps of the classes [0, 1]",
            "a map of [0, 1, 2]",
        ),
        (probabilities(0, 1), [{0: 1.0}] * 2, "2 maps of the classes [0, 1]", "a map of [0]"),
        (
            probabilities("0", "1"),
            [{0: 1.0, 1: 0.0}] * 2,
            "2 maps of the classes ['0', '1']",
            "a map of [0, 1]",
        ),
        (probabilities(0, 1), [[0.0, 1.0]] * 2, "2 maps of the classes [0, 1]", "a list"),
        (values("u", "w"), floats([[1], [2]]), "float32[2, 2]", "float32[2, 1]"),
        (vector(3), floats([[1, 2]] * 2), "float32[2, 3]", "float32[2, 2]"),
        (vector(2), floats([[[1, 2]]] * 2), "float32[2, 2]", "float32[2, 1, 2]"),
    ],
)
def test_what_came_decides_and_a_surprise_names_the_output(
    output: Output, came: Any, expected: str, got: str
) -> None:
    with pytest.raises(ScoringError) as caught:
        decode([came], contract_of(output), 2)
    assert caught.value.message == (
        f"output {output.name!r} ({output.kind}) should be {expected}; the model gave {got}"
    )


def test_a_wrong_number_of_outputs_is_an_error() -> None:
    with pytest.raises(ScoringError, match="gave 1 outputs, but the contract has 2"):
        decode([np.array([1])], contract_of(label(), value()), 1)


@pytest.mark.parametrize("odd", ["0.5", b"0.5", None, [0.5], {}, 10**400])
def test_a_map_of_something_else_than_numbers_is_refused(odd: Any) -> None:
    for output, came in (
        (probabilities(0, 1), [{0: 0.5, 1: 0.5}, {0: 0.5, 1: odd}]),
        (probabilities(0), [{0: 0.5}, {0: odd}]),
    ):
        with pytest.raises(ScoringError, match="the model gave values that are not numbers"):
            decode_one(output, came)


@pytest.mark.parametrize(
    ("odd", "got"),
    [
        (None, "an array with a value of type NoneType"),
        (1, "an array with a value of type int"),
        ("\ud800", "a value that is not valid text"),
    ],
)
def test_text_that_is_none_is_refused(odd: Any, got: str) -> None:
    with pytest.raises(ScoringError, match=f"the model gave {got}"):
        decode_one(label("string"), text(["a", odd]))


@pytest.mark.parametrize("dtype", ["<U3", object])
def test_text_with_a_nul_character_stays_whole(dtype: Any) -> None:
    decoded = decode([np.array(["\x00a", "b"], dtype=dtype)], contract_of(label("string")), 2)
    assert decoded.columns[0].to_pylist() == ["\x00a", "b"]
