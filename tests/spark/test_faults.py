"""After killed drivers, killed executors and concurrent drivers, the ledger is the same as after undisturbed nights.

The undisturbed nights are played on DuckDB. DBT_ONNX_SPARK_KILLS=50 DBT_ONNX_SPARK_PAIRS=20 is the long version.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from driver import SECONDS, play_and_abandon
from pyspark.errors import AnalysisException
from test_nights import INPUTS, LEDGER, NAMES, Night, OnDuckDB, OnSpark, Row, everybody, score

from dbt_onnx.errors import DbtOnnxError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyspark.sql import SparkSession

KILLS = int(os.environ.get("DBT_ONNX_SPARK_KILLS", "4"))
PAIRS = int(os.environ.get("DBT_ONNX_SPARK_PAIRS", "2"))
NIGHTS_OF_A_LEDGER = 6
ROWS = 20_000
CURRENT = (
    "select customer_id, churn_probability, last_seen_as_of, "
    "greatest(as_of, confirmed_as_of) as known_until from {0}__current"
)
SUCCESSES = (
    "select run_id, scope, rows_in, rows_scored, rows_rejected, rows_unchanged, rows_inputs_kept "
    "from dbt_onnx_runs where scoring_model = '{0}' and status = 'success'"
)


class Lab:
    """Plays the same nights on DuckDB, undisturbed, and on Spark."""

    def __init__(self, spark: SparkSession) -> None:
        self.undisturbed, self.spark = OnDuckDB(), OnSpark(spark)

    def write_features(self, number: int) -> Night:
        """Write a night's features, with changed, rejected and missing entities. Every fifth night scores all again."""
        changed: dict[str, Any] = {
            f"c{number * 7 % 60:03}": {"plus": number + 1},
            f"c{(number * 7 + 3) % 60:03}": None,
            f"c{(number * 7 + 11) % 60:03}": {"plus": None},
        }
        clock = datetime(1998, 1, 2) + timedelta(days=number)
        night = Night(
            clock.isoformat(sep=" "),
            everybody(**changed),
            settings={"full_refresh": number % 5 == 4},
        )
        self.spark.write_features(night)
        return night

    def counts(self, run_id: str) -> bool:
        found = self.spark.rows(f"select status from dbt_onnx_runs where run_id = '{run_id}'")
        return found == [("success",)]

    def run_again(self, night: Night, run_id: str, name: str, note: Callable[[], None]) -> None:
        """Run a night again after its run `run_id` was disturbed, and check that the result is as if undisturbed.
        `note` is the function that `read` yields.
        """
        if self.counts(run_id):
            self.undisturbed.run(night, run_id, name)
            note()
        score(self.spark.spark, night, f"{run_id} again", name)
        self.undisturbed.run(night, f"{run_id} again", name)
        self.compare(name)

    def compare(self, name: str, *, where: str = "") -> None:
        for query in (LEDGER, CURRENT, INPUTS, SUCCESSES):
            asked = query + (f" {where}" if "run_id" in query and "where" not in query else "")
            found = [
                sorted(engine.rows(asked.format(name, engine.kept)), key=repr)
                for engine in (self.undisturbed, self.spark)
            ]
            assert found[0] == found[1], query


class Reader(threading.Thread):
    """Reads the ledger and the current rows all the time, and keeps each different state that it sees."""

    def __init__(self, spark: SparkSession, name: str) -> None:
        super().__init__(daemon=True)
        self._session, self._name, self._stops = spark.newSession(), name, False
        self.seen: dict[str, list[list[Row]]] = {LEDGER: [], CURRENT: []}
        self._has_ended = False

    def run(self) -> None:
        self._session.sql("use lab")
        while not self._stops:
            for query, seen in self.seen.items():
                if (state := self._read(query)) not in seen:
                    seen.append(state)
            time.sleep(0.5)  # leave the few cores to the runs
        self._has_ended = True

    def _read(self, query: str) -> list[Row]:
        try:
            rows = self._session.sql(query.format(self._name)).collect()
        except AnalysisException as error:
            if error.getErrorClass() != "TABLE_OR_VIEW_NOT_FOUND":
                raise
            return []
        return sorted(map(tuple, rows), key=repr)

    def stop(self) -> None:
        self._stops = True
        self.join(timeout=SECONDS)
        assert self._has_ended, "the reader has failed"


