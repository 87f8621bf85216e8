"""The promotions seed: which version became champion, when and why, and which version it replaced.

The file is in the registry's folder and is reviewed with it. Rows are only ever added. The registry
contains the current champion; this file contains the history.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from dbt_onnx.artifacts.registry import name_faults
from dbt_onnx.artifacts.seed_files import SeedFile
from dbt_onnx.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PROMOTIONS_NAME = "model_promotions.csv"
Action = Literal["promote", "rollback", "found"]
GateResult = Literal["passed", "not_compared", "overridden", "not_run"]

FOUND = "the registry was changed by hand, or a command was stopped before it could record this"


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One change of a model's champion.

    promoted_at        UTC, ISO 8601 with microseconds and Z
    replaced_version   the previous champion; empty if there was none
    action             promote, rollback, or found (a change of the registry without a record)
    gate               passed, not_compared (all checks passed, but there was no champion to compare
                       with), overridden, or not_run
    reason             why the gate was overridden or the version rolled back; may be empty
    """

    promoted_at: str
    model_name: str
    model_version: str
    replaced_version: str
    action: Action
    gate: GateResult
    reason: str


PROMOTION_COLUMNS = tuple(item.name for item in fields(Promotion))


class History(NamedTuple):
    """The promotions of one model, oldest first."""

    promotions: tuple[Promotion, ...]

    @property
    def champion(self) -> str | None:
        """The version that the last promotion made champion; None if nothing is recorded."""
        return self.promotions[-1].model_version if self.promotions else None

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that has been champion, ordered by the first time that it was."""
        seen: dict[str, None] = {}
        for item in self.promotions:
            seen |= dict.fromkeys(filter(None, (item.replaced_version, item.model_version)))
        return tuple(seen)

    @property
    def champion_stack(self) -> tuple[str, ...]:
        """The versions whose promotion no rollback has undone. The last one is champion.

        Rollbacks add up: after promotions of 1, 2 and 3, one rollback leaves 1, 2 and a second leaves 1.
        """
        stack: list[str] = []
        for item in self.promotions:
            if not stack and item.replaced_version:
                stack.append(item.replaced_version)
            if item.action == "rollback" and item.model_version in stack:
                while stack[-1] != item.model_version:
                    stack.pop()
            else:
                stack.append(item.model_version)
        return tuple(stack)


def read_history(path: Path, model_name: str) -> History:
    """Read one model's promotions. Raises RegistryError if the file or a row is not valid."""
    seed = SeedFile.read(path, columns=PROMOTION_COLUMNS)
    missing = [column for column in PROMOTION_COLUMNS if column not in seed.header]
    if missing:
        raise RegistryError(
            f"the promotions {path} have no column {', '.join(missing)}; "
            f"the first line is {','.join(seed.header)!r}",
            hint=f"the first line must be {','.join(PROMOTION_COLUMNS)}",
        )
    found, faults = [], []
    for number, row in enumerate(seed.rows, start=1):
        if not row:
            continue
        values = {column: seed.value(row, column) for column in PROMOTION_COLUMNS}
        faults += [f"row {number}: {fault}" for fault in _faults(values)]
        if values["model_name"] == model_name:
            found.append(Promotion(**values))  # type: ignore[arg-type]
    if faults:
        raise RegistryError(
            f"the promotions {path} are not valid: {'; '.join(faults)}",
            hint="restore the file from version control; rows are only ever added to it",
        )
    return History(tuple(found))


def append_promotions(path: Path, promotions: Sequence[Promotion]) -> None:
    """Add rows, all or none. The caller holds the lock and has read the history from this file."""
    seed = SeedFile.read(path, columns=PROMOTION_COLUMNS)
    for item in promotions:
        seed.add(asdict(item))
    seed.write()


def next_times(history: History) -> tuple[str, str]:
    """Return two UTC times, such as `1998-01-05T14:03:07.000000Z`, later than the last recorded one.

    So the rows stay in order even if the machine's clock was set back.
    """
    moment, step = datetime.now(UTC), timedelta(microseconds=1)
    if history.promotions:
        moment = max(moment, _moment(history.promotions[-1].promoted_at) + step)
    return _text(moment), _text(moment + step)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _faults(values: dict[str, str]) -> list[str]:
    faults = []
    for column in ("model_name", "model_version", "replaced_version"):
        if values[column] or column != "replaced_version":
            faults += name_faults(values[column], what=column)
    for column, allowed in (("action", Action), ("gate", GateResult)):
        if values[column] not in get_args(allowed):
            words = ", ".join(cast("tuple[str, ...]", get_args(allowed)))
            faults.append(f"{column} {values[column][:80]!r} is not one of {words}")
    try:
        _moment(values["promoted_at"])
    except ValueError:
        faults.append(f"promoted_at {values['promoted_at'][:80]!r} is not a time")
    return faults
