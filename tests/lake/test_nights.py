"""The same nights in a lake and in a DuckDB file give the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from catalogs import EXTENSIONS
from lake_project import LakeProject
from warehouse import line_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from catalogs import Lake

TABLES = {
    "ledger": "select * exclude (run_id, scored_at) from scores",
    "current": "select * replace (cast(score_reason as varchar) as score_reason) from scores__current",
    "history": "select * replace (cast(score_reason as varchar) as score_reason) from scores__history",
    "inputs": "select * from scores__inputs",
    "runs": "select run_no, scoring_model, status, scope, clock, as_of, rows_in, rows_scored, rows_rejected, "
    "rows_unchanged, rows_new, rows_features_changed, rows_model_changed, rows_retry, rows_inputs_kept, "
    "model_version, input_fingerprint, ledger_fingerprint, inputs_fingerprint, features_hash_function, error "
    "from dbt_onnx_runs",
    "view": "select * exclude (run_id, scored_at, age) from current_scores",
    "tests": "select scoring_model, test_name, generic_test, status, failures, clock from dbt_onnx_test_results",
}


@dataclass(frozen=True)
class Played:
    """The output of all runs and commands, and the rows of the tables at the end."""

    statuses: list[dict[str, str]]
    messages: list[str]
    replayed: str
    filled: str
    tables: dict[str, list[tuple[Any, ...]]]


def play(project: LakeProject) -> Played:
    """Play a first run, three nights, a promotion, a replay, a backfill, and tests on a day when scores are stale."""
    project.sql(
        "insert into facts select i, i / 2e0, 1.0, timestamp '2023-01-01' + to_days(i), null from range(40) t(i)"
    )
    outcomes = [project.night("2024-01-10")]
    project.sql("update facts set a = a + 1 where id in (3, 4)")
    outcomes.append(project.night("2024-01-11"))
    project.sql(
        "update facts set b = null where id = 5; update facts set until = '2024-01-12' where id = 6"
    )
    outcomes.append(project.night("2024-01-12"))
    project.sql("update facts set b = 2 where id = 5; update facts set until = null where id = 6")
    outcomes.append(project.night("2024-01-13"))
    project.register("2", line_model(1, 1, 1))
    outcomes.append(project.night("2024-01-14"))
    replayed = project.command("replay", "scores", "--all")
    filled = project.command(
        "backfill", "scores", "--from", "2023-01-20", "--to", "2023-01-21", "--every", "day"
    )
    outcomes.append(project.dbt("test", vars={"dbt_onnx_clock": "2024-01-20"}))
    return Played(
        statuses=[outcome.statuses() for outcome in outcomes],
        messages=[
            outcome.nodes["scores"].message for outcome in outcomes if "scores" in outcome.nodes
        ],
        replayed=replayed,
        filled=filled,
        tables={name: sorted(project.sql(query), key=repr) for name, query in TABLES.items()},
    )


@pytest.fixture(scope="module")
def in_a_file(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(LakeProject(tmp_path_factory.mktemp("file") / "project", None))


def test_the_story_itself(in_a_file: Played) -> None:
    assert in_a_file.messages == [
        "line/1: scored 40 (new 40), unchanged 0",
        "line/1: scored 2 (features_changed 2), unchanged 38",
        "line/1: scored 0, rejected 1 (features_changed 1), unchanged 38",
        "line/1: scored 1 (retry 1), unchanged 39",
        "line/2: scored 40 (model_changed 40), unchanged 0",
    ]
    *nights, late = in_a_file.statuses
    assert [
        {name: status for name, status in night.items() if status not in {"success", "pass"}}
        for night in nights
    ] == [{}, {}, {"fresh": "warn", "complete": "warn"}, {}, {}]
    assert late["fresh"] == "fail"
    assert len(in_a_file.tables["tests"]) == 6 * 4
    assert {late[name] for name in ("complete", "valid", "registered")} == {"pass"}


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_the_same_nights_leave_the_same_rows_in_a_lake(
    kind: str, lake_in: Callable[[str], Lake], in_a_file: Played, tmp_path: Any
) -> None:
    project = LakeProject(tmp_path / "project", lake_in(kind))
    played = play(project)
    assert played.messages == in_a_file.messages
    assert played.statuses == in_a_file.statuses
    for name, rows in in_a_file.tables.items():
        assert played.tables[name] == rows, name
