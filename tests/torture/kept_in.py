"""dbt and dbt-onnx commands in a watched process that has no network."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from click.testing import CliRunner
from consumer import invoke
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scoring_project import ScoringProject
from tests.torture import watching
from warehouse import line_model

import dbt_onnx
from dbt_onnx import cli

if TYPE_CHECKING:
    from collections.abc import Callable

NOWHERE = ("192.0.2.1", 80)  # reserved for documentation: no machine has this address
_CURRENT = (
    "{{ dbt_onnx.current_predictions(ref('scores'), registry=ref('model_registry'), key=['id']) }}"
)
_TESTS = (
    {"dbt_onnx.predictions_are_fresh": {"arguments": {
        "key": ["id"], "warn_after": {"count": 1, "period": "day"},
        "error_after": {"count": 2, "period": "day"}}}},
    {"dbt_onnx.predictions_are_complete": {"arguments": {
        "key": ["id"], "entities": "ref('features')"}}},
    {"dbt_onnx.predictions_match_registry": {"arguments": {
        "key": ["id"], "registry": "ref('model_registry')"}}},
    {"dbt_onnx.predictions_replay": {"arguments": {"registry": "ref('model_registry')"}}},
)  # fmt: skip


def watched(folder: Path, beside: Path, *, short: bool) -> tuple[dict[str, dict[str, Any]], bool]:
    """Run each command and then each control in a watched process, with the files of `beside` next to the model.
    Returns what each was seen to do, and whether the kernel isolated the process. `short` leaves out `LONG`.

    The environment has only PATH, and HOME, which is `home` in the folder. With a variable such as
    CI set, onnxruntime would hold back its reports by itself.
    """
    (folder / "home").mkdir(parents=True)
    answer = folder / "seen.json"
    names = [name for name in COMMANDS if not short or name not in LONG]
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.kept_in", folder / "project", beside, answer, *names],
        env={"PATH": os.environ["PATH"], "HOME": str(folder / "home")},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4_000:])
    seen, is_kept_in = json.loads(answer.read_text())
    return seen, is_kept_in


def main(root: Path, beside: Path, answer: Path, *names: str) -> None:
    """The watched process."""
    is_kept_in = watching.without_network()
    _create(root)
    shutil.copytree(beside, root / "artifacts/line/1", dirs_exist_ok=True)
    opened, watch = watching.Opened(root / "artifacts/line/1"), watching.Watch(root)
    seen = {}
    for name, command in {**{name: COMMANDS[name] for name in names}, **CONTROLS}.items():
        packets = watching.packets_without_a_way()
        opened.names()
        watch.network.clear()
        watch.code.clear()
        try:
            fault = command(root)
        except Exception as error:  # noqa: BLE001, any exception means that the command failed
            fault = f"{type(error).__name__}: {error}"
        seen[name] = {
            "network": list(watch.network),
            "packets": watching.packets_without_a_way() - packets if is_kept_in else 0,
            "code": list(watch.code),
            "mapped": watching.mapped(root),
            "opened": sorted(opened.names()),
            "fault": fault,
        }
    answer.write_text(json.dumps((seen, is_kept_in)))


def _create(root: Path) -> None:
    project = ScoringProject(root, profile={"plugins": [{"module": "dbt_onnx.replay_plugin"}]})
    project.facts(1_000)
    project.scoring_model("scores")
    project.write("models/current_scores.sql", _CURRENT)
    project.write_yaml(
        "python_models/tests.yml", {"models": [{"name": "scores", "data_tests": list(_TESTS)}]}
    )
    (root / "new.onnx").write_bytes(line_model(c=0.25))
    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    kinds = serialization.PrivateFormat.PKCS8, serialization.PublicFormat.SubjectPublicKeyInfo
    plain = serialization.NoEncryption()
    (root / "private.pem").write_bytes(key.private_bytes(pem, kinds[0], plain))
    (root / "public.pem").write_bytes(key.public_key().public_bytes(pem, kinds[1]))


def _dbt(*arguments: str) -> Callable[[Path], str]:
    def run(root: Path) -> str:
        outcome = invoke(root, *arguments)
        return "" if outcome.success else f"{outcome.error}\n{outcome.log}"[-2_000:]

    return run


def _ours(*arguments: str) -> Callable[[Path], str]:
    def run(root: Path) -> str:
        os.environ["DBT_PROFILES_DIR"] = str(root)
        given = [argument.format(root=root) for argument in arguments]
        if given[0] != "inspect":
            given += ["--project-dir", str(root)]
        result = CliRunner().invoke(cli.main, given)
        return "" if result.exit_code == 0 else f"{result.output} {result.exception!r}"

    return run


def _export(root: Path) -> str:
    from sklearn.linear_model import LinearRegression

    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(100, 2)), columns=["a", "b"])
    fitted = LinearRegression().fit(rows, 2 * rows["a"] - rows["b"])
    dbt_onnx.export(fitted, rows, name="plane", version="1", artifacts=root / "artifacts")
    return ""


def _change(root: Path) -> str:
    import duckdb

    with duckdb.connect(str(root / "warehouse.duckdb")) as connection:
        connection.execute("update facts set a = a + 1 where id % 7 = 3")
    return _dbt("build")(root)


_NEW = ("--name", "line", "--version", "2", "--features", "a,b", "--output", "y=y")
COMMANDS: dict[str, Callable[[Path], str]] = {
    "dbt deps": _dbt("deps"),
    "dbt build": _dbt("build"),
    "dbt build again, features changed": _change,
    "dbt compile": _dbt("compile"),
    "inspect": _ours("inspect", "{root}/new.onnx"),
    "register": _ours("register", "{root}/new.onnx", *_NEW, "--alias", "challenger"),
    "export": _export,
    "verify": _ours("verify"),
    "sign line/1": _ours("sign", "line/1", "--key", "{root}/private.pem"),
    "sign line/2": _ours("sign", "line/2", "--key", "{root}/private.pem"),
    "verify --signed": _ours("verify", "--signed", "--public-key", "{root}/public.pem"),
    "status": _ours("status", "scores"),
    "promote": _ours("promote", "line/2", "--override", "a quarter less"),
    "dbt build, another champion": _dbt("build"),
    "rollback": _ours("rollback", "line", "--reason", "a quarter more"),
    "runs": _ours("runs", "scores"),
    "history": _ours("history", "scores", "3"),
    "replay": _ours("replay", "scores", "--all"),
    # telemetry is sent with a delay: by onnxruntime after ten seconds
    "nothing, for 12 seconds": lambda _: time.sleep(12) or "",
}
LONG = {
    "dbt build again, features changed", "dbt compile", "export", "status",
    "dbt build, another champion", "history", "nothing, for 12 seconds",
}  # fmt: skip


def _open_connection(_: Path) -> str:
    socket.create_connection(NOWHERE, 1).close()
    return ""


def _look_up(_: Path) -> str:
    return str(socket.getaddrinfo("example.com", 80))


def _connect_in_c(_: Path) -> str:
    """Connect like a native library, without Python's knowledge."""
    address = b"\2\0\0\x50" + socket.inet_aton(NOWHERE[0]) + bytes(8)
    with socket.socket() as stream:
        stream.setblocking(False)
        ctypes.CDLL(None).connect(stream.fileno(), address, len(address))
    return ""


