"""`dbt_onnx_references`: the distributions on a card, stored with the ledger, as of the last run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dbt_onnx.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from warehouse import Warehouse

NUMBERS = {
    "kind": "numeric", "rows": 4, "nulls": 0.25, "edges": [1, 2.5], "shares": [0.5, 0.25, 0.25],
}  # fmt: skip
UNKNOWN = {"kind": "numeric", "rows": 4, "nulls": 1, "edges": [], "shares": [0]}
TEXTS = {
    "kind": "categorical", "rows": 4, "nulls": 0, "shares": {"it's": 0.5, "客": 0.25}, "other": 0.25,
}  # fmt: skip
SAID = "role, column_name, kind, rows, null_share, edges, shares, categories, other_share"


def describe(warehouse: Warehouse, version: str = "1", **parts: Any) -> None:
    path = warehouse.artifacts / "line" / version / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, **parts}))


def references(warehouse: Warehouse, columns: str = SAID) -> list[tuple[Any, ...]]:
    return warehouse.sql(f"select {columns} from dbt_onnx_references order by all")


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Warehouse:
    warehouse = new_warehouse(tmp_path)
    warehouse.register("1")
    describe(warehouse, reference={"a": NUMBERS, "b": UNKNOWN}, reference_outputs={"y": TEXTS})
    warehouse.features((1, 1.0, 1.0))
    return warehouse


def test_a_run_writes_what_the_card_says_once(warehouse: Warehouse) -> None:
    said = [
        ("feature", "a", "numeric", 4, 0.25, [1.0, 2.5], [0.5, 0.25, 0.25], None, 0.0),
        ("feature", "b", "numeric", 4, 1.0, [], [0.0], None, 0.0),
        ("output", "y", "categorical", 4, 0.0, None, [0.5, 0.25], ["it's", "客"], 0.25),
    ]
    warehouse.run()
    assert references(warehouse) == said
    digest = warehouse.sql("select sha256 from model_registry")[0][0]
    assert set(
        references(warehouse, "scoring_model, model_name, model_version, artifact_sha256")
    ) == {("scores", "line", "1", digest)}
    before = references(warehouse, "rowid, *")
    warehouse.run()
    assert references(warehouse, "rowid, *") == before


def test_a_card_that_says_otherwise_replaces_what_it_said(warehouse: Warehouse) -> None:
    warehouse.run()
    describe(warehouse, reference={"a": {**NUMBERS, "rows": 5}}, reference_outputs={})
    warehouse.run()
    assert references(warehouse, "column_name, rows") == [("a", 5)]
    describe(warehouse, reference={})
    warehouse.run()
    assert references(warehouse) == []


def test_columns_that_the_contract_does_not_have_are_left_out(warehouse: Warehouse) -> None:
    describe(warehouse, reference={"zip": NUMBERS, "a": NUMBERS}, reference_outputs={"z": TEXTS})
    warehouse.run()
    assert references(warehouse, "role, column_name") == [("feature", "a")]


def test_versions_and_scoring_models_have_rows_of_their_own(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.register("2")
    describe(warehouse, "2", reference={"a": {**NUMBERS, "rows": 7}})
    warehouse.run()
    warehouse.name = "others"
    warehouse.run()
    assert warehouse.sql(
        "select scoring_model, model_version, count(*) from dbt_onnx_references group by all order by all"
    ) == [("others", "2", 1), ("scores", "1", 3), ("scores", "2", 1)]


def test_a_run_that_fails_writes_none(warehouse: Warehouse) -> None:
    warehouse.features((1, None, 1.0))
    with pytest.raises(DataError):
        warehouse.run(max_rejected_fraction=0)
    assert references(warehouse) == []


def test_a_column_that_was_dropped_comes_back(warehouse: Warehouse) -> None:
    warehouse.run()
    before = references(warehouse)
    warehouse.sql("alter table dbt_onnx_references drop column edges")
    warehouse.run()
    assert references(warehouse) == before
