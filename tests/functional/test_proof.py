"""Every alteration of a scoring model's tables is found and named, and nothing else is reported."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from hardening import connect
from warehouse import Warehouse, line_contract, line_model

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb import writing
from dbt_onnx.engines.duckdb.proof import prove
from dbt_onnx.errors import DbtOnnxError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dbt_onnx.runs.replay import Finding

DAY = "select *, date '2024-01-09' as day from features"


def proven(warehouse: Warehouse, *, with_values: bool = True) -> list[Finding]:
    name = TableName(database="w", schema=warehouse.schema, identifier=warehouse.name)
    return prove(warehouse.connection, name, with_values=with_values)


def told(warehouse: Warehouse, *, with_values: bool = True) -> list[str]:
    return [str(finding) for finding in proven(warehouse, with_values=with_values)]


def clean(warehouse: Warehouse) -> bool:
    """Assert that neither form of the proof, with values or without, finds anything."""
    assert told(warehouse, with_values=False) == []
    assert told(warehouse) == []
    return True


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Iterator[Warehouse]:
    """Four runs: of 1, 2, 3 and a row without a key; of 2, which changed; of 2 again; of no rows.

    The first run rejects 3, and the third scores it.
    """
    made = new_warehouse(tmp_path)
    made.register("1")
    made.features((1, 1.0, 1.0), (2, 2.0, 1.0), (3, 3.0, None), (None, 4.0, 1.0))
    made.run()
    made.sql("update features set a = 5 where id = 2")
    made.run()
    made.sql("update features set a = 6, b = 1 where id in (2, 3)")
    made.run()
    made.run()
    yield made
    made.connection.close()


# --- nothing is found where nothing was altered


def test_nothing_is_found_before_the_first_run_and_after_failed_ones(tmp_path: Path) -> None:
    made = Warehouse(tmp_path)
    assert clean(made)
    for _ in range(2):
        with pytest.raises(DbtOnnxError):
            made.run()
        assert clean(made)
    made.register("1")
    made.features((1, 1.0, 1.0))
    made.run()
    assert clean(made)
    made.connection.close()


def test_nothing_is_found_after_nights_as_usual(warehouse: Warehouse) -> None:
    assert clean(warehouse)
    rows = "select count(*) from scores__current union all select count(*) from scores__history"
    assert warehouse.sql(rows) == [(3,), (4,)]


def test_nothing_is_found_after_late_rows_and_rows_of_no_moment(warehouse: Warehouse) -> None:
    warehouse.run(features=DAY, as_of="day")
    late = "select * replace (a + 1 as a), date '2024-01-05' as day from features"
    assert warehouse.run(features=late, as_of="day").rows_scored == 3
    warehouse.run(features="select *, null::date as day from features", as_of="day")
    assert warehouse.sql("select count(*) from scores__history where is_late") == [(6,)]
    assert clean(warehouse)


def test_nothing_is_found_after_a_promotion_and_a_rollback(warehouse: Warehouse) -> None:
    warehouse.register("2", line_model(c=1.0))
    warehouse.run()
    warehouse.sql("update features set a = 7, b = null where id = 3")
    warehouse.run()
    warehouse.promote("1")
    warehouse.run()
    warehouse.register("3", line_model(c=2.0), line_contract("other"))
    warehouse.run()
    assert clean(warehouse)


def test_nothing_is_found_after_a_backfill_and_full_refreshes(warehouse: Warehouse) -> None:
    warehouse.run(full_refresh=True)
    warehouse.clock = "2023-12-01 00:00:00"
    assert warehouse.run().rows_scored == 3
    assert warehouse.last_run("scope") == ("backfill",)
    warehouse.clock = "2024-01-11 00:00:00"
    warehouse.run(full_refresh=True, retry_rejected=True)
    assert clean(warehouse)


def test_nothing_is_found_after_runs_that_failed_died_or_were_dry(warehouse: Warehouse) -> None:
    with pytest.raises(DbtOnnxError):
        warehouse.run(
            features="select id, null::double as a, b from features", max_rejected_fraction=0.1
        )
    warehouse.run(empty=True)
    warehouse.sql(
        "insert into dbt_onnx_runs (run_no, run_id, scoring_model, status, started_at) "
        "select nextval('dbt_onnx_run_no'), 'died', 'scores', 'running', now()::timestamp"
    )
    assert clean(warehouse)
    warehouse.sql("update features set a = 9 where id = 1")
    warehouse.run()
    states = "select distinct status from dbt_onnx_runs order by status"
    assert warehouse.sql(states) == [("error",), ("interrupted",), ("success",)]
    assert clean(warehouse)


def test_nothing_is_found_after_a_run_that_could_not_begin(warehouse: Warehouse) -> None:
    clock, warehouse.clock = warehouse.clock, "2024-13-01"
    with pytest.raises(DbtOnnxError):
        warehouse.run()
    warehouse.clock = clock
    assert clean(warehouse)
    warehouse.run()
    assert clean(warehouse)


def test_nothing_is_found_when_the_time_of_inputs_is_over(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget = writing._forget_inputs
    monkeypatch.setattr(
        writing,
        "_forget_inputs",
        lambda writer, tables, **_: forget(writer, tables, kept_since=datetime.max),
    )
    warehouse.sql("update features set a = 9 where id = 1")
    warehouse.run(keep_inputs={"count": 1, "period": "minute"})
    assert warehouse.sql("select distinct run_no from scores__inputs") == [(5,)]
    assert clean(warehouse)


def test_nothing_is_found_in_two_scoring_models_of_a_schema(warehouse: Warehouse) -> None:
    for night in range(3):
        for name in ("others", "scores"):
            warehouse.name = name
            warehouse.sql(f"update features set a = {night} + 20 where id = 1")
            warehouse.run()
    for name in ("others", "scores"):
        warehouse.name = name
        assert clean(warehouse)


def test_an_output_that_a_version_spells_in_another_case_is_the_same(warehouse: Warehouse) -> None:
    warehouse.register("2", line_model(c=2.0), line_contract("Y"))
    warehouse.run()
    assert clean(warehouse)


def test_nothing_is_found_for_keys_of_two_columns(warehouse: Warehouse) -> None:
    warehouse.name = "pairs"
    features = "select id, 'x' as \"the region\", a, b from features"
    for night in range(2):
        warehouse.sql(f"update features set a = {night} + 20 where id = 1")
        warehouse.run(features=features, key=["id", "the region"])
    assert clean(warehouse)


# --- altered rows


def test_a_score_altered_in_current_is_named_by_its_run(warehouse: Warehouse) -> None:
    warehouse.sql("update scores__current set y = y + 0.001 where id = 2")
    [fault] = told(warehouse)
    assert fault.startswith("ledger: the fingerprint of the rows of run run-3 is ")
    # the row count does not show it
    assert told(warehouse, with_values=False) == []


def test_a_score_altered_in_history_is_named_by_its_run(warehouse: Warehouse) -> None:
    warehouse.sql("update scores__history set y = y + 0.001 where id = 2 and run_no = 2")
    [fault] = told(warehouse)
    assert fault.startswith("ledger: the fingerprint of the rows of run run-2 is ")


def test_two_outputs_swapped_between_rows_of_a_run_are_found(warehouse: Warehouse) -> None:
    warehouse.sql("update features set a = 10 + id where id is not null")
    warehouse.run()
    warehouse.sql(
        "update scores__current as c set y = o.y from scores__current as o "
        "where c.run_no = 5 and o.run_no = 5 and c.id + o.id = 3"
    )
    [fault] = told(warehouse)
    assert fault.startswith("ledger: the fingerprint of the rows of run run-5 is ")


@pytest.mark.parametrize(
    "change",
    [
        "as_of = as_of - interval 1 microsecond",
        "features_hash = features_hash + 1",
        "score_reason = 'expired'",
        "rejected_reason_no = 1",
        "id = -id",
    ],
)
def test_whatever_else_a_row_says_is_held(warehouse: Warehouse, change: str) -> None:
    warehouse.sql(f"update scores__current set {change} where id = 2")
    assert any("of the rows of run run-3" in fault for fault in told(warehouse))


def test_the_lateness_of_a_row_is_held(warehouse: Warehouse) -> None:
    warehouse.sql("update scores__history set is_late = true where id = 2 and run_no = 1")
    assert [fault.split(" is ")[0] for fault in told(warehouse)] == [
        "ledger: the fingerprint of the rows of run run-1"
    ]


def test_a_row_doubled_in_current_is_named_by_its_key(warehouse: Warehouse) -> None:
    warehouse.sql("insert into scores__current from scores__current where id = 2")
    assert told(warehouse, with_values=False) == [
        "ledger: id=2: 2 row(s) in current, of one entity, model version and status, not one, the newest",
        "ledger: run run-3 has 3 rows, not 2",
    ]


def test_an_older_row_in_the_place_of_the_newest_is_named_by_its_key(warehouse: Warehouse) -> None:
    """No row is missing and none is altered; only their places are exchanged."""
    columns = "id, y, as_of, features_hash, score_reason, rejected_reason_no, run_no"
    warehouse.sql(f"create table newest as select {columns} from scores__current where id = 2")
    warehouse.sql("delete from scores__current where id = 2")
    warehouse.sql(
        f"insert into scores__current ({columns}) select {columns} from scores__history "
        "where id = 2 and run_no = 2"
    )
    warehouse.sql("delete from scores__history where id = 2 and run_no = 2")
    warehouse.sql(
        f"insert into scores__history ({columns}, is_late) select {columns}, false from newest"
    )
    assert told(warehouse, with_values=False) == []
    assert told(warehouse) == [
        "ledger: id=2: 1 newer row(s) in history than in current, not one, the newest"
    ]


def test_a_newest_row_moved_to_history_is_named_by_its_key(warehouse: Warehouse) -> None:
    columns = "id, y, as_of, features_hash, score_reason, rejected_reason_no, run_no"
    warehouse.sql(
        f"insert into scores__history ({columns}, is_late) select {columns}, false "
        "from scores__current where id = 1"
    )
    warehouse.sql("delete from scores__current where id = 1")
    assert told(warehouse) == [
        "ledger: id=1: 1 newer row(s) in history than in current, not one, the newest"
    ]


@pytest.mark.parametrize(("table", "run_no"), [("scores__current", 3), ("scores__history", 2)])
def test_a_deleted_row_is_missed_by_its_run(warehouse: Warehouse, table: str, run_no: int) -> None:
    warehouse.sql(f"delete from {table} where id = 2 and run_no = {run_no}")
    assert len(told(warehouse, with_values=False)) == 1
    assert f"ledger: run run-{run_no} has" in told(warehouse, with_values=False)[0]


def test_a_row_under_an_unknown_run_is_named(warehouse: Warehouse) -> None:
    warehouse.sql(
        "insert into scores__history by name select * replace (99 as run_no) from scores__history "
        "where id = 2 and run_no = 2"
    )
    assert told(warehouse, with_values=False) == [
        "ledger: id=2: 1 row(s) of run 99, not rows of successful runs"
    ]


def test_a_row_without_a_run_is_named(warehouse: Warehouse) -> None:
    warehouse.sql("update scores__history set run_no = null where id = 2 and run_no = 2")
    assert told(warehouse, with_values=False) == [
        "ledger: id=2: 1 row(s) of no run, not rows of successful runs",
        "ledger: run run-2 has 0 rows, not 1",
    ]


def test_a_row_under_a_run_that_scored_nothing_is_counted(warehouse: Warehouse) -> None:
    warehouse.sql(
        "insert into scores__history by name select * replace (4 as run_no, 1e6 as y) "
        "from scores__history where id = 2 and run_no = 2"
    )
    assert told(warehouse, with_values=False) == ["ledger: run run-4 has 1 rows, not 0"]


def test_a_row_under_a_failed_run_or_one_of_another_scoring_model_is_named(
    warehouse: Warehouse,
) -> None:
    with pytest.raises(DbtOnnxError):
        warehouse.run(
            features="select id, null::double as a, b from features", max_rejected_fraction=0.1
        )
    warehouse.name = "others"
    warehouse.run()
    warehouse.name = "scores"
    for number in (5, 6):
        for table in ("scores__history", "scores__inputs"):
            warehouse.sql(
                f"insert into {table} by name select * replace ({number} as run_no) "
                f"from {table} where id = 2 and run_no = 2"
            )
    assert told(warehouse, with_values=False) == [
        f"{problem}: id=2: 1 {what} of run {number}, not rows of successful runs"
        for problem, what in (("ledger", "row(s)"), ("inputs", "kept input(s)"))
        for number in (5, 6)
    ]


def test_an_output_of_another_version_is_held_to_be_null(warehouse: Warehouse) -> None:
    warehouse.register("2", line_model(), line_contract("other"))
    warehouse.run()
    assert clean(warehouse)
    warehouse.sql("update scores__history set other = 1 where id = 2 and run_no = 2")
    [fault] = told(warehouse)
    assert "of the rows of run run-2" in fault


def test_a_number_of_a_reason_altered_to_none_of_the_list_is_found(warehouse: Warehouse) -> None:
    warehouse.sql("update scores__history set rejected_reason_no = 7 where id = 3")
    [fault] = told(warehouse)
    assert "of the rows of run run-1" in fault


# --- an altered view


@pytest.mark.parametrize(
    "replace", ["0.9::float as y", "'1' as model_version", "false as is_late", "2 * y as y"]
)
def test_a_view_that_says_something_else_is_found(warehouse: Warehouse, replace: str) -> None:
    warehouse.sql("update scores__history set is_late = true where id = 2 and run_no = 1")
    before = told(warehouse)
    [(view,)] = warehouse.sql("select sql from duckdb_views() where view_name = 'scores'")
    selected = view.partition(" AS ")[2].rstrip(";")
    warehouse.sql(
        f"create or replace view scores as select * replace ({replace}) from ({selected})"
    )
    added = [fault for fault in told(warehouse) if fault not in before]
    # the version was 1 all along, so this view's answers are unchanged
    assert added == (
        []
        if "version" in replace
        else ["ledger: the view main.scores returns other rows, not the rows of its tables"]
    )
    warehouse.run()
    assert told(warehouse) == before


def test_a_view_that_was_dropped_is_made_again(warehouse: Warehouse) -> None:
    warehouse.sql("drop view scores")
    assert clean(warehouse)
    warehouse.run()
    assert len(warehouse.ledger()) == 7


# --- altered run rows


def without_rows(warehouse: Warehouse, run_no: int) -> None:
    """Delete a run row and all rows that the run wrote."""
    for table in ("dbt_onnx_runs", "scores__current", "scores__history", "scores__inputs"):
        warehouse.sql(f"delete from {table} where run_no = {run_no}")


def test_a_run_deleted_with_all_its_rows_is_missed(warehouse: Warehouse) -> None:
    without_rows(warehouse, 2)
    assert told(warehouse, with_values=False) == [
        "runs: run 3: the run before it was deleted or altered, not as the run left it",
        "runs: run 2 is gone from main.dbt_onnx_runs, not there",
    ]


def test_the_first_run_deleted_with_all_its_rows_is_missed(warehouse: Warehouse) -> None:
    without_rows(warehouse, 1)
    assert told(warehouse, with_values=False) == [
        "runs: run 2: the run before it was deleted or altered, not as the run left it",
        "runs: run 1 is gone from main.dbt_onnx_runs, not there",
    ]


def test_the_newest_run_deleted_with_all_its_rows_is_told_by_the_sequence(
    warehouse: Warehouse,
) -> None:
    without_rows(warehouse, 4)
    gone = "runs: run 4 is gone from main.dbt_onnx_runs, not there"
    assert told(warehouse, with_values=False) == [gone]
    # the next run gets a new number
    warehouse.run()
    assert warehouse.last_run("run_no") == (5,)
    assert told(warehouse, with_values=False) == [gone]


def test_runs_deleted_in_a_row_are_named_together(warehouse: Warehouse) -> None:
    for run_no in (2, 3, 4):
        without_rows(warehouse, run_no)
    assert told(warehouse, with_values=False) == [
        "runs: runs 2 to 4 are gone from main.dbt_onnx_runs, not there"
    ]


def test_a_number_far_beyond_the_others_is_found_at_once(warehouse: Warehouse) -> None:
    warehouse.sql("update dbt_onnx_runs set run_no = 2_000_000_000 where run_no = 4")
    assert "runs: runs 4 to 1999999999 are gone from main.dbt_onnx_runs, not there" in told(
        warehouse
    )


def test_a_run_of_another_scoring_model_is_missed_there(warehouse: Warehouse) -> None:
    warehouse.name = "others"
    warehouse.run()
    warehouse.run()
    warehouse.sql("delete from dbt_onnx_runs where run_no = 5")
    assert "runs: run 6: the run before it was deleted or altered, not as the run left it" in told(
        warehouse, with_values=False
    )


def test_a_run_row_doubled_is_found(warehouse: Warehouse) -> None:
    warehouse.sql("insert into dbt_onnx_runs from dbt_onnx_runs where run_no = 2")
    assert told(warehouse, with_values=False)[0] == (
        "runs: run 2: there are 2 run rows with this number, not as the run left it"
    )


@pytest.mark.parametrize(
    "change",
    [
        "rows_scored = rows_scored + 1",
        "rows_unchanged = 7",
        "clock = clock - interval 1 day",
        "scored_at = scored_at + interval 1 microsecond",
        "ended_at = null",
        "status = 'error'",
        "status = 'interrupted'",
        "model_version = '7'",
        "model_alias = 'challenger'",
        "artifact_sha256 = reverse(artifact_sha256)",
        "run_id = 'another'",
        "features = ['b', 'a']",
        "rejected_reasons = ['null:a']",
        "ledger_fingerprint = ledger_fingerprint + 1",
        "inputs_fingerprint = 0",
        "previous_fingerprint = null",
        "fingerprint = null",
        "fingerprint = upper(fingerprint)",
        "error = 'none'",
        "dbt_version = '9'",
    ],
)
def test_a_run_row_altered_is_named(warehouse: Warehouse, change: str) -> None:
    warehouse.sql(f"update dbt_onnx_runs set {change} where run_no = 2")
    assert "runs: run 2: the run row was altered, not as the run left it" in told(
        warehouse, with_values=False
    )


def test_a_run_said_to_be_running_again_is_missed_by_the_next(warehouse: Warehouse) -> None:
    warehouse.sql("update dbt_onnx_runs set status = 'running' where run_no = 2")
    assert told(warehouse, with_values=False)[0] == (
        "runs: run 3: the run before it was deleted or altered, not as the run left it"
    )


def test_a_reason_altered_in_its_list_is_found(warehouse: Warehouse) -> None:
    """The rows are unchanged, since they store only the place in the list."""
    warehouse.sql(
        "update dbt_onnx_runs set rejected_reasons = list_reverse(rejected_reasons) where run_no = 1"
    )
    assert told(warehouse) == ["runs: run 1: the run row was altered, not as the run left it"]


# --- altered kept inputs


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("delete from scores__inputs where run_no = 3 and id = 2", 1),
        ("delete from scores__inputs where run_no = 3", 0),
        ("drop table scores__inputs", 0),
        ("insert into scores__inputs from scores__inputs where run_no = 3", 4),
    ],
)
def test_kept_inputs_deleted_or_doubled_are_counted(
    warehouse: Warehouse, statement: str, found: int
) -> None:
    warehouse.sql(statement)
    assert f"inputs: run run-3 has {found} kept inputs, not 2" in told(warehouse, with_values=False)


def test_inputs_that_a_run_does_not_say_it_kept_are_counted(warehouse: Warehouse) -> None:
    warehouse.sql("update dbt_onnx_runs set rows_inputs_kept = 0 where run_no = 3")
    assert told(warehouse, with_values=False) == ["inputs: run run-3 has 2 kept inputs, not 0"]


def test_a_dropped_column_of_outputs_is_named(warehouse: Warehouse) -> None:
    for table in ("scores__current", "scores__history"):
        warehouse.sql(f"alter table {table} drop column y")
    assert told(warehouse) == [
        "ledger: columns ['y'] are gone, not there",
        "ledger: the view main.scores returns other rows, not the rows of its tables",
    ]


def test_a_table_that_is_gone_is_an_error(warehouse: Warehouse) -> None:
    warehouse.sql("drop table scores__history")
    with pytest.raises(WarehouseError, match=r"main\.scores__history is gone"):
        proven(warehouse)


# --- tables taken out and put back


def test_rows_taken_out_and_put_back_are_as_they_were(warehouse: Warehouse) -> None:
    tables = ("scores__current", "scores__history", "scores__inputs", "dbt_onnx_runs")
    for table in tables:
        warehouse.sql(f"create table aside as from {table} where run_no in (1, 3)")
        warehouse.sql(f"delete from {table} where run_no in (1, 3)")
        warehouse.sql(f"insert into {table} from aside order by random()")
        warehouse.sql("drop table aside")
    assert clean(warehouse)
    warehouse.sql("update features set a = 9 where id = 2")
    assert warehouse.run().rows_scored == 1
    assert clean(warehouse)


def copies(warehouse: Warehouse) -> list[str]:
    return [
        row[0] for row in warehouse.sql("select table_name from duckdb_tables() where not internal")
    ]


def test_tables_that_went_through_parquet_are_as_they_were(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.sql("drop view scores")
    for table in copies(warehouse):
        # through Python, since a hardened warehouse neither reads nor writes files
        file = tmp_path / f"{table}.parquet"
        cursor = warehouse.connection.cursor()
        pq.write_table(cursor.sql(f"from {table}").to_arrow_table(), file)
        cursor.execute(f"delete from {table}")
        cursor.register("taken_out", pq.read_table(file))
        cursor.execute(f"insert into {table} by name from taken_out")
    assert clean(warehouse)
    warehouse.sql("update features set a = 9 where id = 2")
    assert warehouse.run().rows_scored == 1
    assert clean(warehouse)


def test_tables_copied_to_another_database_go_on_there(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    """`create table as` copies neither the sequence of run numbers nor the view."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    other = connect(folder / "w.duckdb", {})
    for table in copies(warehouse):
        rows = warehouse.connection.cursor().sql(f"from {table}").to_arrow_table()
        other.register("rows", rows)
        kinds = {row[0]: row[1] for row in warehouse.sql(f"describe {table}")}
        listed = ", ".join(f'cast("{name}" as {kind}) as "{name}"' for name, kind in kinds.items())
        other.execute(f"create table {table} as select {listed} from rows")
    other.close()
    warehouse.artifacts.rename(folder / "artifacts")
    there = Warehouse(folder)
    there.runs = warehouse.runs
    assert clean(there)
    there.sql("update features set a = 9 where id = 2")
    assert there.run().rows_scored == 1
    assert there.last_run("run_no") == (5,)
    assert clean(there)
    there.connection.close()
