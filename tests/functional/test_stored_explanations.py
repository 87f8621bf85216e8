"""`dbt-onnx explain` on a warehouse: what is stored, what `history` shows of it, and what erases it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from warehouse import Warehouse, line_model

from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.cli.show.documents import explanation_document, history_document
from dbt_onnx.cli.show.predictions import show_explained_run, show_explanation, show_history
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.erasing import forget, prune
from dbt_onnx.engines.duckdb.explaining import explain
from dbt_onnx.engines.duckdb.history import read_history
from dbt_onnx.engines.duckdb.proof import prove
from dbt_onnx.errors import ArtifactError, ConfigError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dbt_onnx.runs.history import Explained

LEDGER = TableName(database="w", schema="main", identifier="scores")
SAMPLE = {"a": [1.0, 3.0], "b": [0.0, 1.0]}
BASE = 2 * 2 - 0.5 + 0.5
"""The mean of y = 2a - b + 0.5 over the sample."""


def register(warehouse: Warehouse, version: str, model: bytes | None = None) -> Path:
    """Register a version whose card has sample rows."""
    path = warehouse.register(version, model)
    card = path.with_name("card.json")
    parts = {"parity": {"features": SAMPLE, "outputs": {}}, "reference": {}}
    card.write_text(json.dumps(json.loads(card.read_text()) | parts))
    return path


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Iterator[Warehouse]:
    """Two runs: of 1, 2 and 3, which is rejected; then of 2, which changed."""
    made = new_warehouse(tmp_path)
    register(made, "1")
    made.features((1, 1.0, 1.0), (2, 2.0, 1.0), (3, 3.0, None))
    made.run()
    made.sql("update features set a = 5 where id = 2")
    made.clock = "2024-01-11 00:00:00"
    made.run()
    yield made
    made.connection.close()


def explained(warehouse: Warehouse, *key: str, **options: Any) -> Explained:
    rows = warehouse.connection.cursor().execute("from model_registry").fetchall()
    registry = Registry.from_rows(
        [dict(zip(("model_name", "model_version", "alias", "artifact", "sha256"), row, strict=True)) for row in rows],
        where="the registry",
    )  # fmt: skip
    return explain(
        warehouse.connection, LEDGER, registry=registry, artifacts=warehouse.artifacts,
        key=key or None, **options,
    )  # fmt: skip


def stored(warehouse: Warehouse, columns: str = "*") -> list[tuple[Any, ...]]:
    return warehouse.sql(f"select {columns} from scores__explanations order by all")


def test_the_score_that_is_served_is_explained_and_stored(warehouse: Warehouse) -> None:
    result = explained(warehouse, "2")
    assert (result.run.run_id, result.rows_added, result.rows_explained) == ("run-2", 1, 1)
    moment = datetime(2024, 1, 11)
    assert stored(warehouse) == [
        (2, 2, moment, "y", "a", "5", 6.0, BASE, "prediction"),
        (2, 2, moment, "y", "b", "1", -0.5, BASE, "prediction"),
    ]
    assert warehouse.sql("select y from scores where id = 2 and run_id = 'run-2'") == [
        (BASE + 6.0 - 0.5,)
    ]
    assert result.row is not None
    assert [(c.feature, c.contribution) for c in result.row.contributions] == [
        ("a", 6),
        ("b", -0.5),
    ]


def test_explaining_again_adds_nothing(warehouse: Warehouse) -> None:
    explained(warehouse, "2")
    before = stored(warehouse)
    again = explained(warehouse, "2")
    assert (again.rows_added, again.rows_explained) == (0, 1)
    assert again.row is not None
    assert len(again.row.contributions) == 2
    assert explained(warehouse, run_id="run-2").rows_added == 0
    assert stored(warehouse) == before


def test_a_run_is_explained_without_the_rows_that_it_rejected(warehouse: Warehouse) -> None:
    explained(warehouse, "1")
    result = explained(warehouse, run_id="run-1")
    assert (result.rows_added, result.rows_explained, result.row) == (1, 2, None)
    assert stored(warehouse, "run_no, id, feature, contribution") == [
        (1, 1, "a", -2.0), (1, 1, "b", -0.5), (1, 2, "a", 0.0), (1, 2, "b", -0.5),
    ]  # fmt: skip


def test_a_sample_grows_into_the_whole(warehouse: Warehouse) -> None:
    warehouse.features(*((i, float(i), 1.0) for i in range(10, 40)))
    warehouse.run()
    counts = [explained(warehouse, run_id="run-3", sample=n).rows_added for n in (5, 5, 12)]
    assert counts == [5, 0, 7]
    assert explained(warehouse, run_id="run-3").rows_added == 30 - 12
    assert warehouse.sql("select count(distinct id), count(*) from scores__explanations") == [
        (30, 60)
    ]


def test_each_version_explains_its_own_runs(warehouse: Warehouse) -> None:
    register(warehouse, "2", line_model(a=10.0))
    warehouse.run()
    explained(warehouse, "1")
    explained(warehouse, run_id="run-1", sample=10)
    assert stored(warehouse, "run_no, contribution")[0] == (1, -2.0)
    assert (3, -10.0) in stored(warehouse, "run_no, contribution")
    # rolled back: nothing is scored, and the first version is served again
    warehouse.promote("1")
    assert explained(warehouse, "2").run.run_id == "run-2"
    warehouse.promote("2")
    assert explained(warehouse, "2").run.run_id == "run-3"


def test_history_shows_the_largest_contributions(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_history(warehouse.connection, LEDGER, ["2"])
    assert [len(row.contributions) for row in before] == [0, 0]
    show_history("scores", ["2"], before)
    assert "contributions" not in capsys.readouterr().out
    explained(warehouse, "2")
    rows = read_history(warehouse.connection, LEDGER, ["2"])
    assert [len(row.contributions) for row in rows] == [0, 2]
    show_history("scores", ["2"], rows)
    out = capsys.readouterr().out
    assert "contributions" in out
    assert "a +6, b -0.5" in out
    first, second = history_document("scores", ["2"], rows, [])["predictions"]
    assert first["contributions"] == []
    assert second["contributions"][0] == {
        "output": "y", "feature": "a", "value": "5", "contribution": 6.0, "base": BASE,
        "scale": "prediction",
    }  # fmt: skip


def test_what_the_command_prints(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    result = explained(warehouse, "2")
    assert result.row is not None
    show_explanation("scores", ["2"], result.row, top=1)
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("│")
    ]
    assert cells == [
        ["a", "5", "+6"], ["1 more", "", "-0.5"], ["mean of the sample", "", "4"],
        ["score (prediction)", "", "9.5"],
    ]  # fmt: skip
    show_explained_run("scores", explained(warehouse, run_id="run-1"), seconds=1.0)
    assert capsys.readouterr().out == (
        "scores: explained 2 row(s) of run run-1 (line/1) in 1.0 s; 2 of its 2 scores are explained\n"
    )
    document = explanation_document("scores", ["2"], result)
    assert document["model"] == "line/1"
    assert [item["feature"] for item in document["prediction"]["contributions"]] == ["a", "b"]


def test_forgetting_an_entity_takes_its_explanations_along(warehouse: Warehouse) -> None:
    explained(warehouse, run_id="run-1")
    explained(warehouse, "2")
    options: dict[str, Any] = {"why": "asked for", "dry_run": True}
    forget(warehouse.connection, LEDGER, ["2"], **options)
    assert len(stored(warehouse)) == 6
    forget(warehouse.connection, LEDGER, ["2"], **options | {"dry_run": False})
    assert stored(warehouse, "run_no, id, feature") == [(1, 1, "a"), (1, 1, "b")]
    assert prove(warehouse.connection, LEDGER, with_values=True) == []


def test_pruning_keeps_explanations_of_what_is_served(warehouse: Warehouse) -> None:
    explained(warehouse, run_id="run-1")
    explained(warehouse, "2")
    prune(warehouse.connection, LEDGER, before=datetime(2100, 1, 1), why="old", dry_run=False)
    assert stored(warehouse, "run_no, id, feature") == [
        (1, 1, "a"), (1, 1, "b"), (2, 2, "a"), (2, 2, "b"),
    ]  # fmt: skip


def test_explanations_expire_with_the_inputs(warehouse: Warehouse) -> None:
    explained(warehouse, run_id="run-1")
    warehouse.sql("update dbt_onnx_runs set scored_at = '2023-01-01' where run_no = 1")
    warehouse.features((9, 1.0, 1.0))
    warehouse.run(keep_inputs={"count": 30, "period": "day"})
    assert stored(warehouse) == []
    with pytest.raises(
        ConfigError, match="run-1' of scores cannot be explained: its inputs are not"
    ):
        explained(warehouse, run_id="run-1")


@pytest.mark.parametrize("key", ["3", "77", "no number"])
def test_an_entity_without_a_score_is_refused(warehouse: Warehouse, key: str) -> None:
    with pytest.raises(ConfigError, match=f"the ledger of scores has no score for {key}"):
        explained(warehouse, key)


def test_the_last_score_is_explained_if_the_entity_was_rejected_later(warehouse: Warehouse) -> None:
    warehouse.sql("update features set b = null where id = 2")
    warehouse.run()
    result = explained(warehouse, "2")
    assert result.run.run_id == "run-2"


def test_nothing_is_stored_if_inputs_were_altered(warehouse: Warehouse) -> None:
    warehouse.sql("update scores__inputs set a = 6 where id = 2 and run_no = 2")
    with pytest.raises(WarehouseError, match=r"cannot be explained from its kept inputs: .*id=2 y"):
        explained(warehouse, "2")
    assert warehouse.sql(
        "select 1 from duckdb_tables() where table_name = 'scores__explanations'"
    ) == []  # fmt: skip


def test_another_model_file_is_refused(warehouse: Warehouse) -> None:
    register(warehouse, "1", line_model(a=3.0))
    with pytest.raises(ArtifactError, match=r"the model of run 'run-2' is gone or was changed"):
        explained(warehouse, "2")


def test_a_table_of_somebody_else_is_refused(warehouse: Warehouse) -> None:
    warehouse.sql("create table scores__explanations as select 42 as answer")
    with pytest.raises(WarehouseError, match="scores__explanations was not created by dbt_onnx"):
        explained(warehouse, "2")
    assert stored(warehouse) == [(42,)]


def test_a_key_column_with_the_name_of_a_column_is_refused(
    tmp_path: Path, new_warehouse: type[Warehouse]
) -> None:
    warehouse = new_warehouse(tmp_path)
    register(warehouse, "1")
    warehouse.features((1, 1.0, 1.0))
    features = 'select id as "Value", a, b from features'
    warehouse.run(features=features, key=["Value"])
    with pytest.raises(ConfigError, match=r"key column\(s\) \['Value'\] cannot be explained"):
        explained(warehouse, "1")
    warehouse.connection.close()
