"""A scoring run: open, check, plan, write, close, on every warehouse.

`score_table` is the data's way from the features to the ledger. What a warehouse has to do for it is
an `Engine`; what is decided before any row is looked at is a `ScoringRun`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from dbt_onnx.artifacts.artifact import Artifact, load_artifact
from dbt_onnx.artifacts.registry import CARD_COLUMN, ModelVersion, Registry, parse_spec
from dbt_onnx.errors import ConfigError, DataError, RegistryError, ScoringError
from dbt_onnx.runs.plan import SCORE_REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.plan import Planned
    from dbt_onnx.runs.request import RunSettings, ScoringRequest, TableArguments
    from dbt_onnx.runs.scorer import RunScorer


@dataclass(frozen=True, kw_only=True)
class ScoringRun:
    """One run of one scoring model. `features` and `shape`, the ledger's columns, are the engine's.

    `is_other_version`: a backfill asked for another version than the scoring model's own.
    """

    request: ScoringRequest
    settings: RunSettings
    artifact: Artifact
    features: Any
    shape: Any
    is_other_version: bool
    log: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a run has written, read back from where it was written.

    rejected            reason -> rows
    input_fingerprint   of keys, moments and features, as the plan has it; none without rows
    ledger_fingerprint  of all that the rows say
    """

    rows: int = 0
    rejected: Mapping[str, int]
    input_fingerprint: int | None = None
    ledger_fingerprint: int | None = None

    @property
    def rows_rejected(self) -> int:
        return sum(self.rejected.values())


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run did, for the run row and for dbt's result line."""

    model: ModelVersion
    rows_in: int = 0
    rows_scored: int = 0
    rows_rejected: int = 0
    per_reason: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows_written(self) -> int:
        return self.rows_scored + self.rows_rejected

    @property
    def rows_unchanged(self) -> int:
        return self.rows_in - self.rows_scored - self.rows_rejected

    @property
    def counts(self) -> dict[str, int]:
        """The columns of the run row that count rows."""
        names = ("rows_in", "rows_scored", "rows_rejected", "rows_unchanged")
        counts = {name: getattr(self, name) for name in names}
        return counts | {f"rows_{name}": self.per_reason.get(name, 0) for name in SCORE_REASONS}

    def __str__(self) -> str:
        """`churn/2: scored 3,420 (new 12, features_changed 3,408), unchanged 20,150`."""
        reasons = ", ".join(f"{name} {count:,}" for name, count in self.per_reason.items() if count)
        done = f"scored {self.rows_scored:,}"
        if self.rows_rejected:
            done += f", rejected {self.rows_rejected:,}"
        if reasons:
            done += f" ({reasons})"
        return f"{self.model}: {done}, unchanged {self.rows_unchanged:,}"


class Engine(Protocol):
    """What a run needs of a warehouse. Errors are DbtOnnxErrors; nothing is written but by `write`
    and `close`, and by `recorded` into the run row.
    """

    def recorded(self, settings: RunSettings) -> AbstractContextManager[None]:
        """Open the run row; close it as `error` when what is within fails."""

    def stamp(self, request: ScoringRequest, stamps: Mapping[str, Any]) -> None:
        """Say in the run row on what the run is, and with which version, which `stamps` tell, before
        anything can fail.
        """

    def registry(self, relation: Any, *, seeds: Mapping[str, Path]) -> Registry:
        """The registry's rows; where a dry build has left it without, those of a file among `seeds`."""

    def features(self, relation: Any) -> Any:
        """The feature relation, with the types of its columns."""

    def check(self, request: TableArguments, artifact: Artifact, features: Any) -> Any:
        """Hold call, contract, features and tables against each other. Returns the ledger's columns."""

    def take_over(
        self, run: ScoringRun, logs: AnswerLogs, artifact_of: Callable[[ModelVersion], Artifact]
    ) -> None:
        """Take what services have answered for the ledger into it, each answer once, in a transaction of its
        own. Nothing of it ends the run: what cannot be taken over stays in its log, and the run says why.
        `artifact_of` gives a registered version.
        """

    def snapshot(self) -> AbstractContextManager[None]:
        """Within, `plan` and `write` read the same rows."""

    def transaction(self) -> AbstractContextManager[None]:
        """Within, what is written is written as a whole or not at all."""

    def plan(self, run: ScoringRun) -> Planned:
        """Decide which rows are scored, and why."""

    def follows_death(self, model: ModelVersion) -> bool:
        """Whether the process of a run before this one died, or would have but for a child process."""

    def write(self, run: ScoringRun, planned: Planned, scores: RunScorer | None) -> Written:
        """Score the planned rows into the ledger and tell what is there; without `scores` there are
        none. The snapshot ends when all is read.
        """

    def close(self, run: ScoringRun, planned: Planned, outcome: Mapping[str, Any]) -> None:
        """Note who was there, keep the inputs, and close the run row as `success`."""

    def close_empty(self, run: ScoringRun, outcome: Mapping[str, Any]) -> None:
        """The same for a dry build: the tables, and nothing in them."""


