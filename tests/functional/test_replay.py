"""A run can be scored again from its kept inputs, and anything altered since then is found."""

from __future__ import annotations

import json
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from sklearn.ensemble import GradientBoostingClassifier
from warehouse import Warehouse, line_contract, line_model

import dbt_onnx
from dbt_onnx.artifacts.artifact import Artifact
from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.history import read_history, read_runs
from dbt_onnx.engines.duckdb.proof import prove
from dbt_onnx.engines.duckdb.replaying import replay_run
from dbt_onnx.errors import ConfigError, WarehouseError
from dbt_onnx.runs.replay import replayable_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dbt_onnx.runs.replay import Replay

LEDGER = TableName(database="w", schema="main", identifier="scores")
ROWS = 300
TAMPERINGS = int(os.environ.get("DBT_ONNX_TAMPERINGS", "0"))


def replay(warehouse: Warehouse, run_id: str, **settings: Any) -> Replay:
    cursor = warehouse.connection.cursor()
    found = cursor.execute("select * from model_registry")
    names = [column[0] for column in found.description]
    registry = Registry.from_rows(
        [dict(zip(names, row, strict=True)) for row in found.fetchall()], where="model_registry"
    )
    return replay_run(
        warehouse.connection,
        LEDGER,
        run_id,
        registry=registry,
        artifacts=warehouse.artifacts,
        **settings,
    )


def alter(warehouse: Warehouse, assignments: str, where: str) -> None:
    """Change rows of the ledger, in both of its tables."""
    for table in ("scores__current", "scores__history"):
        warehouse.sql(f"update {table} set {assignments} where {where}")


def problems(result: Replay) -> set[str]:
    assert result.passed == (not result.findings)
    return {finding.problem for finding in result.findings}


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Iterator[Warehouse]:
    """Two runs: 300 rows, some of them rejected, one without a key; then a few that changed."""
    made = new_warehouse(tmp_path)
    made.register("1")
    made.sql(
        f"insert into features select i, sin(i), case when i % 50 <> 7 then i / 3e0 end "
        f"from range({ROWS}) as t (i)"
    )
    made.sql("insert into features values (null, 1, 1)")
    made.run()
    made.sql("update features set a = 9 where id % 10 = 1")
    made.run()
    yield made
    made.connection.close()


def test_every_run_says_the_same_again(warehouse: Warehouse) -> None:
    first, second = replay(warehouse, "run-1"), replay(warehouse, "run-2")
    assert (first.rows, first.rows_kept, first.identical) == (ROWS, ROWS, ROWS)
    assert (second.rows, second.identical, second.findings) == (30, 30, [])
    assert replayable_runs(read_runs(warehouse.connection, LEDGER)) == ["run-2", "run-1"]
    assert first.passed
    assert first.notes == []


def test_a_sample_is_of_that_size_and_the_same_each_time(warehouse: Warehouse) -> None:
    assert replay(warehouse, "run-1", sample=25).identical == 25
    assert replay(warehouse, "run-1", sample=1000).identical == ROWS


