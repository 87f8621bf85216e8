"""The arguments of `score()` and the settings from dbt, checked once, before the warehouse is touched."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

from dbt_onnx.artifacts.registry import parse_spec
from dbt_onnx.errors import ConfigError
from dbt_onnx.kernel.contract import CARRIED_PREFIX, RESERVED_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

PERIODS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
}
_MOST_PERIODS = 100_000
# significant digits of a number for a float64 input: the default and the maximum
SIGNIFICANT_DIGITS = 9
MAX_DIGITS = 17
# the share of rejected rows that a run and the test `predictions_are_valid` accept by default
MAX_REJECTED_FRACTION = 0.1
# limits: onnxruntime starts as many threads as it is told to, and a million threads kill the process
_MOST = {"batch_rows": 10_000_000, "threads": 1_024, "significant_digits": MAX_DIGITS}


# attributes that identify what `dbt.ref()` returns: a relation of DuckDB, a data frame of Spark
_RELATION_ATTRIBUTES = ("sql_query", "sparkSession")

_RETURN_IT = (
    "return the result of score() unchanged: the run comes after the model's code; read predictions in "
    "another model, with dbt.ref()"
)


class _NoRowsError(ConfigError, AttributeError):
    """Raised if the result of `score()` is used as a data frame. An AttributeError, so that `hasattr` works."""


class TableArguments(Protocol):
    """The arguments of `score()` that concern columns and tables."""

    @property
    def features(self) -> Any: ...
    @property
    def key(self) -> tuple[str, ...]: ...
    @property
    def as_of(self) -> str | None: ...
    @property
    def keep_inputs(self) -> timedelta | bool: ...


@dataclass(frozen=True, kw_only=True)
class ScoringRequest:
    """The checked arguments of `score()`. `features` and `registry` are relations of the engine."""

    features: Any
    registry: Any
    model: str
    key: tuple[str, ...]
    as_of: str | None
    refresh_after: timedelta | None
    keep_inputs: timedelta | bool
    significant_digits: int
    max_rejected_fraction: float
    batch_rows: int | None
    threads: int | None

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise ConfigError(
            "score() returns a scoring run; this materialization expects rows",
            hint="set dbt.config(materialized='predictions') in the model",
        )

    def __getattr__(self, name: str) -> object:
        """Refuse attributes that do not exist, such as `score(...).df()`."""
        raise _NoRowsError(f"score() returns a scoring run, which has no {name!r}", hint=_RETURN_IT)

    def __iter__(self) -> Iterator[object]:
        raise _NoRowsError("score() returns a scoring run, which has no rows", hint=_RETURN_IT)

    def __getitem__(self, item: object) -> object:
        raise _NoRowsError(f"score() returns a scoring run, which has no {item!r}", hint=_RETURN_IT)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the materialization passes on: the place of the ledger, the run's id, and the run's options.

    `clock_sql` is the SQL expression of the project's clock, a naive UTC timestamp. `model` is the
    version, such as "churn/1", that a backfill asks for instead of the scoring model's own. `seeds` are the
    files of the upstream seeds, by relation: with `empty`, dbt may have loaded the seeds without rows.
    """

    database: str
    schema: str
    identifier: str
    run_id: str
    clock_sql: str
    full_refresh: bool
    empty: bool
    retry_rejected: bool
    dbt_version: str
    model: str | None = None
    seeds: Mapping[str, Path] = field(default_factory=dict)


