"""The card of a model file: the contract, the model's origin, and sample rows to check the model with.

`card.json` is JSON without NaN, and NULL is null. Required keys of format 1: format_version, model_name,
model_version, sha256, contract. Optional keys: parity (features, outputs, tolerance, scales,
max_abs_difference, rows_compared), reference, reference_outputs, training.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.reference import reference_faults
from dbt_onnx.artifacts.registry import AS_TEXT, RegistryEntry
from dbt_onnx.errors import ArtifactError
from dbt_onnx.kernel.contract import WRITE_AGAIN, Contract

if TYPE_CHECKING:
    from collections.abc import Mapping

CARD_NAME = "card.json"
FORMAT_VERSION = 1

_REQUIRED = {"model_name": str, "model_version": str, "sha256": str, "contract": dict}
_OPTIONAL = dict.fromkeys(("parity", "reference", "reference_outputs", "training"), dict)


def render_card(
    entry: RegistryEntry, contract: Contract, **parts: Mapping[str, Any] | None
) -> bytes:
    """Return the bytes of a `card.json`. The same content gives the same bytes. `parts` are the optional keys.

    Raises ValueError if a value is NaN or infinite, TypeError if it is not a JSON type.
    """
    assert parts.keys() <= _OPTIONAL.keys()
    card = {
        "format_version": FORMAT_VERSION,
        "model_name": entry.model_name,
        "model_version": entry.model_version,
        "sha256": entry.sha256,
        "contract": contract.to_dict(),
        **{key: parts[key] for key in _OPTIONAL if parts.get(key) is not None},
    }
    return (_render(card) + "\n").encode()


def digest(card: bytes) -> str:
    """Return the SHA-256 that the registry stores for a card.

    Line endings do not count: git may change them on another machine, and JSON ignores them.
    """
    return hashlib.sha256(card.replace(b"\r\n", b"\n")).hexdigest()


def card_of(entry: RegistryEntry, content: bytes, *, where: str) -> dict[str, Any]:
    """Read the card of a registry entry. Raises ArtifactError if it is not a card, or not this entry's card."""
    found = digest(content)
    if entry.card_sha256 not in {None, found}:
        raise ArtifactError(
            f"{where} is not the card that was registered with '{entry.model}': its sha256 is {found}, "
            f"the registry says {entry.card_sha256}",
            hint="restore the card; if it was changed on purpose, register the model as a new version: "
            "a card defines how rows are read, so a changed card needs a new version",
        )
    card = parse_card(content, where=where)
    faults = [
        f"{key} is {card[key]!r} in the card and {getattr(entry, key)!r} in the registry"
        for key in ("model_name", "model_version", "sha256")
        if card[key] != getattr(entry, key)
    ]
    if faults:
        # a seed that infers types turns version 01 into the number 1, true into True, 1_0 into 10
        is_inferred = card["model_name"] == entry.model_name and card["sha256"] == entry.sha256
        raise ArtifactError(
            f"{where} does not belong to model '{entry.model}': " + "; ".join(faults),
            hint=f"if the seed was loaded with inferred types, {AS_TEXT}; else restore the card and the model "
            "file of this version together"
            if is_inferred
            else "restore the card and the model file of this version together, or register it again",
        )
    return card


def parse_card(content: bytes, *, where: str) -> dict[str, Any]:
    """Read a card. Raises ArtifactError if it is not a card in a format that this version reads."""
    try:
        card = json.loads(
            content,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_each_key_once,
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is not valid JSON: {error}", hint=WRITE_AGAIN) from error
    if not isinstance(card, dict):
        raise ArtifactError(
            f"{where} contains a {type(card).__name__}, not a card", hint=WRITE_AGAIN
        )
    if card.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{where} has format_version {card.get('format_version')!r}; "
            f"this dbt_onnx reads {FORMAT_VERSION}",
            hint="upgrade dbt_onnx if the card is newer, else " + WRITE_AGAIN,
        )
    faults = [f"no {key}" for key in _REQUIRED if key not in card]
    faults += [
        f"{key} is {card[key]!r:.60}, which has the wrong type"
        for key, kind in (_REQUIRED | _OPTIONAL).items()
        if key in card and not isinstance(card[key], kind)
    ]
    if faults:
        raise ArtifactError(f"{where} is incomplete: {'; '.join(faults)}", hint=WRITE_AGAIN)
    if faults := reference_faults(card):
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ArtifactError(
            f"{where} describes its columns wrongly: {'; '.join(faults[:5])}{more}",
            hint=WRITE_AGAIN,
        )
    return card


def replace_file(path: Path, content: bytes) -> None:
    """Write a temporary file in the same folder and rename it to `path`, so that no reader sees half a file."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is too large for a 64-bit number")
    return number


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a key twice, because JSON readers differ in which value they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return found


def _render(value: Any, indent: str = "") -> str:
    """Render JSON with one line per entry, but a list of scalars on one line, so that diffs stay readable."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        lines = [
            f"{deeper}{json.dumps(str(key), ensure_ascii=False)}: {_render(item, deeper)}"
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        lines = [deeper + _render(item, deeper) for item in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
