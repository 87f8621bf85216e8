"""A row on which the model fails, or of which the process dies, costs only that row."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import killers
import numpy as np
import pytest
from graphs import build, constant, tensor
from onnx import helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from test_replay import replay

from dbt_onnx.engines.duckdb.runs import INTERRUPTED
from dbt_onnx.errors import ArtifactError, DataError, DbtOnnxError, ScoringError
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from warehouse import Warehouse

TESTS = Path(__file__).parents[1]
DIVISION = Contract(
    features=(Feature(name="a"), Feature(name="b")),
    inputs=(
        Input(name="dividend", dtype="int64", features=("a",)),
        Input(name="divisor", dtype="int64", features=("b",)),
    ),
    outputs=(Output(name="quotient", kind="value", dtype="float64", columns=("y",)),),
)
REGION = Contract(
    features=(Feature(name="a"),),
    inputs=(Input(name="x", dtype="float32", features=("a",)),),
    outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
)


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Iterator[Warehouse]:
    made = new_warehouse(tmp_path)
    yield made
    made.connection.close()


# --- onnxruntime raises


def categories(warehouse: Warehouse, bad: set[int], rows: int = 1_000) -> dict[int, float]:
    """Make text features for a default encoder; the ids in `bad` have an unknown category. Returns
    scikit-learn's predictions for the other ids.
    """
    names = ["oslo", "rome", "lima"]
    train = np.array([[names[i % 3]] for i in range(60)], dtype=object)
    pipeline = make_pipeline(OneHotEncoder(), LogisticRegression())
    pipeline.fit(train, [int(i % 3 == 0 or i % 7 == 0) for i in range(60)])
    model = to_onnx(
        pipeline,
        initial_types=[("city", StringTensorType([None, 1]))],
        options={"zipmap": False},
        target_opset={"": 18, "ai.onnx.ml": 3},
    ).SerializeToString()
    contract = Contract(
        features=(Feature(name="city"),),
        inputs=(Input(name="city", dtype="string", features=("city",)),),
        outputs=(
            Output(
                name="probabilities",
                kind="probabilities",
                dtype="float32",
                columns=(None, "y"),
                classes=(0, 1),
            ),
        ),
    )
    warehouse.register("1", model, contract)
    warehouse.sql("create or replace table features (id integer, city varchar)")
    cities = {i: f"new-{i}" if i in bad else names[i % 3] for i in range(rows)}
    warehouse.connection.cursor().execute(
        "insert into features select unnest($1), unnest($2)", [list(cities), list(cities.values())]
    )
    good = [i for i in cities if i not in bad]
    if not good:
        return {}
    said = pipeline.predict_proba(np.array([[cities[i]] for i in good], dtype=object))[:, 1]
    return dict(zip(good, said.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_a_new_category_is_rejected_and_the_other_rows_are_scored(
    warehouse: Warehouse, seed: int
) -> None:
    chance = random.Random(seed)
    bad = set(chance.sample(range(1_000), chance.choice([1, 1, 7, 60])))
    expected = categories(warehouse, bad)
    summary = warehouse.run(max_rejected_fraction=0.1)
    assert (summary.rows_scored, summary.rows_rejected) == (1_000 - len(bad), len(bad))
    scored = dict(warehouse.sql("select id, y from scores where status = 'scored'"))
    assert scored == {i: pytest.approx(y, abs=1e-5) for i, y in expected.items()}
    rejected = warehouse.sql("select id, rejected_reason from scores where status = 'rejected'")
    assert {i for i, _ in rejected} == bad
    (reason,) = {reason for _, reason in rejected}
    assert reason.startswith("model_error:OneHotEncoder node.")
    assert "Unknown Category" in reason


def test_such_a_run_is_replayed_and_the_next_one_scores_nobody(warehouse: Warehouse) -> None:
    categories(warehouse, {5, 500, 999})
    warehouse.run()
    result = replay(warehouse, "run-1")
    assert (result.passed, result.identical + result.within_tolerance) == (True, 1_000)
    assert replay(warehouse, "run-1", sample=50).passed
    assert warehouse.run().rows_unchanged == 1_000
    warehouse.sql("update features set city = 'rome' where id = 500")
    assert (warehouse.run().rows_scored, warehouse.last_run("in_child_process")) == (1, (False,))


def test_a_replay_says_so_when_the_model_no_longer_fails(warehouse: Warehouse) -> None:
    categories(warehouse, {5})
    warehouse.run()
    warehouse.sql("update dbt_onnx_runs set rejected_reasons = ['null:city']")
    assert not replay(warehouse, "run-1").passed


@pytest.mark.parametrize("bad", [{999: 4}, {0: -5}, {1: 4, 2: 99, 700: -(2**40)}])
def test_an_index_outside_of_an_embedding_is_rejected(
    warehouse: Warehouse, bad: dict[int, int]
) -> None:
    model = build(
        [
            helper.make_node("Gather", ["table", "i"], ["row"], axis=0),
            helper.make_node("Squeeze", ["row", "axis"], ["y"]),
        ],
        [tensor("i", "int64", ("N", 1))],
        [tensor("y", "float32", ("N", 1))],
        constants=[constant("table", [[0.5], [1.5], [2.5], [3.5]]), constant("axis", [2], "int64")],
    )
    contract = Contract(
        features=(Feature(name="a"),),
        inputs=(Input(name="i", dtype="int64", features=("a",)),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    warehouse.register("1", model, contract)
    warehouse.sql("create or replace table features (id integer, a bigint)")
    values = {i: bad.get(i, i % 4) for i in range(1_000)}
    warehouse.connection.cursor().execute(
        "insert into features select unnest($1), unnest($2)", [list(values), list(values.values())]
    )
    warehouse.run()
    assert dict(warehouse.sql("select id, y from scores where status = 'scored'")) == {
        i: a + 0.5 for i, a in values.items() if i not in bad
    }
    rejected = warehouse.sql("select id, rejected_reason from scores where status = 'rejected'")
    assert {i for i, _ in rejected} == set(bad)
    # the reason does not contain the values, so a million bad rows share one reason
    assert len({reason for _, reason in rejected}) == 1


def test_more_bad_rows_than_may_be_rejected_fail_the_run(warehouse: Warehouse) -> None:
    categories(warehouse, set(range(0, 1_000, 9)))
    with pytest.raises(DataError, match="fails on more than 100 of 1,000 rows"):
        warehouse.run(max_rejected_fraction=0.1)
    assert not warehouse.sql("from duckdb_tables() where table_name = 'scores__current'")


def test_new_rows_that_are_all_bad_are_rejected_beside_many_that_are_known(
    warehouse: Warehouse,
) -> None:
    categories(warehouse, set())
    warehouse.run()
    warehouse.sql("insert into features select 2000 + i, 'new' from range(90) as numbers (i)")
    summary = warehouse.run(max_rejected_fraction=0.1)
    assert (summary.rows_scored, summary.rows_rejected) == (0, 90)


def test_a_model_that_fails_on_every_row_fails_at_once(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbt_onnx.kernel.session import OnnxSession

    calls: list[int] = []
    run = OnnxSession.run

    def counted(self: OnnxSession, feeds: Any) -> list[Any]:
        calls.append(len(feeds["city"]))
        return run(self, feeds)

    monkeypatch.setattr(OnnxSession, "run", counted)
    categories(warehouse, set(range(50_000)), rows=50_000)
    with pytest.raises(ScoringError, match=r"rows 1 to .*Unknown Category"):
        warehouse.run(max_rejected_fraction=0.1)
    assert len(calls) <= 30


# --- the process dies


def divided(warehouse: Warehouse, rows: int = 1_000) -> None:
    warehouse.register("1", killers.division(), DIVISION)
    warehouse.sql(
        "create or replace table features as select i::integer as id, 7 * i as a, 2::bigint as b "
        f"from range({rows}) as numbers (i)"
    )


def spoil(warehouse: Warehouse, *ids: int) -> None:
    for number in ids:
        warehouse.sql(f"update features set a = -9223372036854775808, b = -1 where id = {number}")


def run_in_process(warehouse: Warehouse, **arguments: Any) -> int:
    """Run the next run of this warehouse in a separate process. Returns its exit code."""
    warehouse.connection.close()
    program = (
        "import sys; from pathlib import Path; from warehouse import Warehouse\n"
        f"w = Warehouse(Path(sys.argv[1])); w.runs = {warehouse.runs}; w.run(**{arguments!r})"
    )
    paths = os.pathsep.join([*sys.path, str(TESTS / "support")])
    ended = subprocess.run(
        [sys.executable, "-c", program, str(warehouse.folder)],
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
        capture_output=True,
    )
    runs = warehouse.runs + 1
    warehouse.__init__(warehouse.folder)  # type: ignore[misc]
    warehouse.runs = runs
    return ended.returncode


def test_a_row_that_kills_the_process_is_found_and_rejected_by_the_next_run(
    warehouse: Warehouse,
) -> None:
    divided(warehouse)
    spoil(warehouse, 321)
    assert run_in_process(warehouse) == -signal.SIGFPE
    assert not warehouse.sql("from duckdb_tables() where table_name = 'scores__current'")
    summary = warehouse.run(max_rejected_fraction=0.1)
    assert (summary.rows_scored, summary.rows_rejected) == (999, 1)
    assert warehouse.sql("select id, rejected_reason from scores where status = 'rejected'") == [
        (321, "model_crashed")
    ]
    assert warehouse.sql("select id, y from scores where status = 'scored' order by id") == [
        (i, 7 * i // 2) for i in range(1_000) if i != 321
    ]
    assert warehouse.sql(
        "select run_id, status, error, in_child_process from dbt_onnx_runs order by run_id"
    ) == [("run-1", "interrupted", INTERRUPTED, None), ("run-2", "success", None, True)]
    result = replay(warehouse, "run-2")
    assert (result.passed, result.identical) == (True, 1_000)


def test_the_death_of_another_scoring_model_needs_no_child(warehouse: Warehouse) -> None:
    divided(warehouse)
    warehouse.run()
    warehouse.sql(
        "insert into dbt_onnx_runs (run_id, scoring_model, status, started_at) "
        "values ('other', 'others', 'interrupted', '2999-01-01')"
    )
    warehouse.run(full_refresh=True)
    assert warehouse.sql("select in_child_process from dbt_onnx_runs where run_id = 'run-2'") == [
        (False,)
    ]


def test_ordinary_nights_need_no_child_and_those_with_such_a_row_do(warehouse: Warehouse) -> None:
    divided(warehouse)
    warehouse.run()
    assert warehouse.last_run("in_child_process") == (False,)
    spoil(warehouse, 3)
    assert run_in_process(warehouse) == -signal.SIGFPE
    # found in a child process; then unchanged, so there is nothing to score
    for expected in (True, None):
        warehouse.run()
        assert warehouse.last_run("status, in_child_process") == ("success", expected)
    # the row is scored again, so it needs a child process
    for argument in ("full_refresh", "retry_rejected"):
        warehouse.run(**{argument: True})
        assert warehouse.last_run("status, in_child_process") == ("success", True)
    warehouse.sql("update features set a = 9, b = 3 where id = 3")
    warehouse.run()
    assert warehouse.last_run("in_child_process, rows_scored") == (True, 1)
    warehouse.run(full_refresh=True)
    assert warehouse.last_run("in_child_process, rows_scored") == (False, 1_000)


def test_a_failed_run_in_between_does_not_make_it_forget(warehouse: Warehouse) -> None:
    divided(warehouse)
    spoil(warehouse, 3)
    assert run_in_process(warehouse) == -signal.SIGFPE
    with pytest.raises(DbtOnnxError):
        warehouse.run(features="select id, a from features")
    warehouse.run()
    assert warehouse.last_run("status, in_child_process, rows_rejected") == ("success", True, 1)


def test_a_new_version_is_as_careful_as_the_one_before_it(warehouse: Warehouse) -> None:
    divided(warehouse)
    spoil(warehouse, 3)
    assert run_in_process(warehouse) == -signal.SIGFPE
    warehouse.run()
    warehouse.register("2", killers.division(), DIVISION)
    warehouse.run()
    assert warehouse.last_run("model_version, in_child_process, rows_rejected") == ("2", True, 1)


def test_another_model_with_a_known_version_is_as_careful_as_a_new_version(
    warehouse: Warehouse,
) -> None:
    divided(warehouse)
    spoil(warehouse, 3)
    assert run_in_process(warehouse) == -signal.SIGFPE
    warehouse.run()
    warehouse.sql("update features set a = 9, b = 3 where id = 3")
    warehouse.register("2", killers.division(), DIVISION)
    warehouse.run()
    warehouse.register("2", killers.division(), DIVISION, name="other")
    warehouse.run(model="other")
    assert warehouse.last_run("model_name, model_version, in_child_process") == ("other", "2", True)


@pytest.mark.parametrize("seed", range(3))
def test_rows_anywhere_are_found(warehouse: Warehouse, seed: int) -> None:
    rows = 30_000
    divided(warehouse, rows)
    chance = random.Random(seed)
    bad = sorted({0, rows - 1, *chance.sample(range(rows), 3)})[seed:]
    spoil(warehouse, *bad)
    assert run_in_process(warehouse) == -signal.SIGFPE
    warehouse.run(batch_rows=chance.choice([None, 100]))
    assert [i for (i,) in warehouse.sql("select id from scores where status = 'rejected'")] == bad
    assert warehouse.sql("select count(*), sum(y) from scores where status = 'scored'") == [
        (rows - len(bad), sum(7 * i // 2 for i in range(rows) if i not in bad))
    ]


def test_a_model_that_kills_the_process_on_every_row_fails_at_once(warehouse: Warehouse) -> None:
    divided(warehouse)
    warehouse.sql("update features set a = -9223372036854775808, b = -1")
    assert run_in_process(warehouse) == -signal.SIGFPE
    with pytest.raises(ScoringError, match=r"killed by signal 8 \(SIGFPE\)"):
        warehouse.run(max_rejected_fraction=0.1)
    assert warehouse.last_run("status") == ("error",)
    assert not warehouse.sql("from duckdb_tables() where table_name = 'scores__current'")


@pytest.mark.parametrize("name", ["chain", "far_region"])
def test_a_model_that_kills_the_process_when_it_is_loaded_fails_at_once(
    warehouse: Warehouse, name: str
) -> None:
    contract = REGION
    if name == "chain":
        contract = Contract(
            features=(Feature(name="a"), Feature(name="b")),
            inputs=(Input(name="x", dtype="float32", features=("a", "b")),),
            outputs=REGION.outputs,
        )
    warehouse.register("1", killers.KILLERS[name](), contract)
    warehouse.features((1, 1.0, 2.0))
    assert run_in_process(warehouse) < 0
    with pytest.raises(ArtifactError, match="the process in which onnxruntime loaded the model"):
        warehouse.run()
    assert warehouse.last_run("status") == ("error",)


def test_a_run_that_was_killed_otherwise_is_run_again_with_the_same_answers(
    warehouse: Warehouse,
) -> None:
    warehouse.register("1")
    warehouse.features(*((i, float(i), 1.0) for i in range(100)))
    warehouse.run()
    warehouse.sql("update dbt_onnx_runs set status = 'running'")
    warehouse.run(full_refresh=True)
    assert warehouse.last_run("in_child_process, rows_scored") == (True, 100)
    assert warehouse.sql("select y from scores where run_id = 'run-2' order by id") == [
        (2.0 * i - 1 + 0.5,) for i in range(100)
    ]
