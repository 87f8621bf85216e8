"""A registered version is verified exactly as it would be scored, and verification never raises."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx_models as models
import pytest

from dbt_onnx.artifacts.artifact import load_artifact, write_artifact
from dbt_onnx.artifacts.registry import Registry, RegistryEntry
from dbt_onnx.artifacts.sample import largest_difference, score_sample
from dbt_onnx.artifacts.verification import verify_entry, verify_registry
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.promotion.answers import Candidate
from dbt_onnx.runs.plan import PlanSummary
from dbt_onnx.runs.scorer import RunScorer

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT = Contract(
    features=(Feature(name="a"), Feature(name="b")),
    inputs=(Input(name="x", dtype="float32", features=("a", "b")),),
    outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
)


def write(root: Path, version: str = "1", **card: Any) -> RegistryEntry:
    return write_artifact(
        root,
        models.linear().SerializeToString(),
        model_name="m",
        model_version=version,
        contract=CONTRACT,
        **card,
    )


SAMPLE = {"features": {"a": [1, 2.5, None], "b": [1, 0, 3]}, "outputs": {"y": [1.5, 5.5, None]}}


def test_a_sample_is_scored_by_the_formula_and_null_rows_are_rejected() -> None:
    content = models.linear().SerializeToString()
    assert score_sample(content, CONTRACT, SAMPLE["features"]) == SAMPLE["outputs"]


def test_a_sample_of_one_row_at_a_time_gives_the_same() -> None:
    content = models.linear(shape=[1, 2]).SerializeToString()
    scored = score_sample(content, CONTRACT, SAMPLE["features"], batch_rows=1)
    assert scored == SAMPLE["outputs"]


def test_a_sample_by_hand_is_verified(tmp_path: Path) -> None:
    verdict = verify_entry(tmp_path, write(tmp_path, parity={**SAMPLE, "tolerance": 0}))
    assert (verdict.passed, verdict.sample_rows, verdict.max_abs_difference) == (True, 3, 0.0)


def test_the_difference_found_is_told(tmp_path: Path) -> None:
    outputs = {"y": [1.5, 5.75, None]}
    verdict = verify_entry(tmp_path, write(tmp_path, parity={**SAMPLE, "outputs": outputs}))
    assert not verdict.passed
    assert verdict.max_abs_difference == 0.25
    assert verdict.fault is not None
    assert "y: row 2 is 5.5, the card says 5.75" in verdict.fault
    assert verdict.hint


def test_a_wider_tolerance_lets_the_difference_through(tmp_path: Path) -> None:
    parity = {**SAMPLE, "outputs": {"y": [1.5, 5.75, None]}, "tolerance": 0.1}
    assert verify_entry(tmp_path, write(tmp_path, parity=parity)).passed


def test_a_file_that_onnxruntime_cannot_load_is_a_fault(tmp_path: Path) -> None:
    model = models.linear()
    model.graph.node[0].op_type = "NoSuchOperator"
    entry = write_artifact(
        tmp_path,
        model.SerializeToString(),
        model_name="m",
        model_version="1",
        contract=CONTRACT,
        parity=SAMPLE,
    )
    verdict = verify_entry(tmp_path, entry)
    assert verdict.fault is not None
    assert "cannot load the model" in verdict.fault


def test_every_row_of_the_registry_gets_its_verdict_in_order(tmp_path: Path) -> None:
    entries = [write(tmp_path, version, parity=SAMPLE) for version in "123"]
    entries[1] = replace(entries[1], sha256="0" * 64)
    verdicts = verify_registry(tmp_path, Registry(entries=tuple(entries), where="r"))
    assert [verdict.passed for verdict in verdicts] == [True, False, True]
    assert [verdict.entry for verdict in verdicts] == entries


def test_a_sample_is_scored_as_a_run_scores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`verify` and the gate use a run's session on the same bytes, with tensors in place of ZipMaps."""
    classes = ("no", "yes", "hm")
    contract = Contract(
        features=CONTRACT.features,
        inputs=CONTRACT.inputs,
        outputs=(
            Output(
                name="probabilities", kind="probabilities", dtype="float32",
                columns=("p", "q", "r"), classes=classes,
            ),
        ),
    )  # fmt: skip
    content = models.classifier(list(classes), zipmap=True).SerializeToString()
    features = {"a": [1, 2.5], "b": [1, 0]}
    parity = {"features": features, "outputs": score_sample(content, contract, features)}
    entry = write_artifact(
        tmp_path, content, model_name="m", model_version="1", contract=contract, parity=parity
    )
    artifact = load_artifact(tmp_path, entry)
    assert artifact.scoring_bytes != artifact.model_bytes
    opened, used = [], []

    class Spied(ChildSession):
        def __init__(self, *arguments: Any, max_seconds: float, **options: Any) -> None:
            super().__init__(*arguments, max_seconds=max_seconds, **options)
            self.given = (arguments, options)
            opened.append(self.given)

        def run(self, feeds: Any) -> list[Any]:
            used.append(self.given)
            return super().run(feeds)

    monkeypatch.setattr("dbt_onnx.kernel.child_session.ChildSession", Spied)
    request = SimpleNamespace(threads=None, batch_rows=None, max_rejected_fraction=0.1)
    run = SimpleNamespace(
        artifact=artifact, request=request, settings=SimpleNamespace(identifier="scores"), log=None
    )
    summary = PlanSummary(rows_in=2, per_reason={"new": 2})
    RunScorer(run, SimpleNamespace(summary=summary), in_child_process=True)  # type: ignore[arg-type]
    [as_a_run] = opened
    assert as_a_run[0] == (artifact.scoring_bytes,)
    assert verify_entry(tmp_path, entry).passed
    assert used == [as_a_run]
    Candidate.load(tmp_path, entry)
    assert opened == [as_a_run] * 3


def test_without_a_sample_the_model_must_load_all_the_same(tmp_path: Path) -> None:
    model = models.linear()
    model.graph.node[0].op_type = "NoSuchOperator"
    entry = write_artifact(
        tmp_path,
        model.SerializeToString(),
        model_name="m",
        model_version="1",
        contract=CONTRACT,
    )
    verdict = verify_entry(tmp_path, entry)
    assert verdict.fault is not None
    assert "cannot load the model" in verdict.fault


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        (1.0, 1.0 + 1e-6, True),
        (1.0, 1.0 + 1e-4, False),
        (1e6, 1e6 + 1, True),
        (0.0, 1e-6, True),
        (1, 1.0, True),
        (1, 2, False),
        (100_000_000, 100_000_001, False),
        ("yes", "yes", True),
        ("yes", "no", False),
        (None, None, True),
        (None, 0.0, False),
        (0.0, None, False),
        (True, 1.0, False),
        ([1.0, 2.0], [1.0, 2.0 + 1e-6], True),
        ([1.0, 2.0], [1.0], False),
        ([1.0], [1.5], False),
        (1.0, math.nan, False),
        ("1", 1, False),
    ],
)
def test_values_are_compared_by_what_they_are(want: Any, got: Any, same: bool) -> None:
    _, faults = largest_difference({"y": [want]}, {"y": [got]}, tolerance=1e-5)
    assert (faults == []) is same


def test_the_largest_difference_is_over_all_columns_and_lists() -> None:
    want, got = {"a": [1.0, 2.0], "b": [[1.0, 5.0]]}, {"a": [1.0, 2.5], "b": [[1.0, 4.0]]}
    largest, faults = largest_difference(want, got, tolerance=2)
    assert (largest, faults) == (1.0, [])
