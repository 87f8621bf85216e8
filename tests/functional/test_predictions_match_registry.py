"""`predictions_match_registry`: the version and the artifact that the registry names, and no other."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from consumer import Project
from hand_written import CLOCK, HandWritten, claim, prediction, run, sha256_of, sources

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ("customer_id", "problem", "expected", "actual", "run_id", "rejected_reason")
EVERYONE = {"entities": "source('hand', 'everyone')"}
RUNS = [run("1", started_at="1998-01-01"), run("2")]


def match(name: str, registry: str = "registry", **arguments: Any) -> dict[str, Any]:
    given = {"key": ["customer_id"], "registry": f"source('hand', '{registry}')", **arguments}
    return claim("predictions_match_registry", name, **given)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("match"))
    for version in ("1", "2", "3"):
        project.write(f"artifacts/churn/{version}/model.onnx", version)
    project.write("artifacts/churn/4/model.onnx", "not what was registered")
    hand = HandWritten(project.warehouse)
    hand.registry("file_altered", ("4", "champion"))
    hand.registry("file_gone", ("5", "champion"))
    hand.registry("registry", ("1", None), ("2", "champion"))
    hand.registry("rolled_back", ("1", "champion"), ("2", None))
    hand.registry("promoted", ("2", None), ("3", "champion"))
    hand.registry("without", ("1", None), ("2", "challenger"))
    hand.registry("two", ("1", "champion"), ("2", "champion"))
    hand.table("entities", {"customer_id": "varchar"}, [("a",)])
    both = [prediction("a", "1"), prediction("a", "2"), prediction("b", "2")]
    hand.scoring_model("both", both, RUNS)
    hand.scoring_model(
        "behind",
        [
            prediction("a", "2"),
            prediction("b", "1"),
            prediction("b", "2", status="rejected"),
            prediction("c", "1"),
            *(prediction(f"d{n}", "2") for n in range(7)),
        ],
        RUNS,
    )
    hand.scoring_model(
        "altered",
        [
            prediction("a", "2"),
            prediction("b", "2", run_id="before"),
            prediction("c", "2", run_id="lost"),
        ],
        [*RUNS, run("2", run_id="before", artifact_sha256="ab" * 32, started_at="1998-01-01")],
    )
    everyone = ["a", "b", "c", *(f"d{n}" for n in range(7))]
    hand.table("everyone", {"customer_id": "varchar"}, [(key,) for key in everyone])
    odd_key = {"客户 id": "bigint", 'a"b': "varchar"}
    hand.table("odd_everyone", odd_key, [(1, "x")])
    hand.scoring_model("by_version_4", [prediction("a", "4")], [run("4")])
    hand.scoring_model("by_version_5", [prediction("a", "5")], [run("5")])
    hand.scoring_model("failed_only", [], [run("2", status="error")])
    hand.scoring_model(
        "odd",
        [{"客户 id": 1, 'a"b': "x", **prediction("", "1")}],
        RUNS,
        key=odd_key,
    )
    hand.close()
    project.write_yaml(
        "models/hand.yml",
        sources(
            **dict.fromkeys(("registry", "rolled_back", "promoted", "without", "two", "entities")),
            **dict.fromkeys(("file_altered", "file_gone", "everyone", "odd_everyone")),
            by_version_4=[match("altered_file", "file_altered")],
            by_version_5=[match("missing_file", "file_gone")],
            both=[
                match("matches"),
                match(
                    "matches_after_rollback", "rolled_back", entities="source('hand', 'entities')"
                ),
                match("before_the_first_run", "promoted"),
                match("nobody_serves", "without"),
                match("two_serve", "two"),
                match("wrong", "registry", key=[], entities="entities", max_earlier_fraction=7),
            ],
            behind=[
                match("behind_two", **EVERYONE),
                match("who_left_is_not_judged"),
                match("a_fifth_is_tolerated", max_earlier_fraction=0.2, **EVERYONE),
                match("less_is_not", max_earlier_fraction=0.1999, **EVERYONE),
                match("only_entities_are_judged", entities="source('hand', 'entities')"),
            ],
            altered=[match("altered_artifact")],
            failed_only=[match("never_run")],
            not_there=[match("no_tables")],
            odd=[match("odd_names", key=list(odd_key), entities="source('hand', 'odd_everyone')")],
        ),
    )
    project.dbt("test", vars={"dbt_onnx_clock": CLOCK})
    return project


def test_each_case_has_the_status_it_should(project: Project) -> None:
    statuses = project.outcome.statuses()
    assert {n for n, s in statuses.items() if s == "pass"} == {
        "matches",
        "matches_after_rollback",
        "a_fifth_is_tolerated",
        "only_entities_are_judged",
    }
    assert {n for n, s in statuses.items() if s == "error"} == {"wrong"}


def test_a_prediction_by_an_earlier_version_is_found_and_says_if_it_was_rejected(
    project: Project,
) -> None:
    rows = [
        ("b", "earlier_version", "2", "1", "run-1", "null:recency"),
        ("c", "earlier_version", "2", "1", "run-1", None),
    ]
    assert project.found("behind_two", *COLUMNS) == rows
    assert project.found("less_is_not", *COLUMNS) == rows


def test_a_promotion_is_seen_before_the_next_run(project: Project) -> None:
    assert project.found("before_the_first_run", *COLUMNS[:4]) == [
        ("a", "earlier_version", "3", "2"),
        ("b", "earlier_version", "3", "2"),
    ]


def test_an_artifact_that_was_replaced_under_its_version_is_found(project: Project) -> None:
    assert project.found("altered_artifact", *COLUMNS[:5]) == [
        ("b", "another_artifact", sha256_of("2"), "ab" * 32, "before"),
        ("c", "another_artifact", sha256_of("2"), None, "lost"),
    ]


def test_the_registry_must_name_one_serving_version(project: Project) -> None:
    assert project.found("nobody_serves", *COLUMNS[:4]) == [
        (None, "no_serving_version", "churn@champion", None)
    ]
    assert project.found("two_serve", "problem", "expected", "actual") == [
        ("two_serving_versions", "churn@champion", "1, 2")
    ]


def test_a_file_that_is_gone_or_has_other_bytes_is_found(project: Project) -> None:
    other = hashlib.sha256(b"not what was registered").hexdigest()
    expected = "artifacts/churn/{0}/model.onnx with sha256 {1}"
    columns = ("customer_id", "problem", "expected", "actual", "model_version")
    assert project.found("altered_file", *columns) == [
        (None, "artifact_altered", expected.format("4", sha256_of("4")), other, "4")
    ]
    assert project.found("missing_file", *columns) == [
        (None, "artifact_missing", expected.format("5", sha256_of("5")), None, "5")
    ]


def test_a_warehouse_that_is_closed_to_files_is_judged_by_its_runs(tmp_path: Path) -> None:
    project = Project(tmp_path / "hard", profile={"settings": {"enable_external_access": "false"}})
    hand = HandWritten(project.warehouse)
    hand.registry("file_gone", ("5", "champion"))
    hand.scoring_model("by_version_5", [prediction("a", "5")], [run("5")])
    hand.close()
    project.write_yaml(
        "models/hand.yml", sources(file_gone=None, by_version_5=[match("judged", "file_gone")])
    )
    project.dbt("test", vars={"dbt_onnx_clock": CLOCK})
    assert project.outcome.statuses() == {"judged": "pass"}


def test_no_successful_run_is_a_finding(project: Project) -> None:
    for test in ("never_run", "no_tables"):
        assert project.found(test, "customer_id", "problem") == [(None, "no_successful_run")]


def test_odd_and_composite_keys_are_returned(project: Project) -> None:
    columns = ("客户 id", 'a"b', "problem")
    assert project.found("odd_names", *columns) == [(1, "x", "earlier_version")]


def test_wrong_arguments_are_named(project: Project) -> None:
    message = project.outcome.nodes["wrong"].message
    for fault in (
        "predictions_match_registry on",
        "has 3 wrong arguments",
        "key must be a list of column names; got []",
        'entities is "entities"; it takes a relation',
        "max_earlier_fraction is 7;",
    ):
        assert fault in message
