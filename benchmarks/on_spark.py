"""Scoring runs on Spark with Iceberg, in the process of a task, in an environment with pyspark.

Each task has its own metastore, session on a local cluster and tables, and deletes them at the end. Session
and metastore are set up as in the tests.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import ROOT, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pyspark.sql import SparkSession

sys.path.insert(0, str(ROOT / "scripts"))

FEATURES = [f"f{k}" for k in range(10)]
_TICKS = os.sysconf("SC_CLK_TCK")
_WARM = 1_000
_WARM_AND_COMPILED = 1_000_000


def play(
    *,
    folder: str,
    executors: int,
    rows: int,
    model: Mapping[str, str],
    steps: list[str],
    keep_inputs: bool = True,
) -> dict[str, Any]:
    """A task: run the `steps` one after the other, and return `seconds` and the executors' `cpu_seconds` for each.

    first       score all rows
    identity    pass the same rows through Python with `mapInArrow`, unchanged, and write them to a table
    unwritten   as identity, but without writing to a table
    changed     score the changed rows after 1 % of the rows got other features
    nothing     run when nothing has changed

    A run of a million rows with another name comes first, so that imports, compilation and start of all executors
    are not measured. A cluster has this cost once, whatever the number of rows.
    """
    taken: dict[str, Any] = {}
    with _session(Path(folder), executors) as spark:
        _make_registry(spark, model)
        _make_features(spark, min(rows, _WARM_AND_COMPILED))
        _score(spark, model, "warm", keep_inputs=keep_inputs)
        _make_features(spark, rows)
        for number, step in enumerate(steps):
            if step == "changed":
                _make_features(spark, rows, every=100)
            before = _executor_cpu_seconds()
            with Stopwatch() as watch:
                if step in {"identity", "unwritten"}:
                    _pass_through(spark, written=step == "identity")
                else:
                    taken[f"{step} message"] = _score(
                        spark, model, "scores", keep_inputs=keep_inputs, day=number + 1
                    )
            taken[step] = {
                "seconds": watch.taken()["seconds"],
                "cpu_seconds": _executor_cpu_seconds() - before,
            }
        taken["java_peak_mb"] = _peak_mb(_java())
        taken["versions"] = f"pyspark {spark.version}"
    return taken


def plan(*, folder: str, rows: int, model: Mapping[str, str]) -> dict[str, Any]:
    """A task: measure the plan of a night with `rows` entities that have a prediction, when nothing or 1 % changed.

    SQL makes the ledger as one run would leave it, and the features are computed when they are read. So the figures
    include neither scoring all rows nor reading files. `written` is the size of the ledger's files in bytes,
    `shuffled` the number of bytes that tasks wrote for other tasks.
    """
    events = Path(folder, "events")
    events.mkdir(parents=True)
    steps: dict[str, tuple[float, float]] = {}
    taken: dict[str, Any] = {}
    with _session(Path(folder), 2, events=events) as spark:
        _make_registry(spark, model)
        _make_features(spark, _WARM, as_view=True)
        _score(spark, model, "scores", keep_inputs=False)
        _make_features(spark, rows, as_view=True)
        _add_predictions(spark)
        for number, step in enumerate(("nothing", "changed")):
            if step == "changed":
                _make_features(spark, rows, every=100, as_view=True)
            before, began = _executor_cpu_seconds(), time.time()
            taken[f"{step} message"] = _score(
                spark, model, "scores", keep_inputs=False, day=number + 2
            )
            steps[step] = began, time.time()
            taken[step] = {
                "seconds": time.time() - began,
                "cpu_seconds": _executor_cpu_seconds() - before,
            }
        [(taken["written"],)] = spark.sql(
            "select sum(file_size_in_bytes) from bench.scores__rows.files"
        ).collect()
        spark.stop()
        for step, (began, ended) in steps.items():
            taken[step]["shuffled"] = _shuffled(events, began, ended)
    return taken


def _add_predictions(spark: SparkSession) -> None:
    """Add the predictions that the first run would have written for all other rows."""
    from dbt_onnx.engines.spark.sql import features_hash

    rows = spark.table("bench.scores__rows")
    hashed = features_hash(dict.fromkeys(FEATURES, "float"), dict.fromkeys(FEATURES, "float32"))
    of_first = rows.where("run_no = 1").drop("id", "features_hash", "inputs").limit(1)
    of_first.createOrReplaceTempView("of_first")
    listed = ", ".join(
        {"id": "f.id", "features_hash": hashed, "inputs": "null"}.get(name, f"of_first.{name}")
        for name in rows.columns
    )
    spark.sql(
        f"insert into bench.scores__rows select {listed} from bench.features as f cross join of_first where f.id >= {_WARM}"
    )


def _shuffled(events: Path, began: float, ended: float) -> int:
    """Return the shuffle bytes of tasks that ended between two times, from Spark's event log."""
    found = 0
    for path in events.iterdir():
        for line in path.open():
            event = json.loads(line)
            if event["Event"] != "SparkListenerTaskEnd" or not event.get("Task Metrics"):
                continue
            if began <= event["Task Info"]["Finish Time"] / 1000 <= ended:
                found += event["Task Metrics"]["Shuffle Write Metrics"]["Shuffle Bytes Written"]
    return found


