"""Completeness and freshness are exact: every missing or stale key is found, and no other."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.torture import processes
from tests.torture.claims import Claims, compiled
from tests.torture.nights import Nights
from tests.torture.report import Attack
from tests.torture.thresholds import ZONES, expiry, in_zone, thresholds
from tests.torture.verdicts import COMPLETE, LENGTHS, PROMISE, alarms, compare, difference
from warehouse import Warehouse

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.replaying import replay_run
from dbt_onnx.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TICK, DAY = timedelta(microseconds=1), timedelta(days=1)
CASES_A_PROCESS, _TIMEOUT = 20, 3600


def measure(folder: Path, *, rows: int, cases: int, every: int) -> Iterator[Attack]:
    """Break one of `rows` keys; check `cases` random states; check every `every`th time zone and planning limit."""
    _, claims = processes.run(compiled, folder / "claims", timeout=_TIMEOUT)
    calls: list[tuple[Any, ...]] = [
        (one_of_many, claims, "scores", "i::integer", rows),
        *((random_cases, claims, CASES_A_PROCESS, n) for n in range(cases // CASES_A_PROCESS)),
        (thresholds, claims),
        (expiry, every),
        *((in_zone, claims, number) for number in range(0, len(ZONES), every)),
        (edges, claims),
        # last, so that the two large warehouses do not exist at the same time
        (one_of_many, claims, "text_scores", "format('customer-{:010d}', i)", rows),
    ]
    yield from _played(folder, calls)


def _played(folder: Path, calls: list[tuple[Any, ...]]) -> list[Attack]:
    """Run each call in a separate process and folder; add up the attacks that have the same name."""

    def play(number: int) -> list[Attack]:
        function, *arguments = calls[number]
        place = folder / str(number)
        place.mkdir(parents=True)
        attacks: list[Attack] = processes.run(function, place, *arguments, timeout=_TIMEOUT)[1]
        shutil.rmtree(place)
        return attacks

    found: dict[str, Attack] = {}
    with ThreadPoolExecutor(2) as pool:
        for attack in (
            attack for attacks in pool.map(play, range(len(calls))) for attack in attacks
        ):
            whole = found.setdefault(attack.what, Attack(PROMISE, attack.what))
            whole.attacks += attack.attacks
            whole.harm += attack.harm
    return list(found.values())


def one_of_many(folder: Path, claims: Claims, table: str, key: str, rows: int) -> list[Attack]:
    """In a child process: one key is missing, rejected, unknown, stale or present twice; all other keys are sound."""
    attack = Attack(PROMISE, f"one of {rows:,} keys ({'text' if 'format' in key else 'integer'})")
    warehouse = Warehouse(folder, name=table)
    warehouse.register("1")
    features = (
        f"select {key} as id, (i % 1000)::double as a, 1.0::double as b from range({rows}) as r(i)"
    )
    warehouse.sql(f"create or replace table features as {features}")
    warehouse.sql("create table entities as select id, timestamp '2024-01-01' as since from features")  # fmt: skip
    warehouse.run()
    # no row has this reason yet
    warehouse.sql("update dbt_onnx_runs set rejected_reasons = ['nan:a']")
    clock, connection = datetime.fromisoformat(warehouse.clock), warehouse.connection
    columns = {"complete": COMPLETE, "fresh_served_day": "id, problem"}

    def check(when: str, test: str, expected: list[Any]) -> None:
        found = claims.rows(
            connection, f"{table}_{test}", clock, columns=columns[test], warn=1, error=2
        )
        compare(attack, when, found, expected)

    for test in columns:
        check("nothing is wrong", test, [])
    missing, *others = _broken(f"{table}__current", clock)
    at_random = random.Random(rows).randrange(rows)
    for place in (0, rows // 2, rows - 1, at_random):
        [(name,)] = warehouse.sql(f"select {key} from range({place}, {place + 1}) as r(i)")
        for statement, test, row in (missing, *(others if place == at_random else ())):
            connection.execute("begin")
            for part in statement.split("; "):
                connection.execute(f"{part} where id = $id", {"id": name})
            check(f"{statement} of {name}", test, [(name, *row)])
            connection.execute("rollback")
    _twice(attack, warehouse, name)
    connection.close()
    return [attack]


def _broken(current: str, clock: datetime) -> list[tuple[str, str, tuple[Any, ...]]]:
    """Return (statements, test, row): statements that break one key once its condition is appended,
    the test that must find it, and the values that the test returns for that key.
    """
    old = clock - 2 * DAY - TICK
    rejected = f"update {current} set rejected_reason_no = 1"
    presence = current.removesuffix("__current") + "__presence"
    stale = (
        f"update {current} set as_of = '{old}'; insert into {presence} by name select id, run_no, "
        f"as_of as confirmed_as_of, as_of as last_seen_as_of from {current}"
    )
    return [
        (f"delete from {current}", "complete", ("missing", None, None, None)),
        (rejected, "complete", ("rejected", "nan:a", "1", clock)),
        ("delete from entities", "complete", ("no_entity", None, "1", clock)),
        (stale, "fresh_served_day", ("stale",)),
    ]


def _twice(attack: Attack, warehouse: Warehouse, name: Any) -> None:
    """A duplicate key in the features is refused before scoring; a duplicate row in the ledger is found by a replay."""
    connection, table = warehouse.connection, warehouse.name
    connection.execute(
        f"insert into {table}__history by name select *, "
        f"false as is_late from {table}__current where id = $id",
        {"id": name},
    )
    found = replay_run(
        connection, TableName(database="w", schema="main", identifier=table), "run-1",
        registry=_registry(warehouse), artifacts=warehouse.artifacts, sample=100,
    ).findings  # fmt: skip
    attack.made(
        harm=None if {f.problem for f in found} == {"ledger"} else f"twice in the ledger: {found}"
    )
    connection.execute("insert into features select * from features where id = $id", {"id": name})
    try:
        said = str(warehouse.run())
    except DataError as error:
        said = str(error)
    is_named = f"is not unique in the feature relation: {{'id': {name!r}}} 2 times\n" in said
    attack.made(harm=None if is_named else f"{name} is there twice: {said}")


def _registry(warehouse: Warehouse) -> Registry:
    names = ("model_name", "model_version", "alias", "artifact", "sha256")
    rows = warehouse.sql(f"select {', '.join(names)} from model_registry")
    return Registry.from_rows([dict(zip(names, row, strict=True)) for row in rows], where="it")


def random_cases(folder: Path, claims: Claims, cases: int, seed: int) -> list[Attack]:
    """In a child process: random states with nothing to report, and each of them again with one defect."""
    clean = Attack(PROMISE, "random clean states: no alarm")
    broken = Attack(PROMISE, "random states with something to report: that, and nothing else")
    nights = Nights(folder, random.Random(seed))
    while clean.attacks < cases:
        nights.step()
        if not nights.warehouse.sql(
            "select 1 from duckdb_tables() where table_name = 'scores__current'"
        ):
            continue
        clock, unit, warn, error = nights.clean_case()
        state, case = nights.state.copy(), (clock, unit, warn, error)
        attack = broken if any(rows for _, rows in alarms(state, *case).values()) else clean
        attack.made(harm=difference(claims, nights.connection, state, *case))
        if attack is broken:
            continue
        nights.connection.execute("begin")
        what = nights.break_one(state, clock, [warn * LENGTHS[unit], error * LENGTHS[unit]])
        harm = difference(claims, nights.connection, state, *case)
        broken.made(harm=harm and f"{what}: {harm}")
        nights.connection.execute("rollback")
    nights.connection.close()
    return [clean, broken]


def edges(folder: Path, claims: Claims) -> list[Attack]:
    """In a child process: empty relations, null moments and keys, moments in the future."""
    attack = Attack(PROMISE, "empty relations, before the first run, rows of the future, NULLs")
    warehouse = Warehouse(folder)
    connection, clock = warehouse.connection, datetime(2024, 1, 10)
    warehouse.register("1")
    warehouse.sql("create table entities (id integer, since timestamp)")

    def check(
        table: str,
        when: str,
        *,
        complete: list[Any],
        fresh: list[Any],
        current: list[Any] | None = None,
    ) -> None:
        def rows(name: str, columns: str) -> list[tuple[Any, ...]]:
            return claims.rows(
                connection, f"{table}_{name}", clock, columns=columns, warn=1, error=2
            )

        for name in ("complete", "complete_served", "complete_day"):
            compare(
                attack,
                f"{when}: {name}",
                rows(name, "try_cast(id as integer), problem, rejected_reason"),
                complete,
            )
        compare(attack, f"{when}: missing", rows("missing", "try_cast(id as integer), problem, rejected_reason"),
                 [row for row in complete if row[1] != "no_entity"])  # fmt: skip
        for name in ("fresh_day", "fresh_served_day"):
            compare(
                attack,
                f"{when}: {name}",
                rows(name, "try_cast(id as integer), problem, severity"),
                fresh,
            )
        if current is not None:
            found = rows("current_day", "id, is_stale, served_from")
            compare(attack, f"{when}: current", found, current)

    never = [(None, "no_successful_run", "error")]
    for table in ("absent", "scores"):
        if table == "scores":
            warehouse.features((1, 1.0, 2.0))
            warehouse.run(empty=True)
        warehouse.sql("delete from entities")
        check(table, f"nobody, {table}", complete=[], fresh=never, current=[])
        warehouse.sql("insert into entities values (1, null), (2, '2024-01-01'), (null, null)")
        everybody = [(n, "missing", None) for n in (1, 2)]
        check(table, f"before the first run, {table}", fresh=never, complete=[*everybody, (None, "null_key", None)],
              current=[(n, True, "missing") for n in (1, 2)])  # fmt: skip
    row = "select {}::integer as id, {}::double as a, 1::double as b, {}::timestamp as moment"
    rows = [
        row.format(1, 1, "'2024-01-10'"),
        row.format(2, 1, "null"),
        row.format("null", 1, "'2024-01-10'"),
    ]

    def run(*given: str) -> str | None:
        try:
            warehouse.run(features=" union all ".join(given), as_of="moment")
        except DataError as error:
            return str(error)
        return None

    attack.made(harm=run(*rows))
    expected = [(2, "rejected", "null_as_of"), (None, "null_key", None)]
    served = [(1, False, "serving_version"), (2, True, "missing")]
    check("scores", "NULL moment and key", complete=expected, fresh=[], current=served)
    clock = datetime(2024, 1, 11, 0, 0, 0, 1)  # one microsecond past the limit
    warehouse.clock = str(clock)
    stale = [(1, "stale", "warn")]
    check("scores", "a day later", complete=expected, fresh=stale)
    for given, refusal in (
        ([f"{rows[0]} where false"], "has no rows"),
        ([*rows, row.format(3, 1, "'2024-01-11 00:00:00.000002'")], "describes the future"),
        ([*rows, row.format(3, 1, "'infinity'")], "describes the future"),
        ([*rows, row.format(3, 1, "'-infinity'")], "before the year 1"),
    ):
        said = run(*given)
        attack.made(harm=None if said and refusal in said else f"{refusal}: {said}")
        check("scores", f"after a run that {refusal}", complete=expected, fresh=stale)
    attack.made(harm=run(*rows[:2], row.format(3, 1, f"'{clock}'")))
    warehouse.sql("insert into entities values (3, null)")
    check("scores", "a run that confirms", complete=expected, fresh=[])
    warehouse.sql("update scores__current set as_of = '9999-12-31' where id = 1")
    check(
        "scores",
        "a moment to come",
        complete=expected,
        fresh=[(1, "future_as_of", "error")],
    )
    connection.close()
    return [attack]
