"""Keys are equal if their bytes are equal, whatever the collation of a column or the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from every_type import SCORES, identity, registry_of, relation
from hardening import UNLOCKED
from warehouse import Warehouse

from dbt_onnx.engines.duckdb.replaying import replay_run
from dbt_onnx.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.runs.replay import Replay

COLLATIONS = [("varchar collate nocase", None), ("varchar", "nocase"), ("varchar", "noaccent")]


@pytest.fixture(params=COLLATIONS, ids=lambda value: f"{value[0]}-{value[1]}")
def warehouse(
    tmp_path: Path, new_warehouse: type[Warehouse], request: pytest.FixtureRequest
) -> Warehouse:
    kind, default = request.param
    warehouse = new_warehouse(tmp_path, config=UNLOCKED)
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


def replayed(warehouse: Warehouse) -> Replay:
    """Replay the last run."""
    return replay_run(
        warehouse.connection,
        SCORES,
        f"run-{warehouse.runs}",
        registry=registry_of(warehouse),
        artifacts=warehouse.artifacts,
    )


def scores(warehouse: Warehouse) -> list[tuple[str, float]]:
    rows = warehouse.latest("id, y, last_seen_as_of")
    rows = [(key, score) for key, score, last_seen in rows if last_seen is None]
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
    # one key only: a new value and moment, a departure, a rejection, and a good row again
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
    warehouse = Warehouse(tmp_path, config=UNLOCKED)
    warehouse.sql("set global default_collation = ''")
    warehouse.register("1")
    features = "select {'name': 'A'} as id, 1.0::double as a, 1.0::double as b"
    assert warehouse.run(features=features).rows_scored == 1
    warehouse.sql("set global default_collation = 'nocase'")
    with pytest.raises(ConfigError, match="key column 'id' is STRUCT"):
        warehouse.run(features=features.replace("1.0", "2.0"))


@pytest.mark.parametrize("kind", ["VARCHAR", "ENUM('A', 'a', 'Á')"])
@pytest.mark.parametrize("shape", ["", "[]", "[2]"])
@pytest.mark.parametrize("collation", ["nocase", "noaccent"])
def test_a_text_that_a_model_reads_has_changed_when_its_bytes_have(
    tmp_path: Path, kind: str, shape: str, collation: str
) -> None:
    warehouse = Warehouse(tmp_path, config=UNLOCKED)
    width = 2 if shape else None
    identity(warehouse, kind, "string", width)
    warehouse.sql(f"set global default_collation = '{collation}'")
    for text in ("A", "a", "Á"):
        assert warehouse.run(features=relation(kind, shape, [[text] * 2])).rows_scored == 1
        assert warehouse.latest("y0") == [(text,)]
        summary = warehouse.run(features=relation(kind, shape, [[text] * 2]))
        assert (summary.rows_scored, summary.rows_unchanged) == (0, 1)


def test_an_answer_altered_in_case_only_fails_a_replay(warehouse: Warehouse) -> None:
    identity(warehouse, "VARCHAR", "string", None)
    warehouse.run(features=relation("VARCHAR", "", [["a"], ["b"]]))
    assert replayed(warehouse).passed
    warehouse.sql("update scores__current set y0 = 'A' where id = 0")
    problems = {finding.problem for finding in replayed(warehouse).findings}
    assert problems == {"ledger", "prediction"}


def test_a_key_of_json_is_told_by_its_bytes(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path, config=UNLOCKED)
    warehouse.register("1")
    warehouse.sql("set global default_collation = 'nocase'")
    features = "select k::json as id, 1.0::double as a, 1.0::double as b from (values {}) as t (k)"
    one, other = """('"A"')""", """('"a"')"""
    assert warehouse.run(features=features.format(one)).rows_scored == 1
    summary = warehouse.run(features=features.format(f"{one}, {other}"))
    assert (summary.rows_scored, summary.rows_unchanged) == (1, 1)
