"""The model registry: the versions of each model, their files, and which version is the champion.

The registry is a seed of the user's dbt project. A scoring model reads it as a relation (`from_rows`),
the command line as a file (`from_csv`). Both apply the same rules and report every fault at once.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

from dbt_onnx.errors import ConfigError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

REGISTRY_COLUMNS = ("model_name", "model_version", "alias", "artifact", "sha256")
# missing in older registries: `dbt-onnx verify --record-cards` adds it
CARD_COLUMN = "card_sha256"
SEED_COLUMNS = (*REGISTRY_COLUMNS, CARD_COLUMN)
CHAMPION = "champion"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SPEC = re.compile(r"([^@/]+)(?:@([^@/]+)|/([^@/]+))?")
_ALIAS = re.compile(r"[a-z][a-z0-9_]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME_RULE = "it must consist of at most 128 letters, digits, '.', '_' and '-', and begin with a letter or digit"
_MAX_PATH = 1_000
# dbt infers the types of a seed, so version 1.10 becomes the number 1.1; an existing table keeps its types
# until it is loaded with --full-refresh
AS_TEXT = (
    "give the seed `+column_types: {model_version: string}`, and load it with "
    "`dbt seed --full-refresh`"
)
_ALIAS_RULE = (
    "it must consist of at most 128 lowercase letters, digits and '_', and begin with a letter"
)


class ModelVersion(NamedTuple):
    """A model's name and version. As text it is `churn/2`, the form in messages and commands."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True)
class RegistryEntry:
    """One row of the registry.

    `artifact` is the path of the model file below the artifacts directory, `sha256` the hash of that
    file. `card_sha256` is the `card.digest` of the card next to it, None if the registry has none.
    """

    model_name: str
    model_version: str
    alias: str | None
    artifact: str
    sha256: str
    card_sha256: str | None = None

    @property
    def model(self) -> ModelVersion:
        return ModelVersion(self.model_name, self.model_version)

    def sibling_path(self, name: str) -> str:
        """Return the path of another file in the model file's folder."""
        return f"{self.artifact.rpartition('/')[0]}/{name}".lstrip("/")


