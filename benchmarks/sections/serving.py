"""The cost of publishing, and the time of an answer from a publication."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import models, project
from benchmarks.data import floats
from benchmarks.measure import Task, run
from benchmarks.results import Row
from benchmarks.sections import serving_http

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Scale

WHOLE, FEW, NOTHING = "everything", "1 % changed", "nothing changed"
READING = "reading the view"
MAX_PERCENT = 20.0
MAX_MILLISECONDS = 0.05
MAX_SECONDS_OF_WATCH = 3.0
WARM_UP = 1_000
_EVERY = {WHOLE: 0, FEW: 100, NOTHING: 100}
_CURRENT = "{{ dbt_onnx.current_predictions(ref('scores'), registry=ref('model_registry'), key=['id']) }}\n"
_PUBLISHED = """
from dbt_onnx import publish

def model(dbt, session):
    dbt.config(materialized="published")
    return publish(
        dbt, session, predictions=dbt.ref("scores_current"), key=["id"], name="scores"%s
    )
"""
_WITH_MODEL = ', registry=dbt.ref("model_registry"), model="%s"'


def measure(scale: Scale) -> Iterator[Row]:
    sizes = scale.of(full=(1_000_000, 10_000_000), smoke=(100_000,))
    for entities in sizes:
        folder = project.new_folder()
        try:
            arguments = {
                "folder": str(folder),
                "data": str(floats(entities, 10)),
                "model": models.model("logistic"),
            }
            played = [
                run(Task(__name__, "publish", arguments)).result
                for _ in range(scale.of(full=3, smoke=1))
            ]
            yield from _publishing(played, entities)
            looked = run(
                Task(
                    __name__,
                    "look_up",
                    {
                        "folder": str(folder),
                        "entities": entities,
                        "lookups": scale.of(full=100_000, smoke=10_000),
                        "rounds": scale.rounds,
                    },
                )
            )
            p50, p90, p99 = (median(found) for found in zip(*looked.result["taken"], strict=True))
            yield Row(
                section="serving",
                workload="one key, in process",
                against=f"p99, {entities:,} entities",
                unit="ms",
                figure=p99,
                at_most=MAX_MILLISECONDS,
                detail=f"median {p50:.4f} ms, p90 {p90:.4f} ms; the process has {looked.peak_mb:.0f} MB",
            )
            if entities == sizes[0]:
                yield from serving_http.lookups(folder, entities, scale)
            if entities == sizes[-1]:
                yield from serving_http.memory(folder, entities, scale)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    yield from _scores(scale)
    yield from _watch(scale)


def _scores(scale: Scale) -> Iterator[Row]:
    folder = project.new_folder()
    try:
        arguments = {"data": str(floats(10_000, 10)), "model": models.model("trees_100")}
        run(Task(__name__, "publish_with_model", {"folder": str(folder), **arguments}))
        yield from serving_http.scores(folder, scale)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watch(scale: Scale) -> Iterator[Row]:
    files = scale.of(full=20, smoke=5)
    waited = run(Task(__name__, "watch", {"files": files, "rows": 1_000})).result["waited"]
    yield Row(
        section="serving",
        workload="watch, looking each second",
        against="a file of 1,000 rows, until it is published",
        unit="s",
        figure=median(waited),
        at_most=MAX_SECONDS_OF_WATCH,
        detail=f"{files} files, the slowest {max(waited):.2f} s",
    )


def _publishing(played: list[Any], entities: int) -> Iterator[Row]:
    whole = median(steps[WHOLE] for steps in played)
    reading = f"{READING} alone takes {median(steps[READING] for steps in played):.2f} s"
    yield Row(
        section="serving",
        workload="publication, everything",
        against=f"{entities:,} entities",
        unit="rows/s",
        figure=entities / whole,
        detail=f"{whole:.2f} s; {reading}",
    )
    for step in (FEW, NOTHING):
        seconds = median(steps[step] for steps in played)
        yield Row(
            section="serving",
            workload=f"publication, {step}",
            against=f"everything, {entities:,} entities",
            unit="% of the time",
            figure=median(100 * steps[step] / steps[WHOLE] for steps in played),
            at_most=MAX_PERCENT,
            detail=f"{seconds:.2f} s; {reading}",
        )


def publish(*, folder: str, **settings: Any) -> dict[str, float]:
    """A task: publish when everything, 1 % and nothing has changed, then only read the view. Returns the seconds of the
    publishing node for each step, and of reading the view.
    """
    import duckdb

    shutil.rmtree(folder, ignore_errors=True)
    project.import_all()
    project.create(folder=folder, features=_features(WHOLE), materialized="table", **settings)
    made = _project(folder)
    taken = {}
    for step in _EVERY:
        project.change_features(folder=folder, features=_features(step), materialized="table")
        nodes = made.dbt("run", "--select", "scores+")
        taken[step] = nodes["scores_published"].seconds
    with duckdb.connect(str(made.warehouse)) as connection:
        begun = time.perf_counter()
        connection.execute("create temp table rows_read as select * from scores_current")
        taken[READING] = time.perf_counter() - begun
    return taken


def publish_with_model(*, folder: str, data: str, model: dict[str, str]) -> None:
    """A task: publish a scoring model together with the files of its version."""
    project.import_all()
    project.create(folder=folder, data=data, model=model)
    _project(folder, _WITH_MODEL % model["name"]).dbt("run", "--select", "scores+")


def _project(folder: str, arguments: str = "") -> project.Project:
    """Add the models that publish to an existing project. `arguments` are more arguments of `publish()`."""
    made = project.Project(Path(folder))
    made.write("models/scores_current.sql", _CURRENT)
    made.write("models/scores_published.py", _PUBLISHED % arguments)
    return made


def _features(step: str) -> str:
    changed = f"id % {every} = 0" if (every := _EVERY[step]) else "false"
    return f"select * replace (case when {changed} then f0 + 1 else f0 end as f0) from {project.SOURCE}.features"


def look_up(*, folder: str, entities: int, lookups: int, rounds: int) -> dict[str, Any]:
    """A task: call `get` for one key after the other. Returns the percentiles 50, 90 and 99 in milliseconds, a list for
    each round.
    """
    from dbt_onnx.serving import Predictions

    taken = []
    with Predictions.open(Path(folder) / "serving" / "scores") as predictions:
        for _ in range(rounds):
            times = []
            for i in range(WARM_UP + lookups):
                key = 611_953 * i % entities
                started = time.perf_counter()
                answer = predictions.get(key)
                times.append(time.perf_counter() - started)
                if answer.status != "predicted":
                    raise ValueError(f"{key} is {answer.status}")
            times = sorted(times[WARM_UP:])
            taken.append([1000 * times[lookups * p // 100] for p in (50, 90, 99)])
    return {"taken": taken}


def watch(*, files: int, rows: int) -> dict[str, list[float]]:
    """A task: measure the seconds from the arrival of each file until a reader gets the predictions for it."""
    import duckdb

    from dbt_onnx.serving import Predictions

    folder = project.new_folder()
    landing = folder / "landing"
    landing.mkdir(parents=True)
    columns = ", ".join(f"(hash(i + {k}) % 100)::float as f{k}" for k in range(10))

    def land(number: int) -> None:
        written = landing / f".{number}"
        statement = f"select i + {number * rows} as id, {columns} from range({rows}) t (i)"
        duckdb.execute(f"copy ({statement}) to '{written}' (format parquet)")
        written.rename(landing / f"{number}.parquet")

    try:
        land(0)
        project.create(
            folder=str(folder),
            data=None,
            model=models.model("logistic"),
            features=f"select * from read_parquet('{landing}/*.parquet')",
        )
        _project(str(folder))
        command = [str(Path(sys.executable).with_name("dbt-onnx")), "watch", "--select", "scores+"]
        command += ["--files", "landing/*.parquet", "--every", "1s", "--profiles-dir", str(folder)]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.readline()  # the files that existed at the start are published
            waited = []
            with Predictions.open(folder / "serving" / "scores") as predictions:
                for number in range(1, files + 1):
                    time.sleep(number * 0.37 % 1)  # vary the moment between two checks
                    land(number)
                    arrived = time.perf_counter()
                    while predictions.get(number * rows).status != "predicted":
                        time.sleep(0.01)
                    waited.append(time.perf_counter() - arrived)
            process.send_signal(signal.SIGINT)
        return {"waited": waited}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