def test_columns_that_came_later_and_types_that_were_widened_change_nothing(
    warehouse: Warehouse,
) -> None:
    warehouse.register("2", line_model(), line_contract("other"))
    warehouse.run(features="select id, (a * 100)::decimal(9, 2) as a, b::float as b from features")
    types = dict(row[:2] for row in warehouse.sql("describe scores__inputs"))
    assert (types["a"], types["b"]) == ("VARCHAR", "VARCHAR")
    for run_id, rows in (("run-1", ROWS), ("run-2", 30), ("run-3", ROWS)):
        result = replay(warehouse, run_id)
        assert (result.identical, result.findings) == (rows, [])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_of_trees_with_labels_says_the_same_again(tmp_path: Path, threads: int) -> None:
    rng = random.Random(5)
    rows = [(i, rng.gauss(0, 1), rng.gauss(0, 1)) for i in range(500)]
    warehouse = Warehouse(tmp_path)
    import pandas as pd

    frame = pd.DataFrame(rows, columns=["id", "a", "b"])
    estimator = GradientBoostingClassifier(n_estimators=20).fit(
        frame[["a", "b"]], (frame["a"] * frame["b"] > 0).map({True: "yes", False: "no"})
    )
    entry = dbt_onnx.export(
        estimator, frame[["a", "b"]], name="line", version="1", artifacts=warehouse.artifacts,
    )  # fmt: skip
    warehouse.sql(
        f"insert into model_registry values ('line', '1', 'champion', '{entry.artifact}', "
        f"'{entry.sha256}')"
    )
    warehouse.features(*rows)
    warehouse.run(batch_rows=64, threads=threads)
    result = replay(warehouse, "run-1")
    assert (result.identical, result.findings) == (500, [])
    alter(warehouse, "label = case label when 'no' then 'yes' else 'no' end", "id = 7")
    assert problems(replay(warehouse, "run-1")) == {"ledger", "prediction"}
    warehouse.connection.close()


def test_a_replay_opens_the_model_as_its_run_did(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def spied(artifact: Artifact, **options: Any) -> Any:
        session = open_session(artifact, **options)
        opened.append((artifact.sha256, session.threads, session.batch_rows))
        return session

    open_session = Artifact.open
    monkeypatch.setattr(Artifact, "open", spied)
    warehouse.features((1, 50.0, 3.0))
    warehouse.run(threads=2, batch_rows=7)
    assert replay(warehouse, "run-3").passed
    assert opened == [opened[0]] * 2
    assert opened[0][1:] == (2, 7)


def test_another_onnxruntime_is_said_and_near_numbers_are_within_tolerance(
    warehouse: Warehouse,
) -> None:
    warehouse.sql(
        "update dbt_onnx_runs set onnxruntime_version = '1.0', features_hash_function = 'other'"
    )
    alter(warehouse, "y = y * 1.000001", "id = 8")
    result = replay(warehouse, "run-1")
    assert (result.identical, result.within_tolerance, result.passed) == (ROWS - 1, 1, True)
    assert [note.split(",")[0].split(" by")[0] for note in result.notes] == [
        "the features were hashed", "scored",
    ]  # fmt: skip


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("factor", "within"), [(1.7, 0), (1.0001, 0), (1.000001, 1)])
def test_a_number_is_held_to_the_size_of_its_column(
    tmp_path: Path, unit: float, factor: float, within: int
) -> None:
    made = Warehouse(tmp_path)
    path = made.register("1", line_model(2.0 * unit, -1.0 * unit, 0.5 * unit))
    card = json.loads((path.parent / "card.json").read_text())
    card["parity"] = {"tolerance": 1e-5, "scales": {"y": 1.5 * unit}}
    (path.parent / "card.json").write_text(json.dumps(card))
    made.sql("insert into features select i, 1 + i % 3, 1 from range(20) as t (i)")
    made.run()
    made.sql("update dbt_onnx_runs set features_hash_function = 'other'")
    alter(made, f"y = y * {factor}", "id = 8")
    result = replay(made, "run-1")
    assert (result.within_tolerance, result.different) == (within, 1 - within)
    made.connection.close()


def test_what_differs_is_named_with_what_was_said_and_what_is_said_now(
    warehouse: Warehouse,
) -> None:
    alter(warehouse, "y = 12", "id = 3 and run_no = 1")
    found = [str(finding) for finding in replay(warehouse, "run-1").findings]
    assert found[0].startswith("ledger: the fingerprint of the rows of run run-1 is ")
    assert found[1].startswith("prediction: id=3 y: -0.2177")
    assert found[1].endswith(", not 12.0")
    assert len(found) == 2


