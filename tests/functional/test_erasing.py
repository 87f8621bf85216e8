"""`forget` and `prune` delete rows permanently; the rows that are left are proved as before."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hardening import UNLOCKED
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_replay import replay
from warehouse import Warehouse, line_model

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.erasing import Erasure, forget, prune
from dbt_onnx.engines.duckdb.proof import prove
from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEDGER = TableName(database="w", schema="main", identifier="scores")
TABLES = ("scores__current", "scores__history", "scores__inputs")
FUTURE = datetime(2100, 1, 1)


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Iterator[Warehouse]:
    """Three runs: of 1, 2, 3 and a row without a key; of 2 and 3, which changed; of 2 again.

    The first run rejects 3.
    """
    made = new_warehouse(tmp_path)
    made.register("1")
    made.features((1, 1.0, 1.0), (2, 2.0, 1.0), (3, 3.0, None), (None, 4.0, 1.0))
    made.run()
    made.sql("update features set a = 5, b = 1 where id in (2, 3)")
    made.run()
    made.sql("update features set a = 6 where id = 2")
    made.run()
    yield made
    made.connection.close()


def forgotten(warehouse: Warehouse, *key: str, dry_run: bool = False) -> Erasure:
    return forget(warehouse.connection, LEDGER, key, why="asked for", dry_run=dry_run)


def pruned(warehouse: Warehouse, before: datetime = FUTURE, *, dry_run: bool = False) -> Erasure:
    return prune(warehouse.connection, LEDGER, before=before, why="retention", dry_run=dry_run)


def numbers(erasure: Erasure) -> tuple[int, int, int]:
    return erasure.rows, erasure.rows_inputs, erasure.runs


def content(warehouse: Warehouse) -> list[list[tuple[Any, ...]]]:
    tables = (*TABLES, "dbt_onnx_runs", "dbt_onnx_erasures")
    return [warehouse.sql(f"from {table} order by all") for table in tables]


def clean(warehouse: Warehouse) -> bool:
    assert prove(warehouse.connection, LEDGER, with_values=True) == []
    return True


# --- forget


def test_all_that_there_is_of_an_entity_is_gone_from_every_table(warehouse: Warehouse) -> None:
    assert numbers(forgotten(warehouse, "2")) == (3, 3, 3)
    for table in (*TABLES, "scores"):
        assert warehouse.sql(f"select count(*) from {table} where id = 2") == [(0,)]
    assert warehouse.sql("select count(*) from scores where id = 3") == [(2,)]
    assert clean(warehouse)


def test_the_record_has_neither_key_nor_value(warehouse: Warehouse) -> None:
    forgotten(warehouse, "2")
    columns = "scoring_model, why, run_no, rows, rows_inputs"
    assert warehouse.sql(f"select {columns} from dbt_onnx_erasures order by run_no") == [
        ("scores", "asked for", number, 1, 1) for number in (1, 2, 3)
    ]
    [names] = [[row[0] for row in warehouse.sql("describe dbt_onnx_erasures")]]
    assert names == [
        "scoring_model", "erased_at", "why", "run_no", "rows", "rows_inputs", "ledger_fingerprint",
        "inputs_fingerprint",
    ]  # fmt: skip
    assert warehouse.sql("select count(*) from dbt_onnx_erasures where erased_at is null") == [(0,)]


def test_a_dry_run_counts_the_same_and_changes_nothing(warehouse: Warehouse) -> None:
    before = content(warehouse)
    assert numbers(forgotten(warehouse, "2", dry_run=True)) == (3, 3, 3)
    assert numbers(pruned(warehouse, dry_run=True)) == (3, 3, 2)
    assert content(warehouse) == before


def test_an_entity_that_nobody_knows_erases_nothing(warehouse: Warehouse) -> None:
    before = content(warehouse)
    for key in ("77", "no number"):
        assert numbers(forgotten(warehouse, key)) == (0, 0, 0)
    assert content(warehouse) == before


def test_forgetting_twice_erases_once(warehouse: Warehouse) -> None:
    forgotten(warehouse, "2")
    assert numbers(forgotten(warehouse, "2")) == (0, 0, 0)
    assert clean(warehouse)


def test_one_entity_after_the_other_is_forgotten(warehouse: Warehouse) -> None:
    for key in ("1", "2", "3"):
        forgotten(warehouse, key)
        assert clean(warehouse)
    assert warehouse.sql("select id, rejected_reason from scores") == [(None, "null_key")]
    assert warehouse.sql("select count(*) from scores__inputs") == [(0,)]


def test_a_replay_says_how_many_rows_were_erased(warehouse: Warehouse) -> None:
    forgotten(warehouse, "2")
    result = replay(warehouse, "run-1")
    assert (result.rows, result.rows_kept, result.findings) == (2, 2, [])
    assert result.notes == ["1 row(s) of this run were erased"]


def test_a_replay_of_a_run_of_which_all_was_erased_finds_nothing(warehouse: Warehouse) -> None:
    forgotten(warehouse, "2")
    result = replay(warehouse, "run-3")
    assert (result.rows, result.rows_kept, result.findings) == (0, 0, [])


def test_who_is_forgotten_and_comes_again_is_new(warehouse: Warehouse) -> None:
    forgotten(warehouse, "2")
    warehouse.run()
    assert warehouse.last_run("rows_new, rows_scored, rows_unchanged") == (1, 1, 3)
    assert clean(warehouse)


def test_what_is_altered_or_deleted_besides_is_still_found(warehouse: Warehouse) -> None:
    forgotten(warehouse, "2")
    warehouse.sql("update scores__current set y = 9 where id = 1")
    warehouse.sql("delete from scores__inputs where id = 3 and run_no = 2")
    found = [str(f) for f in prove(warehouse.connection, LEDGER, with_values=True)]
    assert [fault.split(" is ")[0] for fault in found] == [
        "inputs: run run-2 has 0 kept inputs, not 1",
        "ledger: the fingerprint of the rows of run run-1",
    ]


def test_an_entity_of_two_key_columns_is_forgotten_alone(tmp_path: Path) -> None:
    made = Warehouse(tmp_path)
    made.register("1")
    made.features((1, 1.0, 1.0), (2, 2.0, 1.0))
    both = "select * from features cross join (values ('x'), ('y')) as regions(region)"
    for _ in range(2):
        made.run(features=both, key=["id", "region"])
        made.sql("update features set a = 7")
    with pytest.raises(ConfigError, match=r"the key of main\.scores is id, region; got 1"):
        forgotten(made, "1")
    assert numbers(forgotten(made, "1", "y")) == (2, 2, 2)
    assert made.sql("select distinct id, region from scores order by all") == [
        (1, "x"), (2, "x"), (2, "y"),
    ]  # fmt: skip
    assert clean(made)
    made.connection.close()


def test_of_all_versions_and_without_kept_inputs(warehouse: Warehouse) -> None:
    warehouse.register("2", line_model(c=3.0))
    warehouse.run(keep_inputs=False)
    assert numbers(forgotten(warehouse, "2")) == (4, 3, 4)
    assert clean(warehouse)


def test_before_the_first_run_there_is_nothing_to_forget(tmp_path: Path) -> None:
    made = Warehouse(tmp_path)
    with pytest.raises(ConfigError, match=r"main\.scores has no prediction yet"):
        forgotten(made, "1")
    with pytest.raises(ConfigError, match=r"main\.scores has no prediction yet"):
        pruned(made)
    made.connection.close()


def test_another_scoring_model_of_the_schema_is_left_alone(warehouse: Warehouse) -> None:
    warehouse.name = "others"
    warehouse.run()
    before = warehouse.sql("from others__current order by all")
    forgotten(warehouse, "2")
    pruned(warehouse)
    assert warehouse.sql("from others__current order by all") == before
    assert prove(warehouse.connection, LEDGER.beside("others"), with_values=True) == []


@pytest.mark.parametrize("operation", ["forget", "prune"])
def test_keys_that_a_collation_takes_for_one_are_two(tmp_path: Path, operation: str) -> None:
    made = Warehouse(tmp_path, config=UNLOCKED)
    made.register("1")
    made.sql("create table people (id varchar collate nocase, a double, b double)")
    made.sql("insert into people values ('A', 1, 1), ('a', 2, 1)")
    made.run(features="from people")
    if operation == "forget":
        assert numbers(forgotten(made, "a")) == (1, 1, 1)
        assert made.sql("select id from scores") == [("A",)]
    else:
        made.sql("update people set a = 3 where id collate \"binary\" = 'a'")
        made.run(features="from people")
        assert numbers(pruned(made)) == (1, 1, 1)
        assert sorted(made.sql("select id, y from scores")) == [("A", 1.5), ("a", 5.5)]
    assert clean(made)
    made.connection.close()


# --- prune


def test_what_was_superseded_goes_and_what_is_served_stays(warehouse: Warehouse) -> None:
    before = warehouse.sql("from scores__current order by all")
    # entity 2 from the first and second run, and the rejection of 3
    assert numbers(pruned(warehouse)) == (3, 3, 2)
    assert warehouse.sql("from scores__current order by all") == before
    assert warehouse.sql("select id, rejected_reason from scores where not is_late") == [
        *((row[0], None) for row in warehouse.sql("select id from scores__current")),
        (None, "null_key"),
    ]
    assert clean(warehouse)


def test_rows_without_a_key_stay_so_that_they_are_not_reported_again(warehouse: Warehouse) -> None:
    pruned(warehouse)
    warehouse.run()
    assert warehouse.last_run("rows_rejected, rows_unchanged") == (0, 4)


def test_only_what_was_scored_before_the_moment_goes(warehouse: Warehouse) -> None:
    [(second,)] = warehouse.sql("select scored_at from dbt_onnx_runs where run_no = 2")
    assert numbers(pruned(warehouse, second)) == (2, 2, 1)
    assert numbers(pruned(warehouse, second + timedelta(microseconds=1))) == (1, 1, 1)
    assert clean(warehouse)


def test_late_rows_go_with_their_inputs(warehouse: Warehouse) -> None:
    pruned(warehouse)
    warehouse.clock = "2023-12-01 00:00:00"
    warehouse.run()
    assert warehouse.sql("select count(*) from scores__history where is_late") == [(3,)]
    assert numbers(pruned(warehouse)) == (3, 3, 1)
    assert clean(warehouse)


def test_an_erasure_that_fails_has_erased_nothing(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbt_onnx.engines.duckdb import erasing

    before = content(warehouse)
    monkeypatch.setattr(erasing, "NOW", "error('no time')")
    with pytest.raises(Exception, match="no time"):
        forgotten(warehouse, "2")
    assert content(warehouse) == before


NIGHTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("night"),
            st.dictionaries(st.integers(1, 4), st.sampled_from([None, 1.0, 2.0]), max_size=4),
        ),
        st.tuples(st.just("forget"), st.integers(1, 5)),
        st.tuples(st.just("prune"), st.integers(0, 4)),
        st.tuples(st.just("promote"), st.sampled_from(["1", "2"])),
        st.tuples(st.just("late"), st.integers(1, 9)),
    ),
    min_size=3,
    max_size=8,
)  # fmt: skip


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=NIGHTS)
def test_whatever_was_run_and_erased_is_proved(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, Any]]
) -> None:
    made = Warehouse(tmp_path_factory.mktemp("nights"))
    made.register("2", line_model(c=3.0), alias=None)
    made.register("1")
    made.features((1, 1.0, 1.0), (None, 1.0, 1.0))
    made.run()
    for kind, what in history:
        made.clock = "2024-01-10 00:00:00"
        if kind == "night":
            made.features(*((key, a, 1.0) for key, a in what.items()), (None, 1.0, 1.0))
        elif kind == "promote":
            made.promote(what)
        elif kind == "late":
            made.clock = f"2024-01-0{what} 00:00:00"
        elif kind == "forget":
            forgotten(made, str(what))
        else:
            moments = made.sql("select scored_at from dbt_onnx_runs order by run_no")
            pruned(made, moments[min(what, len(moments) - 1)][0])
        if kind in {"night", "promote", "late"}:
            made.run()
        assert clean(made)
    made.connection.close()
