"""Wrong bytes never score: flipped bits, every truncation, swapped files."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import graphs
import onnx_models
from tests.torture.report import Attack
from warehouse import Warehouse, line_contract, line_model

from dbt_onnx.artifacts.artifact import load_artifact, write_artifact
from dbt_onnx.errors import ArtifactError, DbtOnnxError
from dbt_onnx.kernel import session
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dbt_onnx.artifacts.registry import RegistryEntry

PROMISE = "Wrong bytes never score"


def measure(folder: Path, *, flips: int, runs: int) -> Iterator[Attack]:
    """Flip `flips` bits over all kinds of model, refused when the file is read; flip one bit in
    each of `runs` whole runs.
    """
    entries = written(folder / "artifacts")
    yield _flipped(folder / "artifacts", entries, flips)
    yield _truncated(folder / "artifacts", entries["line"])
    yield _swapped(folder / "artifacts", entries)
    yield _runs(folder / "warehouse", runs)


def written(root: Path) -> dict[str, RegistryEntry]:
    """Register five kinds of model: linear, tree ensemble, classifier with maps, text, two outputs."""
    features = ("a", "b")
    xs = {
        "features": tuple(Feature(name=name) for name in features),
        "inputs": (Input(name="x", dtype="float32", features=features),),
    }
    classes = Output(name="probabilities", kind="probabilities", dtype="float32",
                     columns=("p0", "p1"), classes=(0, 1))  # fmt: skip
    label = Output(name="label", kind="label", dtype="int64", columns=("label",))
    models: dict[str, tuple[bytes, Contract]] = {
        "line": (line_model(), line_contract()),
        "maps": (
            _bytes(onnx_models.classifier(zipmap=True)),
            Contract(outputs=(label, classes), **xs),
        ),
        "tensor": (_bytes(onnx_models.classifier()), Contract(outputs=(label, classes), **xs)),
        "trees": _trees(),
        "text": (
            graphs.echo("string", rank=1),
            Contract(
                features=(Feature(name="a"),),
                inputs=(Input(name="x", dtype="string", features=("a",), rank=1),),
                outputs=(Output(name="y", kind="value", dtype="string", columns=("y",)),),
            ),
        ),
    }
    return {
        name: replace(
            write_artifact(root, content, model_name=name, model_version="1", contract=contract),
            alias="champion",
        )
        for name, (content, contract) in models.items()
    }


def _trees() -> tuple[bytes, Contract]:
    import numpy as np
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingRegressor

    x = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")
    fitted = GradientBoostingRegressor(n_estimators=5, random_state=0).fit(x, x[:, 0] * x[:, 1])
    graph = to_onnx(fitted, x[:1])
    output = Output(name=graph.graph.output[0].name, kind="value", dtype="float32", columns=("y",))
    return _bytes(graph), replace(
        line_contract(),
        inputs=(Input(name=graph.graph.input[0].name, dtype="float32", features=("a", "b")),),
        outputs=(output,),
    )


def _bytes(model: Any) -> bytes:
    return model if isinstance(model, bytes) else bytes(model.SerializeToString())


def _refused(root: Path, entry: RegistryEntry, content: bytes) -> bool:
    path = root / entry.artifact
    kept = path.read_bytes()
    path.write_bytes(content)
    try:
        load_artifact(root, entry)
    except ArtifactError:
        return True
    else:
        return False
    finally:
        path.write_bytes(kept)


def _flipped(root: Path, entries: dict[str, RegistryEntry], flips: int) -> Attack:
    attack, chance = (
        Attack(PROMISE, f"one bit of a file, {len(entries)} kinds of model"),
        random.Random(0),
    )
    for number in range(flips):
        name, entry = list(entries.items())[number % len(entries)]
        content = bytearray((root / entry.artifact).read_bytes())
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        content[place] ^= 1 << bit
        is_refused = _refused(root, entry, bytes(content))
        attack.made(harm=None if is_refused else f"{name}: bit {bit} of byte {place}")
    return attack


def _truncated(root: Path, entry: RegistryEntry) -> Attack:
    attack = Attack(PROMISE, "every length of a small file that is cut short")
    content = (root / entry.artifact).read_bytes()
    for length in range(len(content)):
        is_refused = _refused(root, entry, content[:length])
        attack.made(harm=None if is_refused else f"{length} of {len(content)} bytes")
    return attack


def _swapped(root: Path, entries: dict[str, RegistryEntry]) -> Attack:
    attack = Attack(PROMISE, "the file of another model in its place")
    contents = {name: (root / entry.artifact).read_bytes() for name, entry in entries.items()}
    for name, entry in entries.items():
        for other in contents.keys() - {name}:
            is_refused = _refused(root, entry, contents[other])
            attack.made(harm=None if is_refused else f"{other} in the place of {name}")
    return attack


def _runs(folder: Path, runs: int) -> Attack:
    """Whole runs are refused: nothing is written, and no onnxruntime session is created."""
    attack, chance = Attack(PROMISE, "a whole run with one bit flipped"), random.Random(1)
    folder.mkdir()
    warehouse = Warehouse(folder)
    path = warehouse.register("1")
    warehouse.features((1, 1.0, 2.0))
    content, made = path.read_bytes(), []
    session_of, session.ort.InferenceSession = (
        session.ort.InferenceSession,
        lambda *arguments, **_: made.append(arguments),
    )
    try:
        for _ in range(runs):
            place, bit = chance.randrange(len(content)), chance.randrange(8)
            altered = bytearray(content)
            altered[place] ^= 1 << bit
            path.write_bytes(altered)
            try:
                said = str(warehouse.run())
            except DbtOnnxError as error:
                said = "" if isinstance(error, ArtifactError) else repr(error)
            attack.made(harm=f"bit {bit} of byte {place}: {said}" if said or made else None)
    finally:
        session.ort.InferenceSession = session_of
        warehouse.connection.close()
    return attack
