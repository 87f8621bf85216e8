"""Generated histories of a ledger, night by night, with the expected prediction for each entity and night.

Like a scoring run, a history writes only rows that changed. The predictions that hold for each night are stored
separately, so tests can compare them with results computed from the ledger and the runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.duckdb.identifiers import quote

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    import duckdb

KEY = {"客户 id": "bigint", 'a"b': "varchar"}
OUTPUT = 'p"rob'
FIRST = datetime(1998, 1, 1)
RUN_COLUMNS = (
    "run_id", "status", "scope", "started_at", "as_of", "model_name", "model_version",
)  # fmt: skip
Entity = tuple[int, str]


def moment(night: int) -> datetime:
    return FIRST + timedelta(days=night)


@dataclass
class World:
    """Entities with features that change on some nights. All models of a test share them."""

    entities: Sequence[Entity]
    changes: Mapping[Entity, set[int]]

    @staticmethod
    def make(rng: random.Random, *, entities: int, nights: int) -> World:
        names = [(number // 2, "xy"[number % 2]) for number in range(entities)]
        changes = {
            name: {n for n in range(nights) if n == 0 or rng.random() < 0.3} for name in names
        }
        return World(names, changes)


@dataclass
class Ledger:
    """A played ledger. `rows` and `runs` are for `HandWritten.scoring_model`.

    holds       [night][entity]: version and prediction for that night, for nights with a run
    last_good   as `holds`, but a rejected entity has the version's last prediction before the rejection
    written     (entity, night) of each scored row
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    holds: dict[int, dict[Entity, tuple[str, float]]] = field(default_factory=dict)
    last_good: dict[int, dict[Entity, tuple[str, float]]] = field(default_factory=dict)
    written: set[tuple[Entity, int]] = field(default_factory=set)


def play(
    rng: random.Random, world: World, versions: Sequence[str | None], *, rejected: float = 0.1
) -> Ledger:
    """Play one night for each version; None is a night without a run. Runs score six hours after the night's moment."""
    ledger = Ledger()
    tried: dict[tuple[str, Entity], int] = {}  # the night of the features read last
    says: dict[tuple[str, Entity], float | None] = {}
    good: dict[tuple[str, Entity], float] = {}
    for night, version in enumerate(versions):
        if version is None:
            continue
        stamps = {"model_name": "churn", "model_version": version, "as_of": moment(night)}
        scored_at = moment(night) + timedelta(hours=6)
        ledger.runs.append(
            {
                "run_id": f"run-{night}",
                "status": "success",
                "scope": "full",
                "started_at": scored_at,
            }
            | stamps
        )
        for entity in world.entities:
            features = max(n for n in world.changes[entity] if n <= night)
            if tried.get((version, entity)) != features:
                tried[version, entity] = features
                value = None if rng.random() < rejected else rng.randrange(21) / 20
                says[version, entity] = value
                if value is not None:
                    good[version, entity] = value
                    ledger.written.add((entity, night))
                status = "rejected" if value is None else "scored"
                ledger.rows.append(
                    dict(zip(KEY, entity, strict=True))
                    | {OUTPUT: value, "label": None if value is None else int(value >= 0.5)}
                    | {"run_id": f"run-{night}", "status": status, "scored_at": scored_at}
                    | stamps
                )
        ledger.holds[night] = {
            e: (version, value) for e in world.entities if (value := says[version, e]) is not None
        }
        ledger.last_good[night] = {
            e: (version, good[version, e]) for e in world.entities if (version, e) in good
        }
    return ledger


def rows_of(warehouse: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    cursor = warehouse.execute(query)
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def load(warehouse: duckdb.DuckDBPyConnection, name: str, ledger: Ledger) -> None:
    """Replace a ledger and its runs, and add an answer on request five hours after each row.

    The answers must have no effect on which prediction holds.
    """
    warehouse.begin()
    warehouse.execute(f"delete from {name}")
    warehouse.execute("delete from dbt_onnx_runs where scoring_model = $1", [name])
    columns = [*KEY, OUTPUT, "label", "status", "model_name", "model_version", "run_id", "as_of"]
    for table, names, rows in (
        (name, [*columns, "scored_at"], ledger.rows),
        (
            "dbt_onnx_runs",
            ["scoring_model", *RUN_COLUMNS],
            [{"scoring_model": name, **row} for row in ledger.runs],
        ),
    ):
        listed, marks = ", ".join(quote(n) for n in names), ", ".join("?" for _ in names)
        insert = f"insert into {table} ({listed}) values ({marks})"
        if rows:
            warehouse.executemany(insert, [[row[n] for n in names] for row in rows])
    warehouse.execute(
        f"insert into {name} select * replace (as_of + interval 5 hour as as_of, "
        "scored_at + interval 5 hour as scored_at, 'scored' as status, 'real_time' as score_reason, "
        f"0.125 as {quote(OUTPUT)}) from {name}"
    )
    warehouse.commit()
