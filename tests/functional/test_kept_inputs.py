"""The inputs that each run fed to the model are kept with the ledger, by run and key."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from warehouse import Warehouse, line_contract, line_model

from dbt_onnx.engines.duckdb import input_spool, writing
from dbt_onnx.engines.duckdb.feature_types import kept_as, widened
from dbt_onnx.errors import ConfigError, ScoringError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Iterator[Warehouse]:
    """Three entities, one with a NULL feature, and a fourth row without a key."""
    made = new_warehouse(tmp_path)
    made.register("1")
    made.features((1, 1.0, 2.0), (2, 3.0, None), (3, 0.0, 0.0), (None, 9.0, 9.0))
    yield made
    made.connection.close()


def kept(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.sql("select * from scores__inputs order by all")


def test_a_run_keeps_the_features_of_every_row_that_it_tried_and_that_has_a_key(
    warehouse: Warehouse,
) -> None:
    warehouse.run()
    assert kept(warehouse) == [
        (1, 1, 1.0, 2.0), (1, 2, 3.0, None), (1, 3, 0.0, 0.0)
    ]  # fmt: skip
    columns = "rows_inputs_kept, features, feature_types, features_relation, registry_relation"
    assert warehouse.last_run(columns) == (
        3, ["a", "b"], ["DOUBLE", "DOUBLE"], "the feature relation", "main.model_registry"
    )  # fmt: skip


def test_only_the_rows_that_a_run_has_scored_are_kept_again(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.features((1, 1.0, 2.0), (2, 3.0, 1.0), (3, 0.0, 7.0))
    warehouse.run()
    warehouse.run()
    assert kept(warehouse)[3:] == [(2, 2, 3.0, 1.0), (2, 3, 0.0, 7.0)]
    assert warehouse.sql("select rows_inputs_kept from dbt_onnx_runs order by run_id") == [
        (3,), (2,), (0,)
    ]  # fmt: skip


def test_a_row_without_its_moment_is_kept_with_what_it_had(warehouse: Warehouse) -> None:
    moment = "select *, case when id <> 3 then date '2024-01-09' end as day from features"
    warehouse.run(features=f"{moment} where id < 3", as_of="day")
    warehouse.run(features=moment, as_of="day")
    assert warehouse.sql("select id, rejected_reason from scores where run_id = 'run-2' order by id") == [
        (3, "null_as_of"), (None, "null_key"),
    ]  # fmt: skip
    assert kept(warehouse)[2:] == [(2, 3, 0.0, 0.0)]


def test_nothing_is_kept_and_no_table_made_when_that_is_asked_for(warehouse: Warehouse) -> None:
    warehouse.run(keep_inputs=False)
    assert warehouse.last_run("rows_scored, rows_inputs_kept") == (2, 0)
    assert warehouse.sql("select 1 from duckdb_tables() where table_name = 'scores__inputs'") == []


def test_inputs_are_forgotten_when_their_time_is_over_and_predictions_are_not(
    warehouse: Warehouse,
) -> None:
    ten_days = {"count": 10, "period": "day"}
    warehouse.run(keep_inputs=ten_days)
    warehouse.run(full_refresh=True, keep_inputs=ten_days)
    warehouse.sql(
        "update dbt_onnx_runs set scored_at = scored_at - interval 11 day where run_id = 'run-1'"
    )
    warehouse.run(keep_inputs=True)
    assert {row[0] for row in kept(warehouse)} == {1, 2}
    warehouse.run(keep_inputs=ten_days)
    assert {row[0] for row in kept(warehouse)} == {2}
    assert warehouse.sql("select rows_inputs_kept from dbt_onnx_runs order by run_id") == [
        (0,), (3,), (0,), (0,),
    ]  # fmt: skip
    assert warehouse.sql("select count(*) from scores") == [(8,)]


def test_a_key_that_the_model_reads_is_kept_once(warehouse: Warehouse) -> None:
    warehouse.register("2", contract=line_contract(features=("id", "a")))
    warehouse.run()
    assert warehouse.sql("describe scores__inputs")[1:] == [
        ("id", "INTEGER", "YES", None, None, None), ("a", "DOUBLE", "YES", None, None, None)
    ]  # fmt: skip


def test_versions_that_read_other_columns_share_the_table(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.register("2", line_model(c=1.0), line_contract(features=("a", "c")))
    warehouse.run(features="select *, id * 10 as c from features where id = 1")
    assert kept(warehouse)[-1] == (2, 1, 1.0, None, 10)


def test_a_column_whose_type_changes_still_holds_what_was_kept(warehouse: Warehouse) -> None:
    warehouse.run(features="select id, 1::tinyint as a, 0.1::double as b from features")
    warehouse.run(features="select id, 70000 as a, 1.25::decimal(5, 2) as b from features")
    types = dict(row[:2] for row in warehouse.sql("describe scores__inputs"))
    assert (types["a"], types["b"]) == ("INTEGER", "VARCHAR")
    assert warehouse.sql("select distinct run_no, a, b from scores__inputs order by 1") == [
        (1, 1, "0.1"), (2, 70000, "1.25")
    ]  # fmt: skip
    assert warehouse.last_run("feature_types") == (["INTEGER", "DECIMAL(5,2)"],)


def test_categories_are_kept_as_text() -> None:
    assert kept_as("ENUM('small', 'large')") == "VARCHAR"
    assert kept_as("DOUBLE[3]") == "DOUBLE[3]"


def test_a_feature_called_run_no_is_refused_unless_nothing_is_kept(warehouse: Warehouse) -> None:
    warehouse.register("2", contract=line_contract(features=("a", "Run_No")))
    features = 'select id, a, b as "Run_No" from features'
    with pytest.raises(ConfigError, match="feature 'Run_No' of 'line/2' has the name of a column"):
        warehouse.run(features=features)
    assert warehouse.run(features=features, keep_inputs=False).rows_scored == 2


def test_a_table_of_somebody_else_is_left_alone(warehouse: Warehouse) -> None:
    warehouse.sql("create table scores__inputs as select 42 as answer")
    with pytest.raises(WarehouseError, match="scores__inputs was not created by dbt_onnx"):
        warehouse.run()
    assert kept(warehouse) == [(42,)]


def test_features_that_differ_at_each_reading_keep_nothing_and_score_nothing(
    warehouse: Warehouse,
) -> None:
    warehouse.run(features="select id, a, 1.0 as b from features where id < 3")
    with pytest.raises(ScoringError, match="read again"):
        warehouse.run(features="select id, random() as a, 1.0 as b from features")
    assert len(kept(warehouse)) == 2


def test_a_first_run_keeps_the_one_reading_that_it_scored_and_the_next_refuses_another(
    warehouse: Warehouse,
) -> None:
    features = "select id, random() as a, 1.0::double as b from features where id is not null"
    warehouse.run(features=features)
    scored = warehouse.sql("select y, a, b from scores inner join scores__inputs using (id)")
    assert len({a for _, a, _ in scored}) == 3
    for y, a, b in scored:
        assert y == pytest.approx(2 * a - b + 0.5, abs=1e-6)
    with pytest.raises(ScoringError, match="read again"):
        warehouse.run(features=features)
    assert (
        warehouse.sql("select y, a, b from scores inner join scores__inputs using (id)") == scored
    )


@pytest.mark.parametrize("value", ["30", None, {"count": 0, "period": "day"}, 30])
def test_keep_inputs_is_a_switch_or_a_period(warehouse: Warehouse, value: object) -> None:
    with pytest.raises(ConfigError, match="keep_inputs must be"):
        warehouse.run(keep_inputs=value)


TYPES = {
    "TINYINT": st.integers(-(2**7), 2**7 - 1),
    "UINTEGER": st.integers(0, 2**32 - 1),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "UBIGINT": st.integers(0, 2**64 - 1),
    "HUGEINT": st.integers(-(2**127) + 1, 2**127 - 1),
    "FLOAT": st.floats(width=32, allow_nan=False),
    "DOUBLE": st.floats(allow_nan=False),
    "DECIMAL(12,3)": st.decimals("-999999999", "999999999", places=3),
    "VARCHAR": st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    "BOOLEAN": st.booleans(),
    "TIMESTAMP": st.datetimes(datetime(1, 1, 1), datetime(9999, 1, 1)),
}


@given(st.data())
def test_a_value_comes_back_from_a_column_of_any_widened_type(data: st.DataObject) -> None:
    import duckdb

    kind = data.draw(st.sampled_from(sorted(TYPES)))
    value = data.draw(TYPES[kind])
    other = data.draw(st.sampled_from(sorted(TYPES)))
    column = widened(kind, other)
    assert widened(other, kind) == column
    back = duckdb.execute(
        f"select cast(cast(cast($1 as {kind}) as {column}) as {kind}), cast($1 as {kind})", [value]
    ).fetchall()[0]
    assert repr(back[0]) == repr(back[1])
    assert not isinstance(value, Decimal) or back[0] == value


def kept_is_what_was_scored(warehouse: Warehouse, run_id: str) -> int:
    """Check by hand that y = 2a - b + 0.5 of each kept row is in the ledger. Returns the number of rows."""
    [(rows, same)] = warehouse.sql(
        "select count(*), count(*) filter (abs(y - (2 * a - b + 0.5)) <= 1e-6 * abs(2 * a)) "
        "from scores inner join dbt_onnx_runs using (run_id) "
        f"inner join scores__inputs using (run_no, id) where run_id = '{run_id}'"
    )
    assert same == rows
    return rows


def test_a_view_that_tells_the_time_keeps_what_was_scored(warehouse: Warehouse) -> None:
    features = "select id, epoch(now()) % 1000 as a, 1.0::double as b from range(3500) as t (id)"
    for run_id in ("run-1", "run-2"):
        assert warehouse.run(features=features).rows_scored == 3_500
        assert kept_is_what_was_scored(warehouse, run_id) == 3_500


def test_a_file_that_another_process_replaces_keeps_what_was_scored(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes right after its rows were scored: the worst moment for reading them again."""
    path = tmp_path / "features.csv"

    def write(shift: int) -> None:
        lines = [f"{i},{i + shift}.5,1.0" for i in range(3_000)]
        path.write_text("\n".join(["id,a,b", *lines]))

    write(0)
    before = writing.read_written

    def replaced(*args: Any, **kwargs: Any) -> Any:
        write(7)
        return before(*args, **kwargs)

    monkeypatch.setattr(writing, "read_written", replaced)
    warehouse.sql(f"create view given as select * from read_csv('{path}')")
    assert warehouse.run(features="from given").rows_scored == 3_000
    assert kept_is_what_was_scored(warehouse, "run-1") == 3_000


