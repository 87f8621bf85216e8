"""A scoring run: open, check, plan, write and close, on every warehouse.

`score_table` takes the rows from the features to the ledger. Each warehouse implements the steps as an
`Engine`. A `ScoringRun` holds everything that is decided before the first row is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from dbt_onnx.artifacts.artifact import Artifact, load_artifact
from dbt_onnx.artifacts.registry import CARD_COLUMN, ModelVersion, Registry, parse_spec
from dbt_onnx.errors import ArtifactError, ConfigError, DataError, RegistryError, ScoringError
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
    """One run of one scoring model. `features` and `shape`, the ledger's columns, have types of the engine.

    `is_other_version` is true if a backfill asks for another version than the scoring model's own.
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
    """What a run has written, read back from the tables.

    rejected            {reason: number of rejected rows}
    input_fingerprint   hash of keys, `as_of` and features, to compare with the plan's; None without rows
    ledger_fingerprint  hash of all values in the rows; None without rows
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
    """What a run did, for the run row and for dbt's result line. `per_reason` is the number of rows that were
    tried for each reason, scored or rejected.
    """

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
    """The steps of a run that each warehouse implements. Methods raise DbtOnnxErrors.

    `recorded` creates the shared tables, and opens the run row; `stamp` fills it; `close` and `close_empty`
    close it. `take_over`, `write`, `close` and `close_empty` write predictions. `plan` may first finish what
    an earlier run left half done, which changes nothing that readers see.
    """

    def recorded(self, settings: RunSettings) -> AbstractContextManager[None]:
        """Return a context manager that opens the run row, and closes it as `error` if the run fails."""

    def stamp(self, request: ScoringRequest, stamps: Mapping[str, Any]) -> None:
        """Write the names of the relations in `request`, and the columns in `stamps`, to the run row.

        This happens before the features are read and checked, so the row of a failed run has them, too.
        """

    def registry(self, relation: Any, *, seeds: Mapping[str, Path]) -> Registry:
        """Return the registry. If `dbt build --empty` has left it without rows, read it from one of the
        seed files in `seeds`.
        """

    def features(self, relation: Any) -> Any:
        """Return the feature relation, with the types of its columns."""

    def check(self, request: TableArguments, artifact: Artifact, features: Any) -> Any:
        """Check that the arguments of `score()`, the contract, the features and the tables fit together.
        Returns the ledger's columns.
        """

    def take_over(
        self, run: ScoringRun, logs: AnswerLogs, artifact_of: Callable[[ModelVersion], Artifact]
    ) -> None:
        """Add the answers that services gave on request to the ledger, each answer once, in a separate
        transaction.

        A failure here does not end the run: an answer that cannot be added stays in its log, and the run
        logs the reason. `artifact_of` loads a registered version.
        """

    def snapshot(self) -> AbstractContextManager[None]:
        """Return a context manager in which `plan` and `write` read the same rows."""

    def transaction(self) -> AbstractContextManager[None]:
        """Return a context manager that commits all writes inside it, or none if one fails."""

    def plan(self, run: ScoringRun) -> Planned:
        """Decide which rows are scored, and why."""

    def needs_child_process(self, model: ModelVersion) -> bool:
        """Whether the model must run in a child process: an earlier run's process died, or the model killed
        an earlier run's child process and may do so again.
        """

    def write(self, run: ScoringRun, planned: Planned, scorer: RunScorer | None) -> Written:
        """Score the planned rows, write them, and return what was written. `scorer` is None if the plan has
        no rows to score. The snapshot ends when all rows have been read.
        """

    def close(self, run: ScoringRun, planned: Planned, outcome: Mapping[str, Any]) -> None:
        """Record which entities were present, keep the inputs, unless `write` has, and close the run row as
        `success`.
        """

    def close_empty(self, run: ScoringRun, outcome: Mapping[str, Any]) -> None:
        """For `dbt build --empty`: create the tables without rows, and close the run row as `success`."""


def score_table(
    engine: Engine,
    request: ScoringRequest,
    settings: RunSettings,
    *,
    artifacts: Path,
    log: Callable[[str], None],
    logs: AnswerLogs | None = None,
) -> RunSummary:
    """Plan, score and write one scoring model. All or nothing: readers see all rows of a run or none. The run
    row of a failed run records the error's message.

    Before planning, the run adds the answers that services have written to `logs` since the last run.
    They stay in the ledger even if the run fails afterwards.

    Raises a DbtOnnxError if the request, the registry, the artifact, the features or the warehouse's
    tables do not allow the run.
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
    """Resolve the version, load its artifact, open the features, and check that they fit together."""
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
    """Return the scorer for the planned rows; None if there are no rows to score."""
    if not planned.summary.rows_to_score:
        return None
    # imported only when there is something to score, with onnxruntime
    from dbt_onnx.runs.scorer import RunScorer

    in_child_process = engine.needs_child_process(run.artifact.model)
    if in_child_process:
        run.log(
            f"{run.settings.identifier}: an earlier run's process died, or a row killed it: the model runs "
            "in a child process, and a row that kills this process is rejected"
        )
    return RunScorer(run, planned, in_child_process=in_child_process)


