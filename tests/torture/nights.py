"""Random nights that the product plays on a warehouse, and that a `State` plays in Python."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

from tests.torture.histories import VERSIONS, State
from warehouse import Warehouse, line_model

from dbt_onnx.errors import DataError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

TICK, DAY = timedelta(microseconds=1), timedelta(days=1)
KINDS = (None, "date", "timestamp", "timestamptz")  # types of the as_of column
UNKNOWN, LAST = 4242, 1_000_000
_REJECTED = "rejected_reason_no is not null"
_NEWEST = (
    "run_id = (select arg_max(run_id, started_at) from dbt_onnx_runs "
    "where status = 'success' and scope = 'full')"
)


class Nights:
    """A series of random histories. After each `step`, the warehouse and the state must agree."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance, self.warehouse = chance, Warehouse(folder)
        for number, version in enumerate(VERSIONS):
            self.warehouse.register(version, line_model(c=number + 0.5))
        self.warehouse.sql("create table entities (id integer, since timestamp)")
        self.connection = self.warehouse.connection
        self.connection.execute("set threads = 1")  # each query reads only a few rows
        self.begin()

    def begin(self) -> None:
        """Start a new history: drop the ledger and make a new state."""
        self.warehouse.sql("drop view if exists scores")
        for (table,) in self.warehouse.sql("select table_name from duckdb_tables()"):
            if table not in ("model_registry", "features", "entities"):
                self.warehouse.sql(f'drop table "{table}"')
        chance = self.chance
        self.state, self.nights = State(), chance.randint(2, 7)
        self.clock = datetime(2024, 1, 1) + timedelta(microseconds=chance.randrange(10**14))
        self.kind = chance.choice(KINDS)
        self.values: dict[int | None, Any] = dict.fromkeys(range(chance.randint(1, 8)), 1.0)
        self._promote(chance.choice(VERSIONS))

    def step(self) -> None:
        """Play one night: an ordinary run, a full refresh, a backfill, a failure, or a run without rows."""
        chance = self.chance
        if self.nights == 0:
            self.begin()
        self.nights -= 1
        if chance.random() < 0.3:
            self._promote(chance.choice(VERSIONS))
        champion = self.state.champion
        assert champion is not None
        is_past = chance.random() < 0.12
        away = timedelta(microseconds=chance.randrange(10**12) if chance.random() < 0.8 else 0)
        clock = self.clock - 5 * away if is_past else self.clock + away
        self.warehouse.clock = str(clock)
        rows = self._rows(clock)
        what = chance.choices(("run", "full_refresh", "other", "fails", "empty"), (80, 5, 6, 5, 4))[
            0
        ]
        if what == "fails":
            is_future = self.kind not in (None, "date") and chance.random() < 0.5
            bad = [(UNKNOWN, 1.0, clock + TICK)] if is_future else [(UNKNOWN, 1.0, None)] * 2
            try:
                self._run([*rows, *bad])
            except DataError:
                return
            raise AssertionError(f"{bad} was scored")
        if what == "empty":
            self._run(rows, empty=True)
        elif what == "other":
            others = [version for version in VERSIONS if version != champion]
            self._run(rows, requested_model=f"line/{chance.choice(others)}")
        else:
            again = what == "full_refresh"
            self._run(rows, full_refresh=again)
            if not self.state.is_past(clock):
                self.state.play(self.warehouse.runs, clock, rows, again=again)
                self.clock = max(self.clock, clock)

    def clean_case(self) -> tuple[datetime, str, int, int]:
        """Return a clock, a unit, and counts for warn and error under which nothing is stale. Half
        of the time the oldest score is exactly as old as allowed. The entities are those that have
        a score.
        """
        chance, state = self.chance, self.state
        state.entities = sorted({key for key, _ in state.scored})
        unit = chance.choice(("second", "minute", "hour", "day", "week"))
        length, clock = timedelta(**{f"{unit}s": 1}), self.clock
        fresh = [
            state.fresh_as_of(k, v)
            for own in (True, False)
            for k, v, _ in state.served(by_registry=own)
        ]
        oldest = min(fresh, default=clock)
        warn = max(1, ceil((clock - oldest) / length))
        if chance.random() < 0.5:
            clock = oldest + warn * length
        self._write_entities()
        return clock, unit, warn, warn + chance.randint(0, 3)

    def break_one(self, state: State, clock: datetime, limits: list[timedelta]) -> str:
        """Put one defect into the tables by SQL, and the same into `state`. Returns its description."""
        chance = self.chance
        kept = [key for key in state.entities if key is not None]
        key = chance.choice(kept) if kept else UNKNOWN
        name = chance.choice(list(DEFECTS))
        DEFECTS[name](self, state, key, clock, chance.choice(limits))
        return f"{name} ({key})"

    def execute(self, statement: str, **parameters: Any) -> None:
        self.connection.execute(statement, parameters)

    def _promote(self, version: str) -> None:
        self.warehouse.promote(version)
        self.state.champion = version

    def _rows(self, clock: datetime) -> list[tuple[Any, Any, Any]]:
        """Return that night's features as (id, value, moment): some are gone, changed, bad or late."""
        chance, rows = self.chance, []
        for key in self.values:
            if chance.random() < 0.2:
                self.values[key] = chance.choice((1.0, 2.0, 3.0, None))
            late = timedelta(hours=chance.choice((0, 0, 0, 1, 30, 100)))
            moment = clock - late if self.kind else clock
            if self.kind == "date":
                moment = datetime(moment.year, moment.month, moment.day)
            if self.kind and chance.random() < 0.04:
                moment = None
            if chance.random() > 0.3:
                rows.append((key, self.values[key], moment))
        if chance.random() < 0.1:
            rows.append((None, 1.0, None if self.kind else clock))
        return rows or [(0, self.values[0], None if self.kind else clock)]

    def _run(self, rows: list[tuple[Any, Any, Any]], **arguments: Any) -> None:
        def sql(value: Any) -> str:
            return "null" if value is None else f"'{value}'"

        zone = "+00" if self.kind == "timestamptz" else ""
        selects = [
            f"select {sql(key)}::integer as id, {sql(value)}::double as a, 1::double as b"
            + (f", {sql(moment and f'{moment}{zone}')}::{self.kind} as moment" if self.kind else "")
            for key, value, moment in rows
        ]
        self.warehouse.run(
            features=" union all ".join(selects), as_of="moment" if self.kind else None, **arguments
        )

    def _write_entities(self) -> None:
        self.execute("delete from entities")
        for key in self.state.entities:
            self.execute("insert into entities (id) values ($key)", key=key)


