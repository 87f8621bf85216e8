"""Backfill: a scoring model run slice by slice, each under a clock of the past.

Each clock is a slice. A slice is done when the runs table has a successful run under that clock;
nothing else is remembered, so a backfill can be killed anywhere and started again. The models
upstream that depend on the clock are built in schemas of their own, so the features of the past never
replace today's. The scoring model writes its own ledger. See docs/decisions/backfill.md.
"""

from __future__ import annotations

import calendar
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from dbt_onnx.artifacts.registry import parse_spec
from dbt_onnx.errors import ConfigError, DbtOnnxError, WarehouseError
from dbt_onnx.project import upstream
from dbt_onnx.project.dbt_project import one_line
from dbt_onnx.project.scoring_calls import scoring_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dbt_onnx.artifacts.registry import RegistryEntry
    from dbt_onnx.engines.base import TableName, Warehouse
    from dbt_onnx.project.dbt_project import DbtProject, ScoringModel
    from dbt_onnx.project.scoring_calls import ScoringCall

Every = Literal["day", "week", "month"]


def slices(first: datetime, last: datetime, every: Every) -> list[datetime]:
    """The clocks from `first` to `last`, both included, ascending.

    Months count from `first`: after a 31st, the slice of a shorter month is its last day. Raises
    ConfigError when `last` is before `first`.
    """
    if last < first:
        raise ConfigError(
            f"--from {show_clock(first)} is after --to {show_clock(last)}",
            hint="give the earlier day first",
        )
    found: list[datetime] = []
    while (clock := _advance(first, len(found), every)) <= last:
        found.append(clock)
    return found


def _advance(first: datetime, steps: int, every: Every) -> datetime:
    if every != "month":
        return first + steps * timedelta(days=1 if every == "day" else 7)
    years, month = divmod(first.month - 1 + steps, 12)
    last = calendar.monthrange(first.year + years, month + 1)[1]
    return first.replace(year=first.year + years, month=month + 1, day=min(first.day, last))


def show_clock(clock: datetime) -> str:
    """`1997-09-01`, or `1997-09-01 06:00:00` within a day."""
    return clock.isoformat(sep=" ").removesuffix(" 00:00:00")


@dataclass(frozen=True, kw_only=True)
class Backfill:
    """What is to be done.

    clocks      all slices, ascending
    done        the slices that have run
    version     the version that scores
    asked       the same as text, "churn/1", when the user named it; else none
    features    the feature relation that a slice builds; none when it is not known
    relations   where a slice builds the models upstream, by id
    """

    project: DbtProject
    model: ScoringModel
    version: RegistryEntry
    asked: str | None
    features: TableName | None
    upstream: tuple[str, ...]
    relations: dict[str, TableName]
    clocks: tuple[datetime, ...]
    done: frozenset[datetime]

    @property
    def missing(self) -> list[datetime]:
        return [clock for clock in self.clocks if clock not in self.done]


@dataclass(frozen=True, kw_only=True)
class SliceResult:
    """What became of one slice: the summary of its run, or `rows` of a dry run, or an `error`."""

    clock: datetime
    seconds: float
    message: str = ""
    rows: int | None = None
    error: str | None = None


def plan_backfill(
    project: DbtProject,
    name: str,
    *,
    first: datetime,
    last: datetime,
    every: Every,
    asked: str | None = None,
) -> Backfill:
    """Find out what a backfill of the scoring model `name` has to do; writes nothing.

    `asked` names a version to score with, "churn/1" or "churn@challenger", in place of the scoring
    model's own. Then only runs of that version count as done, else those of any version. Raises
    ConfigError when the slices make no sense or the features do not depend on the clock,
    RegistryError when no such version is registered.
    """
    clocks = slices(first, last, every)
    model = project.scoring_model(name)
    above = upstream.clock_dependent(project.manifest, model.unique_id)
    relations = upstream.relations_of(project.manifest, above, suffix=f"__backfill_{model.name}")
    clock_query = project.render("select {{ dbt_onnx.clock() }} as clock", variables={})
    reads = upstream.nodes_above(project.manifest, model.unique_id)
    with project.warehouse() as warehouse:
        now = warehouse.answer(clock_query)["clock"]
        call = scoring_call(project, warehouse, model)
        version = _version(warehouse, call, reads, asked)
        # any version fills a hole, unless one was asked for
        done = warehouse.scored_clocks(model.table, version if asked else None)
    if clocks[-1] > now:
        raise ConfigError(
            f"slice {show_clock(clocks[-1])} is later than the project's clock, {show_clock(now)}",
            hint="end with --to before it, or set the clock with "
            "--vars '{dbt_onnx_clock: \"YYYY-MM-DD\"}'",
        )
    return Backfill(
        project=project,
        model=model,
        version=version,
        asked=None if asked is None else str(version.model),
        features=_features(call, reads, relations),
        upstream=tuple(above),
        relations=relations,
        clocks=tuple(clocks),
        done=frozenset(done.intersection(clocks)),
    )


