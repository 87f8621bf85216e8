"""A run that takes the plan's shortcuts writes the same rows as a run that takes none."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from warehouse import Warehouse

from dbt_onnx.engines.duckdb import planning
from dbt_onnx.engines.duckdb.cursor import Cursor
from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VALUES = ("0", "1", "2", "null", "'inf'")
MOMENTS = ("null", "'2024-01-01'", "'2024-01-02'", "'2024-01-03'")


def nights(seed: int) -> Iterator[dict[str, Any]]:
    """Yield the features of a few entities for ten nights; most nights little or nothing changes."""
    chance = random.Random(seed)
    has_one_moment = seed % 2 == 0
    entities: dict[Any, tuple[int, int]] = {key: (key % 3, 2) for key in range(3)}
    moment, version = 2, "line/1"
    for _ in range(10):
        entities.pop(None, None)
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            happened = chance.randrange(8)
            key = chance.randrange(4) if happened else None
            if happened == 1 and len(entities) > 1:
                entities.pop(key, None)
            elif happened in {2, 4, 5}:
                # only the moment changes, for all entities or for one
                moment = chance.randrange(1, 4)
                if key in entities:
                    entities[key] = (entities[key][0], moment)
            elif happened == 3:
                version = chance.choice(("line/1", "line/2"))
            else:
                weights = (5, 5, 5, 1, 1) if chance.random() < 0.8 else (0, 0, 0, 1, 1)
                value = chance.choices(range(5), weights)[0]
                entities[key] = (value, chance.choices(range(4), (1, 8, 8, 8))[0])
        rows = [
            f"select {'null' if key is None else key}::integer as id, {VALUES[value]}::double as a, "
            f"1.0::double as b, {MOMENTS[moment if has_one_moment else own]}::timestamp as moment"
            for key, (value, own) in entities.items()
        ]
        if chance.random() < 0.05:
            rows.append(rows[0])
        yield {
            "features": " union all ".join(rows),
            "as_of": "moment",
            "model": version,
            "retry_rejected": chance.random() < 0.1,
            "full_refresh": chance.random() < 0.05,
            "refresh_after": {"count": 1, "period": "day"} if chance.random() < 0.5 else None,
        }


def said(warehouse: Warehouse, night: dict[str, Any], day: int) -> str:
    warehouse.clock = f"2024-02-{day:02} 00:00:00"
    try:
        return str(warehouse.run(**night))
    except DbtOnnxError as error:
        return f"{error.kind}: {error}"


def written(warehouse: Warehouse) -> list[Any]:
    # compare the text of a reason, since its number depends on the row that had it first
    rows = (
        "* exclude (rejected_reason_no), (select rejected_reasons[rejected_reason_no] "
        "from dbt_onnx_runs as runs where runs.run_no = written.run_no)"
    )
    columns = {
        "scores__current": rows,
        "scores__history": rows,
        "scores__inputs": "*",
        "dbt_onnx_runs": "run_id, status, as_of, columns('rows_.*'), input_fingerprint",
    }
    there = warehouse.sql("select table_name from duckdb_tables() order by all")
    return [
        warehouse.sql(f"select {columns[name]} from {name} as written order by all")
        for [name] in there
        if name in columns
    ]


# 44: an absent entity comes back and is rejected; 45: two reasons, in either order
@pytest.mark.parametrize("seed", [*range(10), 44, 45])
def test_short_ways_write_the_same(tmp_path: Path, seed: int) -> None:
    made = []
    for name in ("short", "long"):
        (tmp_path / name).mkdir()
        made.append(Warehouse(tmp_path / name))
        made[-1].register("1")
        made[-1].register("2", alias=None)
    short, long = made
    for day, night in enumerate(nights(seed), 1):
        # with few rows held in memory, a run looks for candidates in parts, or writes current as for a large table
        with patch.object(Cursor, "max_rows_held", lambda _: 1 + seed % 4):
            outcome = said(short, night, day)
        with patch.object(planning, "ROUTES", planning.ROUTES[-1:]):
            assert said(long, night, day) == outcome
        assert written(short) == written(long)
