"""`prediction_outcomes` and `prediction_calibration`: which rows count, and the figures compared with scikit-learn."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pytest
from consumer import Project
from hand_written import CLOCK, HandWritten, prediction, run, sources
from hardening import connect
from nightly_history import KEY, OUTPUT, Entity, Ledger, World, load, moment, play, rows_of
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    roc_auc_score,
    root_mean_squared_error,
)

from dbt_onnx.engines.duckdb.identifiers import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ODD_KEY = list(KEY)
ODD_OUTCOME = 'chur"ned'
NIGHTS = 50
# version per night, over two months: promoted and rolled back, with three nights that have no run
VERSIONS = [None if n in {7, 8, 30} else "2" if 12 <= n < 36 else "1" for n in range(NIGHTS)]
KNOWN_AFTER = timedelta(days=30)
OUTCOMES = {
    **KEY,
    ODD_OUTCOME: "boolean",
    "amount": "decimal(12, 2)",
    "day": "date",
    "known at": "timestamptz",
}
AS_OF = {"made_at": "as_of"}


def query(macro: str = "outcomes", outcomes: str = "happened", **given: Any) -> str:
    arguments = {
        "key": ["customer_id"],
        "column": "churn",
        "outcome": "churned",
        "known_at": "known_at",
        **given,
    }
    predictions = arguments.pop("predictions", "scores")
    listed = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    name = {"outcomes": "prediction_outcomes", "calibration": "prediction_calibration"}[macro]
    return f"{{{{ dbt_onnx.{name}(source('hand', '{predictions}'), source('hand', '{outcomes}'), {listed}) }}}}"


def odd(macro: str = "outcomes", predictions: str = "odd", **given: Any) -> str:
    arguments = {"key": ODD_KEY, "column": OUTPUT, "outcome": ODD_OUTCOME, "as_of": "day"}
    arguments |= {"known_at": "known at", "predictions": predictions, **given}
    return query(macro, "odd_happened", **arguments)


QUERIES = {
    "history": odd(),
    "history_replayed": odd(**AS_OF),
    "version_2": odd(version="2"),
    "spending": odd(outcome="amount", task="regression"),
    "bins": odd("calibration"),
    "three_bins": odd("calibration", bins=3),
    "in_float": odd(predictions="odd_float"),
    "amount_as_label": odd(outcome="amount"),
    "events": query(),
    "events_replayed": query(**AS_OF),
    "spelled_out": query(as_of="about"),
    "spelled_out_replayed": query(as_of="about", **AS_OF),
    "no_ledger": query(predictions="not_there"),
    "wrong_words": query(task="ranking", made_at="known_at", version=2, outcome=1, key=[]),
    "wrong_columns": query(outcome="chrned", known_at="known", as_of="customer_id", column="chrn"),
    "text": query(column="note", outcome="note"),
    "amounts_of_text": query(task="regression", outcome="is_member"),
    "wrong_bins": query("calibration", bins=0),
    "not_relations": "{{ dbt_onnx.prediction_outcomes('scores', 7, key=['a'], column='churn', "
    "outcome='churned', known_at='known_at') }}",
}
REFUSED = {
    "wrong_words", "wrong_columns", "text", "amounts_of_text", "wrong_bins", "not_relations",
}  # fmt: skip


def about(day: str, key: str, version: str = "1", **given: Any) -> dict[str, Any]:
    """Return a prediction made at six in the morning of the day that it is about."""
    moments = {"as_of": f"1998-{day}", "scored_at": f"1998-{day} 06:00"}
    return prediction(key, version, **{**moments, **given})


def ran(day: str, version: str = "1", **given: Any) -> dict[str, Any]:
    moments = {"as_of": f"1998-{day}", "started_at": f"1998-{day} 06:00"}
    return run(version, **{"run_id": f"run-{day}", **moments, **given})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    # dbt's session is in another zone; times are UTC nevertheless
    profile = {"settings": {"TimeZone": "America/New_York"}}
    project = Project(tmp_path_factory.mktemp("outcomes"), profile=profile)
    hand = HandWritten(project.warehouse)
    hand.scoring_model("scores", [], [], outputs={"churn": "double", "note": "varchar"})
    hand.table(
        "happened",
        {
            "customer_id": "varchar", "churned": "tinyint", "about": "timestamp",
            "known_at": "timestamp", "note": "varchar", "is_member": "boolean",
        },
        [],
    )  # fmt: skip
    hand.scoring_model("odd", [], [], key=KEY, outputs={OUTPUT: "double", "label": "integer"})
    hand.scoring_model("odd_float", [], [], key=KEY, outputs={OUTPUT: "float", "label": "integer"})
    hand.table("odd_happened", OUTCOMES, [])
    hand.close()
    tables = ("scores", "happened", "odd", "odd_float", "odd_happened", "not_there")
    project.write_yaml("models/hand.yml", sources(**dict.fromkeys(tables)))
    for name, text in QUERIES.items():
        project.write(f"models/{name}.sql", text)
    project.dbt("run", vars={"dbt_onnx_clock": CLOCK})
    return project


@pytest.fixture(scope="module")
def warehouse(project: Project) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(project.warehouse, project.config) as connection:
        connection.execute("set TimeZone = 'Asia/Tokyo'")
        yield connection


def happened(warehouse: duckdb.DuckDBPyConnection, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Replace the outcomes; known_at is in UTC, without a zone."""
    warehouse.execute(f"delete from {table}")
    if rows:
        warehouse.execute("set TimeZone = 'UTC'")
        marks = ", ".join("?" for _ in rows[0])
        warehouse.begin()
        warehouse.executemany(f"insert into {table} values ({marks})", rows)
        warehouse.commit()
        warehouse.execute("set TimeZone = 'Asia/Tokyo'")


