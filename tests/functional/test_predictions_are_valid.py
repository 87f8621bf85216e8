"""`predictions_are_valid`: too many rejected, impossible values, one value for everybody."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
from consumer import Project
from hand_written import CLOCK, HandWritten, claim, prediction, run, sources

COLUMNS = ("customer_id", "problem", "column_name", "expected", "actual", "entities")


def valid(name: str, **arguments: Any) -> dict[str, Any]:
    return claim("predictions_are_valid", name, **{"key": ["customer_id"], **arguments})


def spread(rows: int, **given: Any) -> list[dict[str, Any]]:
    return [prediction(f"c{n:03d}", **{"churn": n / 1000, **given}) for n in range(rows)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("valid"))
    hand = HandWritten(project.warehouse)
    rejected = [
        prediction("r0", status="rejected", rejected_reason="nan:age"),
        prediction("r1", status="rejected"),
        prediction("r2", status="rejected"),
        # rejected before it was scored: scored now
        prediction("c000", status="rejected", scored_at="1998-01-01"),
        # another version's rejections are not this one's
        *(prediction(f"c{n:03d}", "1", status="rejected") for n in range(27)),
    ]
    hand.scoring_model(
        "three_of_thirty", spread(27) + rejected, [run("2"), run("1", started_at="1998-01-01")]
    )
    hand.scoring_model(
        "impossible",
        [
            prediction("fine", churn=1.0),
            prediction("inf", churn=inf),
            prediction("minus inf", churn=-inf),
            prediction("nan", churn=nan),
            prediction("null", churn=None),
            prediction("over", churn=1.25),
            prediction("under", churn=-0.25),
            prediction("earlier", "1", churn=nan),
        ],
        [run("2")],
    )
    hand.scoring_model(
        "vectors",
        [
            prediction("fine", churn=[0.0, 1.0]),
            prediction("nan", churn=[0.5, nan]),
            prediction("inf", churn=[-inf, 0.5]),
            prediction("over", churn=[0.5, 2.0]),
        ],
        [run("2")],
        outputs={"churn": "float[]"},
    )
    outputs = {"label": "varchar", "churn": "double"}
    hand.scoring_model(
        "hundred_alike", spread(100, churn=0.25, label="no"), [run("2")], outputs=outputs
    )
    hand.scoring_model("ninety_nine_alike", spread(99, churn=0.25), [run("2")])
    hand.scoring_model("label_alike", spread(100, label="no"), [run("2")], outputs=outputs)
    hand.scoring_model("empty", [], [])
    hand.scoring_model(
        "odd",
        [{"客户 id": 1, 'a"b': "x", **prediction(""), "order": nan}],
        [run("2")],
        key={"客户 id": "bigint", 'a"b': "varchar"},
        outputs={"order": "double"},
    )
    hand.close()
    zero_to_one = {"column": "churn", "min": 0, "max": 1}
    project.write_yaml(
        "models/hand.yml",
        sources(
            three_of_thirty=[
                valid("a_tenth_is_tolerated"),
                valid("less_is_not", max_rejected_fraction=0.0999),
            ],
            impossible=[
                valid("not_finite"),
                valid("out_of_range", **zero_to_one),
                valid("below", column="churn", min=0),
                valid("wrong", min=0, max="a", max_rejected_fraction="b", constant_from_rows=1),
                valid("no_such_output", column="score"),
            ],
            vectors=[valid("within_vectors", **zero_to_one)],
            hundred_alike=[valid("constant"), valid("constant_is_usual", constant_from_rows=None)],
            ninety_nine_alike=[valid("too_few"), valid("asked_for", constant_from_rows=99)],
            label_alike=[valid("labels_may_be_alike"), valid("unless_named", column="label")],
            empty=[valid("nothing")],
            not_there=[valid("no_tables")],
            odd=[valid("odd_names", key=["客户 id", 'a"b'])],
        ),
    )
    project.dbt("test", vars={"dbt_onnx_clock": CLOCK})
    return project


def test_each_case_has_the_status_it_should(project: Project) -> None:
    by_status: dict[str, set[str]] = {}
    for name, status in project.outcome.statuses().items():
        by_status.setdefault(status, set()).add(name)
    assert by_status["pass"] == {
        "a_tenth_is_tolerated",
        "constant_is_usual",
        "too_few",
        "labels_may_be_alike",
        "nothing",
        "no_tables",
    }
    assert by_status["error"] == {"wrong", "no_such_output"}


def test_rejections_are_counted_per_reason_with_an_example(project: Project) -> None:
    expected = "at most 0.0999 of 30 rejected"
    assert sorted(project.found("less_is_not", *COLUMNS)) == [
        ("r0", "too_many_rejected", None, expected, "nan:age (3 in all)", 1),
        ("r1", "too_many_rejected", None, expected, "null:recency (3 in all)", 2),
    ]


def test_null_nan_and_infinity_are_found_row_by_row(project: Project) -> None:
    assert sorted(project.found("not_finite", *COLUMNS)) == [
        ("inf", "infinite_output", "churn", "a finite value", "inf", 1),
        ("minus inf", "infinite_output", "churn", "a finite value", "-inf", 1),
        ("nan", "nan_output", "churn", "a finite value", "nan", 1),
        ("null", "null_output", "churn", "a finite value", None, 1),
    ]


def test_the_range_is_inclusive_and_each_bound_stands_alone(project: Project) -> None:
    def out_of_range(test: str) -> list[tuple[Any, ...]]:
        return [row for row in project.found(test, *COLUMNS) if row[1] == "out_of_range"]

    assert out_of_range("out_of_range") == [
        ("over", "out_of_range", "churn", "from 0 to 1", "1.25", 1),
        ("under", "out_of_range", "churn", "from 0 to 1", "-0.25", 1),
    ]
    assert out_of_range("below") == [
        ("under", "out_of_range", "churn", "from 0 to inf", "-0.25", 1)
    ]


def test_vectors_are_looked_into(project: Project) -> None:
    assert sorted(project.found("within_vectors", "customer_id", "problem", "actual")) == [
        ("inf", "infinite_output", "[-inf, 0.5]"),
        ("nan", "nan_output", "[0.5, nan]"),
        ("over", "out_of_range", "[0.5, 2.0]"),
    ]


def test_one_value_for_everybody_is_found_from_so_many_rows(project: Project) -> None:
    assert project.found("constant", *COLUMNS) == [
        ("c000", "constant_output", "churn", "different values", "0.25", 100)
    ]
    assert project.found("asked_for", "problem", "entities") == [("constant_output", 99)]
    assert project.found("unless_named", "column_name", "actual") == [("label", "no")]


def test_odd_names_are_returned(project: Project) -> None:
    columns = ("客户 id", 'a"b', "column_name", "problem")
    assert project.found("odd_names", *columns) == [(1, "x", "order", "nan_output")]


def test_wrong_arguments_are_named(project: Project) -> None:
    message = project.outcome.nodes["wrong"].message
    for fault in (
        "predictions_are_valid on",
        "min is given and column is not",
        "max is 'a'; it takes a number",
        "max_rejected_fraction is b; it takes a number from 0 to 1",
        "constant_from_rows is 1; it takes a whole number from 2, or none",
    ):
        assert fault in message
    unknown = project.outcome.nodes["no_such_output"].message
    assert """column is 'score'; the outputs are ["churn"]""" in unknown
