"""Random input: hypothesis for properties, and the coverage-guided atheris for the readers of files."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.torture.report import Attack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROMISE = "Random input gives an answer or one clear error"
_ROOT = Path(__file__).parents[2]
_WORDS = (
    "ZipMap", "LSTM", "Range", "ConstantOfShape", "Constant", "ai.onnx.ml", "classlabels_int64s",
    "classlabels_strings", "location", "format_version", "contract", "features", "inputs",
    "outputs", "null_policy", "fill", "classes", "reference", "shares", "champion", "sha256",
)  # fmt: skip


def measure(folder: Path, *, seconds: int, examples: int) -> Iterator[Attack]:
    """Run `examples` examples of each property. Then fuzz the reader of model files for `seconds`,
    and at the same time the readers of cards and registries for half as long each.
    """
    yield _properties(examples)
    seeds = {name: folder / name for name in SEEDS}
    for name, write in SEEDS.items():
        seeds[name].mkdir()
        for number, content in enumerate(write(folder)):
            (seeds[name] / f"{number:03}").write_bytes(content)
    with ThreadPoolExecutor(2) as pool:
        graphs = pool.submit(_fuzzed, folder, "graph", seconds)
        others = pool.submit(
            lambda: [_fuzzed(folder, name, seconds // 2) for name in ("card", "registry")]
        )
        yield graphs.result()
        yield from others.result()


def _properties(examples: int) -> Attack:
    attack = Attack(PROMISE, "encode, decode, registry, card and plan, by hypothesis")
    tests = sorted((_ROOT / "tests/property").glob("test_fuzz_*.py"))
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests),
         "--hypothesis-show-statistics"],
        cwd=_ROOT, env={**os.environ, "DBT_ONNX_EXAMPLES": str(examples)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for passing, failing in re.findall(r"(\d+) passing(?: examples)?, (\d+) failing", said.stdout):
        attack.made(times=int(passing) + int(failing))
    attack.harm += re.findall(r"^(?:FAILED|ERROR) .*", said.stdout, re.MULTILINE)
    attack.harm += re.findall(r"^E    .*(?:\n.*){0,40}", said.stdout, re.MULTILINE)[
        : len(attack.harm)
    ]
    if not attack.harm and (said.returncode or not attack.attacks):
        attack.harm.append(
            f"pytest ended with {said.returncode}: {said.stdout}{said.stderr}"[-900:]
        )
    return attack


def _fuzzed(folder: Path, target: str, seconds: int) -> Attack:
    """Fuzz in a separate process, which ends at the first harm."""
    has_atheris = importlib.util.find_spec("atheris") is not None
    how = "by atheris" if has_atheris else "by bytes changed at random: atheris is not installed"
    attack = Attack(PROMISE, f"bytes of a {TARGETS[target][0]}, {how}")
    (folder / f"{target}.words").write_text("".join(f'"{word}"\n' for word in _WORDS))
    said = subprocess.run(
        [sys.executable, "-m", "tests.torture.fuzzing", target, str(folder / target),
         f"-max_total_time={max(seconds, 1)}", "-timeout=10", "-rss_limit_mb=2048", "-verbosity=1",
         "-print_final_stats=1", f"-dict={folder / target}.words",
         f"-artifact_prefix={folder / target}-"],
        cwd=_ROOT, capture_output=True, text=True, check=False, errors="replace",
        timeout=seconds + 120,
    )  # fmt: skip
    done = re.findall(r"^(?:#|stat::number_of_executed_units: )(\d+)", said.stderr, re.MULTILINE)
    harm = None
    if said.returncode:
        bad = [path.read_bytes()[:300] for path in folder.glob(f"{target}-*")]
        text = said.stdout + said.stderr
        why = re.search(r"Uncaught Python exception: ===\s+(.*)", text) or re.search(
            r"ERROR: (libFuzzer.*)", text
        )
        harm = f"{target}: {why.group(1) if why else text[-600:]}: {bad}"
    attack.made(harm=harm, times=max(map(int, done), default=0))
    return attack


# --- the fuzz targets, in the child process ---------------------------------------------------


def _graph() -> Callable[[bytes], None]:
    from dbt_onnx.artifacts.graph import read_graph

    def read(content: bytes) -> None:
        signature = read_graph(content, where="m")
        assert read_graph(content, where="m") == signature, "another signature"

    return read


def _card() -> Callable[[bytes], None]:
    from dbt_onnx.artifacts.card import parse_card
    from dbt_onnx.kernel.contract import Contract

    def read(content: bytes) -> None:
        contract = Contract.from_dict(parse_card(content, where="card")["contract"])
        assert Contract.from_dict(contract.to_dict()) == contract, "another contract"

    return read


def _registry() -> Callable[[bytes], None]:
    import tempfile

    from dbt_onnx.artifacts.registry import Registry

    path = Path(tempfile.mkdtemp()) / "model_registry.csv"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        registry = Registry.from_csv(path)
        for entry in registry.entries:
            found = registry.resolve(f"{entry.model_name}/{entry.model_version}")
            assert found == entry, "another entry"

    return read


TARGETS: dict[str, tuple[str, Callable[[], Callable[[bytes], None]]]] = {
    "graph": ("model file", _graph),
    "card": ("card", _card),
    "registry": ("registry seed", _registry),
}


def _fuzz(target: str, folder: Path, *options: str) -> None:
    """Feed the reader until the time is up, or until it raises anything but a DbtOnnxError. Started by `_fuzzed`."""
    try:
        import atheris
    except ImportError:
        atheris = None
    with atheris.instrument_imports(include=["dbt_onnx"]) if atheris else nullcontext():
        read = TARGETS[target][1]()
        from dbt_onnx.errors import DbtOnnxError

    def try_one(content: bytes) -> None:
        try:
            read(content)
        except DbtOnnxError as error:
            assert error.message
            assert error.hint

    if atheris:
        atheris.Setup([sys.argv[0], *options, str(folder)], try_one)
        atheris.Fuzz()
    else:
        _change_at_random(try_one, folder, seconds=int(options[0].partition("=")[2]))


def _change_at_random(try_one: Callable[[bytes], None], folder: Path, *, seconds: int) -> None:
    chance, seeds = random.Random(0), [path.read_bytes() for path in sorted(folder.iterdir())]
    number, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        content = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 9)):
            place = chance.randrange(len(content) + 1)
            content[place : place + chance.randrange(3)] = chance.choice(
                (b"", chance.randbytes(1), chance.randbytes(4), chance.choice(_WORDS).encode())
            )
        number += 1
        print(f"#{number}", file=sys.stderr)
        try_one(bytes(content))


# --- the seed inputs --------------------------------------------------------------------------


def _models(folder: Path) -> list[bytes]:
    import onnx_models
    from onnx import helper
    from tests.torture.wrong_bytes import written

    plain = [
        (folder / "artifacts" / entry.artifact).read_bytes()
        for entry in written(folder / "artifacts").values()
    ]
    external, foreign = onnx_models.linear(), onnx_models.linear()
    external.graph.initializer[0].CopyFrom(onnx_models.external())
    foreign.graph.node[0].domain = "evil"
    huge = onnx_models.model(
        [
            helper.make_node("ConstantOfShape", ["s"], ["c"]),
            helper.make_node("Add", ["x", "c"], ["y"]),
        ],
        [onnx_models.tensor("x", ["n", 1])],
        [onnx_models.tensor("y", None)],
        initializers=[onnx_models.constant("s", [2**40], "int64")],
    )
    more: list[Any] = [
        onnx_models.recurrent(state_input=True, state_shape=["n", 2]), onnx_models.columns(),
        onnx_models.vector(), onnx_models.classifier(("no", "yes"), zipmap=True), external,
        foreign, huge,
    ]  # fmt: skip
    return plain + [item.SerializeToString() for item in more]


def _cards(folder: Path) -> list[bytes]:
    import json

    found = [path.read_bytes() for path in (folder / "artifacts").glob("*/*/card.json")]
    described = {
        "a": {"kind": "numeric", "rows": 3, "nulls": 0.0, "edges": [0.0, 1.0], "shares": [0.5, 0.25, 0.25]},
        "b": {"kind": "categorical", "rows": 3, "nulls": 0.5, "shares": {"x": 0.75}, "other": 0.25},
    }  # fmt: skip
    rich = json.loads(found[0]) | {"reference": described, "reference_outputs": described}
    rich["contract"]["features"][0] |= {"null_policy": "fill", "fill": 0.5, "tolerance": 0.1}
    return [*found, json.dumps(rich).encode()]


def _seeds(folder: Path) -> list[bytes]:
    header, sha = "model_name,model_version,alias,artifact,sha256", "0123456789abcdef" * 4
    rows = (f"churn,1,champion,churn/1/model.onnx,{sha}", f'spend,1.10,,"spend/1.10/m.onnx",{sha}')
    return [
        "\n".join((header, *rows, "")).encode(),
        "\r\n".join((f"\ufeff{header},note", f'{rows[0]},"a ""note"""', "")).encode(),
    ]


# the cards belong to the models
SEEDS: dict[str, Callable[[Path], list[bytes]]] = {
    "graph": _models,
    "card": _cards,
    "registry": _seeds,
}

if __name__ == "__main__":
    _fuzz(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