class ModelSpec(NamedTuple):
    """The parsed value of `model="..."`. Exactly one of `alias` and `model_version` is set."""

    model_name: str
    alias: str | None
    model_version: str | None


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The registered versions, in the order of the seed. `where` names the registry in messages."""

    entries: tuple[RegistryEntry, ...]
    where: str

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, object]], *, where: str) -> Registry:
        """Read rows of text, integers, dates or None (an empty alias).

        Raises RegistryError with every fault: missing columns, unsafe names or paths, a version or
        an alias that a model has twice, a malformed sha256.
        """
        faults: list[str] = []
        entries = []
        hint = "fix the seed; `dbt-onnx verify` checks it and every file that it names"
        for number, row in enumerate(rows, start=1):
            missing = [column for column in REGISTRY_COLUMNS if column not in row]
            if missing:
                faults.append(f"it has no column {', '.join(missing)}; it has {', '.join(row)}")
                if len(missing) == len(REGISTRY_COLUMNS):
                    hint = "name the seed that `dbt-onnx register` writes"
                break
            if not any(value is not None and str(value).strip() for value in row.values()):
                continue  # a blank line: dbt may load it as a row of NULLs
            entry, row_faults = _read_row(row)
            faults += [f"row {number}: {fault}" for fault in row_faults]
            if entry is not None:
                entries.append(entry)
        faults += _contradictions(entries)
        if faults:
            raise RegistryError(
                f"the model registry {where} is not valid: " + "; ".join(faults), hint=hint
            )
        return cls(entries=tuple(entries), where=where)

    @classmethod
    def from_csv(cls, path: Path) -> Registry:
        """Read the seed's file. Raises RegistryError as `from_rows` does, and if the file cannot be read."""
        try:
            # reading a named pipe would block, and reading a device would never end
            if path.exists() and not path.is_file():
                raise OSError("it is not a regular file")  # noqa: TRY301
            with path.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(stream, strict=True)
                rows = list(reader)
                header = reader.fieldnames or []
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise RegistryError(
                f"the model registry {path} cannot be read: {error}",
                hint="name the seed with --registry, or register a first model with "
                "`dbt-onnx register`, which writes it",
            ) from error
        missing = [column for column in REGISTRY_COLUMNS if column not in header]
        if missing:
            raise RegistryError(
                f"the model registry {path} has no column {', '.join(missing)}; "
                f"its first line is {','.join(header)!r}",
                hint=f"the first line must be {','.join(REGISTRY_COLUMNS)}",
            )
        twice = [column for column in SEED_COLUMNS if header.count(column) > 1]
        if twice:
            raise RegistryError(
                f"the model registry {path} has the column {', '.join(twice)} more than once; "
                f"its first line is {','.join(header)!r}",
                hint="keep only one of them",
            )
        return cls.from_rows(rows, where=str(path))

    @classmethod
    def from_seeds(cls, paths: Iterable[Path]) -> Registry | None:
        """Read the first of these seed files that is a registry. None if there is none. Raises as `from_csv`."""
        for path in paths:
            with (
                suppress(OSError, UnicodeDecodeError, csv.Error),
                path.open(encoding="utf-8-sig", newline="") as stream,
            ):
                if {"model_name", "artifact", "sha256"} <= set(next(csv.reader(stream), [])):
                    return cls.from_csv(path)
        return None

    def resolve(self, spec: str) -> RegistryEntry:
        """Return the entry that `churn` (the champion), `churn@alias` or `churn/version` names.

        Raises ConfigError if the spec is malformed, RegistryError if there is no such entry.
        """
        wanted = parse_spec(spec)
        versions = self.versions_of(wanted.model_name)
        for entry in versions:
            has_alias = wanted.alias is not None and entry.alias == wanted.alias
            if has_alias or entry.model_version == wanted.model_version:
                return entry
        known = ", ".join(
            f"{entry.model_version} ({entry.alias})" if entry.alias else entry.model_version
            for entry in versions
        )
        if wanted.alias is not None:
            raise RegistryError(
                f"model {wanted.model_name!r} has no alias {wanted.alias!r} in {self.where}; "
                f"its versions are {known}",
                hint=f"write {wanted.alias} into the alias column of one version, "
                f"or name a version: '{wanted.model_name}/{versions[-1].model_version}'",
            )
        number = (wanted.model_version or "").lstrip("0").replace("_", "")
        raise RegistryError(
            f"model {wanted.model_name!r} has no version {wanted.model_version!r} in {self.where}; "
            f"its versions are {known}",
            hint=f"if you mean version {number}, it was loaded as a number: {AS_TEXT}"
            if number in {entry.model_version for entry in versions}
            else "register that version with `dbt-onnx register`, or name one of the registered versions",
        )

    def versions_of(self, name: str) -> list[RegistryEntry]:
        """Return all entries of a model, in the order of the seed. Raises RegistryError if there is none."""
        if versions := [entry for entry in self.entries if entry.model_name == name]:
            return versions
        known = sorted({entry.model_name for entry in self.entries})
        close = get_close_matches(name, known, n=1)
        have = f"it has {', '.join(known)}" if known else "it is empty"
        raise RegistryError(
            f"{self.where} has no model {name!r}; {have}",
            hint=f"did you mean {close[0]!r}?"
            if close
            else "register it with `dbt-onnx register FILE --name NAME --version VERSION`"
            + (
                ""
                if known
                else "; `dbt seed` restores the rows that a build with `--empty` left out"
            ),
        )


def parse_spec(spec: str) -> ModelSpec:
    """Parse `churn` (the champion), `churn@challenger` (an alias) or `churn/2` (a version).

    Raises ConfigError if the text has none of the three forms.
    """
    faults = ["it is not of the form NAME, NAME@ALIAS or NAME/VERSION"]
    if isinstance(spec, str) and (match := _SPEC.fullmatch(spec)):
        name, alias, version = match.groups()
        faults = name_faults(name, what="model name")
        faults += alias_faults(alias) if alias else []
        faults += name_faults(version, what="version") if version else []
    if faults:
        raise ConfigError(
            f"model={spec!r} does not name a model: {'; '.join(faults)}",
            hint="write 'churn' for the champion, 'churn@challenger' for another alias, "
            "'churn/2' for a version",
        )
    if version is None:
        alias = alias or CHAMPION
    return ModelSpec(name, alias, version)