def run_backfill(
    backfill: Backfill, *, on_start: Callable[[datetime], None], is_dry_run: bool = False
) -> Iterator[SliceResult]:
    """Run the missing slices, oldest first, one for each result that is asked for.

    A dry run only builds and counts their features. `on_start` is called before each slice. A slice
    that fails is a result, too. Raises WarehouseError when the schemas for the features of the past
    are somebody else's, KeyboardInterrupt when dbt was stopped.
    """
    if not backfill.missing:
        # a backfill that was killed after its last slice has left the schemas
        _drop_scratch(backfill)
    for clock in backfill.missing:
        on_start(clock)
        yield _run_slice(backfill, clock, is_dry_run=is_dry_run)


def _run_slice(backfill: Backfill, clock: datetime, *, is_dry_run: bool) -> SliceResult:
    """Run one slice. Its scratch schemas are made before and dropped afterwards."""
    project, began = backfill.project, time.monotonic()
    variables: dict[str, Any] = {upstream.CLOCK_VARIABLE: clock.isoformat(sep=" ")}
    if backfill.asked is not None:
        variables["dbt_onnx_model"] = {
            **(project.variables.get("dbt_onnx_model") or {}),
            backfill.model.name: backfill.asked,
        }
    wanted = [*backfill.upstream, *([] if is_dry_run else [backfill.model.unique_id])]
    with _scratch(backfill):
        done = project.invoke(
            "run",
            "--select",
            *upstream.selection(project.manifest, wanted),
            variables=variables,
            manifest=upstream.moved(project.manifest, backfill.relations),
        )
        error, message, rows = _error_of(done), "", None
        if error is None and not is_dry_run:
            message = _message_of(done, backfill.model.unique_id)
        elif error is None and backfill.features is not None:
            with project.warehouse() as warehouse:
                rows = warehouse.count_rows(backfill.features)
    return SliceResult(
        clock=clock, seconds=time.monotonic() - began, message=message, rows=rows, error=error
    )


@contextmanager
def _scratch(backfill: Backfill) -> Iterator[None]:
    with backfill.project.warehouse(read_only=False) as warehouse:
        warehouse.renew_scratch(backfill.relations.values())
    try:
        yield
    except BaseException:
        # not raised over the error of the slice: the next backfill drops them, too
        with suppress(DbtOnnxError):
            _drop_scratch(backfill)
        raise
    _drop_scratch(backfill)


def _drop_scratch(backfill: Backfill) -> None:
    with backfill.project.warehouse(read_only=False) as warehouse:
        warehouse.drop_scratch(backfill.relations.values())


def _version(
    warehouse: Warehouse, call: ScoringCall, reads: list[Any], asked: str | None
) -> RegistryEntry:
    model = call.scoring_model
    if asked is None and call.model is None:
        raise ConfigError(
            f"which model {model.selector} scores with is not known before its first run: its code "
            "does not say so in plain text",
            hint="name a version with --model NAME/VERSION",
        )
    own = None if call.model is None else parse_spec(call.model).model_name
    spec = asked or call.model or ""
    if own is not None and parse_spec(spec).model_name != own:
        raise ConfigError(
            f"{model.selector} scores with {call.model!r}, and --model asks for {spec!r}",
            hint=f"name a version of that model: '{own}/VERSION'",
        )
    return warehouse.registry_among(list(map(upstream.table_of, reads))).resolve(spec)


def _features(
    call: ScoringCall, reads: list[Any], relations: dict[str, TableName]
) -> TableName | None:
    """The feature relation that a slice builds, among those that the scoring model reads."""
    built = [node for node in reads if node.unique_id in relations]
    if len(built) > 1 and call.features is not None:
        built = [node for node in built if node.relation_name == call.features.sql]
    return relations[built[0].unique_id] if len(built) == 1 else None


def _error_of(done: Any) -> str | None:
    """Why a call of dbt failed, in one line; none when it did not."""
    if done.success:
        return None
    for result in getattr(done.result, "results", None) or []:
        if str(result.status) in {"error", "fail"}:
            return f"{result.node.name}: {one_line(result.message)}"
    return one_line(done.exception or "dbt did not say why")


def _message_of(done: Any, unique_id: str) -> str:
    for result in done.result.results:
        if result.node.unique_id == unique_id:
            return str(result.message)
    raise WarehouseError(
        "dbt ran, and not the scoring model", hint="it may be disabled for this target"
    )
