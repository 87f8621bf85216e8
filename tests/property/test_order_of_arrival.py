"""In whatever order feature rows arrive, current has the newest row, and repeating a run writes nothing."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from warehouse import Warehouse, newest_of_ledger

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2024, 1, 1)
ENTITIES = range(6)
ROW = "select {} as id, {}::double as a, 1.0::double as b, timestamp '{}' as moment"
Row = tuple[int, float | None, datetime]


def schedule(seed: int) -> list[list[Row]]:
    """Return runs of rows (entity, value, moment): new, late, corrected, repeated and bad ones."""
    chance = random.Random(seed)
    runs: list[list[Row]] = []
    for day in range(1, 9):
        rows = []
        for entity in ENTITIES:
            if chance.random() < 0.25:
                continue
            late = chance.choice((0, 0, 0, 1, 2, 5))
            value = chance.choice((1.0, 2.0, 3.0, None))
            rows.append((entity, value, START + timedelta(days=max(0, day - late))))
        runs.append(rows or [(0, 1.0, START + timedelta(days=day))])
    chance.shuffle(runs) if seed % 2 else None
    return runs


def newest(arrived: list[Row]) -> dict[int, Row]:
    """Return per entity the scored row with the newest moment; of equal moments, the row that came last."""
    found: dict[int, Row] = {}
    for row in arrived:
        entity, value, moment = row
        if value is not None and (entity not in found or moment >= found[entity][2]):
            found[entity] = row
    return found


@pytest.mark.parametrize("seed", range(24))
def test_current_equals_a_computation_from_scratch(tmp_path: Path, seed: int) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.register("1")
    warehouse.clock = "2024-02-01"
    arrived: list[Row] = []
    for rows in schedule(seed):
        features = " union all ".join(
            ROW.format(entity, "null" if value is None else value, moment)
            for entity, value, moment in rows
        )
        warehouse.run(features=features, as_of="moment")
        arrived += rows
        assert warehouse.run(features=features, as_of="moment").rows_unchanged == len(rows)
        columns = "* exclude (last_seen_as_of, confirmed_as_of)"
        current = sorted(map(repr, warehouse.latest(columns)))
        assert current == sorted(map(repr, newest_of_ledger(warehouse)))
    served = dict(
        warehouse.sql(f"select id, y from {warehouse.current_rows()} where status = 'scored'")
    )
    assert served == {entity: 2 * row[1] - 0.5 for entity, row in newest(arrived).items()}