def _gone(nights: Nights, state: State, key: int, *_: Any) -> None:
    nights.execute("delete from scores__current where id = $key", key=key)
    for table in (state.scored, state.rejected):
        for slot in [slot for slot in table if slot[0] == key]:
            del table[slot]


def _only_rejected(nights: Nights, state: State, key: int, *_: Any) -> None:
    nights.execute(f"delete from scores__current where id = $key and {_REJECTED}", key=key)
    nights.execute(
        "update dbt_onnx_runs set rejected_reasons = list_append(rejected_reasons, 'nan:a')"
    )
    nights.execute(
        "update scores__current as current set rejected_reason_no = len(rejected_reasons), y = null "
        "from dbt_onnx_runs as runs where runs.run_no = current.run_no and id = $key",
        key=key,
    )
    for slot in [slot for slot in state.rejected if slot[0] == key]:
        del state.rejected[slot]
    for slot in [slot for slot in state.scored if slot[0] == key]:
        state.rejected[slot] = replace(state.scored.pop(slot), reason="nan:a")


def _rejected_since(nights: Nights, state: State, key: int, *_: Any) -> None:
    """Reject the entity in a later run that is not a full run, and therefore confirms nothing."""
    for slot in [slot for slot in state.scored if slot[0] == key]:
        given = {"key": key, "version": slot[1]}
        of_version = "id = $key and run_no in (select run_no from dbt_onnx_runs where model_version = $version)"
        nights.execute(
            f"delete from scores__current where {of_version} and {_REJECTED}",
            **given,
        )
        nights.execute(
            f"insert into dbt_onnx_runs select * replace (run_no + {LAST} as run_no, 'backfill' as scope, "
            "scored_at + interval 1 hour as scored_at, ['nan:a'] as rejected_reasons) from dbt_onnx_runs "
            f"where run_no in (select run_no from scores__current where {of_version})",
            **given,
        )
        nights.execute(
            f"insert into scores__current select * replace (run_no + {LAST} as run_no, "
            f"1 as rejected_reason_no, null as y) from scores__current where {of_version}",
            **given,
        )
        score = state.scored[slot]
        state.rejected[slot] = replace(score, reason="nan:a", run=LAST + score.run)


