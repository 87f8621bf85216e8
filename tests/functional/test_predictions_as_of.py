"""`predictions_as_of`: the predictions known by a moment, and those about a moment."""

from __future__ import annotations

from typing import Any

import pytest
from consumer import Project
from hand_written import HandWritten, prediction, sources


def query(**arguments: Any) -> str:
    given = {"key": ["customer_id"], **arguments}
    listed = ", ".join(f"{name}={value!r}" for name, value in given.items())
    return f"{{{{ dbt_onnx.predictions_as_of(source('hand', 'scores'), {listed}) }}}}"


QUERIES = {
    "newest": query(),
    "said_by_noon": query(said_at="1998-02-03 12:00"),
    "said_a_second_earlier": query(said_at="1998-02-03 11:59:59"),
    # a table, so that dbt's session, which is in another zone, reads the moment
    "with_an_offset": "{{ config(materialized='table') }}"
    + query(said_at="1998-02-03T13:00:00+01:00"),
    "about_january": query(about="1998-01-31"),
    "about_january_said_by_noon": query(said_at="1998-02-03 12:00:00Z", about="1998-01-31"),
    "before_everything": query(said_at="1997-01-01"),
    "of_a_datetime": "{% set noon = modules.datetime.datetime(1998, 2, 3, 12) %}"
    + query(said_at="NOON").replace("'NOON'", "noon"),
    "hostile": query(said_at="1998-02-03' or 1=1 --"),
    "no_such_moment": query(said_at="1998-13-01", about="yesterday", key=[]),
    "no_such_key": query(key=["customer"]),
    "odd_names": """{{ dbt_onnx.predictions_as_of(source('hand', 'odd'), key=['客户 id', 'a"b']) }}""",
    "no_ledger": query().replace("scores", "not_there"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    profile = {"settings": {"TimeZone": "America/New_York"}}
    project = Project(tmp_path_factory.mktemp("as_of"), profile=profile)
    hand = HandWritten(project.warehouse)
    hand.scoring_model(
        "scores",
        [
            prediction("a", "1", churn=0.1, as_of="1998-01-01", scored_at="1998-01-01 06:00"),
            prediction("a", "1", churn=0.2, as_of="1998-02-03", scored_at="1998-02-03 12:00"),
            # an answer of a service
            prediction(
                "a",
                "1",
                churn=0.9,
                as_of="1998-02-03 11:00",
                scored_at="1998-02-03 11:00",
                score_reason="real_time",
            ),
            # made later, about an earlier moment
            prediction("a", "2", churn=0.3, as_of="1998-01-15", scored_at="1998-03-01"),
            # about the same moment, by another version
            prediction("b", "1", churn=0.4, as_of="1998-01-31", scored_at="1998-01-31"),
            prediction("b", "2", churn=0.5, as_of="1998-01-31", scored_at="1998-03-01"),
            prediction("b", "2", status="rejected", as_of="1998-03-02", scored_at="1998-03-02"),
            prediction("c", "2", status="rejected", as_of="1998-01-01", scored_at="1998-01-01"),
        ],
        [],
    )
    hand.scoring_model(
        "odd",
        [{"客户 id": 1, 'a"b': key, **prediction("")} for key in ("x", "y", "y")],
        [],
        key={"客户 id": "bigint", 'a"b': "varchar"},
    )
    hand.close()
    project.write_yaml("models/hand.yml", sources(scores=None, odd=None, not_there=None))
    for name, text in QUERIES.items():
        project.write(f"models/{name}.sql", text)
    project.dbt("run")
    return project


def test_only_wrong_arguments_fail(project: Project) -> None:
    statuses = project.outcome.statuses()
    assert {n for n, s in statuses.items() if s != "success"} == {
        "hostile",
        "no_such_moment",
        "no_such_key",
    }


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("newest", {"a": 0.2, "b": 0.5}),
        ("said_by_noon", {"a": 0.2, "b": 0.4}),
        ("of_a_datetime", {"a": 0.2, "b": 0.4}),
        ("with_an_offset", {"a": 0.2, "b": 0.4}),
        ("said_a_second_earlier", {"a": 0.1, "b": 0.4}),
        ("about_january", {"a": 0.3, "b": 0.5}),
        ("about_january_said_by_noon", {"a": 0.1, "b": 0.4}),
        ("before_everything", {}),
    ],
)
def test_what_was_said_by_then_about_then(
    project: Project, view: str, said: dict[str, float]
) -> None:
    assert dict(project.sql(f"select customer_id, churn from {view}")) == said


def test_all_columns_of_the_ledger_come_back(project: Project) -> None:
    [row] = project.rows("select * from newest where customer_id = 'b'")
    assert list(row) == [column[0] for column in project.sql("describe scores")]
    assert (row["model_version"], row["run_id"]) == ("2", "run-2")


def test_odd_and_composite_keys_are_told_apart(project: Project) -> None:
    assert sorted(project.sql('select "客户 id", "a""b" from odd_names')) == [(1, "x"), (1, "y")]


def test_there_is_an_empty_answer_before_the_first_run(project: Project) -> None:
    assert project.sql("select as_of, scored_at from no_ledger") == []


def test_a_moment_that_is_none_is_named(project: Project) -> None:
    nodes = project.outcome.nodes
    assert (
        "said_at is '1998-02-03' or 1=1 --'; it takes a date or a timestamp"
        in nodes["hostile"].message
    )
    message = nodes["no_such_moment"].message
    assert "predictions_as_of on" in message
    assert "has 3 wrong arguments" in message
    assert "about is 'yesterday'" in message
    assert "key names column 'customer'" in nodes["no_such_key"].message
