"""`predictions_match_baseline`: predictions in force compared with training, and with the run before."""

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
ROWS = 1_500
EVERY_INDEX = {"warn_psi": 1e-12, "error_psi": None}
DAYS = [f"1998-03-{day:02d}" for day in (28, 29, 30)]
OUTPUTS = {"churn": "double", "label": "bigint", "vector": "double[2]"}


def match(name: str, column: str, **arguments: Any) -> dict[str, Any]:
    return generic_test("predictions_match_baseline", name, column=column, **arguments)


def scores(seed: int, shift: float = 0) -> Any:
    """Return skewed scores with ties."""
    random = np.random.default_rng(seed)
    return np.round(random.beta(2 + shift, 5, ROWS), 2 if seed % 2 else 9)


def spread(values: Any, **given: Any) -> list[dict[str, Any]]:
    """Return a prediction per value, with outputs for the value, its label, and a vector."""
    return [
        prediction(
            f"c{n:05d}",
            churn=None if value is None else float(value),
            label=int((value or 0) > 0.5),
            vector=[float(value or 0), 1.0],
            **given,
        )
        for n, value in enumerate(values)
    ]


def training() -> dict[str, Any]:
    values = scores(1)
    return {
        "churn": describe(pa.array(values)),
        "label": describe(pa.array((values > 0.5).astype(int)), categorical=True),
        "vector": describe(pa.array([[value, 1.0] for value in values])),
    }


