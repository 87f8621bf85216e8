"""Time limits hold to the microsecond, in every unit, time zone and calendar."""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from tests.torture.claims import UNITS, Claims
from tests.torture.histories import Said, State
from tests.torture.report import Attack
from tests.torture.verdicts import LENGTHS, PROMISE, compare, difference
from warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

ZONES = (
    "Asia/Kathmandu", "America/New_York", "Pacific/Kiritimati", "Australia/Lord_Howe", "Pacific/Pago_Pago",
    "Europe/Berlin", "America/Santiago", "America/St_Johns", "Pacific/Chatham", "Africa/Casablanca",
)  # fmt: skip
TICK, SECOND, DAY = timedelta(microseconds=1), timedelta(seconds=1), timedelta(days=1)
OFFSETS = (-SECOND, -TICK, timedelta(0), TICK, SECOND)
LEAP = [
    datetime(year, month, day) + past
    for year, month, day in ((2024, 2, 28), (2024, 2, 29), (2024, 3, 1), (2023, 2, 28), (2023, 3, 1),
                             (2100, 2, 28), (2100, 3, 1), (2024, 12, 31), (2025, 1, 1))
    for past in (timedelta(0), DAY - TICK)
]  # fmt: skip


class Written:
    """Tables with exactly the content of a `State`, inserted by hand rather than by a run."""

    def __init__(self, folder: Path, claims: Claims) -> None:
        self.warehouse, self.claims = Warehouse(folder), claims
        self.connection = self.warehouse.connection
        self.warehouse.register("1")
        self.warehouse.features((0, 1.0, 2.0))
        self.warehouse.run()  # creates the tables
        self.write(State())

    def write(
        self, state: State, kind: str = "timestamp", since: dict[int, Any] | None = None
    ) -> None:
        """Write a state; `since` maps entities to the moment they exist since (or None), a column of type `kind`."""
        for table in (
            "scores__current", "scores__history", "scores__presence", "dbt_onnx_runs", "model_registry",
        ):  # fmt: skip
            self.connection.execute(f"delete from {table}")
        self.connection.execute(f"create or replace table entities (id integer, since {kind})")
        self.insert("scores__current", [
            {"id": key, "as_of": said.as_of, "run_no": said.run}
            for (key, _), said in state.scored.items()
        ])  # fmt: skip
        self.insert("scores__presence", [
            {
                "id": key, "run_no": said.run, "confirmed_as_of": said.as_of,
                "last_seen_as_of": said.last_seen,
            }
            for (key, _), said in state.scored.items() if said.last_seen is not None
        ])  # fmt: skip
        self.insert("dbt_onnx_runs", [
            {
                "run_no": number, "run_id": f"run {number}", "scoring_model": "scores", "status": "success", "scope": "full",
                "started_at": _at(number), "scored_at": _at(number), "as_of": as_of, "model_name": "line", "model_version": version,
                "model_alias": "champion",
            }
            for number, (version, as_of, _) in enumerate(state.full_runs)
        ])  # fmt: skip
        self.insert(
            "model_registry",
            [
                {
                    "model_name": "line",
                    "model_version": version,
                    "alias": "champion" if version == state.champion else None,
                }
                for version in state.versions
            ],
        )
        zone = "+00" if kind == "timestamptz" else ""
        self.insert("entities", [
            {"id": key, "since": moment and f"{moment}{zone}"} for key, moment in (since or {}).items()
        ])  # fmt: skip

    def insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            marks = ", ".join(f"({', '.join('?' * len(row))})" for row in rows)
            self.connection.execute(
                f"insert into {table} ({', '.join(rows[0])}) values {marks}",
                [value for row in rows for value in row.values()],
            )

    def judge(self, attack: Attack, clock: datetime, unit: str, warn: int, error: int) -> None:
        """Check scores exactly as old as allowed, a little younger and a little older, by each of
        the three moments that can make a score fresh; and entities that have waited that long for a
        score.
        """
        limits, old = _limits(clock, unit, warn, error), clock - 500 * error * LENGTHS[unit]
        versions = tuple(str(n + 1) for n in range(len(limits)))  # confirmed at different moments
        state = State(versions=versions, champion=versions[-1])
        for n, (version, at) in enumerate(zip(versions, limits, strict=True)):
            state.scored[n, version] = Said(old, n, None, old)
            state.scored[n + 100, version] = Said(at, n, None, at, last_seen=old)
            state.scored[n + 200, version] = Said(old, n, None, old, last_seen=at)
            state.full_runs.append((version, at, at))
        state.entities = [key for key, _ in state.scored]
        self.write(state, since=dict.fromkeys(state.entities))
        found = difference(self.claims, self.connection, state, clock, unit, warn, error)
        attack.made(harm=found, times=len(state.scored))
        for kind in ("timestamp", "timestamptz", "date"):
            waiting = dict(enumerate(limits[:5]))
            if kind == "date":
                waiting = {n: (clock - n * DAY).date() for n in range(5)}
            self.write(State(), kind, {**waiting, 9: None})
            late = {n for n, at in waiting.items() if clock - _midnight(at) > warn * LENGTHS[unit]}
            columns = "id, problem, waiting"
            compare(
                attack, f"grace of {warn} {unit} at {clock}, {kind}",
                self.claims.rows(self.connection, f"scores_complete_{unit}", clock, columns=columns, warn=warn),
                [(9, "missing", None), *((n, "missing", clock - _midnight(waiting[n])) for n in late)],
            )  # fmt: skip

    def judge_levels(
        self, attack: Attack, clock: datetime, unit: str, warn: int, error: int
    ) -> None:
        """Compare dbt's result (pass, warn or error) for the age of the oldest prediction."""
        for at in _limits(clock, unit, warn, error):
            state = State(scored={(1, "1"): Said(at, 0, None, at)}, full_runs=[("1", at, at)])
            self.write(state, since={1: None})
            age, length = clock - at, LENGTHS[unit]
            expected = (
                "error" if age > error * length else "warn" if age > warn * length else "pass"
            )
            name = f"scores_fresh_served_{unit}"
            level = self.claims.level(self.connection, name, clock, warn=warn, error=error)
            harm = f"{level}, not {expected}, after {age} at {warn} and {error} {unit}"
            attack.made(harm=None if level == expected else harm)


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _limits(clock: datetime, unit: str, warn: int, error: int) -> list[datetime]:
    return [clock - count * LENGTHS[unit] - off for count in (warn, error) for off in OFFSETS]