def test_many_rows_are_set_aside_on_disk_and_nothing_is_left(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_spool, "_BYTES_IN_MEMORY", 1_000)
    before = sorted(path.name for path in tmp_path.iterdir())
    features = "select id, id * 0.5 as a, 1.0::double as b from range(200_000) as t (id)"
    assert warehouse.run(features=features).rows_scored == 200_000
    assert kept_is_what_was_scored(warehouse, "run-1") == 200_000
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("keeps", [True, False])
def test_what_fails_after_the_commit_leaves_the_run_as_it_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.register("1")
    warehouse.features((1, 1.0, 2.0), (2, 3.0, 4.0))

    leave = input_spool.InputSpool.__exit__

    def fail(fed: input_spool.InputSpool, *given: object) -> None:
        leave(fed, *given)
        raise OSError("the file cannot be closed")

    with monkeypatch.context() as patched:
        patched.setattr(input_spool.InputSpool, "__exit__", fail)
        with pytest.raises(OSError, match="cannot be closed"):
            warehouse.run(keep_inputs=keeps)
    assert warehouse.last_run("status, rows_scored, error") == ("success", 2, None)
    assert warehouse.ledger("id, run_id") == [(1, "run-1"), (2, "run-1")]
    assert warehouse.run(keep_inputs=keeps).rows_unchanged == 2
