"""Why `predictions_as_of(about=...)` returns a backfilled row between two nights that confirmed another row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from warehouse import Warehouse

if TYPE_CHECKING:
    from pathlib import Path

TIMES = ("scored_at", "started_at", "ended_at", "fingerprint", "previous_fingerprint")


def played(folder: Path, *, absent: int) -> dict[str, list[tuple[Any, ...]]]:
    """Play three nights, the middle one without entity `absent`, then a backfill between the first
    two. Returns the tables without wall-clock times and fingerprints.
    """
    folder.mkdir()
    warehouse = Warehouse(folder)
    warehouse.register("1")
    entities = {1: (1, 1.0, 2.0), 2: (2, 3.0, 1.0)}
    for day, present in ((10, entities), (12, entities.keys() - {absent}), (13, entities)):
        warehouse.clock = f"2024-01-{day} 00:00:00"
        warehouse.features(*(entities[number] for number in sorted(present)))
        warehouse.run()
    warehouse.clock = "2024-01-11 00:00:00"
    warehouse.features(*((number, 8.0, 8.0) for number in entities))
    assert warehouse.run().rows_scored == 2
    return {
        name: warehouse.sql(
            f"select columns(lambda c: not list_contains({list(TIMES)}, c)) from {name} order by all"
        )
        for (name,) in warehouse.sql("select table_name from duckdb_tables()")
        if name.startswith(("scores", "dbt_onnx_runs"))
    }


def test_no_table_tells_afterwards_who_was_there_on_a_night_that_confirmed(tmp_path: Path) -> None:
    """About the 12th, the right answer is the score of the 10th for an entity present on the 12th,
    and the backfilled score of the 11th for an absent one. Two histories that differ only in this
    leave the same tables, so no query can tell them apart.
    """
    one, two = played(tmp_path / "one", absent=1), played(tmp_path / "two", absent=2)
    assert set(one) >= {"scores__current", "scores__history", "dbt_onnx_runs"}
    assert one == two