def _at(number: int) -> datetime:
    return datetime(2024, 1, 1) + number * SECOND


def _midnight(moment: date) -> datetime:
    return (
        moment if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day)
    )


def thresholds(folder: Path, claims: Claims) -> list[Attack]:
    """In a child process: check each test at the moments at which its result changes."""
    attack = Attack(PROMISE, "limits of every unit, +-1 s, +-1 us and exactly")
    written, chance = Written(folder, claims), random.Random(1)
    for unit in UNITS:
        for clock in (datetime(2024, 3, 1), datetime(2024, 11, 3, 1, 30, 0, 250_000)):
            warn = chance.randint(1, 60)
            levels = warn, warn + chance.randint(1, 60)
            written.judge(attack, clock, unit, *levels)
            written.judge_levels(attack, clock, unit, *levels)
    _said_and_about(attack, written)
    written.connection.close()
    return [attack]


def _said_and_about(attack: Attack, written: Written) -> None:
    """`predictions_as_of`: both limits, `said_at` and `about`, are inclusive."""
    written.write(State())
    said_at, about = datetime(2024, 2, 29, 12), datetime(2024, 2, 29)
    moments = [(said_at + s, about + a) for s in OFFSETS for a in OFFSETS]
    for key, (said, moment) in enumerate(moments):
        row = {"id": key, "as_of": moment, "run_no": key, "is_late": False}
        written.insert("scores__history", [row])
        run = {"run_no": key, "scoring_model": "scores", "status": "success", "scored_at": said}
        written.insert("dbt_onnx_runs", [run])
    found = written.claims.rows(
        written.connection, "scores_as_of", said_at, columns="id", said_at=said_at, about=about
    )
    by_then = [
        (n,) for n, (said, moment) in enumerate(moments) if said <= said_at and moment <= about
    ]
    compare(attack, "predictions_as_of", found, by_then)


