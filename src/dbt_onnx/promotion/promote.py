"""Promotion and rollback: change two aliases in the registry, and add a row to the promotions.

The registry is written first, then the promotions. If a command is killed in between, the version is
champion without a record; the next command detects this, reports it and adds the record. In the
opposite order, the promotions could record a change that never happened.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.card import replace_file
from dbt_onnx.artifacts.registry import CHAMPION, Registry, RegistryEntry, name_faults, parse_spec
from dbt_onnx.artifacts.registry_file import exchange_aliases
from dbt_onnx.artifacts.seed_files import locked
from dbt_onnx.errors import ConfigError, RegistryError
from dbt_onnx.promotion.promotions_file import (
    FOUND,
    PROMOTIONS_NAME,
    Action,
    GateResult,
    History,
    Promotion,
    append_promotions,
    next_times,
    read_history,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dbt_onnx.promotion.gate import Check

MAX_REASON = 1_000


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """The state of a model in the registry (`path`) and the promotions. `champion` is None if there is none."""

    model_name: str
    registry: Registry
    path: Path
    champion: RegistryEntry | None
    history: History

    @property
    def promotions(self) -> Path:
        return self.path.parent / PROMOTIONS_NAME

    @property
    def champion_version(self) -> str | None:
        return self.champion.model_version if self.champion else None

    @property
    def changed_by_hand(self) -> bool:
        """Whether the champion in the registry differs from the last champion in the promotions."""
        return self.history.champion not in {None, self.champion_version}

    @classmethod
    def read(cls, path: Path, model_name: str) -> ModelState:
        """Read both seeds. Raises RegistryError if one is not valid, or the registry lacks the model."""
        registry = Registry.from_csv(path)
        versions = registry.versions_of(model_name)
        return cls(
            model_name=model_name,
            registry=registry,
            path=path,
            champion=next((entry for entry in versions if entry.alias == CHAMPION), None),
            history=read_history(path.parent / PROMOTIONS_NAME, model_name),
        )


class Change(NamedTuple):
    """A completed change of champion, as recorded in the promotions.

    `replaced_alias` is the alias that the replaced version has now; None if it has none. `found` is an
    earlier change that no command had recorded, and that was recorded together with this one.
    `promotions` is the file; `first` is True if it is new.
    """

    promotion: Promotion
    replaced_alias: str | None
    found: Promotion | None
    promotions: Path
    first: bool


def clean_reason(text: str, *, option: str) -> str:
    """Return the reason on one line. Raises ConfigError if it is blank, too long or not printable."""
    line = " ".join(text.split())
    if not line or not line.isprintable() or len(line) > MAX_REASON:
        what = "is blank" if not line else f"is not plain text of at most {MAX_REASON:,} characters"
        raise ConfigError(
            f"{option} {what}", hint=f"say why in a sentence: {option} 'the new price list is in'"
        )
    return line


def override_reason(why: str, failed: Sequence[Check]) -> str:
    """Return the reason to record: the user's words, and the failed checks that they override."""
    checks = "; ".join(f"{check.name} {check.figure}, limit {check.limit}" for check in failed)
    return f"{why} (despite {checks})" if checks else why


def read_promotion(path: Path, spec: str) -> tuple[ModelState, RegistryEntry]:
    """Return the state of the model, and the registry entry of the version, that `NAME/VERSION` names.

    Raises ConfigError if `spec` names no version, RegistryError if the version is not registered or
    is champion already.
    """
    wanted = parse_spec(spec)
    if wanted.model_version is None:
        raise ConfigError(
            f"{spec!r} does not name a version to promote",
            hint=f"name a version: `dbt-onnx promote {wanted.model_name}/VERSION`",
        )
    state = ModelState.read(path, wanted.model_name)
    entry = state.registry.resolve(spec)
    if entry == state.champion:
        raise RegistryError(
            f"{spec} is already the champion in {path}",
            hint=f"there is nothing to do; `dbt build -s {path.stem}+` serves this version",
        )
    return state, entry