def cases() -> dict[str, Callable[[Warehouse, int], str]]:
    def sql(statement: str, problem: str) -> Callable[[Warehouse, int], str]:
        def tamper(warehouse: Warehouse, row: int) -> str:
            warehouse.sql(statement.format(row=row))
            return problem

        return tamper

    def rows(assignments: str, problem: str) -> Callable[[Warehouse, int], str]:
        def tamper(warehouse: Warehouse, row: int) -> str:
            alter(warehouse, assignments, f"run_no = 1 and id = {row}")
            return problem

        return tamper

    def each(statement: str, problem: str) -> Callable[[Warehouse, int], str]:
        """Apply the statement to both tables, since the row is in one of them."""
        tables = ("scores__current", "scores__history")
        return sql("; ".join(statement.replace("{table}", table) for table in tables), problem)

    at = "where run_no = 1 and id = {row}"
    return {
        "output": rows("y = coalesce(y, 0) + 0.001", "prediction"),
        "output by one bit": rows("y = coalesce(nullif(y * (1 + 2e-7), y), 1)", "ledger"),
        "output gone": rows("y = case when y is null then 1 end", "prediction"),
        "status": rows(
            "rejected_reason_no = case when rejected_reason_no is null then 1 end", "prediction"
        ),
        "reason of a rejection": rows("rejected_reason_no = 2", "prediction"),
        "reasons of a run": sql(
            "update dbt_onnx_runs set rejected_reasons = list_reverse(rejected_reasons) "
            "where run_no = 1", "runs",
        ),
        "reason of a score": rows("score_reason = 'expired'", "ledger"),
        "lateness": sql(
            "update scores__history set is_late = true where run_no = 1 and id = {row} // 10 * 10 + 1",
            "ledger",
        ),
        "moment": rows("as_of = as_of - interval 1 day", "ledger"),
        "time of saying": sql(
            "update dbt_onnx_runs set scored_at = scored_at + interval 1 second where run_no = 1", "runs"
        ),
        "version": sql("update dbt_onnx_runs set model_version = '2' where run_no = 2", "runs"),
        "hash": rows("features_hash = features_hash + 1", "inputs"),
        "key": rows("id = -1", "inputs"),
        "row deleted": each(f"delete from {{table}} {at}", "ledger"),
        "row doubled": each(f"insert into {{table}} from {{table}} {at}", "ledger"),
        "run of a row": rows("run_no = 2", "ledger"),
        "input": sql(f"update scores__inputs set a = a + 1e-15 + a * 1e-15 {at}", "inputs"),
        "input gone": sql(f"update scores__inputs set a = null {at}", "inputs"),
        "inputs deleted": sql(f"delete from scores__inputs {at}", "inputs"),
        "inputs doubled": sql(f"insert into scores__inputs from scores__inputs {at}", "inputs"),
        "inputs of nobody": sql("insert into scores__inputs values (1, 5000 + {row}, 1, 1)", "inputs"),
        "bit of the artifact": _flip_bit,
        "sha256 in the registry": sql(
            "update model_registry set sha256 = reverse(sha256)", "artifact"
        ),
    }  # fmt: skip


def _flip_bit(warehouse: Warehouse, row: int) -> str:
    path = warehouse.artifacts / "line" / "1" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[row * 7919 % len(content)] ^= 1 << row % 8
    path.write_bytes(content)
    return "artifact"


def test_any_tampering_is_found(warehouse: Warehouse, tmp_path: Path) -> None:
    """Apply each kind of tampering in turn, at least once, to random rows of a fresh copy of the warehouse."""
    rng = random.Random(1998)
    warehouse.connection.close()
    kinds = cases()
    missed = []
    for number in range(max(TAMPERINGS, len(kinds))):
        kind = list(kinds)[number % len(kinds)]
        folder = tmp_path / f"copy {number}"
        folder.mkdir()
        shutil.copy(tmp_path / "w.duckdb", folder)
        shutil.copytree(tmp_path / "artifacts", folder / "artifacts")
        copy = Warehouse(folder)
        row = rng.randrange(1, ROWS)
        expected = kinds[kind](copy, row)
        proof = {finding.problem for finding in prove(copy.connection, LEDGER, with_values=False)}
        found = replay(copy, "run-1", sample=None)
        if expected not in problems(found) | (proof & {"runs"}):
            missed.append((kind, row, found, proof))
        copy.connection.close()
        shutil.rmtree(folder)
    assert missed == []