def expiry(folder: Path, every: int) -> list[Attack]:
    """In a child process: a prediction is due exactly `refresh_after` after the run that scored it, and not before."""
    attack = Attack(PROMISE, "`refresh_after` in planning, +-1 s, +-1 us and exactly")
    for number, unit in enumerate(("minute", "hour", "day", "week")):
        for way, as_of in enumerate((None, "moment")):
            for is_changed in (False, True):
                if (2 * number + 4 * way + is_changed) % every:
                    continue
                place = _made(folder / f"{unit}{way}{is_changed}")
                _due(attack, place, unit, 1 + number + way, as_of, is_changed=is_changed)
    return [attack]


def _due(
    attack: Attack, folder: Path, unit: str, count: int, as_of: str | None, *, is_changed: bool,
    start: datetime = datetime(2024, 2, 28, 23, 59, 59, 999_999), offsets: Iterable[timedelta] = OFFSETS,
) -> None:  # fmt: skip
    """Score two rows together again and again; with `is_changed`, a third row changes each time.
    With an as_of column, the moment of an unchanged row stands still, but its age counts from the
    run that scored it.
    """
    warehouse, period = Warehouse(folder), count * LENGTHS[unit]
    warehouse.register("1")
    scored = start
    for number, at in enumerate([start, *(_in_turn(start, period, offsets))]):
        warehouse.clock = str(at)
        given = "values (1, 1, 1, timestamp '2024-01-01'), (2, 1, 1, timestamp '2024-01-01')"
        if is_changed or as_of:
            given += f", (3, {number if is_changed else 1}, 1, timestamp '{at}')"
        features = f"select id, a::double as a, b::double as b, moment from ({given}) as r (id, a, b, moment)"
        said = warehouse.run(
            features=features, as_of=as_of, refresh_after={"count": count, "period": unit}
        )
        is_due = number > 0 and at - scored >= period
        expected = (3 if as_of and not is_changed else 2) if is_due else 0
        harm = f"{unit} {count}, {as_of}, {is_changed}: {at - scored} after the run: {said}"
        attack.made(harm=harm if said.per_reason["expired"] != expected else None)
        scored = at if is_due else scored
    warehouse.connection.close()


def _in_turn(
    start: datetime, period: timedelta, offsets: Iterable[timedelta]
) -> Iterator[datetime]:
    """Yield the clocks of runs: each at an offset from the moment at which the last score is due."""
    for offset in offsets:
        yield start + period + offset
        if offset >= timedelta(0):
            start += period + offset


def in_zone(folder: Path, claims: Claims, number: int) -> list[Attack]:
    """In a child process in one of `ZONES`, with sessions in that zone and in another: the results
    are the same at each odd moment of the calendar.
    """
    zone, session = ZONES[number], ZONES[(number + 3) % len(ZONES)]
    os.environ["TZ"] = zone
    time.tzset()
    attack = Attack(PROMISE, "time zones x clock changes, leap days, ends of years")
    written = Written(_made(folder / "written"), claims)
    [(found,)] = written.connection.execute("select current_setting('TimeZone')").fetchall()
    attack.made(harm=None if found == zone else f"the session's zone is {found}")
    changes = clock_changes(zone)
    clocks = [(clock, name) for name in (zone, session) for clock in clock_changes(name)]
    clocks += [(clock, (zone, session)[n % 2]) for n, clock in enumerate(LEAP)]
    for n, (clock, name) in enumerate(clocks):
        written.connection.execute(f"set TimeZone = '{name}'")
        written.judge(attack, clock, ("day", "hour", "week")[n % 3], 1, 2)
    _real_clock(attack, written)
    written.connection.close()
    for change in changes[:2]:
        _due(attack, _made(folder / f"{change:%m}"), "day", 1, "moment", is_changed=False,
             start=change - DAY, offsets=(-TICK, timedelta(0)))  # fmt: skip
    _typed_moments(attack, _made(folder / "typed"), zone, (*changes, *LEAP))
    attack.harm = [f"TZ={zone}, TimeZone={session}: {what}" for what in attack.harm]
    return [attack]