def scored(values: list[float]) -> Ledger:
    """Return one prediction per entity (0, 'x'), (1, 'x'), ..., made in time, without a run."""
    stamps: dict[str, Any] = {
        "status": "scored",
        "model_name": "churn",
        "model_version": "1",
        "run_id": "r",
    }
    stamps |= {"as_of": moment(0), "scored_at": moment(0), "label": 0}
    rows = [{ODD_KEY[0]: i, ODD_KEY[1]: "x", OUTPUT: v, **stamps} for i, v in enumerate(values)]
    return Ledger(rows=rows)


def labelled(labels: list[Any], *, amounts: list[Any] | None = None) -> list[tuple[Any, ...]]:
    day, known = moment(0).date(), moment(0) + KNOWN_AFTER
    amounts = amounts or [0] * len(labels)
    return [
        (i, "x", label, amount, day, known)
        for i, (label, amount) in enumerate(zip(labels, amounts, strict=True))
    ]


def judged_in_python(
    ledger: Ledger, outcomes: Mapping[tuple[Entity, int], bool | None], version: str | None = None
) -> dict[Any, list[tuple[bool, float]]]:
    """Return (outcome, value in force on the night of the outcome) by version and month."""
    groups: dict[Any, list[tuple[bool, float]]] = {}
    for (entity, night), label in outcomes.items():
        nights = [
            n for n, says in ledger.last_good.items()
            if n <= night and (version is None or VERSIONS[n] == version) and says is not None
        ]  # fmt: skip
        alone = version is not None and night > max(
            n for n in ledger.last_good if VERSIONS[n] == version
        )
        said = ledger.last_good[max(nights)].get(entity) if nights and not alone else None
        if said is not None and label is not None:
            month = moment(night).date().replace(day=1)
            groups.setdefault((said[0], month), []).append((label, said[1]))
    return groups


def check(rows: list[dict[str, Any]], groups: dict[Any, list[tuple[bool, float]]]) -> None:
    assert {(row["model_version"], row["month"]) for row in rows} == groups.keys()
    assert len(rows) == len(groups)
    for row in rows:
        labels, values = (
            np.array(c) for c in zip(*groups[row["model_version"], row["month"]], strict=True)
        )
        assert row["model_name"] == "churn"
        check_figures(row, labels, values)