def score_table(
    engine: Engine,
    request: ScoringRequest,
    settings: RunSettings,
    *,
    artifacts: Path,
    log: Callable[[str], None],
    logs: AnswerLogs | None = None,
) -> RunSummary:
    """Plan, score and write one scoring model. All or nothing: an error leaves the tables as they were
    and one run row that tells why.

    Before that, what services have answered since the last run is taken over from `logs`. That is done
    even if the run fails afterwards.

    Raises a DbtOnnxError when the request, the registry, the artifact, the features or the
    warehouse's tables do not allow it.
    """
    with engine.recorded(settings):
        run, registry = _open(engine, request, settings, artifacts=artifacts, log=log)
        if settings.empty:
            nothing = RunSummary(model=run.artifact.model)
            engine.close_empty(run, nothing.counts)
            return nothing
        if logs is not None:
            engine.take_over(
                run, logs, lambda model: load_artifact(artifacts, registry.resolve(str(model)))
            )
        with engine.snapshot():
            planned = engine.plan(run)
            scorer = _scorer(engine, run, planned)
            with engine.transaction():
                written = engine.write(run, planned, scorer)
                _check_written(run, planned, written)
                _check_rejected(run, planned, written, scorer)
                summary = RunSummary(
                    model=run.artifact.model,
                    rows_in=planned.summary.rows_in,
                    rows_scored=written.rows - written.rows_rejected,
                    rows_rejected=written.rows_rejected,
                    per_reason=planned.summary.per_reason,
                )
                outcome = {
                    **summary.counts,
                    "input_fingerprint": written.input_fingerprint,
                    "ledger_fingerprint": written.ledger_fingerprint,
                    **(scorer.columns if scorer else {}),
                }
                engine.close(run, planned, outcome)
        return summary


def _open(
    engine: Engine,
    request: ScoringRequest,
    settings: RunSettings,
    *,
    artifacts: Path,
    log: Callable[[str], None],
) -> tuple[ScoringRun, Registry]:
    """The version that is asked for, its artifact, the features, and that they go together."""
    registry = engine.registry(request.registry, seeds=settings.seeds)
    request, is_other_version = _asked_version(request, settings, registry)
    entry = registry.resolve(request.model)
    artifact = load_artifact(artifacts, entry)
    if entry.card_sha256 is None:
        log(
            f"{registry.where} has no {CARD_COLUMN} for {entry.model}, so it does not tell when "
            "the card is changed: `dbt-onnx verify --record-cards` fills it"
        )
    engine.stamp(
        request,
        {
            "model_name": artifact.model_name,
            "model_version": artifact.model_version,
            "model_alias": parse_spec(request.model).alias,
            "artifact_sha256": artifact.sha256,
            "card_sha256": artifact.card_sha256,
            "key_columns": list(request.key),
        },
    )
    features = engine.features(request.features)
    run = ScoringRun(
        request=request,
        settings=settings,
        artifact=artifact,
        features=features,
        shape=engine.check(request, artifact, features),
        is_other_version=is_other_version,
        log=log,
    )
    return run, registry


