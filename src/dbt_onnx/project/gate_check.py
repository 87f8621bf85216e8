"""Run the gate for a version: check its file, its card, and its outputs for the current features."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dbt_onnx.engines.base import MissingFeaturesError
from dbt_onnx.errors import DbtOnnxError, WarehouseError
from dbt_onnx.project.scoring_calls import scoring_call
from dbt_onnx.promotion.answers import Answers, Candidate
from dbt_onnx.promotion.gate import (
    Check,
    check_answers,
    check_card,
    check_comparison,
    failed,
    not_compared,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from dbt_onnx.artifacts.registry import RegistryEntry
    from dbt_onnx.engines.base import CurrentFeatures, Warehouse
    from dbt_onnx.project.dbt_project import DbtProject
    from dbt_onnx.project.scoring_calls import ScoringCall
    from dbt_onnx.promotion.gate import Limits

CONTRACT_LIMIT = "columns, types, unique key"


def run_gate(
    project: DbtProject,
    entry: RegistryEntry,
    champion: RegistryEntry | None,
    *,
    artifacts: Path,
    limits: Limits,
) -> list[Check]:
    """Return the checks of the gate, in order. Faults are reported by failed checks, and not raised.

    The warehouse is read, and nothing is written. Raises ConfigError if dbt cannot read the project.
    """
    try:
        candidate = Candidate.load(artifacts, entry)
    except DbtOnnxError as error:
        return [failed("artifact", "as registered", error, final=True)]
    checks = [
        Check("artifact", f"sha256 {entry.sha256[:12]}", "as registered", "passed"),
        *check_card(candidate.artifact, entry),
    ]
    # raises if dbt cannot read the project: that is no fault of the version, so no check reports it
    _ = project.manifest
    try:
        with project.warehouse() as warehouse:
            examination = _Examination(candidate, champion, artifacts, limits)
            calls = [scoring_call(project, warehouse, item) for item in project.scoring_models()]
            checks += examination.of_calls(warehouse, calls)
    except WarehouseError as error:
        if champion is None:  # a first version may be promoted before there is a warehouse
            checks.append(not_compared(None, f"no champion yet; {error.message}"))
        else:
            checks.append(failed("warehouse", "can be read", error))
    return checks


@dataclass(frozen=True)
class _Examination:
    """The checks of one version that need the warehouse.

    Features that several scoring models read, with the same key and `as_of`, are scored only once.
    """

    candidate: Candidate
    champion: RegistryEntry | None
    artifacts: Path
    limits: Limits

    def of_calls(self, warehouse: Warehouse, calls: list[ScoringCall]) -> Iterator[Check]:
        name = self.candidate.artifact.model_name
        asking = [call for call in calls if call.asks_for_champion_of(name)]
        unknown = [call for call in calls if call.model is None]
        scored, open_questions = set(), []
        for call in asking:
            features, check = self._check_contract(warehouse, call)
            yield check
            if check.verdict == "not checked":
                open_questions.append(f"{call.scoring_model.selector}: {check.figure}")
            if features is not None and _feature_identity(call) not in scored:
                scored.add(_feature_identity(call))
                allowed = [
                    c.max_rejected_fraction
                    for c in asking
                    if _feature_identity(c) == _feature_identity(call)
                ]
                yield from self._check_rows(features, max_rejected=min(allowed))
        for call in unknown:
            check = _not_checked(
                call, "which model it scores with is not known before its first run"
            )
            yield check
            if not asking:
                open_questions.append(f"{call.scoring_model.selector}: {check.figure}")
        if not asking and not unknown:
            open_questions.append(f"no scoring model scores with the champion of {name!r}")
            yield Check("contract", open_questions[0], CONTRACT_LIMIT, "not checked")
        if self.champion is None:
            yield not_compared(None, "no champion yet")
        elif open_questions:
            why = "; ".join(open_questions)
            yield not_compared(str(self.champion.model), why, hint="build the scoring model first")

    def _check_contract(
        self, warehouse: Warehouse, call: ScoringCall
    ) -> tuple[CurrentFeatures | None, Check]:
        """Check that the next run can read the features and write the version's predictions.

        The features are None if the check did not pass.
        """
        if call.features is None or not call.key:
            why = "neither its code nor its runs show which features it reads"
            return None, _not_checked(call, why)
        try:
            features = warehouse.examine(call.scoring_model.table, call, self.candidate.artifact)
        except DbtOnnxError as error:
            # a first version may be promoted before anything is built
            if self.champion is None and isinstance(error, MissingFeaturesError):
                return None, _not_checked(call, error.message)
            return None, failed(_contract_of(call), CONTRACT_LIMIT, error)
        figure = f"{features.name}, {features.rows:,} rows"
        return features, Check(_contract_of(call), figure, CONTRACT_LIMIT, "passed")

    def _check_rows(self, features: CurrentFeatures, *, max_rejected: float) -> Iterator[Check]:
        """Check the version's answers on the current rows, and compare them with the champion's.

        `max_rejected` is the share of rejected rows that a run of the scoring models allows.
        """
        limits = replace(self.limits, max_rejected=min(self.limits.max_rejected, max_rejected))
        champion, fault = self._load_champion(features)
        artifact = self.candidate.artifact
        read = dict.fromkeys(artifact.contract.feature_names)
        if champion is not None:
            read |= dict.fromkeys(champion.artifact.contract.feature_names)
        try:
            batches = features.sample(read, limits.sample)
            rejected = _rejected_in_sample(features, batches)
            new = Answers.of(self.candidate, batches, rejected)
        except DbtOnnxError as error:
            yield failed("scores the current rows", "no error", error)
            return
        old = None
        if champion is not None:
            try:
                old = Answers.of(champion, batches, rejected)
            except DbtOnnxError as error:
                fault = error
        yield from check_answers(new, old, artifact.contract, limits, where=features.name)
        if champion is not None and old is not None:
            yield from check_comparison(
                new, old, artifact.contract, limits, champion=str(champion.artifact.model)
            )
        elif self.champion is not None and fault is not None:
            yield failed(f"comparison with {self.champion.model}", "both score", fault)

    def _load_champion(
        self, features: CurrentFeatures
    ) -> tuple[Candidate | None, DbtOnnxError | None]:
        """Return the champion, or the error that keeps it from scoring. Both are None without a champion."""
        if self.champion is None:
            return None, None
        try:
            champion = Candidate.load(self.artifacts, self.champion)
            features.check_contract(champion.artifact)
        except DbtOnnxError as error:
            return None, error
        return champion, None


def _feature_identity(call: ScoringCall) -> tuple[object, ...]:
    """Return a value that is equal for scoring models that read the same rows."""
    return call.features, call.key, call.as_of


def _rejected_in_sample(
    features: CurrentFeatures, sample: Sequence[pa.RecordBatch]
) -> Counter[str]:
    """Count, by reason, the rows without a key or `as_of`, scaled down from all rows to the sample."""
    others = features.rows - sum(features.rejected.values())
    share = sum(batch.num_rows for batch in sample) / others if others else 1.0
    return Counter({reason: round(n * share) for reason, n in features.rejected.items() if n})


def _contract_of(call: ScoringCall) -> str:
    return f"contract: {call.scoring_model.selector}"


def _not_checked(call: ScoringCall, why: str) -> Check:
    return Check(_contract_of(call), why, CONTRACT_LIMIT, "not checked")