def name_faults(name: str, *, what: str) -> list[str]:
    """Return why this cannot be a model's name or version: an empty list if it can."""
    return [] if _NAME.fullmatch(name) else [f"{what} {_shown(name)} is not valid: {_NAME_RULE}"]


def alias_faults(alias: str) -> list[str]:
    """Return why this cannot be an alias: an empty list if it can."""
    return [] if _ALIAS.fullmatch(alias) else [f"alias {_shown(alias)} is not valid: {_ALIAS_RULE}"]


def path_faults(artifact: str) -> list[str]:
    """Return why this cannot be a path below the artifacts directory: an empty list if it can."""
    where = f"artifact {_shown(artifact)}"
    if not artifact or not artifact.isprintable():
        return [f"{where} is empty or has unprintable characters"]
    if "\\" in artifact or ":" in artifact:
        return [f"{where} has a backslash or colon; write it with '/'"]
    if artifact.startswith("/"):
        return [f"{where} is absolute; it must be a path below the artifacts directory"]
    parts = artifact.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        return [f"{where} has an empty, '.' or '..' part"]
    if not all(map(_NAME.fullmatch, parts)):
        return [f"{where} has a part that is not valid: {_NAME_RULE}"]
    if len(artifact) > _MAX_PATH:
        return [f"{where} has {len(artifact):,} characters; at most {_MAX_PATH:,} are allowed"]
    return []


def _read_row(row: Mapping[str, object]) -> tuple[RegistryEntry | None, list[str]]:
    given = {column: row.get(column) for column in SEED_COLUMNS}
    # integers and dates are accepted: if dbt changed their spelling, the check against the card fails later
    faults = [
        f"{column} was loaded as the {_kind(value)} {value}; {AS_TEXT}"
        for column, value in given.items()
        if type(value) not in {str, int, dt.date, type(None)}
    ]
    text = {column: "" if value is None else str(value).strip() for column, value in given.items()}
    if faults:
        return None, faults
    faults += name_faults(text["model_name"], what="model_name")
    faults += name_faults(text["model_version"], what="model_version")
    faults += alias_faults(text["alias"]) if text["alias"] else []
    faults += path_faults(text["artifact"])
    for column in ("sha256", *([CARD_COLUMN] if text[CARD_COLUMN] else [])):
        if not _SHA256.fullmatch(text[column]):
            faults.append(f"{column} {_shown(text[column])} is not 64 lowercase hexadecimal digits")
    if faults:
        return None, faults
    alias, card_sha256 = text.pop("alias") or None, text.pop(CARD_COLUMN) or None
    return RegistryEntry(**text, alias=alias, card_sha256=card_sha256), []


def _contradictions(entries: list[RegistryEntry]) -> list[str]:
    versions = Counter(entry.model for entry in entries)
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        if entry.alias:
            holders[entry.model_name, entry.alias].append(entry.model_version)
    faults = [
        f"version {version!r} of model {name!r} is registered {count} times"
        for (name, version), count in versions.items()
        if count > 1
    ]
    faults += [
        f"model {name!r} has {len(held)} versions with alias {alias!r}: {', '.join(held)}"
        for (name, alias), held in holders.items()
        if len(held) > 1
    ]
    return faults + _case_conflicts(entries)


def _case_conflicts(entries: list[RegistryEntry]) -> list[str]:
    """Return a fault for names that differ only in letter case: file systems and collations confuse them."""
    texts = {
        "models": {entry.model_name for entry in entries},
        "versions": {str(entry.model) for entry in entries},
        "artifacts": {entry.artifact for entry in entries},
    }
    faults = []
    for what, spelled in texts.items():
        alike: dict[str, list[str]] = defaultdict(list)
        for text in sorted(spelled):
            alike[text.casefold()].append(text)
        faults += [
            f"{what} {' and '.join(map(repr, same))} differ only in letter case"
            for same in alike.values()
            if len(same) > 1
        ]
        if faults:
            break  # the versions and artifacts of these models would be reported, too
    return faults


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "truth value"
    return "number" if hasattr(value, "as_integer_ratio") else type(value).__name__


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}..."
