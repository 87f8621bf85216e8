"""A stream of features becomes a stream of predictions: each row once, in order, scored or rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import graphs
import numpy as np
import pyarrow as pa
import pytest

from dbt_onnx.errors import ContractError, ScoringError
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.kernel.scoring import count_reasons, prediction_schema, score_batches
from dbt_onnx.kernel.session import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LINEAR = Contract(
    features=(Feature(name="a"), Feature(name="b")),
    inputs=(Input(name="x", dtype="float32", features=("a", "b")),),
    outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
)
ROOTS = Contract(
    features=(Feature(name="a"),),
    inputs=(Input(name="a", dtype="float32", features=("a",)),),
    outputs=(
        Output(name="root", kind="value", dtype="float32", columns=("root",)),
        Output(name="inverse", kind="value", dtype="float32", columns=("inverse",)),
    ),
)


def session_of(model_bytes: bytes, contract: Contract, **settings: Any) -> OnnxSession:
    names = [output.name for output in contract.outputs]
    return OnnxSession(model_bytes, output_names=names, threads=1, **settings)


def batch_of(**columns: Any) -> pa.RecordBatch:
    n_rows = len(next(iter(columns.values())))
    keys = pa.array([f"k{row}" for row in range(n_rows)])
    return pa.record_batch({"__dbt_onnx_key_0": keys, **columns})


def score_all(
    *batches: pa.RecordBatch, contract: Contract, model_bytes: bytes, **settings: Any
) -> tuple[pa.Table, dict[str, str]]:
    examples: dict[str, str] = {}
    scorer = session_of(model_bytes, contract)
    out = list(score_batches(batches, scorer, contract=contract, examples=examples, **settings))
    return pa.Table.from_batches(out, prediction_schema(batches[0].schema, contract)), examples


class Recorder:
    """A scorer that records the number of rows of each call and returns y = a."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        self.calls.append(len(feeds["x"]))
        return [feeds["x"][:, 0]]


def test_predictions_are_what_a_hand_computes() -> None:
    batch = batch_of(a=[1, 3, 0], b=[2.0, 4.0, -1.0])
    table, _ = score_all(batch, contract=LINEAR, model_bytes=graphs.linear())
    assert table.to_pydict() == {
        "__dbt_onnx_key_0": ["k0", "k1", "k2"],
        "y": [0.5, 2.5, 1.5],
        "rejected_reason": [None] * 3,
    }


def test_a_rejected_row_has_no_outputs_and_a_reason_and_the_job_goes_on() -> None:
    batch = batch_of(a=[1.0, None, 3.0, np.inf], b=[2.0, 0.0, 4.0, 0.0])
    table, _ = score_all(batch, contract=LINEAR, model_bytes=graphs.linear())
    assert table["y"].to_pylist() == [0.5, None, 2.5, None]
    assert table["rejected_reason"].to_pylist() == [None, "null:a", None, "infinite:a"]
    assert count_reasons(table.to_batches()) == {"null:a": 1, "infinite:a": 1}


def test_a_row_whose_output_is_nan_or_infinite_loses_all_its_outputs() -> None:
    batch = batch_of(a=[None, 4.0, -1.0, 0.0, 1.0])
    table, _ = score_all(batch, contract=ROOTS, model_bytes=graphs.square_root_and_reciprocal())
    assert table["root"].to_pylist() == [None, 2, None, None, 1]
    assert table["inverse"].to_pylist() == [None, 0.25, None, None, 1]
    reasons = ["null:a", None, "nan_output:root", "infinite_output:inverse", None]
    assert table["rejected_reason"].to_pylist() == reasons