def check_figures(row: dict[str, Any], labels: np.ndarray, values: np.ndarray) -> None:
    assert (row["rows"], row["positives"]) == (len(labels), int(labels.sum()))
    figures = {
        "auc": roc_auc_score(labels, values) if 0 < labels.sum() < len(labels) else None,
        "log_loss": log_loss(labels, values, labels=[0, 1]),
        "brier_score": brier_score_loss(labels, values, labels=[0, 1], pos_label=1),
    }
    for name, value in figures.items():
        assert row[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


@pytest.mark.parametrize("seed", range(4))
def test_histories_are_judged_as_scikit_learn_judges_them(
    seed: int, warehouse: duckdb.DuckDBPyConnection
) -> None:
    rng = random.Random(seed)
    world = World.make(rng, entities=(1, 12)[seed % 2], nights=NIGHTS)
    ledger = play(rng, world, VERSIONS)
    outcomes = {
        (entity, night): rng.choice([True, False, None])
        for entity in world.entities
        for night in range(-3, NIGHTS)
        if rng.random() < 0.5
    }
    load(warehouse, "odd", ledger)
    happened(
        warehouse,
        "odd_happened",
        [
            (*entity, label, 0, moment(night).date(), moment(night) + KNOWN_AFTER)
            for (entity, night), label in outcomes.items()
        ],
    )
    groups = judged_in_python(ledger, outcomes)
    check(rows_of(warehouse, "from history"), groups)
    check(rows_of(warehouse, "from history_replayed"), groups)
    check(rows_of(warehouse, "from version_2"), judged_in_python(ledger, outcomes, "2"))

    # predictions made a year later: none was made in time; with a replay by as_of, the figures are the same
    for table in ("odd set scored_at = scored_at", "dbt_onnx_runs set started_at = started_at"):
        warehouse.execute(f"update {table} + interval '1' year")
    assert rows_of(warehouse, "from history") == []
    check(rows_of(warehouse, "from history_replayed"), groups)


def random_labels(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.random(rows) < 0.3


def values_of_all_kinds(rng: np.random.Generator, rows: int) -> np.ndarray:
    values = rng.random(rows)
    values[: rows // 3] = values[: rows // 3].round(1)  # ties, edges of bins, 0 and 1
    values[:4] = [0.0, 1.0, 3 * (1 / 10), 0.3]
    return rng.permutation(values)


@pytest.mark.parametrize(
    "make", [values_of_all_kinds, lambda rng, rows: rng.integers(0, 2, rows) * 1.0]
)
@pytest.mark.parametrize("rows", [5, 400])
def test_figures_and_bins_are_those_of_scikit_learn(
    make: Callable[[np.random.Generator, int], np.ndarray],
    rows: int,
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    rng = np.random.default_rng(rows)
    labels, values = random_labels(rng, rows), make(rng, rows)
    load(warehouse, "odd", scored(values.tolist()))
    happened(warehouse, "odd_happened", labelled(labels.tolist()))
    [row] = rows_of(warehouse, "from history")
    check_figures(row, labels, values)
    for view, bins in (("bins", 10), ("three_bins", 3)):
        found = rows_of(warehouse, f"from {view} order by bin asc nulls last")
        shares, means = calibration_curve(labels, values, n_bins=bins, strategy="uniform")
        assert [bin_["share_positive"] for bin_ in found] == pytest.approx(shares, abs=1e-9)
        assert [bin_["mean_prediction"] for bin_ in found] == pytest.approx(means, abs=1e-9)
        assert sum(bin_["rows"] for bin_ in found) == rows
        assert sum(bin_["positives"] for bin_ in found) == labels.sum()
        for bin_ in found:
            assert bin_["bin_to"] - bin_["bin_from"] == pytest.approx(1 / bins)
            assert bin_["bin_from"] <= bin_["mean_prediction"] <= bin_["bin_to"]


def test_the_loss_of_a_certain_mistake_depends_on_the_outputs_type_as_in_scikit_learn(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    values, labels = [1.0, 0.0, 0.5, 1.0], [False, True, True, True]
    happened(warehouse, "odd_happened", labelled(labels))
    for table, view, kind in (
        ("odd", "history", np.float64),
        ("odd_float", "in_float", np.float32),
    ):
        load(warehouse, table, scored(values))
        [row] = rows_of(warehouse, f"from {view}")
        expected = log_loss(labels, np.array(values, dtype=kind))
        assert row["log_loss"] == pytest.approx(expected, rel=1e-9 if kind is np.float64 else 1e-6)
    assert expected < 10  # clipped to the precision of a float32


def test_scores_that_are_no_probabilities_have_an_auc_only(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    load(warehouse, "odd", scored([-3.0, 0.2, 7.0, 1.0]))
    happened(warehouse, "odd_happened", labelled([False, True, True, False]))
    [row] = rows_of(warehouse, "from history")
    assert (row["auc"], row["log_loss"], row["brier_score"]) == (0.75, None, None)
    assert [(b["bin"], b["bin_to"], b["rows"]) for b in rows_of(warehouse, "from bins order by bin asc nulls last")] == [
        (2, pytest.approx(0.2), 1), (10, 1.0, 1), (None, None, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("label", [True, False])
def test_one_class_has_no_auc(label: bool, warehouse: duckdb.DuckDBPyConnection) -> None:
    load(warehouse, "odd", scored([0.25, 0.5]))
    happened(warehouse, "odd_happened", labelled([label, label]))
    [row] = rows_of(warehouse, "from history")
    check_figures(row, np.array([label, label]), np.array([0.25, 0.5]))
    assert row["auc"] is None


def test_regressions_are_judged_as_scikit_learn_judges_them(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    rng = np.random.default_rng(1)
    values, amounts = rng.normal(50, 30, 300), rng.gamma(2, 30, 300).round(2)
    load(warehouse, "odd", scored(values.tolist()))
    happened(
        warehouse,
        "odd_happened",
        [
            *labelled([None] * 300, amounts=amounts.tolist()),
            (300, "x", True, None, *labelled([0])[0][4:]),
        ],
    )
    [row] = rows_of(warehouse, "from spending")
    assert row == {
        "model_name": "churn",
        "model_version": "1",
        "month": date(1998, 1, 1),
        "rows": 300,
        "mean_absolute_error": pytest.approx(mean_absolute_error(amounts, values), rel=1e-9),
        "root_mean_squared_error": pytest.approx(
            root_mean_squared_error(amounts, values), rel=1e-9
        ),
    }


def test_nothing_known_has_no_figures(warehouse: duckdb.DuckDBPyConnection) -> None:
    load(warehouse, "odd", scored([0.5]))
    clock = datetime.fromisoformat(CLOCK)
    for rows in (
        [],
        labelled([None]),
        [(0, "x", True, 0, date(1998, 1, 1), clock + timedelta(seconds=1))],
    ):
        happened(warehouse, "odd_happened", rows)
        for view in ("history", "bins", "history_replayed"):
            assert rows_of(warehouse, f"from {view}") == []
    # known at the very second of the clock
    happened(warehouse, "odd_happened", [(0, "x", True, 0, date(1998, 1, 1), clock)])
    assert len(rows_of(warehouse, "from history")) == 1
    load(warehouse, "odd", Ledger())
    assert rows_of(warehouse, "from history") == []
    assert rows_of(warehouse, "from no_ledger") == []


def test_two_outcomes_of_one_key_and_moment_are_an_error(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    load(warehouse, "odd", scored([0.5]))
    happened(warehouse, "odd_happened", [*labelled([True]), *labelled([False])])
    with pytest.raises(
        duckdb.InvalidInputException, match="more than one outcome for the same key and day"
    ):
        rows_of(warehouse, "from history")
    with pytest.raises(duckdb.InvalidInputException, match="more than one outcome"):
        rows_of(warehouse, "from spending")
    # an outcome that is not known does not count
    happened(warehouse, "odd_happened", [*labelled([True]), *labelled([None])])
    assert [row["rows"] for row in rows_of(warehouse, "from history")] == [1]


def test_an_outcome_that_is_neither_0_nor_1_is_an_error(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    load(warehouse, "odd", scored([0.5]))
    happened(warehouse, "odd_happened", labelled([None], amounts=[2]))
    with pytest.raises(
        duckdb.InvalidInputException, match="takes 0 and 1 for a classification; it has 2"
    ):
        rows_of(warehouse, "from amount_as_label")
    happened(warehouse, "odd_happened", labelled([None], amounts=[1]))
    assert [row["positives"] for row in rows_of(warehouse, "from amount_as_label")] == [1]


def counted(warehouse: duckdb.DuckDBPyConnection, view: str) -> list[tuple[Any, ...]]:
    """Return version, month, row count and the prediction that was used, computed from its Brier score (p - 1)²."""
    return warehouse.execute(
        f"select model_version, month(month), rows, round(1 - sqrt(brier_score), 9) from {view} order by all asc nulls last"
    ).fetchall()


def write(
    warehouse: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], runs: list[dict[str, Any]]
) -> None:
    warehouse.execute("delete from scores")
    warehouse.execute("delete from dbt_onnx_runs where scoring_model = 'scores'")
    for table, written in (
        ("scores", rows),
        ("dbt_onnx_runs", [{**r, "scoring_model": "scores"} for r in runs]),
    ):
        for row in written:
            given = {k: v for k, v in row.items() if k != "label"}
            listed = ", ".join(quote(name) for name in given)
            marks = ", ".join("?" for _ in given)
            warehouse.execute(
                f"insert into {table} ({listed}) values ({marks})", list(given.values())
            )


def test_only_what_was_said_before_the_outcome_counts_on_both_clocks(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    write(
        warehouse,
        [
            about("01-10", "a", churn=0.1),
            # about the moment at which the outcome became known, and about a later one
            about("02-01", "a", churn=0.2),
            about("02-02", "a", churn=0.3),
            # about an earlier moment, but made afterwards: a backfill hides no earlier prediction
            about("01-20", "a", churn=0.4, scored_at="1998-03-01"),
            # the only prediction, made at the very moment at which the outcome became known
            about("01-10", "b", churn=0.5, scored_at="1998-02-01"),
            # a rejection leaves the last good prediction in force
            about("01-10", "c", churn=0.6),
            about("01-20", "c", status="rejected"),
        ],
        [ran("01-10"), ran("01-20")],
    )
    for key, taken, replayed in (
        ("a", [("1", 1, 1, 0.1)], [("1", 1, 1, 0.4)]),
        ("b", [], [("1", 1, 1, 0.5)]),
        ("c", [("1", 1, 1, 0.6)], [("1", 1, 1, 0.6)]),
        ("nobody", [], []),
    ):
        happened(warehouse, "happened", [(key, 1, None, datetime(1998, 2, 1), "", True)])
        assert counted(warehouse, "events") == taken
        assert counted(warehouse, "events_replayed") == replayed


def test_the_version_in_force_at_the_time_is_judged(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    write(
        warehouse,
        [
            about("01-05", "a", churn=0.1),
            about("01-10", "a", "2", churn=0.2),
            # a backfill by another version is never in force
            about("01-11", "a", "3", churn=0.3, scored_at="1998-01-12"),
        ],
        [
            ran("01-05"),
            ran("01-10", "2"),
            ran("01-11", "3", scope="backfill", started_at="1998-01-12"),
            ran("01-15", "1"),  # rolled back: nothing had to be scored
            ran("01-16", "9", status="error"),
        ],
    )
    for day, taken in (
        (7, ("1", 0.1)),
        (10, ("2", 0.2)),
        (14, ("2", 0.2)),
        (15, ("1", 0.1)),
        (31, ("1", 0.1)),
    ):
        happened(
            warehouse,
            "happened",
            [("a", 1, datetime(1998, 1, day), datetime(1998, 3, 1), "", True)],
        )
        expected = [(taken[0], 1, 1, taken[1])]
        assert counted(warehouse, "spelled_out") == expected, day
        assert counted(warehouse, "spelled_out_replayed") == expected, day
    # now the run of version 2 came after the outcome was known, so version 2 was not in force in time
    warehouse.execute(
        "update dbt_onnx_runs set started_at = '1998-04-01' where model_version = '2'"
    )
    happened(
        warehouse, "happened", [("a", 1, datetime(1998, 1, 12), datetime(1998, 3, 1), "", True)]
    )
    assert counted(warehouse, "spelled_out") == [("1", 1, 1, 0.1)]


def test_an_outcome_is_of_the_month_that_it_is_about(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    write(warehouse, [about("01-31", "a", churn=0.1)], [ran("01-31")])
    happened(
        warehouse, "happened", [("a", 1, datetime(1998, 2, 1), datetime(1998, 3, 1), "", True)]
    )
    assert counted(warehouse, "spelled_out") == [("1", 2, 1, 0.1)]
    # these outcomes have no as_of, so the month is that of the prediction
    assert counted(warehouse, "events") == [("1", 1, 1, 0.1)]


def test_only_wrong_arguments_fail(project: Project) -> None:
    statuses = project.outcome.statuses()
    assert {name for name, status in statuses.items() if status != "success"} == REFUSED


@pytest.mark.parametrize(
    ("model", "faults"),
    [
        (
            "wrong_words",
            [
                'prediction_outcomes on "warehouse"."main"."scores" has 5 wrong arguments',
                "task is 'ranking'; it takes classification or regression",
                "made_at is 'known_at'; it takes scored_at (real time of scoring) or as_of",
                "version is 2; it takes a version as text",
                "outcome is 1; it takes a column of outcomes",
                "key must be a list of column names; got []",
            ],
        ),
        (
            "wrong_columns",
            [
                "outcome names column 'chrned'",
                "known_at names column 'known'",
                "column names column 'chrn'",
                "as_of column 'customer_id' is VARCHAR; it takes a DATE or a TIMESTAMP",
            ],
        ),
        (
            "text",
            [
                'column \'note\' of "warehouse"."main"."scores" is not numeric: it is VARCHAR',
                "outcome 'note' is VARCHAR; for a classification it takes booleans, or 0 and 1",
            ],
        ),
        ("amounts_of_text", ["outcome 'is_member' is BOOLEAN; for a regression it takes numbers"]),
        (
            "wrong_bins",
            ["prediction_calibration on", "bins is '0'; it takes a whole number from 1 to 1000"],
        ),
        ("not_relations", ['predictions is "scores"; it takes a relation', 'outcomes is "7"']),
    ],
)
def test_wrong_arguments_are_named(project: Project, model: str, faults: list[str]) -> None:
    message = project.outcome.nodes[model].message
    for fault in faults:
        assert fault in message