def test_a_run_that_cannot_be_replayed_says_why(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.run(full_refresh=True, keep_inputs=False)
    with pytest.raises(Exception, match="rejected"):
        warehouse.run(features="select id, null::double as a, b from features",
                      max_rejected_fraction=0.1)  # fmt: skip
    for run_id, reason in (
        ("run-9", "scores has no run 'run-9' in main.dbt_onnx_runs"),
        ("run-3", "run 'run-3' of scores cannot be replayed: it scored no row"),
        ("run-4", "run 'run-4' of scores cannot be replayed: its inputs are not kept"),
        ("run-5", "run 'run-5' of scores cannot be replayed: it ended as 'error'"),
    ):
        with pytest.raises(ConfigError, match=reason):
            replay(warehouse, run_id)


def test_types_in_an_altered_run_row_are_not_run_as_sql(warehouse: Warehouse) -> None:
    warehouse.sql(
        "update dbt_onnx_runs set feature_types = ['double) from scores; drop table scores; --', 'int']"
    )
    with pytest.raises(WarehouseError, match=r"the run rows of main\.scores__inputs were altered"):
        replay(warehouse, "run-1")


def test_a_table_of_inputs_without_a_column_is_a_finding(warehouse: Warehouse) -> None:
    warehouse.sql("alter table scores__inputs drop column b")
    assert [str(finding) for finding in replay(warehouse, "run-1").findings] == [
        "inputs: main.scores__inputs lacks ['b'], not there"
    ]
    warehouse.sql("drop table scores__inputs")
    assert problems(replay(warehouse, "run-1")) == {"inputs"}


def test_history_tells_what_was_said_why_and_which_inputs_changed(warehouse: Warehouse) -> None:
    warehouse.register("2", line_model(c=1.0), line_contract(features=("a", "c")))
    warehouse.run(features="select *, 4 as c from features where id < 3")
    warehouse.clock = "2024-01-09 00:00:00"
    warehouse.run(features="select id, 7 as a, b, 5 as c from features where id < 3")
    history = read_history(warehouse.connection, LEDGER, ["1"])
    assert [(s.model, s.run_id, s.score_reason, s.status) for s in history] == [
        ("line/1", "run-1", "new", "scored"),
        ("line/1", "run-2", "features_changed", "scored"),
        ("line/2", "run-3", "model_changed", "scored"),
        ("line/2", "run-4", "new", "scored"),
    ]
    assert [said.changed_inputs for said in history] == [
        None,
        {"a": (0.8414709848078965, 9.0)},
        {},
        None,
    ]
    assert history[1].outputs == {"y": pytest.approx(18 - 1 / 3 + 0.5)}
    assert read_history(warehouse.connection, LEDGER, ["no number"]) == []
    assert read_history(warehouse.connection, LEDGER, ["4711"]) == []


def test_history_asks_for_a_value_of_each_key_column_and_for_a_first_run(
    warehouse: Warehouse,
) -> None:
    with pytest.raises(ConfigError, match=r"the key of main\.scores is id; got 2 value"):
        read_history(warehouse.connection, LEDGER, ["1", "2"])
    with pytest.raises(ConfigError, match=r"main\.other has no prediction yet"):
        read_history(warehouse.connection, LEDGER.beside("other"), ["1"])


def test_runs_are_listed_newest_first_with_their_reasons(warehouse: Warehouse) -> None:
    runs = read_runs(warehouse.connection, LEDGER)
    assert [(run.run_id, run.per_reason) for run in runs] == [
        ("run-2", {"features_changed": 30}),
        ("run-1", {"new": ROWS + 1}),
    ]
    assert len(read_runs(warehouse.connection, LEDGER, limit=1)) == 1
    assert read_runs(warehouse.connection, LEDGER.beside("other")) == []