def _aged(nights: Nights, state: State, key: int, clock: datetime, limit: timedelta) -> None:
    """Make the score exactly as old as a limit, or one microsecond older."""
    _set_fresh(nights, state, key, clock - limit - nights.chance.choice((timedelta(0), TICK)))


def _to_come(nights: Nights, state: State, key: int, *_: Any) -> None:
    _set_fresh(nights, state, key, datetime(2100, 1, 1))


def _set_fresh(nights: Nights, state: State, key: int, moment: datetime) -> None:
    of_key = f"where id = $key and not ({_REJECTED})"
    given = {"key": key, "moment": moment}
    nights.execute(f"update scores__current set as_of = $moment {of_key}", **given)
    nights.execute(
        "delete from scores__presence where id = $key and run_no in "
        f"(select run_no from scores__current {of_key})",
        key=key,
    )
    nights.execute(
        "insert into scores__presence by name select id, run_no, $moment as confirmed_as_of, "
        f"$moment as last_seen_as_of from scores__current {of_key}",
        **given,
    )
    for slot in [slot for slot in state.scored if slot[0] == key]:
        state.scored[slot] = replace(state.scored[slot], as_of=moment, last_seen=moment)


def _last_run_gone(nights: Nights, state: State, *_: Any) -> None:
    """Remove the last run, and with it its predictions: a prediction counts only through its run row."""
    newest = nights.connection.execute(f"select run_id from dbt_onnx_runs where {_NEWEST}")
    runs = {f"run-{number}": number for number in range(nights.warehouse.runs + 1)}
    gone = {runs[run_id] for (run_id,) in newest.fetchall()}
    change = nights.chance.choice(
        ("delete from dbt_onnx_runs", "update dbt_onnx_runs set status = 'interrupted'")
    )
    nights.execute(f"{change} where {_NEWEST}")
    state.full_runs[-1:] = []
    for table in (state.scored, state.rejected):
        for slot in [slot for slot, said in table.items() if said.run in gone]:
            del table[slot]


def _no_runs(nights: Nights, state: State, *_: Any) -> None:
    nights.execute("update dbt_onnx_runs set status = 'error'")
    for said in (state.full_runs, state.scored, state.rejected):
        said.clear()


def _confirms_nothing(nights: Nights, *_: Any) -> None:
    """Add a later run that confirms nothing: it failed, was a backfill, had no rows, or is another scoring model's."""
    another = nights.chance.choice(
        ("'error' as status", "'backfill' as scope", "'empty' as scope", "'other' as scoring_model")
    )
    nights.execute(
        f"insert into dbt_onnx_runs select * replace ({another}, run_no + {LAST} as run_no, "
        "as_of + interval 90 day as as_of, started_at + interval 1 hour as started_at) "
        f"from dbt_onnx_runs where {_NEWEST}"
    )


def _promoted(nights: Nights, state: State, *_: Any) -> None:
    state.champion = nights.chance.choice((*VERSIONS, None))
    nights.execute(
        "update model_registry set alias = case when model_version = $version then 'champion' end",
        version=state.champion,
    )


def _new_entity(nights: Nights, state: State, *_: Any) -> None:
    _add(nights, state, UNKNOWN)


def _null_entity(nights: Nights, state: State, *_: Any) -> None:
    _add(nights, state, None)


def _entity_twice(nights: Nights, state: State, key: int, *_: Any) -> None:
    _add(nights, state, key)


def _add(nights: Nights, state: State, key: int | None) -> None:
    nights.execute("insert into entities (id) values ($key)", key=key)
    state.entities.append(key)


def _left(nights: Nights, state: State, key: int, *_: Any) -> None:
    nights.execute("delete from entities where id = $key", key=key)
    state.entities = [entity for entity in state.entities if entity != key]


def _twice_in_current(nights: Nights, _: State, key: int, *__: Any) -> None:
    nights.execute("insert into scores__current from scores__current where id = $key", key=key)


DEFECTS: dict[str, Callable[..., None]] = {
    "gone": _gone,
    "only rejected": _only_rejected,
    "rejected since": _rejected_since,
    "aged": _aged,
    "aged or not": _aged,
    "to come": _to_come,
    "last run gone": _last_run_gone,
    "no runs": _no_runs,
    "a run that confirms nothing": _confirms_nothing,
    "promoted": _promoted,
    "new entity": _new_entity,
    "NULL entity": _null_entity,
    "entity twice": _entity_twice,
    "entity left": _left,
    "twice in current": _twice_in_current,
}
