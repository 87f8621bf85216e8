"""A hostile model reads no file and hangs no run: each file goes through a whole run, and through onnxruntime alone."""

from __future__ import annotations

import io
import os
import resource
import threading
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
from scoring_project import ScoringProject
from tests.torture import processes
from tests.torture.hostile_files import FAMILIES, FILLS, HANGS, LOADS, READS, REFUSES, SECRET, place
from tests.torture.report import Attack
from warehouse import Warehouse

from dbt_onnx.artifacts.artifact import Artifact
from dbt_onnx.errors import DbtOnnxError
from dbt_onnx.kernel import native
from dbt_onnx.kernel.session import OnnxSession

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMISE = "A hostile model reads nothing and hangs nothing"
LIMIT_SECONDS = 1.0
# for the whole run: reading the file, one overdue call, and code that does not react to being ended
MAX_SECONDS = 20.0
# the free memory of a small machine, and the limit on a process that follows from it
LEFT_BYTES = 2**30
MAX_BYTES = 3 * 2**29


def measure(folder: Path, *, every: int, dbt: int) -> Iterator[Attack]:
    """Attack with every `every`th file, by a run of the library; with `dbt` of these files also by `dbt run`."""
    works = Attack(PROMISE, "the same files in onnxruntime alone: do what they are made for")
    refused = Attack(PROMISE, "the same files in onnxruntime alone: refused by it, too")
    files = [(family, name) for family, members in FAMILIES.items() for name in members]
    chosen = files[::every]
    rows = {family: Attack(PROMISE, family) for family, _ in chosen}
    for number, (family, name) in enumerate(chosen):
        root = folder / str(number) / "project"
        place(root)
        processes.run(write, str(root), family, name)
        rows[family].made(harm=_harm(root, name))
        expected = FAMILIES[family][name][0]
        found, why = _alone(root, 3 * LIMIT_SECONDS if expected == HANGS else MAX_SECONDS)
        (refused if expected == REFUSES else works).made(
            harm=None if found == expected else f"{name}: {found!r} was {expected!r}: {why}"
        )
    yield from (*rows.values(), works, refused)
    yield _by_dbt(folder / "dbt", chosen[:: max(1, len(chosen) // dbt)][:dbt])


def write(root: str, family: str, name: str) -> None:
    """In a child process: write the hostile file into the folder under attack."""
    os.chdir(root)
    Path("attack.onnx").write_bytes(bytes_of(family, name))


def bytes_of(family: str, name: str) -> bytes:
    model = FAMILIES[family][name][1]()
    return bytes(model if isinstance(model, bytes) else model.SerializeToString())


def score(root: str) -> tuple[str, str, float, int]:
    """In a child process: a run of the library. Returns what the product did wrong, its message,
    the seconds it took, and the peak memory of the process.
    """
    os.chdir(root)
    _limit()
    began = time.monotonic()
    warehouse = Warehouse(Path(root))
    warehouse.sql("create table canary as select 7 as x")
    warehouse.register("1", Path("attack.onnx").read_bytes())
    warehouse.features((1, 1.0, 2.0))
    message = ""
    try:
        said = f"scored: {warehouse.run()}, {warehouse.sql('select y from scores')}"
    except DbtOnnxError as error:
        message = str(error)
        said = _told(message)
    if warehouse.sql("select * from canary") != [(7,)]:
        said = "the canary is gone"
    tables = [row[0] for row in warehouse.sql("select table_name from duckdb_tables()")]
    if "scores__current" in tables and warehouse.sql("select * from scores"):
        said = f"rows in the ledger, {said}"
    return said, message, time.monotonic() - began, _peak_bytes()


def alone(root: str, seconds: float) -> tuple[str, str]:
    """In a child process: return what onnxruntime alone does with the same bytes, and its message."""
    os.chdir(root)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, resource.RLIM_INFINITY))
    found = [(HANGS, "")]
    thread = threading.Thread(target=lambda: found.append(_bare()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[-1]


def build(root: str, chosen: list[tuple[str, str]]) -> tuple[bool, list[str]]:
    """In a child process: one `dbt run` with a scoring model per hostile file, followed by a
    harmless one. Returns whether the harmless one has scored, and what the others did wrong.
    """
    _limit()
    project = ScoringProject(Path(root) / "dbt")
    project.facts(10)
    for number, (family, name) in enumerate(chosen):
        os.chdir(root)
        project.register(f"h{number}", bytes_of(family, name), alias="")
        project.scoring_model(f"hostile_{number}", arguments=f"model='line/h{number}'")
    project.scoring_model("scores", arguments="model='line/1'")
    with redirect_stdout(io.StringIO()):
        seeded = project.dbt("seed")
        outcome = project.dbt("run", "--threads", "1")
    wrong = [] if seeded.success else [seeded.error]
    for number, (_, name) in enumerate(chosen):
        node = outcome.nodes[f"hostile_{number}"]
        if said := _told(node.message) if node.status == "error" else node.status:
            wrong.append(f"{name}: {said}")
    for (table,) in project.sql("select table_name from duckdb_tables()"):
        if table.startswith("hostile") and project.sql(f"select * from {table}"):
            wrong.append(f"rows in {table}")
    return outcome.statuses()["scores"] == "success", wrong


def _limit() -> None:
    """Make the product run as on a small machine, with a short time limit."""
    for opens in (OnnxSession.__init__, Artifact.open):
        opens.__kwdefaults__["max_seconds"] = LIMIT_SECONDS
    native._left = lambda: iter([LEFT_BYTES])


def _told(message: str) -> str:
    """Return what is wrong with a message; '' if nothing is."""
    if f"{SECRET:g}" in message:
        return f"the message tells: {message}"
    return "" if "Hint: " in message and "Traceback" not in message else f"no hint: {message}"


def _harm(root: Path, name: str) -> str | None:
    try:
        _, (said, message, seconds, peak) = processes.run(score, str(root), timeout=2 * MAX_SECONDS)
    except RuntimeError as error:  # it hung, crashed, or raised anything but a DbtOnnxError
        return f"{name}: {error}"
    except TypeError:
        return f"{name}: killed"
    if said:
        return f"{name}: {said}"
    if seconds > MAX_SECONDS:
        return f"{name}: took {seconds:.0f} s: {message}"
    return f"{name}: took {peak / 2**20:.0f} MB: {message}" if peak > MAX_BYTES else None


def _alone(root: Path, seconds: float) -> tuple[str, str]:
    try:
        found: tuple[str, str] = processes.run(alone, str(root), seconds)[1]
    except RuntimeError as error:
        return "crashes", str(error)
    return found


def _bare() -> tuple[str, str]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            Path("attack.onnx").read_bytes(),
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=False,
        )
        feeds = {item.name: np.array([[1, 0]], np.float32) for item in session.get_inputs()}
        (y,) = session.run(None, feeds)
    except Exception as error:  # noqa: BLE001, onnxruntime's errors have no common base class
        is_full = any(word in str(error) for word in ("bad_alloc", "Failed to allocate memory"))
        return FILLS if is_full or _peak_bytes() > LEFT_BYTES else REFUSES, str(error)
    if SECRET in y:
        return READS, str(y)
    return FILLS if _peak_bytes() > LEFT_BYTES else LOADS, str(y)[:100]


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _by_dbt(folder: Path, chosen: list[tuple[str, str]]) -> Attack:
    attack = Attack(PROMISE, "one `dbt run` over some of these, and an honest model after them")
    place(folder / "project")
    place(folder / "project" / "dbt")
    try:
        went_on, wrong = processes.run(
            build, str(folder / "project"), chosen, timeout=60 + len(chosen) * MAX_SECONDS
        )[1]
    except RuntimeError as error:
        went_on, wrong = True, [str(error)]
    attack.made(times=len(chosen))
    attack.harm += wrong + ([] if went_on else ["the honest model has not scored"])
    return attack
