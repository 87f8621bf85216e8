"""No code from files and no network: commands are watched, and files that contain code do not run it."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.torture import audit, kept_in
from tests.torture.payloads import Payload, payloads
from tests.torture.report import Attack
from warehouse import Warehouse

from dbt_onnx.artifacts.registry import RegistryEntry
from dbt_onnx.artifacts.signing import SIGNATURE_NAME, SignatureVerifier
from dbt_onnx.artifacts.verification import verify_entry
from dbt_onnx.authoring.register import read_model
from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROMISE = "No code from files"


def measure(folder: Path, *, every: int, short: bool) -> Iterator[Attack]:
    """Put every `every`th payload in each place; `short` runs fewer commands and does not audit dependencies."""
    folder = folder.resolve()
    made = payloads(folder / "made", folder / "told")
    yield _controlled(folder, made)
    yield from _commands(folder, made, short=short)
    yield from _in_place(folder, made[::every])
    yield from audit.scanned(folder / "scanned", made)
    if not short:
        yield audit.dependencies()


def _controlled(folder: Path, made: list[Payload]) -> Attack:
    attack = Attack(PROMISE, "control: loaded as what they are, these files do run code")
    (folder / "control").mkdir()
    for payload in made:
        path = folder / "control" / payload.name
        path.write_bytes(payload.content)
        payload.load(path)
        attack.made(harm=None if _has_told(folder) else f"{payload.name} does nothing")
    return attack


def _has_told(folder: Path) -> bool:
    """Return whether a payload has run since the last call."""
    has_told = (folder / "told").exists()
    shutil.rmtree(folder / "told", ignore_errors=True)
    return has_told


def _commands(folder: Path, made: list[Payload], *, short: bool) -> Iterator[Attack]:
    """Run dbt and dbt-onnx commands with all payloads next to the model."""
    seen, is_kept_in = kept_in.watched(folder / "kept_in", folder / "control", short=short)
    controls = {name: seen.pop(name) for name in kept_in.CONTROLS}
    how = "in a network with no way out" if is_kept_in else "of Python"
    network = Attack(PROMISE, f"a command, sockets {how} blocked: it works, and tries none")
    code = Attack(PROMISE, "a command: it unpickles nothing, and loads nothing of the project")
    for name, what in seen.items():
        reached = [*what["network"], *([f"{what['packets']} packets"] if what["packets"] else [])]
        fault = what["fault"] or "; ".join(reached)
        network.made(harm=f"{name}: {fault}" if fault else None)
        loaded = what["code"] + what["mapped"]
        code.made(harm=f"{name}: {loaded}" if loaded else None)
    # where onnxruntime would store pending reports and an id for the machine
    home = folder / "kept_in/home"
    ours = home / ".cache/dbt_onnx"  # cached results of dbt commands, see docs/commands.md
    left = [
        str(path)
        for path in home.rglob("*")
        if path not in {ours, ours.parent} and (path.parent, path.suffix) != (ours, ".json")
    ]
    network.made(harm=f"left in the home folder: {left}" if left else None)
    opened = set().union(*(what["opened"] for what in seen.values()))
    files = Attack(PROMISE, "a file that would run code, beside a model: no command opens it")
    for payload in made:
        is_opened = payload.name in opened
        files.made(harm=f"{payload.name} is opened" if is_opened else None)
    files.made(harm="a file beside the model has run" if _has_told(folder) else None)
    yield from (network, code, files)
    yield _seen(controls, is_kept_in=is_kept_in)


def _seen(controls: dict[str, dict[str, object]], *, is_kept_in: bool) -> Attack:
    attack = Attack(PROMISE, "control: what must not be done is seen when it is")
    for name, kinds in kept_in.MUST_SEE.items():
        for kind in kinds:
            if kind != "packets" or is_kept_in:
                is_seen = bool(controls[name][kind])
                attack.made(harm=None if is_seen else f"{name}: no {kind} in {controls[name]}")
    return attack


def _in_place(folder: Path, made: list[Payload]) -> Iterator[Attack]:
    """Put each payload in the place of a file that is read: it is refused by one error, and does not run."""
    warehouse = Warehouse(folder)
    warehouse.features((1, 1.0, 2.0))
    model = warehouse.register("1")
    (folder / "public.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    verifier = SignatureVerifier(folder / "public.pem")

    def verify() -> None:
        [row] = warehouse.sql("select * from model_registry")
        names = ("model_name", "model_version", "alias", "artifact", "sha256")
        entry = RegistryEntry(**dict(zip(names, row, strict=True)))
        verdict = verify_entry(warehouse.artifacts, entry, verifier=verifier)
        if verdict.fault is not None:
            raise DbtOnnxError(verdict.fault, hint=verdict.hint or "")

    places: dict[str, tuple[Callable[[], object], ...]] = {
        "model.onnx": (warehouse.run, verify, lambda: read_model(model)),
        "card.json": (warehouse.run, verify),
        SIGNATURE_NAME: (verify,),
    }
    for name, actions in places.items():
        attack = Attack(PROMISE, f"a file that would run code, in the place of {name}")
        for payload in made:
            warehouse.register("1")
            model.with_name(name).write_bytes(payload.content)
            if name == "model.onnx":
                _own_up(warehouse, model)
            for act in actions:
                attack.made(harm=_harm(folder, payload, act))
        yield attack
    warehouse.connection.close()


def _own_up(warehouse: Warehouse, model: Path) -> None:
    """Write the file's sha256 into registry and card, as if nobody had noticed the exchange."""
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    warehouse.sql(f"update model_registry set sha256 = '{digest}'")
    card = model.with_name("card.json")
    card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": digest}))


def _harm(folder: Path, payload: Payload, act: Callable[[], object]) -> str | None:
    try:
        done = act()
    except DbtOnnxError as error:
        said = None if error.hint else f"no hint in {error}"
    except Exception as error:  # noqa: BLE001, any other exception is a failure
        said = f"{type(error).__name__}: {error}"
    else:
        said = f"taken: {done}"
    if _has_told(folder):
        said = "it has run"
    return f"{payload.name}: {said}" if said else None
