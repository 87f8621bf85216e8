"""What changed since the last alert: problems that are new, and problems that are gone.

A problem is the same as before if model, kind and subject are equal, whatever its numbers: an alert for
each new count of stale rows would be noise. Nothing here sends anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from dbt_onnx.artifacts.card import replace_file
from dbt_onnx.errors import ConfigError
from dbt_onnx.runs.health import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dbt_onnx.runs.health import Health

PROJECT = "project"
_VERSION = 1


class Identity(NamedTuple):
    """What makes two problems the same. `subject` is the name of a test, else empty."""

    scoring_model: str
    kind: str
    subject: str


Problems = dict[Identity, str]
"""{problem: its message}, in the order of the check."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """`new` problems, those of before that are `gone`, and those that `remain`."""

    new: Problems
    gone: Problems
    remain: Problems

    @property
    def is_recovery(self) -> bool:
        """Whether all problems are gone."""
        return not self.new and not self.remain

    def __bool__(self) -> bool:
        return bool(self.new or self.gone)


def problems_of(health: Health) -> Problems:
    """Return all problems. If the project or warehouse cannot be read, that is the only one."""
    if health.error is not None:
        return {Identity(PROJECT, "unreadable", ""): health.error.message}
    return {
        Identity(model.scoring_model, problem.kind, problem.subject): problem.message
        for model in health.models
        for problem in model.problems
    }


def changes_between(before: Problems, now: Problems) -> Changes:
    """Compare two checks. If the project cannot be read now, nothing else is known to be gone."""
    is_unknown = any(identity.scoring_model == PROJECT for identity in now)
    gone = {
        identity: message
        for identity, message in before.items()
        if identity not in now and not is_unknown
    }
    return Changes(
        new={identity: message for identity, message in now.items() if identity not in before},
        gone=gone,
        remain={i: now.get(i, message) for i, message in before.items() if i not in gone},
    )


def is_broken(identity: Identity) -> bool:
    """Return whether the problem makes its scoring model broken, not only degraded."""
    return KINDS.get(identity.kind, "broken") == "broken"


class State:
    """What each receiver was told last, in a JSON file. Without the file, nobody was told anything."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told: dict[str, Problems] = {}
        try:
            if path.exists():
                self._told = _read(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is not a state that `dbt-onnx alert` has written: {error}",
                hint="remove it: the next alert then reports every problem as new",
            ) from error

    def told(self, receiver: str) -> Problems:
        """Return the problems of the last alert that reached the receiver."""
        return self._told.get(receiver, {})

    def keep(self, receiver: str, problems: Sequence[tuple[Identity, str]]) -> None:
        """Record what the receiver knows now. Raises ConfigError if the file cannot be written."""
        self._told[receiver] = dict(problems)
        document = {
            "version": _VERSION,
            "receivers": {
                name: [{**identity._asdict(), "message": message} for identity, message in told]
                for name, told in ((name, told.items()) for name, told in self._told.items())
            },
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, json.dumps(document, indent=1).encode())
        except OSError as error:
            raise ConfigError(
                f"{self._path} cannot be written: {error.strerror or error}",
                hint="name another file with --state",
            ) from error


def _read(document: Mapping[str, Any]) -> dict[str, Problems]:
    if document["version"] != _VERSION:
        raise ValueError(f"its version is {document['version']!r}, not {_VERSION}")
    return {
        name: {
            Identity(str(item["scoring_model"]), str(item["kind"]), str(item["subject"])): str(
                item["message"]
            )
            for item in told
        }
        for name, told in document["receivers"].items()
    }