@contextmanager
def read(lab: Lab, name: str) -> Iterator[Callable[[], None]]:
    """Within the context, a thread reads all the time. It may only see the state before, the state after, and states
    that the caller notes in between with the yielded function, but never half a run.
    """

    def states() -> dict[str, list[Row]]:
        try:
            return {q: sorted(lab.undisturbed.rows(q.format(name)), key=repr) for q in reader.seen}
        except duckdb.CatalogException:  # before the first run
            return {query: [] for query in reader.seen}

    reader = Reader(lab.spark.spark, name)
    whole = [states()]
    reader.start()
    try:
        yield lambda: whole.append(states())
    finally:
        reader.stop()
    whole.append(states())
    for query, seen in reader.seen.items():
        for state in seen:
            assert state in [one[query] for one in whole], query


class Driver:
    """A separate process that plays nights, see `driver.py`."""

    def __init__(self, parameters: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py")), json.dumps(parameters)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # the path of this pytest process, with the folders from its configuration
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def send(
        self, night: Night, run_id: str, name: str, kill: tuple[int, float] | None = None
    ) -> None:
        request = {
            "clock": night.clock,
            "run_id": run_id,
            "name": name,
            "arguments": dict(night.arguments),
            "settings": dict(night.settings),
            "kill": kill,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """Return the next answer of the driver, or None if it is dead."""
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def outcome(self) -> dict[str, Any] | None:
        while (said := self.receive()) is not None and "begun" in said:
            pass
        return said

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def test_a_driver_that_is_abandoned_or_killed_leaves_nothing(
    spark: SparkSession, parameters: dict[str, str]
) -> None:
    lab, chance = Lab(spark), random.Random(17)
    doomed = Driver(parameters)
    # where the next run stops, for first and later runs: after its 1st change, then a later one, until a run ends first
    place, stride = {True: 1, False: 1}, max(1, 24 // KILLS)
    kills: list[str] = []
    number = 0
    while len(kills) < KILLS:
        name, is_first = f"killed{number // NIGHTS_OF_A_LEDGER}", number % NIGHTS_OF_A_LEDGER == 0
        night, run_id, after = lab.write_features(number), f"killed {number}", place[is_first]
        with read(lab, name) as note:
            if len(kills) % 5 == 3:
                how = kill_during(doomed, night, run_id, name, (after, chance.uniform(0, 0.4)))
                doomed = Driver(parameters)
            else:
                made = play_and_abandon(lambda: score(spark, night, run_id, name), after=after)  # noqa: B023
                how = f"abandoned after {made[-1]}" if len(made) == after else None
            lab.run_again(night, run_id, name, note)
        place[is_first] = 1 if how is None else after + stride
        kills += [how] if how else []
        print(name, how, flush=True)
        number += 1
    doomed.end()
    print(f"{len(kills)} kills in {number} nights")


def kill_during(
    doomed: Driver, night: Night, run_id: str, name: str, kill: tuple[int, float]
) -> str | None:
    """Kill a driver during a night. Returns how it was killed, or None if the run ended first."""
    assert doomed.outcome() is not None
    doomed.send(night, run_id, name, kill)
    said = doomed.outcome()
    doomed.process.kill()
    doomed.process.wait(timeout=60)
    return None if said else f"SIGKILL {kill[1]:.2f} s after the beginning of change {kill[0]}"


def test_of_two_drivers_at_once_one_wins_and_the_other_says_who(
    spark: SparkSession, parameters: dict[str, str]
) -> None:
    lab, other = Lab(spark), Driver(parameters)
    assert other.outcome() is not None
    refused = 0
    for number in range(PAIRS):
        # every fourth pair starts with a new scoring model, so it also creates the tables
        name, night = f"pair{number // 4}", lab.write_features(number)
        ids = {"ours": f"ours {number}", "theirs": f"theirs {number}"}
        with read(lab, name) as note:
            other.send(night, ids["theirs"], name)
            outcomes: dict[str, Any] = {}
            try:
                outcomes["ours"] = {"said": str(score(spark, night, ids["ours"], name))}
            except DbtOnnxError as error:
                outcomes["ours"] = {"error": type(error).__name__, "message": error.message}
            outcomes["theirs"] = other.outcome()
            losers = [who for who, outcome in outcomes.items() if "error" in outcome]
            # if one driver starts after the other has ended, it finds nothing to do, and both succeed
            assert len(losers) <= 1, outcomes
            for loser in losers:
                refused += 1
                [winner] = set(ids) - {loser}
                assert outcomes[loser]["error"] == WarehouseError.__name__
                assert "succeeded while this run was in progress" in outcomes[loser]["message"]
                assert f"({ids[winner]}) of lab.{name} (driver " in outcomes[loser]["message"]
                assert not lab.counts(ids[loser])
            order = f"select run_id from dbt_onnx_runs where scoring_model = '{name}' and status = 'success' order by run_no"
            for (run_id,) in lab.spark.rows(order):
                if run_id in ids.values():
                    lab.undisturbed.run(night, run_id, name)
                    note()
            lab.compare(name)
            lab.run_again(night, f"after {number}", name, note)
    other.end()
    numbers = [row[0] for row in lab.spark.rows("select run_no from dbt_onnx_runs")]
    assert len(set(numbers)) == len(numbers)
    print(f"{PAIRS} pairs, {refused} refused")


def test_models_are_scored_at_once_by_two_drivers_and_by_threads_of_one(
    spark: SparkSession, parameters: dict[str, str]
) -> None:
    lab, other = Lab(spark), Driver(parameters)
    assert other.outcome() is not None
    for number in range(PAIRS):
        night, run_id = lab.write_features(number), f"night {number}"
        other.send(night, run_id, "theirs")
        with ThreadPoolExecutor() as threads:
            ours = [threads.submit(score, spark, night, run_id, name) for name in ("one", "two")]
            assert all(run.result() for run in ours)
        assert "said" in other.outcome()
        for name in ("theirs", "one", "two"):
            lab.undisturbed.run(night, run_id, name)
            lab.compare(name)
    other.end()
    numbers = [row[0] for row in lab.spark.rows("select run_no from dbt_onnx_runs")]
    assert len(set(numbers)) == len(numbers) == 3 * PAIRS


def test_an_executor_that_is_killed_doubles_and_loses_nothing(
    spark: SparkSession, parameters: dict[str, str]
) -> None:
    lab, chance = Lab(spark), random.Random(17)
    cluster = {
        **parameters,
        "spark.master": "local-cluster[2,1,1024]",
        "spark.executor.memory": "1g",
        # restart killed executors, without a limit
        "spark.deploy.maxExecutorRetries": "-1",
    }
    driver = Driver(cluster)
    java = driver.outcome()["pid"]
    kills: list[str] = []
    number, seconds = 0, 0.0
    while len(kills) < KILLS:
        night, run_id = write_many_features(lab, number), f"run {number}"
        driver.send(night, run_id, "many")
        assert driver.receive() == {"begun": "append"}
        began = time.monotonic()
        if number:
            time.sleep(chance.uniform(0, seconds))
            kills += kill_one_of(java, ("CoarseGrained", "pyspark.daemon")[number % 2])
        said = driver.outcome()
        assert "said" in said, said
        if not number:
            # the append takes most of this time: kills should hit it, and not the little work after it
            seconds = 0.7 * (time.monotonic() - began)
        lab.undisturbed.score(night, run_id, "many")
        lab.compare("many", where=f"where run_id = '{run_id}'")
        number += 1
    driver.end()
    found = lab.spark.rows(
        "select run_id, count(*), count(distinct customer_id) from many group by 1"
    )
    assert sorted(found) == sorted((f"run {n}", ROWS, ROWS) for n in range(number))
    print(f"{number} nights", *kills, sep="\n")


def write_many_features(lab: Lab, number: int) -> Night:
    """Write the features of a night with many rows, all new or changed, in four files."""
    values = ", ".join(
        f"cast((id * {place + 3}) % 97 + {number} as double) as {name}"
        for place, name in enumerate(NAMES)
    )
    rows = f"as select concat('c', id) as customer_id, {values} from range"
    lab.undisturbed.connection.execute(
        f"create or replace table features {rows}({ROWS}) as rows(id)"
    )
    lab.spark.spark.sql(
        "create or replace table lab.features using iceberg "
        "tblproperties ('read.split.target-size' = '1000', 'read.split.open-file-cost' = '1000') "
        f"{rows}(0, {ROWS}, 1, 4)"
    )
    return Night((datetime(1998, 1, 2) + timedelta(days=number)).isoformat(sep=" "), [])


def kill_one_of(java: int, what: str) -> list[str]:
    """Send SIGKILL to one of the driver's executors, or to one of their Python workers."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
            parents[pid] = int(rest[1])

    def is_below(pid: int) -> bool:
        return pid != 1 and pid in parents and (parents[pid] == java or is_below(parents[pid]))

    found = []
    for pid in parents:
        with suppress(OSError):
            if is_below(pid) and what in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    if not found:
        return []
    # kill the youngest: the oldest Python process only forks the workers
    with suppress(ProcessLookupError):
        os.kill(max(found), signal.SIGKILL)
        return [f"SIGKILL of {what}"]
    return []
