"""Changes the registry's seed file: adds rows for registered versions and moves aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.artifacts.registry import CARD_COLUMN, CHAMPION, SEED_COLUMNS, Registry, alias_faults
from dbt_onnx.artifacts.seed_files import SeedFile, locked
from dbt_onnx.errors import ConfigError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dbt_onnx.artifacts.registry import ModelVersion, RegistryEntry


def check_addition(
    path: Path,
    model: ModelVersion,
    *,
    alias: str | None,
    move_alias: bool,
    replace_version: bool = False,
) -> None:
    """Raise RegistryError if the seed already has this version, or another version has the alias.

    `replace_version` allows the first case, `move_alias` the second. A name that differs from a registered one only in letter case is
    refused, too. A seed that does not exist yet is empty. Raises ConfigError if the alias is malformed.
    """
    if alias and (faults := alias_faults(alias)):
        raise ConfigError("; ".join(faults), hint="use a plain word, such as 'champion'")
    if not path.exists():
        return
    for entry in Registry.from_csv(path).entries:
        _refuse_case_variant(path, entry.model, model)
        if entry.model_name != model.name:
            continue
        if entry.model_version == model.version:
            if replace_version:
                continue
            raise RegistryError(
                f"version {model.version!r} of model {model.name!r} is already registered "
                f"in {path}, with sha256 {entry.sha256}",
                hint="a version never changes once something was scored with it: choose a new one, or "
                "add --replace if nothing was",
            )
        if alias and entry.alias == alias and not move_alias:
            raise RegistryError(
                f"alias {alias!r} of model {model.name!r} belongs to version "
                f"{entry.model_version!r} in {path}",
                hint="add --move-alias to move it to the new version, or register without --alias",
            )


def _refuse_case_variant(path: Path, old: ModelVersion, new: ModelVersion) -> None:
    """Raise RegistryError if two model names, or two versions of a model, differ only in letter case."""
    same_name = old.name == new.name
    given, known = (new.version, old.version) if same_name else (new.name, old.name)
    if given != known and given.casefold() == known.casefold():
        raise RegistryError(
            f"{path} has {known!r}, and {given!r} differs from it only in letter case",
            hint="use that spelling, or choose another name: file systems and collations would confuse "
            "the two",
        )


def add_entry(
    path: Path, entry: RegistryEntry, *, move_alias: bool = False, replace_version: bool = False
) -> RegistryEntry:
    """Add a row to the seed, or replace the row of the same version, and take its alias from the version
    that had it.

    If `entry` has no alias, a replaced row keeps its own. The file is replaced as a whole or not at all.
    Returns the entry as it is in the seed now. Raises as `check_addition`.
    """
    with locked(path.parent):
        check_addition(
            path,
            entry.model,
            alias=entry.alias,
            move_alias=move_alias,
            replace_version=replace_version,
        )
        _put(SeedFile.read(path, columns=SEED_COLUMNS), entry)
        return Registry.from_csv(path).resolve(str(entry.model))


def put_entry(path: Path, entry: RegistryEntry) -> RegistryEntry:
    """Add a row, or replace the row of the same version, whatever its alias. Returns as `add_entry`."""
    return add_entry(path, entry, move_alias=True, replace_version=True)


def record_cards(path: Path, digests: Mapping[tuple[str, str], str]) -> tuple[int, bool]:
    """Write the digests of cards, by (model, version), into the rows that have none yet.

    Adds the column if the seed lacks it. Returns the number of rows filled, and whether the column
    was added. Raises RegistryError if the seed is not valid.
    """
    with locked(path.parent):
        Registry.from_csv(path)
        seed = SeedFile.read(path, columns=SEED_COLUMNS)
        is_new = CARD_COLUMN not in seed.header
        if is_new:
            seed = seed.with_column(CARD_COLUMN)
        recorded = 0
        for row in seed.rows:
            found = digests.get((seed.value(row, "model_name"), seed.value(row, "model_version")))
            if found is not None and not seed.value(row, CARD_COLUMN):
                seed.change(row, **{CARD_COLUMN: found})
                recorded += 1
        if recorded:
            seed.write()
    return recorded, is_new and recorded > 0


def exchange_aliases(path: Path, promoted: RegistryEntry, replaced: RegistryEntry | None) -> None:
    """Swap the aliases of `promoted` and `replaced`.

    If `replaced` is None or has no alias, `promoted` becomes champion. The caller holds the lock and
    has read the entries from this file.
    """
    seed = SeedFile.read(path, columns=SEED_COLUMNS)
    aliases = {promoted.model_version: (replaced.alias if replaced else None) or CHAMPION}
    if replaced is not None:
        aliases[replaced.model_version] = promoted.alias or ""
    for row in seed.rows:
        version = seed.value(row, "model_version")
        if seed.value(row, "model_name") == promoted.model_name and version in aliases:
            seed.change(row, alias=aliases[version])
    seed.write()


def _put(seed: SeedFile, entry: RegistryEntry) -> None:
    of_model = [row for row in seed.rows if seed.value(row, "model_name") == entry.model_name]
    own = [row for row in of_model if seed.value(row, "model_version") == entry.model_version]
    # add no missing column: the table in the warehouse would lack it until `dbt seed --full-refresh`
    columns = [column for column in SEED_COLUMNS if column in seed.header]
    values = {column: getattr(entry, column) or "" for column in columns}
    if own and entry.alias is None:
        del values["alias"]
    for row in of_model:
        if entry.alias and seed.value(row, "alias") == entry.alias:
            seed.change(row, alias="")
    if own:
        seed.change(own[0], **values)
    else:
        seed.add(values)
    rows = [{column: seed.value(row, column) for column in columns} for row in seed.rows]
    Registry.from_rows(rows, where=str(seed.path))  # refuses rows that are not valid
    seed.write()