def _asked_version(
    request: ScoringRequest, settings: RunSettings, registry: Registry
) -> tuple[ScoringRequest, bool]:
    """Return the request, changed to the version that a backfill asks for, and whether it was changed."""
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
    except RegistryError:  # no version has the scoring model's alias, so the requested one differs
        is_own = False
    return (request, False) if is_own else (replace(request, model=settings.model), True)


def unstable_features(
    features: str, difference: str = "each reading of the features gives different rows to score"
) -> ScoringError:
    """Return the error for a feature relation that gives different rows each time it is read."""
    return ScoringError(
        difference,
        hint=f"{features} gave different rows when it was read again: materialize it as a table, or "
        "remove functions such as random() from it",
    )


def replaced_file(artifact: Artifact, scored: str) -> ArtifactError:
    """Return the error for a version that has scored with another file, whose sha256 is `scored`. Its
    predictions would count as unchanged, although the file of `artifact` may give others.
    """
    return ArtifactError(
        f"{artifact.model} is another file than in earlier runs: it scored with sha256 {scored}, and is "
        f"{artifact.sha256} now",
        hint="a version that has scored stays the same file: register this file as a new version, or "
        "restore the old file, its card and its registry row from version control",
    )


def _check_written(run: ScoringRun, planned: Planned, written: Written) -> None:
    """Raise ScoringError if the written rows differ from the planned rows."""
    rows = planned.summary.rows_to_score
    if written.rows != rows:
        difference = f"{rows:,} rows were planned and {written.rows:,} came back"
        raise unstable_features(run.features.name, difference)
    # the plan of a first run has no fingerprint: it does not hash the features
    if planned.summary.input_fingerprint not in {None, written.input_fingerprint}:
        difference = f"{rows:,} rows were planned and came back with other features"
        raise unstable_features(run.features.name, difference)


def _check_rejected(
    run: ScoringRun, planned: Planned, written: Written, scorer: RunScorer | None
) -> None:
    """Raise DataError if this run rejected rows and the share of rejected rows, earlier rejections
    included, exceeds `max_rejected_fraction`.
    """
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


_OUTPUTS = "look at the model, which gives NaN or infinity for these rows"
_FAILS = "look at the model, which fails on these rows"
_KEY = "fill in the key, or the as_of column, upstream"
_NULLS = (
    "fix the features upstream, or register a version that takes NULL (a null policy or a fill)"
)
_REMEDIES = {
    "model_error": _FAILS,
    "model_crashed": _FAILS,
    "null_key": _KEY,
    "null_as_of": _KEY,
    "nan_output": _OUTPUTS,
    "infinite_output": _OUTPUTS,
    "null": _NULLS,
    "nan": _NULLS,
}
"""What to do about the rejected rows, by the kind of the reason."""


def remedy(reasons: Iterable[str]) -> str:
    """Return advice on rejected rows: one sentence for each kind of reason in `reasons`."""
    kinds = (reason.partition(":")[0] for reason in reasons)
    return "; ".join(
        dict.fromkeys(_REMEDIES.get(kind, "fix the features upstream") for kind in kinds)
    )
