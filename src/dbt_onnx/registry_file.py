"""The registry's seed file, and the one row that registering a version adds to it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from dbt_onnx.card import replace_file
from dbt_onnx.errors import ConfigError, RegistryError
from dbt_onnx.registry import REGISTRY_COLUMNS, Registry, alias_faults

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.registry import RegistryEntry


def check_addition(
    path: Path, *, model_name: str, model_version: str, alias: str | None, move_alias: bool = False
) -> None:
    """Raise RegistryError when the seed holds this version already, or another version its alias.

    A seed that does not exist yet is empty. Raises ConfigError for an alias that is none.
    """
    if alias and (faults := alias_faults(alias)):
        raise ConfigError("; ".join(faults), hint="use a plain word, such as 'champion'")
    if not path.exists():
        return
    for entry in Registry.from_csv(path).entries:
        if entry.model_name != model_name:
            continue
        if entry.model_version == model_version:
            raise RegistryError(
                f"version {model_version!r} of model {model_name!r} is registered in {path} "
                f"already, with sha256 {entry.sha256}",
                hint="a version never changes: choose a new one",
            )
        if alias and entry.alias == alias and not move_alias:
            raise RegistryError(
                f"alias {alias!r} of model {model_name!r} belongs to version "
                f"{entry.model_version!r} in {path}",
                hint="add --move-alias to move it to the new version, or register without --alias",
            )


def add_entry(path: Path, entry: RegistryEntry, *, move_alias: bool = False) -> None:
    """Add a row to the seed, whole or not at all, and take its alias from the version that had it.

    Other columns and rows stay as they are. Raises as `check_addition`.
    """
    check_addition(
        path,
        model_name=entry.model_name,
        model_version=entry.model_version,
        alias=entry.alias,
        move_alias=move_alias,
    )
    header, rows = list(REGISTRY_COLUMNS), []
    if path.exists():
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True, restkey="")
            rows = list(reader)
            header = list(reader.fieldnames or header)
    for row in rows:
        if entry.alias and (row["model_name"], row["alias"]) == (entry.model_name, entry.alias):
            row["alias"] = ""
    rows.append({column: getattr(entry, column) or "" for column in REGISTRY_COLUMNS})
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.getvalue().encode())
