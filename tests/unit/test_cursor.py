"""A connection to DuckDB: the objects it finds, and the limit on rows held in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pytest

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.cursor import Cursor

if TYPE_CHECKING:
    from pathlib import Path


def table(identifier: str) -> TableName:
    return TableName(database="memory", schema="main", identifier=identifier)


@pytest.fixture
def cursor() -> Cursor:
    return Cursor(duckdb.connect())


def test_tables_and_views_are_found_whatever_their_case(cursor: Cursor) -> None:
    cursor.execute('create table "Scores" (id integer)')
    cursor.execute('create view "Current" as from "Scores"')
    found = {name: cursor.has(table(name)) for name in ("scores", "SCORES", "current", "none")}
    assert found == {"scores": True, "SCORES": True, "current": True, "none": False}
    assert [cursor.is_view(table(name)) for name in ("scores", "CURRENT", "none")] == [0, 1, 0]
    assert not cursor.has(TableName(database="other", schema="main", identifier="scores"))


def test_to_look_for_a_table_does_not_abort_a_transaction(cursor: Cursor) -> None:
    with cursor.transaction():
        cursor.execute("create table made (id integer)")
        assert not cursor.has(table("none"))
    assert cursor.has(table("made"))


@pytest.mark.parametrize("name", ["self", "table", "csv", "parquet"])
def test_neither_a_variable_nor_a_file_is_a_table(
    cursor: Cursor, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"memory.main.{name}").write_text("id\n1\n")
    monkeypatch.chdir(tmp_path)
    assert not cursor.has(table(name))


@pytest.mark.parametrize(
    ("limit", "rows"),
    [("512MiB", 2**24), ("1GiB", 2**25), ("1.5TiB", 3 * 2**34), ("-1", 2**59)],
)
def test_rows_held_follow_the_memory_limit(cursor: Cursor, limit: str, rows: int) -> None:
    cursor.execute(f"set memory_limit = '{limit}'")
    assert cursor.max_rows_held() == pytest.approx(rows, rel=0.01)