def _unpickle(_: Path) -> str:
    return str(pickle.loads(pickle.dumps(Path)))


def _run_python(root: Path) -> str:
    exec(compile("", str(root / "artifacts/line/1/model.py"), "exec"))
    return ""


def _load_library(root: Path) -> str:
    path = root / "library.so"
    path.write_bytes(Path(np._core._multiarray_umath.__file__).read_bytes())
    ctypes.CDLL(str(path))
    return ""


def _read_beside(root: Path) -> str:
    return str(len((root / "artifacts/line/1/model.1.pkl").read_bytes()))


CONTROLS: dict[str, Callable[[Path], str]] = {
    "open a connection": _open_connection,
    "look up a name": _look_up,
    "connect without Python": _connect_in_c,
    "unpickle": _unpickle,
    "run Python of the project": _run_python,
    "load a library of the project": _load_library,
    "read a file beside the model": _read_beside,
}
MUST_SEE = {
    "open a connection": ("network",),
    "look up a name": ("network",),
    "connect without Python": ("packets",),
    "unpickle": ("code",),
    "run Python of the project": ("code",),
    "load a library of the project": ("code", "mapped"),
    "read a file beside the model": ("opened",),
}
"""Fields of `watched` that each control must have changed; otherwise the watch does not work."""


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
