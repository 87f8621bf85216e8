"""`predictions_are_valid`: too many rejected rows, impossible values, one value for everybody."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest
from consumer import Project
from generic_tests import Case, Model, run_cases
from hand_written import prediction, run

COLUMNS = ("customer_id", "problem", "column_name", "expected", "actual", "entities")
ZERO_TO_ONE = {"column": "churn", "min": 0, "max": 1}
WITH_LABEL = {"label": "varchar", "churn": "double"}


def spread(rows: int, **given: Any) -> list[dict[str, Any]]:
    return [prediction(f"c{n:03d}", **{"churn": n / 1000, **given}) for n in range(rows)]


def impossible(key: str, actual: str | None, kind: str = "infinite") -> tuple[Any, ...]:
    return (key, f"{kind}_output", "churn", "a finite value", actual, 1)


def beyond(key: str, actual: str, expected: str = "from 0 to 1") -> tuple[Any, ...]:
    return (key, "out_of_range", "churn", expected, actual, 1)


THREE_OF_THIRTY = Model(
    "three_of_thirty",
    [
        *spread(27),
        prediction("r0", status="rejected", rejected_reason="nan:age"),
        prediction("r1", status="rejected"),
        prediction("r2", status="rejected"),
        # rejected earlier, but scored now
        prediction("c000", status="rejected", scored_at="1998-01-01"),
        # rejections by another version do not count
        *(prediction(f"c{n:03d}", "1", status="rejected") for n in range(27)),
    ],
    [run("2"), run("1", started_at="1998-01-01")],
)
IMPOSSIBLE = Model(
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
NOT_FINITE = [
    impossible("inf", "inf"),
    impossible("minus inf", "-inf"),
    impossible("nan", "nan", "nan"),
    impossible("null", None, "null"),
]
ALIKE = Model("alike", spread(100, churn=0.25, label="no"), [run("2")], outputs=WITH_LABEL)
NINETY_NINE_ALIKE = Model("ninety_nine_alike", spread(99, churn=0.25), [run("2")])
LABEL_ALIKE = Model("label_alike", spread(100, label="no"), [run("2")], outputs=WITH_LABEL)
CASES = [
    Case("a_tenth_is_tolerated", THREE_OF_THIRTY),
    Case(
        "less_is_not",
        THREE_OF_THIRTY,
        {"max_rejected_fraction": 0.0999},
        rows=[
            (key, "too_many_rejected", None, "at most 0.0999 of 30 rejected", reason, entities)
            for key, reason, entities in (
                ("r0", "nan:age (3 in all)", 1),
                ("r1", "null:recency (3 in all)", 2),
            )
        ],
    ),
    Case("not_finite", IMPOSSIBLE, rows=NOT_FINITE),
    Case(
        # NULL and NaN have no range, and infinity is reported as infinite; both bounds are allowed values
        "out_of_range",
        IMPOSSIBLE,
        ZERO_TO_ONE,
        rows=[*NOT_FINITE, beyond("over", "1.25"), beyond("under", "-0.25")],
    ),
    Case(
        "each_bound_stands_alone",
        IMPOSSIBLE,
        {"column": "churn", "min": 0},
        rows=[*NOT_FINITE, beyond("under", "-0.25", "from 0 to inf")],
    ),
    Case(
        "within_vectors",
        Model(
            "vectors",
            [
                prediction("fine", churn=[0.0, 1.0]),
                prediction("nan", churn=[0.5, nan]),
                prediction("inf", churn=[-inf, 0.5]),
                prediction("over", churn=[0.5, 2.0]),
            ],
            [run("2")],
            outputs={"churn": "float[]"},
        ),
        ZERO_TO_ONE,
        rows=[
            impossible("inf", "[-inf, 0.5]"),
            impossible("nan", "[0.5, nan]", "nan"),
            beyond("over", "[0.5, 2.0]"),
        ],
    ),
    Case(
        "constant",
        ALIKE,
        rows=[("c000", "constant_output", "churn", "different values", "0.25", 100)],
    ),
    Case("constant_is_usual", ALIKE, {"constant_from_rows": None}),
    Case("too_few", NINETY_NINE_ALIKE),
    Case(
        "asked_for",
        NINETY_NINE_ALIKE,
        {"constant_from_rows": 99},
        rows=[("c000", "constant_output", "churn", "different values", "0.25", 99)],
    ),
    Case("labels_may_be_alike", LABEL_ALIKE),
    Case(
        "unless_named",
        LABEL_ALIKE,
        {"column": "label"},
        rows=[("c000", "constant_output", "label", "different values", "no", 100)],
    ),
    Case("nothing", Model("empty", [], [])),
    Case("no_tables", Model("not_there")),
    Case(
        "odd_names",
        Model(
            "odd",
            [{"客户 id": 1, 'a"b': "x", **prediction(""), "order": nan}],
            [run("2")],
            key={"客户 id": "bigint", 'a"b': "varchar"},
            outputs={"order": "double"},
        ),
        {"key": ["客户 id", 'a"b']},
        columns=("客户 id", 'a"b', "column_name", "problem"),
        rows=[(1, "x", "order", "nan_output")],
    ),
    Case(
        "wrong",
        IMPOSSIBLE,
        {"min": 0, "max": "a", "max_rejected_fraction": "b", "constant_from_rows": 1},
        faults=(
            "predictions_are_valid on",
            "min needs column, the output to check",
            "max is 'a'; it takes a number",
            "max_rejected_fraction is b; it takes a number from 0 to 1",
            "constant_from_rows is 1; it takes a whole number from 2, or none",
        ),
    ),
    Case(
        "no_such_output",
        IMPOSSIBLE,
        {"column": "score"},
        faults=("""column is 'score'; the outputs are ["churn"]""",),
    ),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("valid"))
    return run_cases(project, "predictions_are_valid", CASES, key=["customer_id"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_returns_what_it_should(project: Project, case: Case) -> None:
    case.check(project, COLUMNS)
