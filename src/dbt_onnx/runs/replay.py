"""Replay: score a run again on its kept inputs, and compare the predictions with the ledger.

Nothing here touches a warehouse. The rows to replay come as a stream with the key, the features and the
predictions in the ledger. The kernel passes the ledger's predictions through, so each batch has the old
and the new predictions side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.sample import TOLERANCE
from dbt_onnx.errors import ArtifactError, ConfigError, ContractError, RegistryError, shortened
from dbt_onnx.kernel.contract import CARRIED_PREFIX, KEY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.kernel.tensors import Array
    from dbt_onnx.runs.history import RunRow

LEDGER_PREFIX = CARRIED_PREFIX + "ledger_"
REASON = "rejected_reason"
MAX_FINDINGS = 20

IDENTICAL, WITHIN_TOLERANCE, DIFFERENT = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference from what the run left.

    problem      `runs`, `ledger`, `inputs` or `artifact`: altered or gone; `prediction`: the model's
                 output differs
    key          the row, such as `customer_id=00042`; None for the whole run
    column_name  the column that differs; None if it is not a single column
    expected     the value in the ledger or in the run row
    actual       the value that was found, or the model's output now
    """

    problem: str
    key: str | None = None
    column_name: str | None = None
    expected: str | None = None
    actual: str | None = None

    def __str__(self) -> str:
        place = " ".join(part for part in (self.key, self.column_name) if part)
        return f"{self.problem}: {place + ': ' if place else ''}{self.actual}, not {self.expected}"