def check_request(arguments: Mapping[str, Any], unknown: Mapping[str, Any]) -> ScoringRequest:
    """Check the arguments of `score()`. Raises one ConfigError that lists all faults."""
    faults = [
        *unknown_argument_faults(unknown, allowed=list(arguments)),
        *relation_faults({name: arguments[name] for name in ("features", "registry")}),
        *_key_faults(arguments["key"]),
        *_number_faults(arguments),
    ]
    if arguments["as_of"] is not None and not _is_name(arguments["as_of"]):
        faults.append(f"as_of must name a column; got {arguments['as_of']!r}")
    refresh_after, period_faults = parse_period("refresh_after", arguments["refresh_after"])
    faults += period_faults
    keep_inputs, keep_faults = _parse_keep_inputs(arguments["keep_inputs"])
    faults += keep_faults
    if faults:
        raise ConfigError(
            "score() cannot run: " + "; ".join(faults),
            hint="correct the arguments of score() in the model's Python file",
        )
    parse_spec(arguments["model"])
    parsed = dict(arguments) | {"refresh_after": refresh_after, "keep_inputs": keep_inputs}
    parsed["key"] = tuple(arguments["key"])
    return ScoringRequest(**parsed)


def parse_period(name: str, value: object) -> tuple[timedelta | None, list[str]]:
    """`{"count": 7, "period": "day"}` -> seven days, and the faults found on the way."""
    if value is None:
        return None, []
    if isinstance(value, Mapping) and set(value) == {"count", "period"}:
        count, period = value["count"], value["period"]
        is_period = isinstance(period, str) and period in PERIODS
        if is_period and _is_whole(count) and 0 < count <= _MOST_PERIODS:
            return count * PERIODS[period], []
    count = f"'count': a whole number from 1 to {_MOST_PERIODS:,}"
    period = f"'period': one of {', '.join(PERIODS)}"
    return None, [f"{name} must be {{{count}, {period}}}; got {value!r}"]


def _parse_keep_inputs(value: object) -> tuple[timedelta | bool, list[str]]:
    if isinstance(value, bool):
        return value, []
    if not isinstance(value, Mapping):
        how = "True, False or a period, such as {'count': 400, 'period': 'day'}"
        return False, [f"keep_inputs must be {how}; got {value!r}"]
    period, faults = parse_period("keep_inputs", value)
    return period or False, faults


def unknown_argument_faults(unknown: Mapping[str, Any], *, allowed: Sequence[str]) -> list[str]:
    """Return a message for each argument that a function does not have."""
    faults = []
    for name in unknown:
        close = difflib.get_close_matches(name, allowed, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        faults.append(f"unknown argument {name!r}{meant}; allowed are {', '.join(allowed)}")
    return faults


def relation_faults(arguments: Mapping[str, Any]) -> list[str]:
    """Return a message for each argument that should be a relation and is not."""
    return [
        f"{name} must be a relation such as dbt.ref(...); got {type(value).__name__}"
        for name, value in arguments.items()
        if not any(hasattr(value, attribute) for attribute in _RELATION_ATTRIBUTES)
    ]


def _key_faults(key: object) -> list[str]:
    if isinstance(key, str) or not isinstance(key, Sequence) or not key:
        return [f"key must be a list of column names; got {key!r}"]
    if not all(_is_name(name) for name in key):
        return [f"key must be a list of column names; got {list(key)!r}"]
    faults = []
    if len({name.casefold() for name in key}) < len(key):
        faults.append(f"key names a column twice: {list(key)!r}")
    for name in key:
        if name.casefold() in RESERVED_COLUMNS or name.casefold().startswith(CARRIED_PREFIX):
            faults.append(
                f"key column {name!r} collides with a column of the ledger; "
                "rename it in the features model"
            )
    return faults


def _number_faults(arguments: Mapping[str, Any]) -> list[str]:
    faults = []
    fraction = arguments["max_rejected_fraction"]
    is_number = isinstance(fraction, float) or _is_whole(fraction)
    if not is_number or not 0 <= fraction <= 1:
        faults.append(f"max_rejected_fraction must lie between 0 and 1; got {fraction!r}")
    for name, most in _MOST.items():
        value = arguments[name]
        is_left_open = value is None and name != "significant_digits"
        if not is_left_open and not (_is_whole(value) and 1 <= value <= most):
            faults.append(f"{name} must be a whole number from 1 to {most:,}; got {value!r}")
    return faults


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""