@contextmanager
def _session(folder: Path, executors: int, *, events: Path | None = None) -> Iterator[SparkSession]:
    from local_spark import metastore, open_session, settings

    try:
        with metastore(folder) as address:
            master = f"local-cluster[{executors},1,2048]"
            parameters = settings(address, folder, master=master) | {
                "spark.executor.memory": "2g",
                "spark.driver.memory": "1g",
            }
            if events is not None:
                parameters |= {
                    "spark.eventLog.enabled": "true",
                    "spark.eventLog.dir": f"file:{events}",
                }
            spark = open_session(parameters)
            spark.sql("create schema bench")
            yield spark
            spark.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_registry(spark: SparkSession, model: Mapping[str, str]) -> None:
    card = Path(model["artifacts"], model["artifact"]).with_name("card.json")
    row = {
        "model_name": model["name"],
        "model_version": model["version"],
        "alias": "champion",
        "artifact": model["artifact"],
        "sha256": model["sha256"],
        "card_sha256": hashlib.sha256(card.read_bytes()).hexdigest(),
    }
    columns = ", ".join(f"{name} string" for name in row)
    frame = spark.createDataFrame([tuple(row.values())], columns)
    frame.writeTo("bench.model_registry").using("iceberg").create()


def _make_features(
    spark: SparkSession, rows: int, *, every: int = 0, as_view: bool = False
) -> None:
    """Make features: `id` and ten floats with 64 values each. One in `every` rows has a changed value; none if 0."""
    values = ", ".join(
        f"cast(pmod(xxhash64(id, {place}), 64) / 16 - 2 as float)"
        + (f" + case when id % {every} = 0 then 1f else 0f end" if every and not place else "")
        + f" as {name}"
        for place, name in enumerate(FEATURES)
    )
    select = f"as select id, {values} from range({rows})"
    if as_view:
        # after `create or replace view`, Spark would still read the old view
        spark.sql("drop view if exists bench.features")
        spark.sql(f"create view bench.features {select}")
    else:
        spark.sql(f"create or replace table bench.features using iceberg {select}")


def _score(
    spark: SparkSession, model: Mapping[str, str], name: str, *, keep_inputs: bool, day: int = 1
) -> str:
    from dbt_onnx.engines.spark.engine import score_on_spark
    from dbt_onnx.engines.spark.features import loader
    from dbt_onnx.runs.request import RunSettings, check_request

    load = loader(spark)
    arguments = {
        "features": load("bench.features"),
        "registry": load("bench.model_registry"),
        "model": model["name"],
        "key": ["id"],
        "as_of": None,
        "refresh_after": None,
        "keep_inputs": keep_inputs,
        "significant_digits": 9,
        "max_rejected_fraction": 0.1,
        "batch_rows": None,
        "threads": None,
    }
    settings = RunSettings(
        database="", schema="bench", identifier=name, run_id=f"{name} {day}",
        clock_sql=f"timestamp '2026-01-{day:02}'", full_refresh=False, empty=False, retry_rejected=False,
        dbt_version="none",
    )  # fmt: skip
    summary = score_on_spark(
        check_request(arguments, {}),
        settings,
        session=spark,
        artifacts=Path(model["artifacts"]),
        log=lambda _: None,
    )
    return str(summary)


def _pass_through(spark: SparkSession, *, written: bool) -> None:
    rows = spark.table("bench.features")
    passed = rows.mapInArrow(lambda batches: batches, rows.schema)
    if written:
        passed.writeTo("bench.passed").using("iceberg").create()
    else:
        passed.write.format("noop").mode("overwrite").save()


def _java() -> int:
    from pyspark import SparkContext

    return int(SparkContext._gateway.proc.pid)  # noqa: SLF001


def _peak_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024 / 1e6


def _executor_cpu_seconds() -> float:
    """Return the CPU seconds of all descendants of the driver's Java process: executors and Python workers.

    Ended processes are included.
    """
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # the process has just ended
            continue
        process = int(path.parent.name)
        parents[process] = int(fields[1])
        # user and system time of the process and of its children that have ended
        seconds[process] = sum(map(int, fields[11:15])) / _TICKS
    below, java = set(), _java()
    for process, above in parents.items():
        ancestor = above
        while ancestor in parents and ancestor != java:
            ancestor = parents[ancestor]
        if ancestor == java:
            below.add(process)
    return sum(seconds[process] for process in below)
