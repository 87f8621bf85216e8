"""Backfill: run a scoring model once for each of several clocks in the past.

Each clock is a slice. A slice is done if the runs table has a successful run with that clock. No other
state is stored, so a backfill can be killed anywhere and started again. The upstream models that
depend on the clock are built in separate schemas, so the features of the past never replace today's.
The scoring model writes to its usual ledger. See docs/decisions/backfill.md.
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
    """Return the clocks from `first` to `last` in ascending order. `last` is included if a step ends on it.

    Months count from `first`: if that is a 31st, the slice of a shorter month is on its last day.
    Raises ConfigError if `last` is before `first`.
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
    """Return a clock as text: `1997-09-01` at midnight, else `1997-09-01 06:00:00`."""
    return clock.isoformat(sep=" ").removesuffix(" 00:00:00")


@dataclass(frozen=True, kw_only=True)
class Backfill:
    """A planned backfill.

    version             the version that scores
    requested_version   this version as text, "churn/1", if the user named a version; else None
    features            the feature relation that a slice builds; None if it is not known
    upstream            ids of the upstream models that a slice builds
    relations           {id of an upstream model: the relation that a slice builds for it}
    clocks              all slices, ascending
    done                the slices that have run
    """

    project: DbtProject
    model: ScoringModel
    version: RegistryEntry
    requested_version: str | None
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
    """The result of one slice: the `message` of its run, the feature `rows` of a dry run, or an `error`."""

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
    requested_version: str | None = None,
) -> Backfill:
    """Plan a backfill of the scoring model `name`, without writing anything.

    `requested_version` names a version to score with, "churn/1" or "churn@challenger", instead of the version that
    the scoring model uses. With `requested_version`, only runs of that version count as done, else runs of any
    version. Raises ConfigError if the slices are not valid or the features do not depend on the clock,
    RegistryError if the version is not registered.
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
        version = _version(warehouse, call, reads, requested_version)
        # a run by any version counts, unless the user has named one
        done = warehouse.scored_clocks(model.table, version if requested_version else None)
    if clocks[-1] > now:
        raise ConfigError(
            f"slice {show_clock(clocks[-1])} is later than the project's clock, {show_clock(now)}",
            hint="choose an earlier --to, or set the clock with "
            "--vars '{dbt_onnx_clock: \"YYYY-MM-DD\"}'",
        )
    return Backfill(
        project=project,
        model=model,
        version=version,
        requested_version=None if requested_version is None else str(version.model),
        features=_features(call, reads, relations),
        upstream=tuple(above),
        relations=relations,
        clocks=tuple(clocks),
        done=frozenset(done.intersection(clocks)),
    )


def run_backfill(
    backfill: Backfill, *, on_start: Callable[[datetime], None], is_dry_run: bool = False
) -> Iterator[SliceResult]:
    """Run the missing slices, oldest first. Each slice runs when its result is taken from the iterator.

    A dry run only builds the features and counts their rows. `on_start` is called before each slice. A
    slice that fails gives a result, too. Raises WarehouseError if a schema for the features of the past
    belongs to somebody else, KeyboardInterrupt if dbt was interrupted.
    """
    if not backfill.missing:
        # a backfill that was killed after its last slice may have left the schemas
        _drop_scratch(backfill)
    for clock in backfill.missing:
        on_start(clock)
        yield _run_slice(backfill, clock, is_dry_run=is_dry_run)


def _run_slice(backfill: Backfill, clock: datetime, *, is_dry_run: bool) -> SliceResult:
    """Run one slice. Its scratch schemas are created before and dropped afterwards."""
    project, began = backfill.project, time.monotonic()
    variables: dict[str, Any] = {upstream.CLOCK_VARIABLE: clock.isoformat(sep=" ")}
    if backfill.requested_version is not None:
        variables["dbt_onnx_model"] = {
            **(project.variables.get("dbt_onnx_model") or {}),
            backfill.model.name: backfill.requested_version,
        }
    wanted = [*backfill.upstream, *([] if is_dry_run else [backfill.model.unique_id])]
    with _scratch(backfill):
        done = project.invoke(
            "run",
            "--select",
            *upstream.selection(project.manifest, wanted),
            variables=variables,
            manifest=upstream.with_relations(project.manifest, backfill.relations),
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
        # an error here must not hide that of the slice; the next backfill drops the schemas, too
        with suppress(DbtOnnxError):
            _drop_scratch(backfill)
        raise
    _drop_scratch(backfill)


def _drop_scratch(backfill: Backfill) -> None:
    with backfill.project.warehouse(read_only=False) as warehouse:
        warehouse.drop_scratch(backfill.relations.values())


def _version(
    warehouse: Warehouse, call: ScoringCall, reads: list[Any], requested_version: str | None
) -> RegistryEntry:
    model = call.scoring_model
    if requested_version is None and call.model is None:
        raise ConfigError(
            f"which model {model.selector} scores with is not known before its first run: the "
            "`model` argument in its code is not a literal",
            hint="name a version with --model NAME/VERSION",
        )
    own = None if call.model is None else parse_spec(call.model).model_name
    spec = requested_version or call.model or ""
    if own is not None and parse_spec(spec).model_name != own:
        raise ConfigError(
            f"{model.selector} scores with {call.model!r}, but --model names {spec!r}",
            hint=f"name a version of that model: '{own}/VERSION'",
        )
    return warehouse.registry_among(list(map(upstream.table_of, reads))).resolve(spec)


def _features(
    call: ScoringCall, reads: list[Any], relations: dict[str, TableName]
) -> TableName | None:
    """Return the feature relation that a slice builds for the scoring model; None if it is not known."""
    built = [node for node in reads if node.unique_id in relations]
    if len(built) > 1 and call.features is not None:
        built = [node for node in built if node.relation_name == call.features.sql]
    return relations[built[0].unique_id] if len(built) == 1 else None


def _error_of(done: Any) -> str | None:
    """Return why an invocation of dbt failed, on one line; None if it succeeded."""
    if done.success:
        return None
    for result in getattr(done.result, "results", None) or []:
        if str(result.status) in {"error", "fail"}:
            return f"{result.node.name}: {one_line(result.message)}"
    return one_line(done.exception or "dbt gave no reason")


def _message_of(done: Any, unique_id: str) -> str:
    for result in done.result.results:
        if result.node.unique_id == unique_id:
            return str(result.message)
    raise WarehouseError(
        "dbt ran, but not the scoring model", hint="it may be disabled for this target"
    )