def clock_changes(zone: str) -> list[datetime]:
    """Return the moments of 2024, in UTC, at which the zone's clocks change, and moments shortly before and after."""
    hours = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(24 * 366)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    changes = [
        hour.replace(tzinfo=None)
        for hour, before, after in zip(hours[1:], offsets, offsets[1:], strict=False)
        if before != after
    ]
    return [change + away for away in (timedelta(0), 30 * 60 * SECOND, -TICK) for change in changes]


def _real_clock(attack: Attack, written: Written) -> None:
    """Without the clock variable the clock is now, in UTC: a minute less than a day is fresh, a minute more is not."""
    now, minute = datetime.now(UTC).replace(tzinfo=None), timedelta(minutes=1)
    ages = (timedelta(0), DAY - minute, DAY + minute, 2 * DAY - minute, 2 * DAY + minute, -minute)
    state = State(
        scored={(n, "1"): Said(now - age, n, None, now) for n, age in enumerate(ages)},
        full_runs=[("1", now - 90 * DAY, now)] * len(ages),
    )
    waiting_since = {n + 10: now - age for n, age in enumerate(ages)}
    written.write(state, "timestamptz", {**{n: None for n, _ in state.scored}, **waiting_since})
    written.connection.execute(
        "update dbt_onnx_runs as runs set scored_at = greatest(current.as_of, $now) "
        "from scores__current as current where current.run_no = runs.run_no",
        {"now": now},
    )
    rows, connection = written.claims.rows, written.connection
    fresh = rows(
        connection,
        "scores_fresh_served_day",
        None,
        columns="id, severity, problem",
        warn=1,
        error=2,
    )
    compare(attack, "real clock", fresh, [
        (2, "warn", "stale"), (3, "warn", "stale"), (4, "error", "stale"), (5, "error", "future_as_of")
    ])  # fmt: skip
    waiting = rows(connection, "scores_complete_day", None, columns="id", warn=1)
    compare(attack, "real clock, grace", waiting, [(n,) for n in (12, 13, 14)])


def _typed_moments(attack: Attack, folder: Path, zone: str, moments: Iterable[datetime]) -> None:
    """The ledger stores DATE, TIMESTAMP and TIMESTAMPTZ moments in UTC, and the next run recognizes them."""
    local = ZoneInfo(zone)
    for kind in ("date", "timestamp", "timestamptz"):
        warehouse = Warehouse(_made(folder / kind))
        warehouse.register("1")
        warehouse.clock = "2100-12-31"
        given, expected = [], []
        for key, moment in enumerate(moments):
            text, at = str(moment), moment
            if kind == "date":
                text, at = str(moment.date()), _midnight(moment.date())
            elif kind == "timestamptz":
                text = moment.replace(tzinfo=UTC).astimezone(local).isoformat(sep=" ")
            given.append(
                f"select {key} as id, 1::double as a, 1::double as b, '{text}'::{kind} as moment"
            )
            expected.append((key, at))
        features = " union all ".join(given)
        warehouse.run(features=features, as_of="moment")
        compare(
            attack, f"as_of of type {kind}", warehouse.sql("select id, as_of from scores"), expected
        )
        again = warehouse.run(features=features, as_of="moment")
        attack.made(harm=None if again.rows_unchanged == len(given) else f"{kind} again: {again}")
        warehouse.connection.close()