class History:
    """Three runs of one version; in the last, some entities were scored again, some have left, some are new."""

    def __init__(self, seed: int, *, rescored: float = 0.4) -> None:
        random = np.random.default_rng(seed)
        self.first, self.second = scores(seed), scores(seed + 1, 0.5)
        self.last = scores(seed + 2, 2)
        # scored by the second run, by the last; gone before the second, before the last; new in the last
        self.in_second = random.random(ROWS) < 0.5
        self.in_last = random.random(ROWS) < rescored
        self.gone_early = random.random(ROWS) < 0.1
        self.gone_late = ~self.gone_early & (random.random(ROWS) < 0.1)
        self.new = random.random(ROWS) < 0.1
        self.in_second &= ~self.gone_early & ~self.new
        self.in_last = self.new | (self.in_last & ~self.gone_early & ~self.gone_late)
        self.gone_early &= ~self.new
        self.gone_late &= ~self.new

    def before(self) -> Any:
        """Return the values in force when the last run began: without entities gone by the second
        run, and without new ones.
        """
        values = np.where(self.in_second, self.second, self.first)
        return values[~self.gone_early & ~self.new]

    def now(self) -> Any:
        values = np.where(self.in_second, self.second, self.first)
        return np.where(self.in_last, self.last, values)[~self.gone_early & ~self.gone_late]

    def write(self, hand: HandWritten, name: str) -> None:
        """Write all predictions into the ledger, and the newest of each entity into latest."""
        moments = [f"{day} 01:00:00" for day in DAYS]
        runs = [
            run("2", run_id=f"r{n}", as_of=DAYS[n], started_at=moments[n]) for n in range(len(DAYS))
        ]
        # another version ran after ours: a promotion, later rolled back
        runs.append(run("1", run_id="other", started_at=f"{DAYS[1]} 02:00:00"))
        hand.scoring_model(name, [], runs, outputs=OUTPUTS)
        ledger, latest = [], []
        said = [
            spread(values, run_id=f"r{n}", as_of=DAYS[n], scored_at=moments[n])
            for n, values in enumerate((self.first, self.second, self.last))
        ]
        for n in range(ROWS):
            when = (not self.new[n], self.in_second[n], self.in_last[n])
            spoken = [number for number, spoke in enumerate(when) if spoke]
            ledger += [said[number][n] for number in spoken]
            seen = DAYS[0] if self.gone_early[n] else DAYS[1] if self.gone_late[n] else None
            latest.append({**said[spoken[-1]][n], "last_seen_as_of": seen})
        # late rows about the past, which were never in force
        ledger += [{**row, "churn": 99.0, "is_late": True} for row in said[1][:200]]
        # answers of a service, which are not part of what was served
        asked = {"churn": 99.0, "score_reason": "real_time", "scored_at": f"{DAYS[1]} 05:00:00"}
        ledger += [{**row, **asked} for row in said[1][:200]]
        hand.ledger_rows(name, ledger)
        hand.current_rows(name, latest)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("baseline"))
    hand = HandWritten(project.warehouse)

    def fill(name: str, rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
        hand.scoring_model(name, rows, runs, outputs=OUTPUTS)

    gone = [
        {**row, "customer_id": f"gone {row['customer_id']}", "last_seen_as_of": CLOCK}
        for row in spread(np.ones(ROWS))
    ]
    of_other = [{**row, "model_version": "1"} for row in spread(np.ones(ROWS))]
    fill("as_trained", spread(scores(1)) + of_other, [run("2"), run("1", started_at="1998-01-01")])
    fill("shifted", spread(scores(3, 1)), [run("2")])
    fill("alike", spread(np.full(ROWS, 0.25)), [run("2")])
    fill("few", spread(np.full(999, 0.25)), [run("2")])
    fill("some_null", spread([None if n % 3 else n / ROWS for n in range(ROWS)]), [run("2")])
    fill("unregistered", spread(scores(1)), [run("2")])
    hand.scoring_model("never_run", [], [], outputs=OUTPUTS)
    hand.current_rows("as_trained", gone)
    for seed in range(4):
        History(seed).write(hand, f"history_{seed}")
    History(9, rescored=0).write(hand, "quiet")
    names = ("as_trained", "shifted", "alike", "few", "some_null", "never_run")
    write_references(
        hand, [row for name in names for row in reference_rows(name, outputs=training())]
    )
    hand.close()

    before = {"baseline": "previous_run"}
    project.write_yaml(
        "models/hand.yml",
        sources(
            as_trained=[
                match("same", "churn"),
                match("same_label", "LABEL"),
                match("same_vector", "vector"),
                match("one_run_only", "churn", **before),
                match("label_share", "label", max_label_share=0.5, error_psi=None),
                match("label_share_as_usual", "label", max_label_share=0.99),
                match("wrong", "churn", baseline="yesterday", max_label_share=2, min_rows=True),
                match("no_such_output", "customer_id"),
            ],
            shifted=[match(f"shifted_{name}", name, **EVERY_INDEX) for name in OUTPUTS]
            + [match("shifted_much", "churn")],
            alike=[match("alike", "churn"), match("alike_but_few", "churn", min_rows=ROWS + 1)],
            few=[match("few", "churn"), match("few_asked_for", "churn", min_rows=999)],
            some_null=[match("some_null", "churn", min_rows=500, **EVERY_INDEX)],
            unregistered=[match("unregistered", "churn")],
            never_run=[match("never", "churn")],
            not_there=[match("no_tables", "churn")],
            quiet=[match("quiet", "churn", **before)],
            **{
                f"history_{seed}": [
                    match(f"history_{seed}_{name}", name, **before, **EVERY_INDEX)
                    for name in OUTPUTS
                ]
                for seed in range(4)
            },
        ),
    )
    project.dbt("test", vars={"dbt_onnx_clock": CLOCK})
    return project


def test_each_case_has_the_status_it_should(project: Project) -> None:
    by_status: dict[str, set[str]] = {}
    for name, status in project.outcome.statuses().items():
        by_status.setdefault(status, set()).add(name)
    assert by_status["pass"] == {
        "same", "same_label", "same_vector", "one_run_only", "label_share_as_usual",
        "alike_but_few", "few", "never", "no_tables", "quiet",
    }, [(node.name, node.message) for node in project.outcome.nodes.values()]  # fmt: skip
    assert by_status["error"] == {"wrong", "no_such_output"}
    assert by_status["fail"] == {
        "label_share", "shifted_much", "alike", "few_asked_for", "unregistered",
    }  # fmt: skip


def test_the_indices_against_training_are_those_of_numpy(project: Project) -> None:
    values = scores(3, 1)
    present = {
        "churn": values,
        "label": list((values > 0.5).astype(int)),
        "vector": np.column_stack([values, np.ones(ROWS)]).ravel(),
    }
    for name, described in training().items():
        index = index_of_column(present[name], described)
        (row,) = project.failures(f"shifted_{name}")
        assert (row["column_name"], row["problem"], row["severity"]) == (name, "psi", "warn")
        assert row["figure"] == pytest.approx(index, abs=1e-9)
        assert index > 0.01


def test_null_predictions_are_no_part_of_the_distribution(project: Project) -> None:
    index = index_of_column([n / ROWS for n in range(0, ROWS, 3)], training()["churn"])
    assert project.found("some_null", "problem", "figure") == [
        ("psi", pytest.approx(index, abs=1e-9))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_the_state_before_the_last_run_is_put_together_from_the_ledger(
    project: Project, seed: int
) -> None:
    history = History(seed)
    before, now = history.before(), history.now()

    edges = np.quantile(before, np.linspace(0, 1, 11))
    inner = np.unique(edges[1:-1])
    inner = inner if len(inner) == 9 else np.unique(edges[:-1])
    unrounded = {
        "churn": exact(before, inner),
        "label": {
            "kind": "categorical",
            "shares": {str(v): float(np.mean((before > 0.5) == v)) for v in (0, 1)},
            "other": 0,
        },
    }
    present = {"churn": now, "label": list((now > 0.5).astype(int))}
    for name, described in unrounded.items():
        (row,) = project.failures(f"history_{seed}_{name}")
        assert row["figure"] == pytest.approx(index_of_column(present[name], described), abs=1e-9)

    elements = np.column_stack([before, np.ones(len(before))]).ravel()
    inner = np.unique(np.quantile(elements, np.linspace(0, 1, 11))[:-1])
    index = index_of_column(
        np.column_stack([now, np.ones(len(now))]).ravel(), exact(elements, inner)
    )
    (row,) = project.failures(f"history_{seed}_vector")
    assert row["figure"] == pytest.approx(index, abs=1e-9)


def exact(values: Any, edges: Any) -> dict[str, Any]:
    """Return the shares without a card's rounding."""
    places = np.searchsorted(edges, values, side="left")
    counts = np.bincount(places, minlength=len(edges) + 1)
    return {"kind": "numeric", "edges": list(edges), "shares": list(counts / len(values))}


def test_one_value_for_everybody_is_found(project: Project) -> None:
    assert [row[:4] for row in project.found("alike", *COLUMNS) if row[1] == "constant"] == [
        ("churn", "constant", "different values", "0.25")
    ]
    assert {row[0] for row in project.found("few_asked_for", "problem")} == {"psi", "constant"}


def test_the_share_of_one_label_is_limited(project: Project) -> None:
    share = float(np.mean(scores(1) <= 0.5))
    assert project.found("label_share", *COLUMNS, "figure") == [
        (
            "label", "label_share", "no value with a share above 0.5", f"0: {round(share, 4)}",
            0.5, "error", share,
        )
    ]  # fmt: skip


def test_a_card_without_references_is_told(project: Project) -> None:
    (row,) = project.failures("unregistered")
    assert row["problem"] == "no_reference"
    assert row["expected"] == (
        "the distribution of 'churn' in the card of churn/2, as dbt_onnx.export writes it; "
        "or baseline: previous_run"
    )


def test_wrong_arguments_are_named(project: Project) -> None:
    message = project.outcome.nodes["wrong"].message
    for fault in (
        "predictions_match_baseline on",
        """baseline is "yesterday"; it takes 'training' or 'previous_run'""",
        "max_label_share is 2; it takes a number from 0 to 1",
        "min_rows is True; it takes a whole number from 1",
    ):
        assert fault in message
    unknown = project.outcome.nodes["no_such_output"].message
    assert """column is 'customer_id'; the outputs are ["churn", "label", "vector"]""" in unknown
