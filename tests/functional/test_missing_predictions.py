"""`missing_predictions`: which entities have no prediction, why, and since when."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from consumer import Project
from hand_written import CLOCK, HandWritten, prediction, run, sources

NOW = datetime.fromisoformat(CLOCK)
DAY = timedelta(days=1)


def query(**arguments: str) -> str:
    given = {"entities": "source('hand', 'customers')", "key": "['customer_id']", **arguments}
    listed = ", ".join(f"{name}={value}" for name, value in given.items())
    return f"{{{{ dbt_onnx.missing_predictions(source('hand', 'scores'), {listed}) }}}}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("missing"))
    hand = HandWritten(project.warehouse)
    hand.registry("registry", ("1", "champion"), ("2", None))
    hand.table(
        "customers",
        {"customer_id": "varchar", "first_seen": "date"},
        [
            ("scored", "1998-01-01"),
            ("scored by 2", "1998-01-01"),
            ("rejected", "1998-03-30"),
            ("new", "1998-03-31"),
            ("new", "1998-04-01"),
            ("to come", "1998-04-02"),
            (None, "1998-03-31"),
        ],
    )
    hand.scoring_model(
        "scores",
        [
            prediction("scored", "1"),
            prediction("scored by 2", "2"),
            prediction(
                "rejected", "1", status="rejected", rejected_reason="nan:age", scored_at=NOW
            ),
            prediction("rejected", "2", status="rejected", scored_at=NOW - DAY),
            prediction("no customer", "1"),
        ],
        [run("1")],
    )
    hand.close()
    tables = ("scores", "customers", "registry", "not_there")
    project.write_yaml("models/hand.yml", sources(**dict.fromkeys(tables)))
    for name, text in {
        "missing": query(),
        "missing_since": query(entity_since="'first_seen'"),
        "missing_to_serve": query(registry="source('hand', 'registry')"),
        "missing_before_the_first_run": query().replace("'scores'", "'not_there'"),
        "wrong": query(key="['customer']", entity_since="'born'"),
        "wrong_kinds": query(key="none", entity_since="7", entities="'customers'"),
    }.items():
        project.write(f"models/{name}.sql", text)
    project.dbt("run", vars={"dbt_onnx_clock": CLOCK})
    return project


def missing(project: Project, view: str, *columns: str) -> dict[Any, Any]:
    rows = project.sql(f"select customer_id, {', '.join(columns)} from {view}")
    return {row[0]: row[1:] for row in rows}


def test_the_missing_the_rejected_and_the_unscorable_are_told_apart(project: Project) -> None:
    nobody = (None, None, None, None, None, None)
    assert project.outcome.nodes["missing"].status == "success"
    assert missing(
        project,
        "missing",
        "problem, rejected_reason, rejected_as_of, rejected_at, model_version, waiting_since, waiting",
    ) == {
        "new": ("missing", *nobody),
        "to come": ("missing", *nobody),
        "rejected": ("rejected", "nan:age", NOW, NOW, "1", None, None),
        None: ("null_key", *nobody),
    }


def test_waiting_counts_from_the_earliest_moment_of_the_entity(project: Project) -> None:
    assert missing(project, "missing_since", "waiting_since", "waiting") == {
        "new": (datetime(1998, 3, 31), timedelta(days=1, hours=12)),
        "to come": (datetime(1998, 4, 2), timedelta(0)),
        "rejected": (datetime(1998, 3, 30), timedelta(days=2, hours=12)),
        None: (datetime(1998, 3, 31), timedelta(days=1, hours=12)),
    }


def test_with_a_registry_it_agrees_with_what_is_served(project: Project) -> None:
    assert set(missing(project, "missing_to_serve", "problem")) == {
        "new", "to come", "rejected", None, "scored by 2",
    }  # fmt: skip


def test_everybody_is_missing_before_the_first_run(project: Project) -> None:
    assert project.sql("select count(*) from missing_before_the_first_run") == [(6,)]


def test_wrong_arguments_are_named(project: Project) -> None:
    message = project.outcome.nodes["wrong"].message
    assert 'missing_predictions on "warehouse"."main"."scores" has 3 wrong arguments' in message
    assert "entity_since names column 'born'" in message
    kinds = project.outcome.nodes["wrong_kinds"].message
    for fault in (
        "key must be a list of column names; got null",
        "entity_since is 7;",
        'entities is "customers";',
    ):
        assert fault in kinds
