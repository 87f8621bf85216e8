"""Checks every registered version as a scoring run would, and scores its card's sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dbt_onnx.artifacts.artifact import Artifact, load_artifact
from dbt_onnx.artifacts.card import CARD_NAME
from dbt_onnx.artifacts.reference import is_size
from dbt_onnx.artifacts.sample import TOLERANCE, largest_difference, scales_of, score_columns
from dbt_onnx.errors import DbtOnnxError
from dbt_onnx.kernel.contract import WRITE_AGAIN
from dbt_onnx.kernel.native import TRIAL_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.artifacts.registry import Registry, RegistryEntry
    from dbt_onnx.artifacts.signing import SignatureVerifier


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of checking one registry row.

    `sample_rows` is 0 if the card has no sample. `max_abs_difference` is the largest difference between
    the sample's outputs and the model's outputs now. `is_signed` is None if signatures were not checked.
    `card_sha256` is the digest of the card, None if the check ended with an error. `fault` and `hint` are
    None if the version passed.
    """

    entry: RegistryEntry
    sample_rows: int = 0
    max_abs_difference: float | None = None
    is_signed: bool | None = None
    card_sha256: str | None = None
    fault: str | None = None
    hint: str | None = None

    @property
    def passed(self) -> bool:
        return self.fault is None


def verify_registry(
    root: Path, registry: Registry, *, verifier: SignatureVerifier | None = None
) -> list[Verdict]:
    """Check every version below `root`, the artifacts directory, in the registry's order."""
    return [verify_entry(root, entry, verifier=verifier) for entry in registry.entries]


def unregistered_folders(root: Path, registry: Registry) -> list[Path]:
    """Return the version folders below `root` that no row of the registry names.

    An interrupted `register`, or an `export` without a registry, leaves an unregistered folder.
    """
    known = {(root / entry.artifact).parent for entry in registry.entries}
    # a name that begins with a dot is the temporary file of an interrupted write
    names = ("model.onnx", CARD_NAME, ".model.onnx.*", f".{CARD_NAME}.*")
    found = {path.parent for name in names for path in root.glob(f"*/*/{name}")}
    return sorted(found - known)


def verify_entry(
    root: Path, entry: RegistryEntry, *, verifier: SignatureVerifier | None = None
) -> Verdict:
    """Check file, sha256, hostile constructs, card against graph, the signature if there is a
    verifier, and the sample's predictions.

    The verdict has the fault, if any. No content of a model file, card or signature raises an error.
    """
    is_signed = None if verifier is None else False
    try:
        artifact = load_artifact(root, entry)
        if verifier is not None:
            verifier.check(root, entry, artifact)  # before the model is run
            is_signed = True
        verdict = verify_sample(artifact, entry)
        return replace(verdict, is_signed=is_signed, card_sha256=artifact.card_sha256)
    except DbtOnnxError as error:
        return Verdict(entry=entry, is_signed=is_signed, fault=error.message, hint=error.hint)


def verify_sample(artifact: Artifact, entry: RegistryEntry) -> Verdict:
    """Score the card's sample and compare the outputs. Raises the errors of loading and scoring."""
    parity = artifact.card.get("parity") or {}
    features, expected = parity.get("features"), parity.get("outputs")
    # with this limit, even a model with a call that never ends gives a result within minutes
    session = artifact.open(in_child_process=True, max_seconds=TRIAL_SECONDS)
    if not features or not expected:
        return Verdict(entry=entry)
    tolerance = parity.get("tolerance", TOLERANCE)
    if not _is_sample(features) or not _is_sample(expected) or not is_size(tolerance):
        return Verdict(
            entry=entry,
            fault="the card's sample is not a dict of lists, or its tolerance is not a non-negative number",
            hint=WRITE_AGAIN,
        )
    actual = score_columns(session, artifact.contract, features)
    difference, faults = largest_difference(
        expected, actual, tolerance=tolerance, scales=scales_of(artifact.card)
    )
    rows = len(next(iter(features.values())))
    verdict = Verdict(entry=entry, sample_rows=rows, max_abs_difference=difference)
    if not faults:
        return verdict
    return replace(
        verdict,
        fault=f"the model no longer gives the outputs in its card: {'; '.join(faults)}",
        hint="the model file is unchanged, so the card or onnxruntime has changed: compare "
        "with the versions in the card's training, and export the model again",
    )


def _is_sample(columns: object) -> bool:
    return isinstance(columns, dict) and all(isinstance(item, list) for item in columns.values())
