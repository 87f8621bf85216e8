"""What a DuckLake stores in place of types and sequences that it lacks. Tests on real lakes are in `tests/lake`."""

from __future__ import annotations

import duckdb
import pytest

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.cursor import ConflictError, Cursor, with_retries
from dbt_onnx.engines.duckdb.storage import CountedStorage, Lake, Storage
from dbt_onnx.runs.tables import RUN, RUNS_TABLE

LEDGER = TableName(database="memory", schema="main", identifier="scores")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("ENUM('a', 'b[1]')", "VARCHAR"),
        ("ENUM('a')[3]", "VARCHAR[]"),
        ("FLOAT[3]", "FLOAT[]"),
        ("INTEGER[2][]", "INTEGER[][]"),
        ("DECIMAL(9,2)", "DECIMAL(9,2)"),
        ("UBIGINT", "UBIGINT"),
    ],
)
def test_types_that_a_lake_lacks_are_kept_in_others(given: str, kept: str) -> None:
    assert Lake().type_of(given) == kept
    assert Storage().type_of(given) == given


@pytest.mark.parametrize("storage", [Storage(), CountedStorage()])
def test_numbers_are_counted_though_runs_are_deleted(storage: Storage) -> None:
    cursor = Cursor(duckdb.connect())
    cursor.execute(f"create table {RUNS_TABLE} ({RUN} integer)")
    storage.prepare_runs(cursor, LEDGER)
    for number in (1, 2, 3):
        assert cursor.rows(f"select {storage.last_number(cursor, LEDGER)}") == [(number - 1,)]
        cursor.execute(f"insert into {RUNS_TABLE} values ({number})")
        storage.advance_run_counter(cursor, LEDGER, number)
        cursor.execute(f"delete from {RUNS_TABLE}")


def test_a_conflict_is_tried_again_and_its_last_message_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    failures = iter(["first", "second", "third"])
    said: list[str] = []

    def work() -> str:
        which = next(failures, None)
        if which is None:
            return "done"
        raise duckdb.TransactionException(
            f"Failed to commit DuckLake transaction. {which}: another transaction has deleted from it"
        )

    with pytest.raises(ConflictError, match="second"):
        with_retries(work, tries=2, log=said.append)
    assert len(said) == 1
    assert "tried again (1 of 1)" in said[0]
    assert with_retries(work, tries=2) == "done"


def test_a_run_at_work_in_a_lake_may_be_that_of_another_process() -> None:
    assert Storage().has_one_writer
    assert CountedStorage().has_one_writer
    assert not Lake().has_one_writer
