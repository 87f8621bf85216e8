"""`dbt-onnx backfill` scores the past slice by slice, and changes nothing in the present."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from scoring_project import ScoringProject
from warehouse import line_model

from dbt_onnx.cli import main
from dbt_onnx.runs.run import score_table

if TYPE_CHECKING:
    from pathlib import Path

KILLS = int(os.environ.get("DBT_ONNX_KILLS", "3"))
COMMAND = [sys.executable, "-c", "from dbt_onnx.cli import main; main(prog_name='dbt-onnx')"]
SCRATCH = "main__backfill_scores"
MONTHS = ("--from", "2023-07-01", "--to", "2023-09-01", "--every", "month")
# customer i arrives in month i of 2023; a grows by one each month
LEDGER = "select * exclude (run_id, scored_at) from scores order by all"
PRESENT = (
    "select * from features order by all",
    "select * from arrived order by all",
    "select * from scores__current order by all",
    "select * from current_scores order by all",
)


class Shop(ScoringProject):
    """A project with four feature models that depend on the clock, each with a different materialization."""

    def __init__(self, root: Path) -> None:
        # a relative path, so that a copy of the project uses its copy of the warehouse
        super().__init__(root, profile={"path": "warehouse.duckdb"})
        self.facts(20)
        self.write(
            "models/moment.sql",
            "{{ config(materialized='ephemeral') }} select {{ dbt_onnx.clock() }} as moment",
        )
        self.write(
            "models/arrived.sql",
            """
            {{ config(materialized='incremental', unique_key='id') }}
            select facts.*, moment from {{ source('shop', 'facts') }} as facts
            cross join {{ ref('moment') }} where id < datediff('month', date '2023-01-01', moment)
            """,
        )
        self.write(
            "models/grown.sql",
            "{{ config(materialized='view') }} select id, a + month(moment) as a, b, moment, "
            "if(moment = timestamp '2023-03-01', error('nothing is known of March'), 0) as nothing "
            "from {{ ref('arrived') }}",
        )
        self.write(
            "models/features.sql",
            "{{ config(materialized='table') }} select * from {{ ref('grown') }}",
        )
        self.write("models/plain.sql", "select * from {{ source('shop', 'facts') }}")
        self.write(
            "models/current_scores.sql",
            "{{ dbt_onnx.current_predictions(ref('scores'), registry=ref('model_registry'), "
            "key=['id']) }}",
        )
        self.scoring_model("scores", arguments="as_of='moment'")
        self.scoring_model("plain_scores", features="plain")
        self.register("2", line_model(1, 1, 1), alias="challenger")

    def backfill(self, *arguments: str, exit_code: int = 0) -> str:
        """Run `dbt-onnx backfill ARGUMENTS` in this process. Returns its output."""
        folders = ("--project-dir", str(self.root), "--profiles-dir", str(self.root))
        done = CliRunner().invoke(main, ["backfill", *arguments, *folders])
        assert done.exit_code == exit_code, done.output
        return done.output

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `dbt-onnx backfill ARGUMENTS` in a separate process."""
        return subprocess.Popen(
            [*COMMAND, "backfill", *arguments],
            cwd=self.root,
            env={**os.environ, "DBT_PROFILES_DIR": str(self.root)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def copied_to(self, root: Path) -> Shop:
        """Return a copy of the project and its warehouse in another folder."""
        shutil.copytree(self.root, root, symlinks=True)
        copy = object.__new__(Shop)
        copy.__dict__ |= {**self.__dict__, "root": root, "warehouse": root / "warehouse.duckdb"}
        return copy

    def schemas(self) -> set[str]:
        return {
            row[0]
            for row in self.sql("select schema_name from duckdb_schemas() where not internal")
        }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A project scored once, at its clock in January 2024; tests must not change it."""
    shop = Shop(tmp_path_factory.mktemp("shop") / "built")
    outcome = shop.dbt("build", "--exclude", "plain_scores")
    assert outcome.success, outcome.log
    return shop


@dataclass(frozen=True)
class Filled:
    """A project with three months backfilled without interruption, the command's output, and the ledger afterwards."""

    shop: Shop
    printed: str
    ledger: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def filled(built: Shop, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """Shared by several tests, which must not change it."""
    shop = built.copied_to(tmp_path_factory.mktemp("shop") / "filled")
    printed = shop.backfill("scores", *MONTHS)
    return Filled(shop, printed, shop.sql(LEDGER))


def test_each_slice_is_scored_with_the_features_of_its_clock(filled: Filled) -> None:
    shop, printed = filled.shop, filled.printed
    assert shop.sql("select as_of, id, y, is_late from scores where is_late order by all") == [
        (month, customer, 2 * (customer / 2 + number) - 1 + 0.5, True)
        for number in range(7, 10)
        for [month] in shop.sql(f"select timestamp '2023-0{number}-01'")
        for customer in range(number - 1)
    ]
    assert "scores with line/1: 3 slices from 2023-07-01 to 2023-09-01, 0 done before" in printed
    assert "2023-08-01  line/1: scored 7 (new 1, features_changed 6), unchanged 0" in printed
    assert "[2 of 3, 0:" in printed
    assert printed.endswith("3 slices run\n")
    runs = shop.sql(
        "select distinct scope, status, clock = as_of, scored_at - as_of > interval 100 days "
        "from dbt_onnx_runs where clock < '2024-01-01'"
    )
    assert runs == [("backfill", "success", True, True)]


def test_the_present_stays_as_it_is(built: Shop, filled: Filled) -> None:
    shop = filled.shop
    for query in PRESENT:
        assert shop.sql(query) == built.sql(query)
    assert shop.schemas() == built.schemas()
    assert shop.relations() == built.relations()
    for path in (built.root / "target").rglob("*.*"):
        assert (shop.root / path.relative_to(built.root)).read_bytes() == path.read_bytes()
    # an ordinary run on the same day finds nothing to score
    assert shop.dbt("run", "--select", "scores").success
    assert shop.sql("select rows_scored from dbt_onnx_runs order by started_at desc limit 1") == [
        (0,)
    ]


def test_a_slice_is_a_run_like_any_other(
    built: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dbt run` and a backfill call the same function with the same request; only the clock differs."""
    shop = built.copied_to(tmp_path / "copy")
    runs: list[tuple[Any, ...]] = []

    def spied(engine: Any, request: Any, settings: Any, **options: Any) -> Any:
        asked = replace(request, features=None, registry=None)
        setting = replace(settings, clock_sql="", run_id="", seeds={})
        runs.append((asked, setting, options["artifacts"]))
        return score_table(engine, request, settings, **options)

    monkeypatch.setattr("dbt_onnx.engines.duckdb.engine.score_table", spied)
    assert shop.dbt("run", "-s", "scores").success
    shop.backfill("scores", "--from", "2023-07-01", "--to", "2023-08-01", "--every", "month")
    assert len(runs) == 3
    assert runs[0] == runs[1] == runs[2]


def test_what_has_run_is_not_run_again(filled: Filled) -> None:
    shop = filled.shop
    runs = shop.sql("select count(*) from dbt_onnx_runs")
    assert "nothing to do: every slice has run before" in shop.backfill("scores", *MONTHS)
    printed = shop.backfill(
        "scores", "--from", "2023-07-01", "--to", "2023-10-01", "--every", "month", "--dry-run"
    )
    assert [line.split()[1:-1] for line in printed.splitlines() if line.startswith("│")][-2:] == [
        ["2023-09-01", "│", "done", "│"],
        ["2023-10-01", "│", "to", "run", "│", "9"],
    ]
    assert "Nothing was scored" in printed
    assert shop.sql("select count(*) from dbt_onnx_runs") == runs
    assert SCRATCH not in shop.schemas()


def test_what_a_kill_after_the_last_slice_left_is_dropped(filled: Filled) -> None:
    shop = filled.shop
    shop.sql(f"create schema {SCRATCH}")
    shop.sql(f"create table {SCRATCH}.dbt_onnx_backfill as select 'features' as name")
    shop.sql(f"create table {SCRATCH}.features as select 42 as answer")
    assert "nothing to do: every slice has run before" in shop.backfill("scores", *MONTHS)
    assert SCRATCH not in shop.schemas()


def test_another_version_has_slices_of_its_own_and_serves_nothing(
    built: Shop, filled: Filled
) -> None:
    shop = filled.shop
    when = ("--from", "2023-08-01", "--to", "2023-08-07", "--every", "week")
    printed = shop.backfill("scores", *when, "--model", "line@challenger")
    assert "scores with line/2: 1 slices from 2023-08-01 to 2023-08-01, 0 done before" in printed
    assert "2023-08-01  line/2: scored 7 (model_changed 7)" in printed
    assert shop.sql(
        "select distinct scope, model_alias from dbt_onnx_runs where model_version = '2'"
    ) == [("backfill", None)]
    for query in PRESENT:
        assert shop.sql(query) == built.sql(query)
    assert "nothing to do" in shop.backfill("scores", *when, "--model", "line/2")


def test_a_slice_that_fails_stops_the_others_only_when_asked(filled: Filled) -> None:
    shop = filled.shop
    when = ("--from", "2023-03-01", "--to", "2023-04-01", "--every", "month")
    printed = shop.backfill("scores", *when, "--fail-fast", exit_code=1)
    assert "2023-03-01  FAILED features: " in printed
    assert "nothing is known of March" in printed
    assert "0 slices run, 1 failed, 1 not tried" in printed
    printed = shop.backfill("scores", *when, exit_code=1)
    assert "2023-04-01  line/1: scored 3" in printed
    assert "1 slices run, 1 failed\nHint: fix the cause" in printed
    assert SCRATCH not in shop.schemas()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["score", *MONTHS], 2, "did you mean 'scores'?"),
        (["plain_scores", *MONTHS], 2, "every slice would see the same features"),
        (["scores", "--from", "2023-02-01", "--to", "2023-01-01", "--every", "day"], 2, "is after"),
        (
            ["scores", "--from", "2024-01-01", "--to", "2024-01-31", "--every", "week"],
            2,
            "slice 2024-01-29 is later than the project's clock, 2024-01-10 06:00:00",
        ),
        (["scores", *MONTHS, "--model", "line/9"], 2, "has no version '9'"),
        (["scores", *MONTHS, "--model", "churn/1"], 2, "scores with 'line', but --model names"),
        (["scores", *MONTHS, "--every", "hour"], 2, "'hour' is not one of"),
    ],
)
def test_what_makes_no_backfill_is_refused(
    built: Shop, arguments: list[str], exit_code: int, said: str
) -> None:
    printed = " ".join(built.backfill(*arguments, exit_code=exit_code).split())
    assert said in printed


def test_a_schema_of_somebody_else_is_never_dropped(filled: Filled) -> None:
    shop = filled.shop
    when = ("--from", "2023-05-01", "--to", "2023-05-01", "--every", "day")
    shop.sql(f"create schema {SCRATCH}")
    shop.sql(f"create table {SCRATCH}.features as select 42 as answer")
    printed = shop.backfill("scores", *when, exit_code=1)
    assert f"schema {SCRATCH} does not belong to a dbt_onnx backfill" in " ".join(printed.split())
    assert shop.sql(f"from {SCRATCH}.features") == [(42,)]
    # nor is a schema dropped that a backfill made, if somebody else has put a table into it
    shop.sql(f"create table {SCRATCH}.dbt_onnx_backfill as select 'features' as name")
    shop.sql(f"create table {SCRATCH}.precious as select 42 as answer")
    printed = shop.backfill("scores", *when, exit_code=1)
    assert "is used by backfills, but contains other objects" in " ".join(printed.split())
    assert shop.sql(f"from {SCRATCH}.precious") == shop.sql(f"from {SCRATCH}.features") == [(42,)]
    shop.sql(f"drop schema {SCRATCH} cascade")


def kill_again_and_again(shop: Any, *arguments: str, kills: int, seconds: float, seed: int) -> int:
    """Kill a backfill at random moments and restart it, until it completes or was killed `kills`
    times. Returns the number of kills.
    """
    chance = random.Random(seed)
    for killed in range(kills):
        process = shop.start(*arguments)
        try:
            process.wait(chance.uniform(0.3, 1) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        else:
            printed = process.communicate()[0]
            assert process.returncode == 0, printed
            return killed
    return kills


def interrupt(shop: Shop) -> float:
    """Interrupt a backfill after its first slice, like Ctrl-C. Returns the seconds until then."""
    began = time.monotonic()
    process = shop.start("scores", *MONTHS)
    assert process.stdout is not None
    assert "0 done before" in process.stdout.readline()
    assert "2023-07-01" in process.stdout.readline()
    seconds = time.monotonic() - began
    process.send_signal(signal.SIGINT)
    printed = process.communicate()[0]
    assert process.returncode == 130, printed
    assert "1 of 3 slices have run" in printed
    assert "The same command runs the missing slices" in printed
    assert SCRATCH not in shop.schemas()
    return seconds


def test_stopped_and_killed_at_random_moments_and_resumed_it_has_done_the_same_once(
    built: Shop, filled: Filled, tmp_path: Path
) -> None:
    left, rounds = KILLS, 0
    while left:
        rounds += 1
        shop = built.copied_to(tmp_path / f"round{rounds}")
        seconds = interrupt(shop)
        left -= kill_again_and_again(
            shop, "scores", *MONTHS, kills=left, seconds=seconds, seed=rounds
        )
        shop.backfill("scores", *MONTHS)
        assert shop.sql(LEDGER) == filled.ledger
        for query in PRESENT:
            assert shop.sql(query) == built.sql(query)
        assert SCRATCH not in shop.schemas()
        twice = "select clock from dbt_onnx_runs where status = 'success' group by all having count(*) > 1"
        assert shop.sql(twice) == []
        shop.sql("delete from dbt_onnx_runs where status = 'interrupted'")
        with shop.scores() as scores:
            scores.check()