def test_the_first_bad_column_is_the_reason_and_a_row_is_counted_once() -> None:
    class Broken:
        def run(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
            return [np.full(len(feeds["a"]), bad, np.float32) for bad in (np.inf, np.nan)]

    (out,) = score_batches([batch_of(a=[1.0])], Broken(), contract=ROOTS)
    assert out["rejected_reason"].to_pylist() == ["infinite_output:root"]
    assert count_reasons([out]) == {"infinite_output:root": 1}


def test_a_row_that_the_plan_rejected_is_not_scored() -> None:
    recorder = Recorder()
    planned = pa.array([None, "null_key"], pa.string())
    batch = batch_of(a=[1, 2], b=[1, 2], __dbt_onnx_rejected_reason=planned)
    (out,) = score_batches([batch], recorder, contract=LINEAR)
    assert recorder.calls == [1]
    assert "__dbt_onnx_rejected_reason" not in out.schema.names
    assert out["rejected_reason"].to_pylist() == [None, "null_key"]
    assert out["y"].to_pylist() == [1, None]


def test_a_batch_without_a_valid_row_does_not_run_the_model() -> None:
    recorder = Recorder()
    batch = batch_of(a=pa.nulls(2, pa.int32()), b=[1, 2])
    (out,) = score_batches([batch], recorder, contract=LINEAR)
    assert recorder.calls == []
    assert out["y"].to_pylist() == [None, None]
    assert out["y"].type == pa.float32()


def test_batches_are_cut_to_part_rows_and_progress_is_told() -> None:
    recorder, told = Recorder(), []
    batches = [batch_of(a=range(n), b=range(n)) for n in (5, 0, 2)]
    out = list(
        score_batches(batches, recorder, contract=LINEAR, part_rows=2, on_progress=told.append)
    )
    assert recorder.calls == [2, 2, 1, 2]
    assert told == [2, 2, 1, 2]
    assert [batch.num_rows for batch in out] == [2, 2, 1, 2]
    assert pa.Table.from_batches(out)["__dbt_onnx_key_0"].to_pylist() == [
        "k0", "k1", "k2", "k3", "k4", "k0", "k1"
    ]  # fmt: skip


def test_an_empty_stream_gives_no_batch_and_the_schema_is_known_without_one() -> None:
    assert list(score_batches([], Recorder(), contract=LINEAR)) == []
    empty = batch_of(a=[], b=[]).cast(
        pa.schema([("__dbt_onnx_key_0", pa.string()), ("a", pa.int32()), ("b", pa.int32())])
    )
    assert list(score_batches([empty], Recorder(), contract=LINEAR)) == []


def test_the_schema_has_carried_columns_outputs_and_the_reason() -> None:
    carried = pa.schema(
        [
            pa.field("__dbt_onnx_key_0", pa.int64()),
            pa.field("__dbt_onnx_as_of", pa.timestamp("us")),
            pa.field("__dbt_onnx_rejected_reason", pa.string()),
            pa.field("a", pa.float64()),
            pa.field("__dbt_onnx_features_hash", pa.uint64()),
        ]
    )
    assert prediction_schema(carried, ROOTS) == pa.schema(
        [
            pa.field("__dbt_onnx_key_0", pa.int64()),
            pa.field("__dbt_onnx_as_of", pa.timestamp("us")),
            pa.field("__dbt_onnx_features_hash", pa.uint64()),
            pa.field("root", pa.float32()),
            pa.field("inverse", pa.float32()),
            pa.field("rejected_reason", pa.string()),
        ]
    )


def test_vectors_of_rejected_rows_are_null() -> None:
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="a", dtype="float32", features=("a",)),),
        outputs=(Output(name="e", kind="vector", dtype="float32", columns=("e",), width=3),),
    )
    table, _ = score_all(
        batch_of(a=[1, None, 2]), contract=contract, model_bytes=graphs.embedding(3)
    )
    assert table["e"].type == pa.list_(pa.float32(), 3)
    assert table["e"].to_pylist() == [[1, 2, 3], None, [2, 4, 6]]


def test_a_stream_is_read_one_part_ahead_of_each_worker_and_never_closed() -> None:
    closed = []

    def stream() -> Iterator[pa.RecordBatch]:
        try:
            for _ in range(9):
                taken.append(1)
                yield batch_of(a=[1], b=[1])
        finally:
            closed.append(1)

    taken: list[int] = []
    source = stream()
    predictions = score_batches(source, Recorder(), contract=LINEAR, workers=2)
    next(predictions)
    assert len(taken) == 3
    predictions.close()  # type: ignore[attr-defined]
    assert closed == []
    assert next(source).num_rows == 1


