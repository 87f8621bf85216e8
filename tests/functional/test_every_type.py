"""Edge values of every SQL type that a model can read are scored, kept, replayed and shown unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import duckdb
import pyarrow as pa
import pytest
from every_type import REFUSED, TYPES, check_replay, check_type, identity, tensor_types
from hardening import UNLOCKED
from warehouse import Warehouse

from dbt_onnx.kernel.contract import TensorType
from dbt_onnx.kernel.relation import _castable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", TYPES)
def test_a_value_of_any_type_is_scored_kept_replayed_and_shown(tmp_path: Path, kind: str) -> None:
    for dtype in tensor_types(kind):
        for shape in ("", "[]", "[2]") if dtype in {"string", "float32"} else ("",):
            folder = tmp_path / f"{dtype}{shape}"
            folder.mkdir()
            warehouse = Warehouse(folder, config=UNLOCKED)
            check_type(warehouse, kind, shape, dtype)
            warehouse.connection.close()


def test_the_table_of_types_here_is_all_that_a_model_can_read() -> None:
    names = {
        row[0]
        for row in duckdb.execute("select distinct upper(type_name) from duckdb_types()").fetchall()
    }
    readable = set()
    for name in names:
        try:
            schema = duckdb.sql(f"select cast(null as {name}) as x").to_arrow_reader(1).schema
        except duckdb.Error:  # not a complete type without parameters, such as LIST
            continue
        if any(_castable(schema.field(0).type, dtype) for dtype in get_args(TensorType)):
            readable.add(str(duckdb.sql(f"select cast(null as {name}) as x").types[0]))
    decimals = {name for name in readable if name.startswith("DECIMAL")}
    assert (
        readable - decimals == {t for t in TYPES if not t.startswith(("DECIMAL", "ENUM"))} | REFUSED
    )
    assert duckdb.sql("select null as x").to_arrow_reader(1).schema.field(0).type == pa.null()


def test_a_column_of_nothing_is_rejected_kept_and_replayed(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    identity(warehouse, "DOUBLE", "float64", None)
    warehouse.sql("create view given as select 1 as id, null as f")
    assert warehouse.run(features="from given").rows_rejected == 1
    assert warehouse.run(features="from given").rows_unchanged == 1
    check_replay(warehouse, "run-1")