def _scorer(engine: Engine, run: ScoringRun, planned: Planned) -> RunScorer | None:
    """What scores the rows of the plan; none where there are none."""
    if not planned.summary.rows_to_score:
        return None
    # imported only when there is something to score, with onnxruntime
    from dbt_onnx.runs.scorer import RunScorer

    in_child_process = engine.follows_death(run.artifact.model)
    if in_child_process:
        run.log(
            f"{run.settings.identifier}: a run before this one died, or would have: the model runs in a "
            "child process, and a row that kills it is rejected"
        )
    return RunScorer(run, planned, in_child_process=in_child_process)


def _asked_version(
    request: ScoringRequest, settings: RunSettings, registry: Registry
) -> tuple[ScoringRequest, bool]:
    """The request, for the version that a backfill asks for; whether that is another than its own."""
    if settings.model is None:
        return request, False
    asked, own = parse_spec(settings.model), parse_spec(request.model)
    if asked.model_version is None or asked.model_name != own.model_name:
        raise ConfigError(
            f"{settings.identifier} is asked to score with {settings.model!r}; "
            f"it scores with {request.model!r}",
            hint=f"name a version of that model: '{own.model_name}/VERSION'",
        )
    try:
        is_own = registry.resolve(request.model).model_version == asked.model_version
    except RegistryError:  # an alias that nobody has: any version is another
        is_own = False
    return (request, False) if is_own else (replace(request, model=settings.model), True)


def unstable(
    features: str, difference: str = "each reading of the features gives other rows to score"
) -> ScoringError:
    """The error for a feature relation that differs from one reading to the next."""
    return ScoringError(
        difference,
        hint=f"{features} gave other rows when it was read again: materialize it as a table, or "
        "take random() and the like out of it",
    )


def _check_written(run: ScoringRun, planned: Planned, written: Written) -> None:
    """Raise ScoringError when what was written is not, row by row, what was planned."""
    rows = planned.summary.rows_to_score
    if written.rows != rows:
        difference = f"{rows:,} rows were planned and {written.rows:,} came back"
        raise unstable(run.features.name, difference)
    # in a first run none: it reads the features once, and takes what it reads
    if planned.summary.input_fingerprint not in {None, written.input_fingerprint}:
        difference = f"{rows:,} rows were planned and came back with other features"
        raise unstable(run.features.name, difference)


def _check_rejected(
    run: ScoringRun, planned: Planned, written: Written, scorer: RunScorer | None
) -> None:
    """Raise DataError when a larger share of all rows is rejected, old rejections included."""
    summary, limit = planned.summary, run.request.max_rejected_fraction
    rejected = written.rows_rejected + summary.rows_still_rejected
    share = rejected / summary.rows_in
    if not written.rejected or share <= limit:
        return
    examples = scorer.examples if scorer else {}
    most = sorted(written.rejected.items(), key=lambda item: -item[1])[:5]
    reasons = "; ".join(
        f"{reason} in {count:,} row(s)"
        + (f", such as {examples[reason]}" if reason in examples else "")
        for reason, count in most
    )
    raise DataError(
        f"{rejected:,} of {summary.rows_in:,} rows of {run.features.name} are rejected ({share:.1%}); "
        f"max_rejected_fraction is {limit:g}: {reasons}",
        hint=f"{remedy(written.rejected)}, or raise max_rejected_fraction",
    )


def remedy(reasons: Iterable[str]) -> str:
    """What to do about rejected rows, for each kind of reason that there is."""
    remedies: dict[str, None] = {}
    for reason in reasons:
        kind = reason.partition(":")[0]
        remedies[
            "look at the model, which gives NaN or infinity for these rows"
            if kind.endswith("_output")
            else "look at the model, which fails on these rows"
            if kind in {"model_error", "model_crashed"}
            else "fill in the key, or the moment of as_of, upstream"
            if kind in {"null_key", "null_as_of"}
            else "mend the features upstream, or register a version that takes NULL (a null policy or "
            "a fill)"
            if kind in {"null", "nan"}
            else "mend the features upstream"
        ] = None
    return "; ".join(remedies)
