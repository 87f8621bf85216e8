"""`dbt run` that is killed, fails in a hook, is retried, or runs twice at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from consumer import invoke
from scoring_project import ScoringProject
from tests.torture import processes
from tests.torture.points import POINTS, POST_HOOK, PRE_HOOK
from tests.torture.report import Attack

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOOK = f"{POST_HOOK} {{{{ \"select error('a hook that fails')\" if env_var('FAIL', '') else 'select 1' }}}}"
Content = tuple[Any, ...]


def measure(folder: Path, *, kills: int, hooks: int, runs: int, pairs: int) -> Iterator[Attack]:
    """Kill `kills` `dbt run`s at a random moment and at each named point; let `hooks` hooks fail
    and retry them; compare the ids of `runs` runs with dbt's own; start `pairs` pairs at the same
    time.
    """
    root = folder / "project"
    processes.run(create, str(root))
    warehouse, saved = root / "warehouse.duckdb", folder / "saved.duckdb"
    before = content(warehouse)  # reading it also removes the write-ahead log
    shutil.copy(warehouse, saved)
    began = time.monotonic()
    processes.run(dbt, str(root), "run")
    seconds, after = time.monotonic() - began, content(warehouse)
    by_chance = Attack("A run is all or nothing", "`dbt run` is killed at a random moment")
    by_name = Attack(
        "A run is all or nothing", f"`dbt run` is killed at one of {len(POINTS)} named points"
    )
    again = Attack("Running again is enough", "`dbt run` after each of these")
    chance = random.Random(2)
    kills_by_name = [name for name in POINTS for _ in range(-(-kills // len(POINTS)))]
    for place in [*range(kills), *kills_by_name]:
        _restore(saved, warehouse)
        if isinstance(place, int):
            attack, moment = by_chance, chance.uniform(0, 1.1 * seconds)
            processes.killed_after(dbt, str(root), "run", seconds=moment)
        else:
            attack = by_name
            if processes.run(_dying, str(root), place)[0]:
                raise RuntimeError(f"dbt run went on {place}")
        # hashes only: dbt may leave its backup of a view until the next run
        _, left = content(warehouse)
        attack.made(harm=None if left in (before[1], after[1]) else f"{place}: {left}")
        processes.run(dbt, str(root), "run")
        mended = content(warehouse)
        again.made(harm=None if mended == after else f"after {place}: {mended}")
    yield from (by_chance, by_name, again)
    yield _hooks(root, saved, after, hooks)
    yield _stamps(root, saved, runs)
    yield _pairs(root, saved, after, pairs)


def create(root: str) -> None:
    """In a child process: make a project whose features have changed since its first run."""
    project = ScoringProject(Path(root))
    project.facts(80_000)  # so many that the changed rows fill more than one batch
    project.scoring_model("scores", pre_hook=f"{PRE_HOOK} select 1", post_hook=_HOOK)
    outcome = project.dbt("build")
    if not outcome.success:
        raise RuntimeError(outcome.log)
    project.sql("update facts set a = a + 1 where id % 7 = 3")
    project.sql("delete from facts where id % 500 = 1")


def dbt(root: str, *arguments: str, fail: bool = False) -> dict[str, str]:
    """In a child process: run a dbt command and return the status of each node."""
    os.environ["FAIL"] = "yes" if fail else ""
    return invoke(Path(root), *arguments).statuses()


def _dying(root: str, point: str) -> None:
    """In a child process: `dbt run` that dies at the named point."""
    POINTS[point]()
    invoke(Path(root), "run")


def said_by_dbt(root: str) -> tuple[bool, str]:
    """In a child process: return whether `dbt run` succeeded, with its error and log."""
    outcome = invoke(Path(root), "run")
    return outcome.success, f"{outcome.error}\n{outcome.log}"


def content(warehouse: Path) -> Content:
    """Return all relations, and a hash of the scoring model's tables without the columns that
    record the run and time.
    """
    with duckdb.connect(str(warehouse)) as connection:
        relations = connection.execute(
            "select table_name from duckdb_tables() union all select view_name from duckdb_views() "
            "where not internal order by all"
        ).fetchall()
        hashes = [
            connection.execute(
                f"select count(*), sum(hash(t)::hugeint) from (select * {stamps} from {table}) as t"
            ).fetchall()
            for table, stamps in (
                ("scores", "exclude (run_id, scored_at)"),
                ("scores__current", "exclude (run_no)"),
                ("scores__history", "exclude (run_no)"),
                ("scores__inputs", "exclude (run_no)"),
            )
        ]
    return (relations, hashes)


def _restore(saved: Path, warehouse: Path) -> None:
    warehouse.with_name(warehouse.name + ".wal").unlink(missing_ok=True)
    shutil.copy(saved, warehouse)


def _hooks(root: Path, saved: Path, after: Content, times: int) -> Attack:
    attack = Attack("Running again is enough", "a post-hook fails, then `dbt retry`")
    warehouse = root / "warehouse.duckdb"
    for number in range(times):
        _restore(saved, warehouse)
        failed = processes.run(_failing, str(root))[1]
        retried = processes.run(dbt, str(root), "retry")[1]
        found = content(warehouse)
        is_well = (failed["scores"], retried["scores"], found) == ("error", "success", after)
        attack.made(harm=None if is_well else f"{number}: {failed}, {retried}, {found}")
    return attack


def _failing(root: str) -> dict[str, str]:
    return dbt(root, "run", fail=True)


def _stamps(root: Path, saved: Path, times: int) -> Attack:
    attack = Attack("Stamps are true", "a run's id against run_results.json, partial parsing on")
    warehouse = root / "warehouse.duckdb"
    _restore(saved, warehouse)
    for number in range(times):
        with duckdb.connect(str(warehouse)) as connection:
            connection.execute(f"update facts set a = a + 1 where id = {number + 2}")
        processes.run(dbt, str(root), "run")
        results = json.loads((root / "target" / "run_results.json").read_text())
        said = results["metadata"]["invocation_id"]
        with duckdb.connect(str(warehouse)) as connection:
            [(run_id,)] = connection.execute(
                "select run_id from dbt_onnx_runs order by started_at desc limit 1"
            ).fetchall()
            rows = connection.execute(
                "select id from scores where run_id = $said", {"said": said}
            ).fetchall()
        attack.made(
            harm=None
            if (run_id, (number + 2,) in rows) == (said, True)
            else f"{number}: {run_id}, {said}, {rows[:3]}"
        )
    return attack


def _pairs(root: Path, saved: Path, after: Content, times: int) -> Attack:
    """Start two runs at once: at least one succeeds, and a refused run names the process that holds the file."""
    attack = Attack("Two at once", "two `dbt run` on one file")
    warehouse = root / "warehouse.duckdb"
    for number in range(times):
        _restore(saved, warehouse)
        said = processes.together([(said_by_dbt, (str(root),))] * 2)
        found = content(warehouse)
        refused = [text for success, text in said if not success]
        is_clear = all("Conflicting lock is held" in text and "PID" in text for text in refused)
        is_well = len(refused) < 2 and is_clear and found == after
        attack.made(harm=None if is_well else f"pair {number}: {said}, {found}"[:400])
    return attack
