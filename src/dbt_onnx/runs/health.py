"""Judging the figures of a scoring model: can its predictions be relied on?

    healthy   (0)  every entity has a fresh prediction, and the last run succeeded
    degraded  (1)  predictions are served, but some are stale, missing or doubtful
    broken    (2)  nothing new can be served until somebody acts

`ModelHealth.problems` has the reasons. Each problem has a kind, and `KINDS` maps each kind to the status
degraded or broken. Nothing here touches dbt or a warehouse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dbt_onnx.runs.request import MAX_REJECTED_FRACTION

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    from dbt_onnx.errors import DbtOnnxError

Status = Literal["healthy", "degraded", "broken"]

EXIT_CODES: Mapping[Status, int] = {"healthy": 0, "degraded": 1, "broken": 2}

KINDS: Mapping[str, Status] = {
    "never_ran": "broken",
    "ledger": "broken",
    "run_failed": "broken",
    "run_interrupted": "broken",
    "registry": "broken",
    "artifact": "broken",
    "features": "broken",
    "warehouse": "broken",
    "stale": "degraded",
    "missing": "degraded",
    "rejected": "degraded",
    "test_failed": "degraded",
    "test_warned": "degraded",
    "drifting": "degraded",
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One reason why a scoring model is not healthy. `kind` is one of `KINDS`.

    `subject` is the name of a test; empty if a model can have only one problem of this kind.
    """

    kind: str
    message: str
    subject: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelHealth:
    """The health of one scoring model.

    `figures` are the columns of the macro `prediction_health`; empty if they could not be read.
    """

    scoring_model: str
    figures: Mapping[str, Any]
    problems: tuple[Problem, ...]

    @property
    def status(self) -> Status:
        return _worst(KINDS[problem.kind] for problem in self.problems)


@dataclass(frozen=True, kw_only=True)
class Health:
    """The health of all scoring models that were asked for.

    If the project could not be read, `clock` is None and `error` is the reason.
    """

    clock: datetime | None
    stale_after: timedelta
    models: tuple[ModelHealth, ...] = field(default=())
    error: DbtOnnxError | None = None

    @property
    def status(self) -> Status:
        return "broken" if self.error else _worst(model.status for model in self.models)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]


def judge(figures: Mapping[str, Any], *, has_one_writer: bool) -> list[Problem]:
    """Return the problems that the figures of one scoring model show. `has_one_writer`: no other process can
    read the warehouse while a run writes to it, so a run with the status `running` is dead.
    """
    is_dead = {"interrupted", *(["running"] if has_one_writer else [])}
    return [
        *_problems_of_runs(figures, is_dead=is_dead),
        *_problems_of_rows(figures),
        *_problems_of_tests(figures),
    ]


def age_text(age: timedelta | float) -> str:
    """`4 days`, `1 day 6 h`, `3 h`, `12 min`: the two largest units, rounded down. Spark gives ages in seconds."""
    seconds = age if isinstance(age, float) else age.total_seconds()
    hours, seconds = divmod(int(seconds), 3600)
    days, hours = divmod(hours, 24)
    if not days and not hours:
        return f"{seconds // 60} min"
    parts = [f"{days} day{'s' if days > 1 else ''}"] if days else []
    return " ".join([*parts, *([f"{hours} h"] if hours else [])])


def _problems_of_runs(figures: Mapping[str, Any], *, is_dead: Collection[str]) -> Iterator[Problem]:
    status, error = figures["last_run_status"], figures["last_run_error"]
    when = ""
    if status:
        when = (
            f"the last run ({figures['last_run_id']}, {figures['last_run_at']:%Y-%m-%d %H:%M} UTC)"
        )
    if status == "error":
        said = " ".join((error or "it left no message").split())
        yield Problem(kind="run_failed", message=f"{when} failed: {said}")
    elif status in is_dead:
        yield Problem(kind="run_interrupted", message=f"{when} was interrupted")
    if figures["last_good_run_id"] is None:
        yield Problem(kind="never_ran", message="no run has succeeded")
    elif figures["serving_version"] is None:
        yield Problem(
            kind="registry",
            message=f"the registry does not say which version of {figures['model_name']} serves",
        )


def _problems_of_rows(figures: Mapping[str, Any]) -> Iterator[Problem]:
    entities = figures["entities"]
    if stale := figures["stale"]:
        message = f"{stale:,} of {entities:,} entities stale, the oldest {age_text(figures['oldest_age'])}"
        yield Problem(kind="stale", message=message)
    if missing := figures["missing"]:
        yield Problem(kind="missing", message=f"{missing:,} of {entities:,} entities missing")
    rejected = figures["rejected"]
    if rejected > MAX_REJECTED_FRACTION * entities:
        yield Problem(kind="rejected", message=f"{rejected:,} of {entities:,} entities rejected")


def _problems_of_tests(figures: Mapping[str, Any]) -> Iterator[Problem]:
    drifting: Sequence[str] = figures["drifting_tests"]
    for name in figures["failing_tests"]:
        kind = "drifting" if name in drifting else "test_failed"
        yield Problem(kind=kind, message=f"the test {name} failed", subject=name)
    for name in figures["warning_tests"]:
        kind = "drifting" if name in drifting else "test_warned"
        yield Problem(kind=kind, message=f"the test {name} warns", subject=name)


def _worst(statuses: Iterator[Status]) -> Status:
    return max(statuses, key=EXIT_CODES.__getitem__, default="healthy")
