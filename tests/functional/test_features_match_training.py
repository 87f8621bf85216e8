"""`features_match_training` reports how each feature has changed since training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from consumer import Project
from drift import index_of_column, reference_rows, write_references
from hand_written import CLOCK, HandWritten, generic_test, prediction, run, sources

from dbt_onnx.authoring.distributions import describe

COLUMNS = ("column_name", "problem", "expected", "actual", "threshold", "severity")
ROWS = 2_000
RANDOM_COLUMNS = 40
# limits so low that the figure of every feature is returned
JUDGE_NOTHING = {
    "warn_psi": 1e-12, "error_psi": None, "max_null_increase": 1, "max_unseen_fraction": 1,
}  # fmt: skip


def match(name: str, features: str, **arguments: Any) -> dict[str, Any]:
    return generic_test(
        "features_match_training", name, features=f"source('hand', '{features}')", **arguments
    )


def random_numbers(seed: int, rows: int, shift: float) -> list[float | None]:
    """Return numbers with ties, gaps, NULL and NaN; how many of each depends on the seed."""
    random = np.random.default_rng([seed, int(shift * 8)])
    values = random.normal(shift, 1 + seed % 3, rows)
    if seed % 3:
        values = np.round(values, seed % 3 - 1)
    if seed % 4 == 0:
        values[random.random(rows) < 0.7] = 0.0
    if seed % 5 == 0:
        values[random.random(rows) < 0.2] = np.nan
    if seed % 7 == 0:
        values[random.random(rows) < 0.05] = np.inf if shift else 9.0
    missing = random.random(rows) < 0.1 * (seed % 2)
    return [None if gone else float(value) for value, gone in zip(values, missing, strict=True)]


def random_texts(seed: int, rows: int, shift: int) -> list[str | None]:
    random = np.random.default_rng([seed, shift])
    drawn = random.zipf(1.5, rows) % (20 if seed % 2 else 400) + shift
    return [None if number % 11 == 3 else f"it's {number}" for number in drawn]


def random_tables() -> tuple[pa.Table, pa.Table]:
    training, present = {}, {}
    for seed in range(RANDOM_COLUMNS):
        training[f"n{seed}"] = pa.array(random_numbers(seed, 3_000, 0), pa.float64())
        present[f"n{seed}"] = pa.array(random_numbers(seed, ROWS, 0.25 * (seed % 4)), pa.float64())
    for seed in range(6):
        training[f"t{seed}"] = pa.array(random_texts(seed, 3_000, 0))
        present[f"t{seed}"] = pa.array(random_texts(seed, ROWS, seed % 3))
    return pa.table(training), pa.table(present)


def described(table: pa.Table) -> dict[str, Any]:
    return {
        name: describe(
            table.column(name).combine_chunks(),
            categorical=pa.types.is_boolean(table.schema.field(name).type),
        )
        for name in table.column_names
    }


def typed_tables() -> tuple[pa.Table, pa.Table, dict[str, str], dict[str, Any]]:
    """Return training, present, the SQL types of the present, and the present values as numbers or texts."""
    random = np.random.default_rng(0)
    halves = random.integers(0, 4, ROWS) / 2
    flags = random.random(ROWS) < 0.3
    days = random.integers(10_000, 10_100, ROWS)
    vectors = random.normal(0, 1, (ROWS, 3))
    training = {
        "amount": pa.array(halves * 100),
        "flag": pa.array(flags),
        "flag_as_number": pa.array(flags),
        "number_as_flag": pa.array(flags.astype(int)),
        "day": pa.array(days.astype(float)),
        "hour": pa.array(days * 24.0),
        "vector": pa.array(vectors.tolist()),
        "colour": pa.array(["red", "blue"] * (ROWS // 2)),
        "wide": pa.array(halves * 1e15),
        "small": pa.array(halves, pa.float32()),
    }
    later_flags = random.random(ROWS) < 0.5
    later_days = random.integers(10_050, 10_120, ROWS)
    later_vectors = random.normal(0.5, 1, (ROWS, 3))
    amounts = random.integers(0, 20_000, ROWS)
    colours = np.where(random.random(ROWS) < 0.8, "red", "blue")
    present = {
        "amount": pa.array(amounts),
        "flag": pa.array(later_flags),
        "flag_as_number": pa.array(later_flags.astype(int)),
        "number_as_flag": pa.array(later_flags),
        "day": pa.array(later_days),
        "hour": pa.array(later_days),
        "vector": pa.array(later_vectors.tolist()),
        "colour": pa.array(colours.tolist()),
        "wide": pa.array(amounts * 10**11),
        "small": pa.array(halves, pa.float32()),
    }
    types = {
        "amount": "decimal(12, 2)",
        "day": "date",
        "hour": "timestamptz",
        "vector": "double[3]",
        "colour": "enum ('red', 'blue')",
        "wide": "hugeint",
    }
    expected = {
        "amount": amounts / 100,
        "flag": list(later_flags),
        "flag_as_number": list(later_flags),
        "number_as_flag": later_flags.astype(int),
        "day": later_days,
        "hour": later_days * 24,
        "vector": later_vectors.ravel(),
        "colour": list(colours),
        "wide": amounts * 1e11,
        "small": halves,
    }
    return pa.table(training), pa.table(present), types, expected


def even(rows: int = ROWS) -> pa.Array:
    return pa.array(np.arange(rows) % 100 / 10)


CASES: dict[str, pa.Table] = {
    "as_trained": pa.table({"a": even(), "city": ["here", "there"] * (ROWS // 2)}),
    "zeros": pa.table({"a": pa.array(np.zeros(ROWS)), "city": ["here", "there"] * (ROWS // 2)}),
    "gone": pa.table({"a": pa.nulls(ROWS, pa.float64()), "city": ["here", "there"] * (ROWS // 2)}),
    "half_gone": pa.table(
        {
            "a": [None if n % 2 else n % 100 / 10 for n in range(ROWS)],
            "city": ["here"] * (ROWS // 2) + ["nan", "Rome", "Rome", "O'Hare"] * (ROWS // 8),
        }
    ),
    "extended": pa.table({"a": even(), "city": ["here"] * ROWS, "added": even()}),
    "renamed": pa.table({"A": even(), "city": ["here", "there"] * (ROWS // 2)}),
    "as_text": pa.table({"a": ["x"] * ROWS, "city": ["here", "there"] * (ROWS // 2)}),
    "few": pa.table({"a": pa.array(np.zeros(999)), "city": ["new"] * 999}),
    "enough": pa.table({"a": pa.array(np.zeros(1000)), "city": ["new"] * 1000}),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("drift"))
    hand = HandWritten(project.warehouse)
    for name in ("cases", "odd", "random", "typed", "without", "rare", "partly"):
        runs = [run("2"), run("1", started_at="1998-01-01"), run("3", status="error")]
        runs.append(run("0", scope="backfill", started_at="1998-04-02"))
        hand.scoring_model(name, [prediction("c1")], runs)
    hand.scoring_model("never_run", [], [])

    trained = described(CASES["as_trained"])
    nothing_known = {"a": describe(pa.nulls(10, pa.float64()))}
    rows = [
        *reference_rows("cases", features=trained),
        # of another version, and of another scoring model
        *reference_rows("cases", features={"a": describe(pa.array([7.0]))}, version="1"),
        *reference_rows("somebody", features={"a": describe(pa.array([7.0]))}),
        *reference_rows("odd", features={"o\"dd '名": trained["a"]}),
        *reference_rows("partly", features=nothing_known),
    ]
    for name, table in CASES.items():
        hand.connection.register("given", table)
        hand.connection.execute(f'create table "{name}" as select * from given')
    hand.connection.register("given", CASES["zeros"].rename_columns(["o\"dd '名", "city"]))
    hand.connection.execute("create table odd_names as select * from given")

    training, present = random_tables()
    rows += reference_rows("random", features=described(training))
    hand.connection.register("given", present)
    hand.connection.execute("create table random_present as select * from given")

    training, present, types, _ = typed_tables()
    units = {"day": "day", "hour": "hour"}
    rows += reference_rows("typed", features=described(training), time_units=units)
    hand.connection.register("given", present)
    listed = {
        name: {
            "amount": "amount / 100.0",
            "day": "date '1970-01-01' + cast(day as integer)",
            "hour": "make_timestamp(hour * 86400000000) at time zone 'UTC'",
        }.get(name, f'"{name}"')
        for name in present.column_names
    }
    casts = [
        f'cast({sql} as {types[name]}) as "{name}"' if name in types else sql
        for name, sql in listed.items()
    ]
    hand.connection.execute(f"create table typed_present as select {', '.join(casts)} from given")

    # a share of one in a thousand may be absent from a thousand rows by chance, but not from 50,000
    rare = describe(pa.array([True] + [False] * 999), categorical=True)
    rows += reference_rows("rare", features={"rare": rare})
    for count in (1_000, 50_000):
        hand.connection.execute(
            f"create table rare_{count} as select false as rare from range({count})"
        )
    write_references(hand, rows)
    hand.close()

    project.write_yaml(
        "models/hand.yml",
        sources(
            **dict.fromkeys([*CASES, "odd_names", "random_present", "typed_present"]),
            rare_1000=None,
            rare_50000=None,
            cases=[match(f"case_{name}", name) for name in CASES]
            + [
                match("only_the_city", "zeros", columns=["city"]),
                match("of_another_version", "extended", columns=["a", "added"]),
                match("only_a_warning", "zeros", error_psi=None, columns="a"),
                match(
                    "tolerated",
                    "half_gone",
                    max_null_increase=0.5,
                    max_unseen_fraction=0.5,
                    warn_psi=None,
                    error_psi=None,
                ),
                match("not_tolerated", "half_gone", max_null_increase=0.49, columns=["a"]),
                match("not_judged", "as_trained", warn_psi=None, error_psi=None),
                match("wrong", "as_trained", warn_psi=0.3, columns={}, max_null_increase=2) | {},
                match("wrong_too", "as_trained", warn_psi="a", error_psi=0, min_rows=0),
                match("unknown_column", "as_trained", columns=["b"]),
                match("no_such_relation", "not_there"),
            ],
            odd=[match("odd", "odd_names")],
            random=[match("random", "random_present", **JUDGE_NOTHING)],
            typed=[match("typed", "typed_present", **JUDGE_NOTHING)],
            rare=[match("rare_enough", "rare_1000"), match("too_rare", "rare_50000")],
            partly=[match("nothing_known", "zeros")],
            without=[match("without", "as_trained")],
            never_run=[match("never", "as_trained")],
            not_there=[match("no_tables", "as_trained")],
        ),
    )
    project.dbt("test", vars={"dbt_onnx_clock": CLOCK})
    return project


def test_each_case_has_the_status_it_should(project: Project) -> None:
    by_status: dict[str, set[str]] = {}
    for name, status in project.outcome.statuses().items():
        by_status.setdefault(status, set()).add(name)
    assert by_status["pass"] == {
        "case_as_trained",
        "case_few",
        "of_another_version",
        "only_the_city",
        "tolerated",
        "not_judged",
        "rare_enough",
        "nothing_known",
        "never",
        "no_tables",
    }, [(node.name, node.message) for node in project.outcome.nodes.values()]
    assert by_status["warn"] == {"random", "typed"}
    assert by_status["error"] == {"wrong", "wrong_too", "unknown_column", "no_such_relation"}


def test_the_indices_of_random_columns_are_those_of_numpy(project: Project) -> None:
    training, present = random_tables()
    distributions = described(training)
    expected = {
        name: index_of_column(present.column(name).to_pylist(), distributions[name])
        for name in present.column_names
    }
    found = {row["column_name"]: row for row in project.failures("random")}
    assert {row["problem"] for row in found.values()} == {"psi"}
    assert set(found) == set(expected)
    assert max(expected.values()) > 1
    for name, index in expected.items():
        assert found[name]["figure"] == pytest.approx(index, abs=1e-9), name


def test_every_type_is_counted_as_the_card_counts_it(project: Project) -> None:
    training, _, _, present = typed_tables()
    distributions = described(training)
    found = {row["column_name"]: row["figure"] for row in project.failures("typed")}
    same = {name for name in present if name not in found}
    assert same == {"small"}
    for name, figure in found.items():
        index = index_of_column(present[name], distributions[name])
        assert figure == pytest.approx(index, abs=1e-9), name


def test_a_column_of_zeros_is_found_twice_with_the_bin_that_moved_most(project: Project) -> None:
    low = "up to 0.99: "
    index = index_of_column(np.zeros(ROWS), described(CASES["as_trained"])["a"])
    zeros = project.failures("case_zeros")
    assert [tuple(row[name] for name in COLUMNS) for row in zeros] == [
        ("a", "psi", low + "0.1", low + "1.0", 0.25, "error"),
        ("a", "constant", "different values", "0.0", None, "error"),
    ]
    assert zeros[0]["figure"] == pytest.approx(index)
    assert {row["model_version"] for row in zeros} == {"2"}
    assert project.found("only_a_warning", "problem", "threshold", "severity") == [
        ("constant", None, "error"),
        ("psi", 0.1, "warn"),
    ]
    assert project.found("odd", "column_name", "problem") == [
        ("o\"dd '名", "psi"),
        ("o\"dd '名", "constant"),
    ]


def test_nulls_are_compared_also_where_nothing_else_can_be(project: Project) -> None:
    assert project.found("case_gone", *COLUMNS, "figure") == [
        ("a", "nulls", "NULL: 0.0", "NULL: 1.0", 0.05, "error", 1.0)
    ]
    assert project.found("not_tolerated", "problem", "figure", "threshold") == [
        ("nulls", 0.5, 0.49)
    ]
    # a reference without any known value cannot judge the values that are there
    assert project.outcome.nodes["nothing_known"].status == "pass"


def test_categories_that_training_did_not_have_are_named(project: Project) -> None:
    found = {row["problem"]: row for row in project.failures("case_half_gone")}
    assert set(found) == {"nulls", "psi", "unseen_categories"}
    unseen = found["unseen_categories"]
    assert tuple(unseen[name] for name in (*COLUMNS, "figure")) == (
        "city", "unseen_categories", "other values: 0.0", "Rome (500), nan (250), O'Hare (250)",
        0.01, "error", 0.5,
    )  # fmt: skip


def test_a_column_that_is_gone_or_of_another_type_is_named(project: Project) -> None:
    assert project.found("case_renamed", *COLUMNS) == [
        ("a", "missing_column", 'a column of "warehouse"."main"."renamed"', "none", None, "error")
    ]
    assert project.found("case_as_text", *COLUMNS) == [
        ("a", "wrong_type", "numbers", "VARCHAR", None, "error")
    ]


def test_from_so_many_rows_on_there_is_a_verdict(project: Project) -> None:
    assert {row[:2] for row in project.found("case_enough", *COLUMNS)} == {
        ("a", "psi"), ("a", "constant"),
        ("city", "psi"), ("city", "constant"), ("city", "unseen_categories"),
    }  # fmt: skip
    assert project.found("too_rare", *COLUMNS) == [
        ("rare", "constant", "different values", "False", None, "error")
    ]


def test_a_card_without_references_is_told(project: Project) -> None:
    assert project.found("without", *COLUMNS) == [
        (
            None, "no_reference",
            "distributions of the features in the card of churn/2, as dbt_onnx.export writes them",
            "none", None, "error",
        )
    ]  # fmt: skip


def test_wrong_arguments_are_named(project: Project) -> None:
    message = {name: node.message for name, node in project.outcome.nodes.items()}
    for fault in (
        "features_match_training on",
        "warn_psi is larger than error_psi, so nothing would ever warn",
        "max_null_increase is 2; it takes a number from 0 to 1",
        "columns must be a list of column names; got {}",
    ):
        assert fault in message["wrong"]
    for fault in (
        "warn_psi is a; it takes a number above 0, or none",
        "error_psi is 0; it takes a number above 0, or none",
        "min_rows is 0; it takes a whole number from 1",
    ):
        assert fault in message["wrong_too"]
    assert (
        """columns names 'b'; the card of churn/2 describes ["a", "city"]"""
        in (message["unknown_column"])
    )
    assert "which does not exist in the warehouse" in message["no_such_relation"]
