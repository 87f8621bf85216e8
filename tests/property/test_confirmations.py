"""Until when each row of current is known to hold, and which entities are gone, compared with a row-by-row oracle."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from test_order_of_arrival import ROW
from warehouse import Warehouse

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.ledger import LedgerShape, LedgerTables, select_current

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2024, 1, 1)
NIGHTS = 12
TABLES = LedgerTables(TableName(database="w", schema="main", identifier="scores"))
SHAPE = LedgerShape(key={"id": "INTEGER"}, outputs={"y": "FLOAT"})
Rows = dict[int, tuple[float | None, datetime]]


@dataclass
class Known:
    """A row of current: its value, until when it is known to hold, and when its entity was last seen."""

    value: float | None
    until: datetime
    last_seen: datetime | None = None


@dataclass
class Version:
    scored: dict[int, Known] = field(default_factory=dict)
    rejected: dict[int, Known] = field(default_factory=dict)
    newest: datetime | None = None

    def night(self, rows: Rows) -> None:
        """Apply a full run to each entity, one after another."""
        for known in (self.scored, self.rejected):
            for entity, row in known.items():
                if entity in rows:
                    row.last_seen = None
                elif row.last_seen is None:
                    row.last_seen = self.newest
        for entity, (value, moment) in rows.items():
            score = self.scored.get(entity)
            if score is not None and moment < score.until:
                continue  # a late row
            if value is None:
                self.rejected.setdefault(entity, Known(value, moment))
            elif score is not None and score.value == value and entity not in self.rejected:
                score.until = max(score.until, moment)
            else:
                self.scored[entity] = Known(value, moment)
                self.rejected.pop(entity, None)
        newest = max(moment for _, moment in rows.values())
        self.newest = newest if self.newest is None else max(self.newest, newest)


def night(chance: random.Random, number: int) -> Rows:
    """Return rows about one common moment, or each about a different one; moments may be earlier
    than in earlier nights.
    """

    def moment() -> datetime:
        return START + timedelta(days=max(0, number - chance.choice((0, 0, 0, 1, 3))))

    one = moment() if chance.random() < 0.6 else None
    values = (1.0, 1.0, 1.0, 1.0, 2.0, None)
    rows: Rows = {
        entity: (chance.choice(values), one or moment())
        for entity in range(6)
        if chance.random() < 0.7
    }
    return rows or {0: (1.0, moment())}


@pytest.mark.parametrize("seed", range(12))
def test_what_is_known_of_each_row_equals_a_computation_from_scratch(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    warehouse = Warehouse(tmp_path)
    versions = {"1": Version(), "2": Version()}
    warehouse.register("1")
    warehouse.register("2", alias=None)
    for number in range(NIGHTS):
        rows, serving = night(chance, number), chance.choice("11112")
        warehouse.clock = str(START + timedelta(days=number))
        features = " union all ".join(
            ROW.format(entity, "null" if value is None else value, moment)
            for entity, (value, moment) in rows.items()
        )
        warehouse.run(features=features, as_of="moment", model=f"line/{serving}")
        versions[serving].night(rows)
        expected = [
            (version, entity, is_rejected, row.until, row.last_seen)
            for version, state in versions.items()
            for is_rejected, known in ((False, state.scored), (True, state.rejected))
            for entity, row in known.items()
        ]
        found = warehouse.sql(
            "select model_version, id, rejected_reason_no is not null, confirmed_as_of, last_seen_as_of "
            f"from {select_current(TABLES, SHAPE)} inner join dbt_onnx_runs using (run_no)"
        )
        assert sorted(map(repr, found)) == sorted(map(repr, expected)), number
        noted = warehouse.sql("select id, run_no from scores__presence")
        assert set(noted) <= set(warehouse.sql("select id, run_no from scores__current")), number
