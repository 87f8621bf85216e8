"""Keys are equal when their bytes are, whatever collation a column or the session has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from warehouse import Warehouse

from dbt_onnx.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

COLLATIONS = [("varchar collate nocase", None), ("varchar", "nocase"), ("varchar", "noaccent")]


@pytest.fixture(params=COLLATIONS, ids=lambda value: f"{value[0]}-{value[1]}")
def warehouse(tmp_path: Path, request: pytest.FixtureRequest) -> Warehouse:
    kind, default = request.param
    warehouse = Warehouse(tmp_path)
    warehouse.register("1")
    if default:
        warehouse.sql(f"set global default_collation = '{default}'")
    warehouse.sql(f"create table people (id {kind}, a double, b double, seen timestamp)")
    return warehouse


def night(warehouse: Warehouse, *rows: str) -> tuple[int, int]:
    warehouse.sql("delete from people")
    warehouse.sql(f"insert into people values {', '.join(rows)}")
    summary = warehouse.run(features="from people", as_of="seen")
    return summary.rows_scored, summary.rows_unchanged


def scores(warehouse: Warehouse) -> list[tuple[str, float]]:
    rows = warehouse.sql("select id, y from scores__latest where last_seen_as_of is null")
    return sorted(rows)


def test_keys_that_a_collation_takes_for_one_have_a_prediction_each(warehouse: Warehouse) -> None:
    first, second, third = (
        "('A', 1, 0, '2024-01-01')",
        "('a', 2, 0, '2024-01-01')",
        "('Á', 3, 0, '2024-01-01')",
    )
    assert night(warehouse, first) == (1, 0)
    assert night(warehouse, first, second, third) == (2, 1)
    assert scores(warehouse) == [("A", 2.5), ("a", 4.5), ("Á", 6.5)]
    assert night(warehouse, first, second, third) == (0, 3)
    # another value, another moment, a departure, a rejection and its mending: of one of them only
    assert night(warehouse, first, "('a', 4, 0, '2024-01-02')", third) == (1, 2)
    assert scores(warehouse) == [("A", 2.5), ("a", 8.5), ("Á", 6.5)]
    assert night(warehouse, first, third) == (0, 2)
    assert scores(warehouse) == [("A", 2.5), ("Á", 6.5)]
    assert night(warehouse, first, "('a', 'inf', 0, '2024-01-03')", third) == (0, 2)
    assert night(warehouse, first, "('a', 5, 0, '2024-01-03')", third) == (1, 2)
    assert scores(warehouse) == [("A", 2.5), ("a", 10.5), ("Á", 6.5)]
    assert warehouse.sql("select count(distinct encode(id)) from scores__inputs") == [(3,)]


def test_a_late_row_is_about_its_own_entity(warehouse: Warehouse) -> None:
    night(warehouse, "('A', 1, 0, '2024-01-05')", "('a', 1, 0, '2024-01-01')")
    assert night(warehouse, "('A', 1, 0, '2024-01-05')", "('a', 2, 0, '2024-01-02')") == (1, 1)
    assert warehouse.sql("select count(*) from scores where is_late") == [(0,)]


def test_a_key_that_occurs_twice_is_named_by_its_bytes(warehouse: Warehouse) -> None:
    row = "('{}', 1, 0, '2024-01-01')"
    with pytest.raises(DataError, match=r"not unique in .*: \{'id': 'a'\} 2 times\n"):
        night(warehouse, row.format("A"), row.format("a"), row.format("a"))


def test_text_inside_a_key_is_refused_where_the_session_has_a_collation(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.register("1")
    features = "select {'name': 'A'} as id, 1.0::double as a, 1.0::double as b"
    assert warehouse.run(features=features).rows_scored == 1
    warehouse.sql("set global default_collation = 'nocase'")
    with pytest.raises(ConfigError, match="key column 'id' is STRUCT"):
        warehouse.run(features=features.replace("1.0", "2.0"))
