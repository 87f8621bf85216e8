"""A publication is whole or absent: publishers die at every step, and readers read at the same time."""

from __future__ import annotations

import random
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from tests.torture import processes, steps
from tests.torture.report import Attack

from dbt_onnx.engines.duckdb.warehouse import DuckDBWarehouse
from dbt_onnx.errors import DbtOnnxError
from dbt_onnx.serving import Predictions, publish

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 20_000
CLIENTS = 8
_OF_FILES = {"open", "os.rename", "os.remove", "os.chmod", "shutil.copyfile", "sqlite3.connect"}


def measure(folder: Path, *, kills: int, every: int, switches: int) -> Iterator[Attack]:
    """Let a publisher die at every `every`th step and `kills` times at a random moment; make
    `switches` publications while readers read.
    """
    template = folder / "template"
    template.mkdir(parents=True)
    processes.run(attempt, str(template), 0, None)
    done = _copied(template, folder / "done")
    began = time.monotonic()
    count = processes.run(attempt, str(done), 1, None)[1]
    seconds = time.monotonic() - began
    torn = Attack("A publication is whole or absent", f"a publisher dies at a step of {count}")
    killed = Attack("A publication is whole or absent", "a publisher is killed at a random moment")
    again = Attack("Running again is enough", "`published` after each of these")
    chance = random.Random(1)
    for step in range(1, count + 1, every):
        place = _copied(template, folder / "attacked")
        processes.run(attempt, str(place), 1, step)
        _judge(place, f"step {step}", torn, again)
    for number in range(kills):
        place = _copied(template, folder / "attacked")
        moment = chance.uniform(0, 1.2 * seconds)
        processes.killed_after(attempt, str(place), 1, None, seconds=moment)
        _judge(place, f"kill {number} after {moment:.3f} s", killed, again)
    yield from (torn, killed, again, _read_meanwhile(folder / "read", switches))


def attempt(path: str, version: int, at: int | None) -> int:
    """In a child process: publish a version of the rows, and die at step `at`. Returns the number of steps."""
    folder = Path(path)
    taken = steps.installed(at, "dies")

    def noted(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _OF_FILES and str(folder / "serving") in str(arguments[0]):
            taken.take()

    sys.addaudithook(noted)
    publish_version(folder, version)
    return taken.taken


def publish_version(folder: Path, version: int) -> None:
    """Publish rows whose outputs all equal the version; each version removes, adds and changes some rows."""
    publish.project_folder = lambda: folder  # type: ignore[attr-defined]
    with duckdb.connect(str(folder / "w.duckdb")) as connection:
        connection.execute(
            f"create or replace table current as select i as id, {version} * (i % 3 = 0)::integer as a, "
            f"{version} * (i % 3 = 0)::integer as b, 'run{version}' as name "
            f"from range({version}, {ROWS + 2 * version}) t (i)"
        )
        publish.publish_relation(
            DuckDBWarehouse(connection),
            publish.publish(
                None,
                None,
                predictions=connection.sql('select * from "w"."main"."current"'),
                key=["id"],
                name="scores",
            ),
            publish.PublicationSettings(
                database="w",
                schema="main",
                identifier="published",
                run_id=f"run{version}",
                clock_sql="timestamp '2026-01-01'",
                full_refresh=False,
                empty=False,
            ),
        )


def _judge(place: Path, what: str, attack: Attack, again: Attack) -> None:
    attack.made(harm=_fault(place, what, {0, 1}))
    processes.run(attempt, str(place), 1, None)
    fault = _fault(place, what, {1})
    files = sorted(path.suffix for path in (place / "serving" / "scores").iterdir())
    if set(files) != {".json", ".sqlite"} or len(files) > 4:
        fault = fault or f"{what}: {files}"
    again.made(harm=fault)


def _fault(place: Path, what: str, allowed: set[int]) -> str | None:
    """Return what is wrong with the rows a reader sees; None if they are all of one allowed version."""
    try:
        with Predictions.open(place / "serving" / "scores") as predictions:
            version = int(predictions.manifest.run_id.removeprefix("run"))
            if predictions.fault or version not in allowed:
                return f"{what}: {predictions.fault or version}"
            return _mixed(predictions, version) and f"{what}: {_mixed(predictions, version)}"
    except DbtOnnxError as error:
        return f"{what}: {error.message}"


def _mixed(predictions: Predictions, version: int) -> str | None:
    for key in range(-1, ROWS + 2 * version + 2):
        answer = predictions.get(key)
        is_there = version <= key < ROWS + 2 * version
        says = version * (key % 3 == 0)
        wanted = {"a": says, "b": says, "name": f"run{version}"} if is_there else {}
        if answer.outputs != wanted:
            return f"{key} is {answer.outputs}, not {wanted}"
    return None


def _read_meanwhile(folder: Path, switches: int) -> Attack:
    attack = Attack(
        "A publication is whole or absent",
        f"answers to {CLIENTS} clients while {switches} come and go",
    )
    folder.mkdir(parents=True)
    publish_version(folder, 1)
    ended = threading.Event()
    lock = threading.Lock()

    def ask(number: int) -> None:
        chance = random.Random(number)
        asked, harm = 0, []
        with Predictions.open(folder / "serving" / "scores") as predictions:
            while not ended.is_set():
                keys = [3 * chance.randrange(100, ROWS // 3) for _ in range(20)]
                try:
                    answers = predictions.get_many(keys)
                except DbtOnnxError as error:
                    harm.append(error.message)
                    continue
                asked += len(keys)
                said = {(a.outputs["a"], a.outputs["b"], a.outputs["name"]) for a in answers}
                version = answers[0].outputs["a"]
                if said != {(version, version, f"run{version}")}:
                    harm.append(f"mixed: {said}")
        with lock:
            attack.made(times=asked)
            attack.harm.extend(harm)

    readers = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for reader in readers:
        reader.start()
    for version in range(2, switches + 2):
        publish_version(folder, version)
    ended.set()
    for reader in readers:
        reader.join()
    return attack


def _copied(template: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place)
    return place
