"""One row scored on request gets the same answer as in a run; an invalid row gets one clear error."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import graphs
import killers
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_onnx.artifacts.artifact import load_artifact, write_artifact
from dbt_onnx.errors import ArtifactError, ContractError, FeaturesError, ScoringError
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.kernel.json_values import type_of, type_text
from dbt_onnx.kernel.scoring import score_batches
from dbt_onnx.serving.manifest import Column, ServedModel
from dbt_onnx.serving.scoring import ModelScorer

if TYPE_CHECKING:
    from pathlib import Path

LINEAR = Contract(
    features=(Feature(name="a"), Feature(name="b", null_policy="fill", fill=3)),
    inputs=(Input(name="x", dtype="float32", features=("a", "b")),),
    outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
)


def served(
    root: Path, model: bytes, contract: Contract, *, version: str = "1", **types: str
) -> ServedModel:
    entry = write_artifact(
        root / "models", model, model_name="line", model_version=version, contract=contract
    )
    assert entry.card_sha256
    return ServedModel(
        model_name="line",
        model_version=version,
        artifact=entry.artifact,
        sha256=entry.sha256,
        card_sha256=entry.card_sha256,
        features=tuple(Column(name, types.get(name, "double")) for name in contract.feature_names),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def linear(folder: Path) -> ServedModel:
    return served(folder, graphs.linear(), LINEAR)


def test_a_row_is_scored_by_hand(folder: Path, linear: ServedModel) -> None:
    scorer = ModelScorer(folder, linear)
    scored = scorer.score({"a": Decimal("1.5"), "b": 1})
    assert (scored.outputs, scored.rejected_reason) == ({"y": 2.5}, None)
    # the contract fills b with 3, and rejects a row without a
    assert scorer.score({"a": 1, "b": None}).outputs == {"y": -0.5}
    rejected = scorer.score({"a": None, "b": 1})
    assert (rejected.outputs, rejected.rejected_reason) == ({}, "null:a")


numbers = {
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "int8": st.integers(-128, 127),
    "decimal128(18, 2)": st.decimals(-(10**15), 10**15, places=2),
}


@given(
    st.sampled_from(sorted(numbers)).flatmap(
        lambda kind: st.tuples(
            st.just(kind),
            st.lists(
                st.tuples(st.none() | numbers[kind], numbers["double"]), min_size=1, max_size=8
            ),
        )
    )
)
@settings(deadline=None, max_examples=60)
def test_a_request_says_bit_for_bit_what_a_batch_says(
    folder: Path, linear: ServedModel, drawn: tuple[str, list[tuple[Any, float]]]
) -> None:
    kind, rows = drawn
    model = ServedModel(**{**vars(linear), "features": (Column("a", kind), Column("b", "double"))})
    batch = pa.record_batch(
        [pa.array([a for a, _ in rows], type_of(kind)), pa.array([b for _, b in rows])],
        names=["a", "b"],
    )
    entry = ModelScorer(folder, model)
    artifact = load_artifact(folder / "models", _entry(model))
    [expected] = score_batches([batch], artifact.open(), contract=artifact.contract)
    for row, (a, b) in enumerate(rows):
        # as over HTTP: JSON, parsed with exact numbers
        features = json.loads(
            json.dumps({"a": str(a) if isinstance(a, Decimal) else a, "b": b}),
            parse_float=Decimal,
        )
        if isinstance(a, Decimal):
            features["a"] = Decimal(features["a"])
        got = entry.score(features)
        assert got.rejected_reason == expected.column("rejected_reason")[row].as_py()
        if got.rejected_reason is None:
            wanted = expected.column("y").slice(row, 1).to_numpy()
            assert np.float32(got.outputs["y"]).tobytes() == wanted.tobytes()


def _entry(model: ServedModel) -> Any:
    from dbt_onnx.artifacts.registry import RegistryEntry

    return RegistryEntry(
        model_name="line",
        model_version="1",
        alias=None,
        artifact=model.artifact,
        sha256=model.sha256,
        card_sha256=model.card_sha256,
    )


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"a": 1}, "'b' is missing"),
        ({}, "'a' is missing; 'b' is missing"),
        ({"a": 1, "b": 1, "c": 1}, "'c' is not a feature of the model"),
        ({"a": "1", "b": 1}, "'a' is not of type double"),
        ({"a": True, "b": 1}, "'a' is not of type double: a boolean is not a number"),
        ({"a": [1], "b": 1}, "'a' is not of type double"),
        ({"a": {"x": 1}, "b": 1}, "'a' is not of type double"),
        ({"a": Decimal("1e400"), "b": 1}, "'a' is not of type double"),
        ({"a": 10**400, "b": 1}, "'a' is not of type double"),
        ({"a" * 10_000: 1, "a": 1, "b": 1}, "is not a feature of the model"),
    ],
)
def test_what_is_no_row_of_the_model_is_named(
    folder: Path, linear: ServedModel, features: dict[str, Any], said: str
) -> None:
    with pytest.raises(FeaturesError, match=said) as error:
        ModelScorer(folder, linear).score(features)
    assert len(error.value.message) < 1_000
    assert "a (double), b (double)" in error.value.hint


@pytest.mark.parametrize(
    ("kind", "value", "is_one"),
    [
        ("int64", 3, True),
        ("int64", Decimal("3.0"), True),
        ("int64", Decimal("3.5"), False),
        ("int64", 2**63, False),
        ("int8", 200, False),
        ("decimal128(5, 2)", Decimal("12.30"), True),
        ("decimal128(5, 2)", Decimal("12.345"), False),
        ("decimal128(5, 2)", 1000, False),
        ("bool", True, True),
        ("bool", 1, False),
    ],
)
def test_a_number_must_fit_its_column(
    folder: Path, linear: ServedModel, kind: str, value: Any, *, is_one: bool
) -> None:
    model = ServedModel(**{**vars(linear), "features": (Column("a", kind), Column("b", "double"))})
    scorer = ModelScorer(folder, model)
    if is_one:
        wanted = float(np.float32(2 * float(value) + 0.5))
        assert scorer.score({"a": value, "b": 0}).outputs == {"y": wanted}
    else:
        with pytest.raises(FeaturesError, match="'a' is no"):
            scorer.score({"a": value, "b": 0})


def test_another_file_than_the_published_one_is_refused(folder: Path, linear: ServedModel) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    for changed in ({"sha256": other}, {"card_sha256": other}, {"artifact": "../x/model.onnx"}):
        with pytest.raises(ArtifactError):
            ModelScorer(folder, ServedModel(**{**vars(linear), **changed}))
    with pytest.raises(ContractError, match="column 'b' is missing"):
        ModelScorer(folder, ServedModel(**{**vars(linear), "features": (Column("a", "double"),)}))


def test_a_row_that_kills_the_model_costs_that_answer_only(tmp_path: Path) -> None:
    contract = Contract(
        features=(Feature(name="dividend"), Feature(name="divisor")),
        inputs=tuple(
            Input(name=name, dtype="int64", features=(name,)) for name in ("dividend", "divisor")
        ),
        outputs=(Output(name="quotient", kind="value", dtype="float64", columns=("quotient",)),),
    )
    model = served(tmp_path, killers.division(), contract, dividend="int64", divisor="int64")
    scorer = ModelScorer(tmp_path, model)
    assert scorer.score({"dividend": 6, "divisor": 3}).outputs == {"quotient": 2.0}
    with pytest.raises(ScoringError):
        scorer.score({"dividend": killers.SMALLEST, "divisor": -1})
    assert scorer.score({"dividend": 6, "divisor": 2}).outputs == {"quotient": 3.0}


@pytest.mark.parametrize(
    "kind",
    [
        pa.float32(), pa.float64(), pa.int8(), pa.uint64(), pa.bool_(), pa.string(), pa.date32(),
        pa.timestamp("us"), pa.decimal128(18, 2), pa.list_(pa.float32()), pa.list_(pa.list_(pa.int64())),
    ],
)  # fmt: skip
def test_types_are_written_and_read_alike(kind: pa.DataType) -> None:
    assert type_of(type_text(kind)) == kind
    assert type_of(type_text(pa.list_(kind, 3))) == pa.list_(kind)
    assert type_text(pa.dictionary(pa.int8(), pa.string())) == "string"


def test_days_and_moments_are_text(tmp_path: Path) -> None:
    contract = Contract(
        features=(Feature(name="a", time_unit="day"), Feature(name="b")),
        inputs=LINEAR.inputs,
        outputs=LINEAR.outputs,
    )
    for kind, text in (("date32[day]", "1970-01-11"), ("timestamp[us]", "1970-01-11T00:00:00")):
        model = served(tmp_path / kind[:4], graphs.linear(), contract, a=kind)
        scorer = ModelScorer(tmp_path / kind[:4], model)
        assert scorer.score({"a": text, "b": 0}).outputs == {"y": 20.5}
        with pytest.raises(FeaturesError, match="'a' is no"):
            scorer.score({"a": "a fortnight ago", "b": 0})


def test_several_rows_are_scored_in_one_call(folder: Path, linear: ServedModel) -> None:
    scorer = ModelScorer(folder, linear)
    calls = []
    run = scorer._session.run
    scorer._session.run = lambda feeds: (calls.append(feeds["x"].shape), run(feeds))[1]
    # in another column order than the model's, and with narrower types than the warehouse's
    batch = pa.record_batch(
        [pa.array([1, None, 1], pa.int32()), pa.array([1.5, 1, None], pa.float32())],
        names=["b", "a"],
    )
    scored = scorer.score_batch(batch)
    assert scored.to_pydict() == {"y": [2.5, -0.5, None], "rejected_reason": [None, None, "null:a"]}
    assert calls == [(2, 2)]


def test_many_rows_are_one_batch(folder: Path, linear: ServedModel) -> None:
    numbers = np.arange(200_000, dtype=np.float64) % 1_000
    batch = pa.record_batch([numbers, np.zeros(len(numbers))], names=["a", "b"])
    scored = ModelScorer(folder, linear).score_batch(batch)
    assert (scored.column("y").to_numpy() == 2 * numbers + 0.5).all()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": [1.0]}, r"1 row\(s\) of \['a'\]"),
        ({"a": [1.0], "b": [1.0], "c": [1.0]}, r"1 row\(s\) of \['a', 'b', 'c'\]"),
        ({"a": [], "b": []}, r"0 row\(s\) of"),
        ({"a": ["x"], "b": [1.0]}, "Failed to parse"),
        ({"a": [2**60 + 1], "b": [1.0]}, "would lose|not in range|truncated"),
    ],
)
def test_rows_of_another_model_are_refused(
    folder: Path, linear: ServedModel, columns: dict[str, list[Any]], said: str
) -> None:
    with pytest.raises(FeaturesError, match=said):
        ModelScorer(folder, linear).score_batch(pa.RecordBatch.from_pydict(columns))