def test_examples_show_the_key_and_the_value_of_the_first_row_of_a_reason() -> None:
    batch = batch_of(
        a=[1, None, None, 16_777_217], b=pa.array([1, 2, 3, 4]), __dbt_onnx_key_1=[9, 8, 7, 6]
    )
    table, examples = score_all(batch, contract=LINEAR, model_bytes=graphs.linear(), part_rows=1)
    assert count_reasons(table.to_batches()) == {"null:a": 2, "lossy_cast:a": 1}
    assert examples == {
        "null:a": "k1, 8 (a = NULL)",
        "lossy_cast:a": "k3, 6 (a = 16777217)",
    }


def test_examples_of_long_values_are_cut() -> None:
    batch = batch_of(a=pa.nulls(1, pa.int32()), b=[1])
    batch = batch.set_column(0, "__dbt_onnx_key_0", pa.array(["x" * 100]))
    _, examples = score_all(batch, contract=LINEAR, model_bytes=graphs.linear())
    assert examples["null:a"] == "x" * 57 + "... (a = NULL)"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (pa.array([2**31 - 1], pa.int32()).view(pa.date32()), "<value out of range: 2147483647>"),
        (pa.array([253_402_300_800]).view(pa.timestamp("s")), "10000-01-01 00:00:00"),
    ],
)
def test_examples_show_moments_that_no_calendar_of_python_has(key: pa.Array, shown: str) -> None:
    batch = batch_of(a=pa.nulls(1, pa.int32()), b=[1]).set_column(0, "__dbt_onnx_key_0", key)
    _, examples = score_all(batch, contract=LINEAR, model_bytes=graphs.linear())
    assert examples["null:a"] == f"{shown} (a = NULL)"


def test_a_model_that_fails_names_the_rows() -> None:
    contract = Contract(
        features=(Feature(name="i"),),
        inputs=(Input(name="i", dtype="int64", features=("i",)),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    batch = batch_of(i=[0, 1, 2, 0, 99])
    predictions = score_batches(
        [batch],
        session_of(graphs.lookup(), contract),
        contract=contract,
        part_rows=2,
    )
    assert next(predictions)["y"].to_pylist() == [10, 20]
    assert next(predictions)["y"].to_pylist() == [30, 10]
    with pytest.raises(ScoringError, match=r"rows 5 to 5: the model failed on i int64\[1, 1\]"):
        next(predictions)


def test_a_model_that_gives_the_wrong_number_of_rows_is_an_error() -> None:
    contract = Contract(
        features=LINEAR.features,
        inputs=LINEAR.inputs,
        outputs=(Output(name="y", kind="values", dtype="float32", columns=("u", "v")),),
    )
    with pytest.raises(ScoringError) as caught:
        score_all(
            batch_of(a=[1, 2], b=[1, 2]), contract=contract, model_bytes=graphs.first_row_only()
        )
    assert caught.value.message == (
        "rows 1 to 2: output 'y' (values) should be float32[2, 2]; the model gave float32[1, 2]"
    )


def test_a_stream_without_the_contracts_columns_is_an_error_and_not_a_wrong_answer() -> None:
    with pytest.raises(ContractError, match="column 'b' is missing"):
        score_all(batch_of(a=[1]), contract=LINEAR, model_bytes=graphs.linear())


def test_a_model_of_one_row_at_a_time_scores_a_whole_batch() -> None:
    batch = batch_of(a=[1.0, None, 3.0], b=[2.0, 1.0, 4.0])
    scorer = session_of(graphs.fixed_batch(), LINEAR, batch_rows=1)
    (out,) = score_batches([batch], scorer, contract=LINEAR)
    assert out["y"].to_pylist() == [0.5, None, 2.5]