@dataclass(kw_only=True)
class Replay:
    """The result of replaying a run.

    `rows` of the `rows_kept` kept rows were compared: `identical`, `within_tolerance` or `different`.
    `findings` has at most MAX_FINDINGS differences. `notes` has remarks for the user.
    """

    run_id: str
    model: str
    rows_kept: int = 0
    identical: int = 0
    within_tolerance: int = 0
    different: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return self.identical + self.within_tolerance + self.different

    @property
    def passed(self) -> bool:
        return not self.different and not self.findings

    def report(self, finding: Finding) -> None:
        """Add a finding, unless there are MAX_FINDINGS already."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)


def replayable_runs(runs: Iterable[RunRow]) -> list[str]:
    """Return the ids of the successful runs with kept inputs."""
    return [run.run_id for run in runs if run.status == "success" and run.rows_inputs_kept]


def run_to_replay(
    runs: Iterable[RunRow],
    run_id: str,
    *,
    scoring_model: str,
    table: object,
    done: str = "replayed",
) -> RunRow:
    """Return the run with this id. Raises ConfigError if there is none, or if it has nothing to replay.

    `done` says in the message what is to be done with the run.
    """
    run = next((run for run in runs if run.run_id == run_id), None)
    if run is None:
        raise ConfigError(
            f"{scoring_model} has no run {run_id!r} in {table}",
            hint="`dbt-onnx runs` lists the runs",
        )
    nothing = None
    if run.status != "success":
        nothing = f"it ended as {run.status!r} and wrote nothing"
    elif not (run.rows_scored or 0) + (run.rows_rejected or 0):
        nothing = "it scored no row: nothing had changed"
    elif not run.rows_inputs_kept:
        nothing = "its inputs are not kept: keep_inputs was False, or they have expired"
    if nothing:
        raise ConfigError(
            f"run {run_id!r} of {scoring_model} cannot be {done}: {nothing}",
            hint="`dbt-onnx runs` shows how many rows of inputs are kept of each run",
        )
    return run


def begin_replay(run: RunRow, *, has_same_hash: bool) -> Replay:
    """Return the replay of a run before any comparison. `has_same_hash`: the warehouse hashes features in
    the same way as the run did.
    """
    replay = Replay(run_id=run.run_id, model=str(run.model), rows_kept=run.rows_inputs_kept)
    if not has_same_hash:
        replay.notes.append(
            f"the features were hashed by {run.features_hash_function}, which this warehouse no "
            "longer has: only the predictions are compared, not the hashes of the inputs"
        )
    return replay


def artifact_of_run(
    registry: Registry, artifacts: Path, run: RunRow, replay: Replay
) -> Artifact | None:
    """Return the model that scored, verified by its sha256. If it is gone or changed, report a finding and
    return None.
    """
    expected = f"{run.model}, sha256 {run.artifact_sha256}"
    try:
        entry = registry.resolve(str(run.model))
        is_same = entry.sha256 == run.artifact_sha256
        artifact = load_artifact(artifacts, entry) if is_same else None
    except (ArtifactError, ContractError, RegistryError) as error:
        actual = error.message
    else:
        if artifact is None:
            actual = f"the registry has sha256 {entry.sha256} for '{run.model}' now"
        # None if the run is by an older dbt_onnx, which did not record the sha256 of the card
        elif run.card_sha256 in {None, artifact.card_sha256}:
            return artifact
        else:
            expected = f"{run.model}, a card with sha256 {run.card_sha256}"
            actual = f"{artifact.card_sha256}: the card was changed since the run"
    replay.report(Finding(problem="artifact", expected=expected, actual=actual))
    return None


def note_other_onnxruntime(run: RunRow, version: str, replay: Replay) -> None:
    """Add a note if the run was scored by another version of onnxruntime."""
    if version != run.onnxruntime_version:
        replay.notes.append(
            f"scored by onnxruntime {run.onnxruntime_version}, replayed by {version}: predictions may "
            "differ within the tolerance"
        )


def other_inputs(run: RunRow, key: Sequence[object], problem: str) -> Finding:
    """Return the finding for a row with kept inputs that differ from the scored inputs."""
    text = key_text(run.key_columns, key)
    return Finding(problem="inputs", key=text, expected="the scored inputs", actual=problem)


def lost_columns(table: object, names: Sequence[str]) -> Finding:
    """Return the finding for a table of kept inputs that lacks columns of the key or of features."""
    return Finding(problem="inputs", expected="there", actual=f"{table} lacks {names}")


def other_fingerprint_of_inputs(wanted: int, found: int) -> Finding:
    """Return the finding for kept inputs that were altered in digits that features_hash ignores. The
    fingerprint covers all bits.
    """
    return Finding(
        problem="inputs",
        expected=f"{wanted}",
        actual=f"the fingerprint of the kept inputs is {found}",
    )


def compare_batch(
    replay: Replay,
    batch: pa.RecordBatch,
    *,
    key: Sequence[str],
    columns: Sequence[str],
    scales: Mapping[str, Any],
) -> None:
    """Compare the new predictions in a batch with the ledger's, and add the result to `replay`.

    For each name in `columns`, the batch has the new prediction under that name, and the ledger's as
    `__dbt_onnx_ledger_<i>`. The reasons of rejections follow in the same way. Numbers are within tolerance if
    they differ by at most TOLERANCE times the ledger's number or the column's scale, whichever is larger.
    A column that is not in `scales` has the scale 1. All other values are either equal or different.
    """
    names = [*columns, REASON]
    verdicts = {}
    for i, name in enumerate(names):
        before, now = batch.column(f"{LEDGER_PREFIX}{i}"), batch.column(name)
        if name == REASON:
            before, now = _without_message(before), _without_message(now)
        verdicts[name] = verdicts_on(before, now, TOLERANCE, scale=scales.get(name, 1.0))
    worst = np.max(list(verdicts.values()), axis=0)
    counts = np.bincount(worst, minlength=3)
    replay.identical += int(counts[IDENTICAL])
    replay.within_tolerance += int(counts[WITHIN_TOLERANCE])
    replay.different += int(counts[DIFFERENT])
    key_columns = [batch.column(f"{KEY_PREFIX}{i}") for i in range(len(key))]
    for row in np.flatnonzero(worst == DIFFERENT)[:MAX_FINDINGS].tolist():
        # report the reason first, because the outputs of a rejected row are NULL
        name = next(n for n in reversed(names) if verdicts[n][row] == DIFFERENT)
        before = batch.column(f"{LEDGER_PREFIX}{names.index(name)}")
        replay.report(
            Finding(
                problem="prediction",
                key=key_text(key, [column[row].as_py() for column in key_columns]),
                column_name=name,
                expected=shown(before[row].as_py()),
                actual=shown(batch.column(name)[row].as_py()),
            )
        )


def _without_message(reasons: pa.StringArray) -> pa.StringArray:
    """Shorten `model_error:...` to `model_error`: the message differs between versions of onnxruntime."""
    return pc.replace_substring_regex(reasons, "^model_error:.*", "model_error")


def verdicts_on(before: pa.Array, now: pa.Array, tolerance: float, *, scale: Any = 1.0) -> Array:
    """Return IDENTICAL, WITHIN_TOLERANCE or DIFFERENT for each row. NULL is identical only to NULL.

    `scale` is one scale for the column, or one for each value of its lists.
    """
    try:
        before = pc.cast(before, now.type)
    except pa.ArrowInvalid:
        return np.full(len(now), DIFFERENT)
    both = pc.and_(before.is_valid(), now.is_valid()).to_numpy(zero_copy_only=False)
    one = pc.xor(before.is_valid(), now.is_valid()).to_numpy(zero_copy_only=False)
    verdicts = np.where(one, DIFFERENT, IDENTICAL)
    if both.any():
        mask = pa.array(both)
        sizes = np.asarray(scale)
        if sizes.ndim and not _is_list(now.type):
            sizes = sizes[both]
        verdicts[both] = _verdicts_on_values(
            before.filter(mask), now.filter(mask), tolerance, sizes
        )
    return verdicts


def _verdicts_on_values(before: pa.Array, now: pa.Array, tolerance: float, scale: Array) -> Array:
    if _is_list(now.type):
        lengths = pc.list_value_length(before).to_numpy(), pc.list_value_length(now).to_numpy()
        same_length = lengths[0] == lengths[1]
        verdicts = np.where(same_length, IDENTICAL, DIFFERENT)
        kept = pa.array(same_length)
        before, after = (a.filter(kept).flatten() for a in (before, now))
        each = np.resize(scale, len(before)) if scale.ndim else scale
        values = verdicts_on(before, after, tolerance, scale=each)
        rows = np.repeat(np.flatnonzero(same_length), lengths[1][same_length])
        np.maximum.at(verdicts, rows, values)
        return verdicts
    if pa.types.is_floating(now.type):
        before, after = (a.to_numpy(zero_copy_only=False).astype(np.float64) for a in (before, now))
        with np.errstate(invalid="ignore"):
            close = np.abs(before - after) <= tolerance * np.maximum(scale, np.abs(before))
        return np.where(before == after, IDENTICAL, np.where(close, WITHIN_TOLERANCE, DIFFERENT))
    equal = pc.equal(before, now).to_numpy(zero_copy_only=False)
    return np.where(equal, IDENTICAL, DIFFERENT)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def key_text(key: Iterable[str], values: Iterable[object]) -> str:
    """`customer_id=00042, region=7`."""
    return ", ".join(f"{name}={shown(value)}" for name, value in zip(key, values, strict=False))


def shown(value: object) -> str:
    """Return a value as text of at most 100 characters."""
    text = "NULL" if value is None else str(value)
    return shortened(text, 100)