def promote_version(
    state: ModelState, entry: RegistryEntry, *, action: Action, gate: GateResult, reason: str
) -> Change:
    """Make `entry` champion: write the registry, then the promotions.

    `state` is the state that the gate has checked. Raises RegistryError, and changes nothing, if the
    champion or `entry` have changed since then, or if a file cannot be written.
    """
    with locked(state.path.parent):
        now = ModelState.read(state.path, state.model_name)
        if now.champion != state.champion or entry not in now.registry.entries:
            raise RegistryError(
                f"{state.path} was changed while the gate ran: the champion of "
                f"{state.model_name!r} was {state.champion_version or 'none'} and is now "
                f"{now.champion_version or 'none'}",
                hint="run the command again: the version must be compared with the current champion",
            )
        return _write(now, entry, action=action, gate=gate, reason=reason)


def roll_back(
    path: Path, model_name: str, *, to: str | None, artifacts: Path, reason: str
) -> Change:
    """Make the previous champion, or the version named by `to`, champion again.

    Only the version's artifact is checked, since a rollback must be quick and work without a warehouse.
    Raises RegistryError if the promotions do not show which version was the previous champion,
    ArtifactError or ContractError if the version's files are not those that were registered.
    """
    if faults := name_faults(model_name, what="NAME"):
        raise ConfigError("; ".join(faults), hint="name a model: `dbt-onnx rollback churn`")
    with locked(path.parent):
        state = ModelState.read(path, model_name)
        entry = _entry_before(state) if to is None else _entry_named(state, to)
        load_artifact(artifacts, entry)
        return _write(state, entry, action="rollback", gate="not_run", reason=reason)


def _entry_before(state: ModelState) -> RegistryEntry:
    name, history = state.model_name, state.history
    if not history.promotions:
        raise RegistryError(
            f"no promotion of {name!r} is recorded in {state.promotions}, so the previous "
            "champion is not known",
            hint=f"name the version to return to: `dbt-onnx rollback {name} --to VERSION`; {_versions(state)}",
        )
    if state.changed_by_hand:
        raise RegistryError(
            f"the champion of {name!r} is {state.champion_version or 'none'} in {state.path}, but "
            f"{history.champion} in the last promotion in {state.promotions}: {FOUND}",
            hint=f"name the version to return to: `dbt-onnx rollback {name} --to VERSION`; "
            f"{_versions(state)}",
        )
    if len(history.champion_stack) < 2:
        raise RegistryError(
            f"{name}/{history.champion} is the first champion in {state.promotions}: "
            "there is no earlier champion",
            hint=f"`dbt-onnx promote {name}/VERSION` makes another version champion; {_versions(state)}",
        )
    return state.registry.resolve(f"{name}/{history.champion_stack[-2]}")


def _entry_named(state: ModelState, version: str) -> RegistryEntry:
    name, history = state.model_name, state.history
    entry = state.registry.resolve(f"{name}/{version}")
    if entry == state.champion:
        raise RegistryError(
            f"{name}/{version} is already the champion in {state.path}",
            hint=f"name another version; {_versions(state)}",
        )
    complete = history.promotions and not state.changed_by_hand
    if complete and version not in history.versions:
        raise RegistryError(
            f"{name}/{version} has never been champion according to {state.promotions}: a "
            "rollback returns to an earlier champion",
            hint=f"`dbt-onnx promote {name}/{version}` takes it through the gate",
        )
    return entry


def _versions(state: ModelState) -> str:
    if state.history.versions:
        return f"champions were {', '.join(state.history.versions)}"
    known = state.registry.versions_of(state.model_name)
    return f"its versions are {', '.join(entry.model_version for entry in known)}"


def _write(
    state: ModelState, entry: RegistryEntry, *, action: Action, gate: GateResult, reason: str
) -> Change:
    champion = state.champion
    found_at, promoted_at = next_times(state.history)
    promotion = Promotion(
        promoted_at=promoted_at,
        model_name=state.model_name,
        model_version=entry.model_version,
        replaced_version=state.champion_version or "",
        action=action,
        gate=gate,
        reason=reason,
    )
    found = None
    if state.changed_by_hand and champion is not None:
        found = replace(
            promotion,
            promoted_at=found_at,
            model_version=champion.model_version,
            replaced_version=state.history.champion or "",
            action="found",
            gate="not_run",
            reason=FOUND,
        )
    first = not state.promotions.exists()
    registry_before = state.path.read_bytes()
    exchange_aliases(state.path, entry, champion)
    try:
        append_promotions(state.promotions, [found, promotion] if found else [promotion])
    except BaseException:
        with suppress(OSError):
            replace_file(state.path, registry_before)
        raise
    replaced_alias = entry.alias if champion else None
    return Change(promotion, replaced_alias, found, state.promotions, first)
