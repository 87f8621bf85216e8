"""`compare_predictions` and `prediction_movers`: how rows are paired, and the figures compared with scipy."""

from __future__ import annotations

import math
import random
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from consumer import Project
from hand_written import HandWritten, prediction, run, sources
from hardening import connect
from nightly_history import KEY, OUTPUT, Ledger, World, load, moment, play, rows_of
from scipy.stats import spearmanr

from dbt_onnx.engines.duckdb.identifiers import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

ODD_KEY = list(KEY)
NIGHTS = 14
ABOUT = 9
# version per night: promoted on the fifth night, rolled back on the ninth; None: no run that night
CHAMPION = ["1", "1", "1", None, "1", "2", "2", None, "1", None, "1", "2", "2", "2"]
CHALLENGER = [None, "2", "2", "2", "2", "1", "1", "1", None, None, "2", "2", None, "2"]
OUTPUTS = {OUTPUT: "float", "label": "integer", "name": "varchar", "list": "double[]"}


Pairs = dict[Any, tuple[Any, Any]]


def query(
    champion: str = "scores", challenger: str = "others", macro: str = "compare", **given: Any
) -> str:
    arguments = {"key": ["customer_id"], "column": "churn", **given}
    listed = ", ".join(
        f"{name}={'none' if value is None else repr(value)}" for name, value in arguments.items()
    )
    name = {"compare": "compare_predictions", "movers": "prediction_movers"}[macro]
    return f"{{{{ dbt_onnx.{name}(source('hand', '{champion}'), source('hand', '{challenger}'), {listed}) }}}}"


def odd(**given: Any) -> str:
    return query("odd", "odd_others", key=ODD_KEY, **{"column": OUTPUT, **given})


QUERIES = {
    "history": odd(threshold=0.5),
    "history_pairs": odd(macro="movers", limit=None),
    "one_moment": odd(threshold=0.5, about=str(moment(ABOUT))),
    "one_moment_pairs": odd(macro="movers", limit=None, about=str(moment(ABOUT))),
    "largest": odd(macro="movers", limit=3),
    "labels": odd(column="label"),
    "names": odd(column="name"),
    "simple": query(threshold=0.5),
    "simple_about": query(about="1998-04-01 00:00:00+00:00", threshold=0.5),
    "simple_movers": query(macro="movers"),
    "two_versions": query("scores", "scores", champion_version="1", challenger_version="2"),
    "two_versions_about": query(
        "scores", "scores", champion_version="1", challenger_version="2", about="1998-03-03"
    ),
    "no_ledger": query("not_there", "scores"),
    "same": query("scores", "scores"),
    "no_such_columns": query(key=["customer"], column="chrn"),
    "not_numbers": odd(column="name", threshold=0.5),
    "names_cannot_move": odd(column="name", macro="movers"),
    "other_kinds": query(column="mixed"),
    "wrong_kinds": query(
        key=["champion"],
        column=7,
        threshold="high",
        about="yesterday",
        champion_version=2,
        challenger_version="",
    ),
    "wrong_limit": query(macro="movers", limit=0, key=["moment"]),
    "not_relations": "{{ dbt_onnx.compare_predictions('scores', none, key=[], column='churn') }}",
}
REFUSED = {
    "same", "no_such_columns", "not_numbers", "names_cannot_move", "other_kinds", "wrong_kinds",
    "wrong_limit", "not_relations",
}  # fmt: skip


def about(day: str, key: str | None = "a", version: str = "1", **given: Any) -> dict[str, Any]:
    moments = {"as_of": f"1998-{day}", "scored_at": f"1998-{day} 06:00"}
    return prediction(key, version, **{**moments, **given})


def ran(day: str, version: str = "1", **given: Any) -> dict[str, Any]:
    moments = {"as_of": f"1998-{day}", "started_at": f"1998-{day} 06:00"}
    return run(version, **{"run_id": f"run-{day}", **moments, **given})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    profile = {"settings": {"TimeZone": "America/New_York"}}
    project = Project(tmp_path_factory.mktemp("compare"), profile=profile)
    hand = HandWritten(project.warehouse)
    hand.scoring_model(
        "scores",
        [
            about("03-01", churn=0.2),
            about("03-01", "b", churn=0.7),
            about("03-01", "gone", churn=0.4),
            # two predictions about the same moment: the later one counts
            about("03-01", "said twice", churn=0.1),
            about("03-01", "said twice", churn=0.9, scored_at="1998-03-01 07:00"),
            # nothing changes on the second day; another version runs on the third
            about("03-03", version="2", churn=0.6),
            about("03-03", "b", version="2", churn=0.5),
            # a later backfill by a third version was never in force
            about("03-01", version="0", churn=0.99, scored_at="1998-05-01", is_late=True),
            # none of these counts as a prediction
            about("03-01", "nan", churn=math.nan),
            about("03-01", "infinite", churn=math.inf),
            about("03-01", "null", churn=None),
            about("03-01", None, churn=0.5),
        ],
        [
            ran("03-01"),
            ran("03-02"),
            ran("03-03", "2"),
            ran("03-01", "0", run_id="late", scope="backfill", started_at="1998-05-01"),
            ran("03-02", "0", run_id="failed", status="error", started_at="1998-05-01"),
        ],
        outputs={"churn": "double", "mixed": "double"},
    )
    hand.scoring_model(
        "others",
        [
            about("03-01", churn=0.3),
            # the champion ran on this day, and found nothing changed
            about("03-02", churn=0.9),
            # the champion did not run on this day
            about("03-04", churn=0.8),
            about("03-01", "b", churn=0.7),
            about("03-01", "said twice", churn=0.9),
            about("03-01", "nan", churn=0.5),
            about("03-01", "infinite", churn=0.5),
            about("03-01", "null", churn=0.5),
        ],
        [ran(f"03-0{day}") for day in (1, 2, 3, 4)],
        outputs={"churn": "double", "mixed": "varchar"},
    )
    for name in ("odd", "odd_others"):
        hand.scoring_model(name, [], [], key=KEY, outputs=OUTPUTS)
    hand.close()
    tables = ("scores", "others", "odd", "odd_others", "not_there")
    project.write_yaml("models/hand.yml", sources(**dict.fromkeys(tables)))
    for name, text in QUERIES.items():
        project.write(f"models/{name}.sql", text)
    project.dbt("run")
    return project


@pytest.fixture(scope="module")
def warehouse(project: Project) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(project.warehouse, project.config) as connection:
        yield connection


def expected_pairs(champion: Ledger, challenger: Ledger) -> Pairs:
    """Return (champion, challenger) per entity and night on which at least one of them wrote a row:
    the predictions that hold for that night.
    """
    return {
        (entity, night): (
            champion.holds.get(night, {}).get(entity),
            challenger.holds.get(night, {}).get(entity),
        )
        for entity, night in champion.written | challenger.written
    }


def pairs_in_force(champion: Ledger, challenger: Ledger, night: int) -> Pairs:
    """Return (champion, challenger) per entity: the last prediction of each by the version of its
    last run up to a night.
    """
    found = [
        ledger.last_good[max(n for n in ledger.last_good if n <= night)]
        for ledger in (champion, challenger)
    ]
    return {
        (entity, night): (found[0].get(entity), found[1].get(entity))
        for entity in found[0].keys() | found[1].keys()
    }


def check(
    summary: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    expected: Pairs,
) -> None:
    both = {at: pair for at, pair in expected.items() if None not in pair}
    found = {
        ((*(row[name] for name in KEY),), (row["moment"] - moment(0)).days): (
            (
                row["champion"].removeprefix("churn/"),
                pytest.approx(row["champion_value"], abs=1e-7),
            ),
            (
                row["challenger"].removeprefix("churn/"),
                pytest.approx(row["challenger_value"], abs=1e-7),
            ),
        )
        for row in pairs
    }
    assert len(found) == len(pairs)
    assert both == found
    groups: dict[Any, list[Any]] = {}
    for (_, night), (a, b) in expected.items():
        if a or b:
            versions = (a and f"churn/{a[0]}", b and f"churn/{b[0]}")
            groups.setdefault(versions, []).append((night, a and a[1], b and b[1]))
    assert {(row["champion"], row["challenger"]) for row in summary} == groups.keys()
    assert len(summary) == len(groups)
    for row in summary:
        members = groups[row["champion"], row["challenger"]]
        nights = [night for night, _, _ in members]
        assert (row["first_moment"], row["last_moment"]) == (
            moment(min(nights)),
            moment(max(nights)),
        )
        counts = row["paired_rows"], row["only_in_champion"], row["only_in_challenger"]
        if row["challenger"] is None:
            assert counts == (0, len(members), 0)
        elif row["champion"] is None:
            assert counts == (0, 0, len(members))
        else:
            assert counts == (len(members), 0, 0)
            a, b = (
                np.array([m[i] for m in members], dtype=np.float32).astype(float) for i in (1, 2)
            )
            check_figures(row, a, b)


def check_figures(row: dict[str, Any], a: np.ndarray, b: np.ndarray) -> None:
    constant = np.ptp(a) == 0 or np.ptp(b) == 0
    figures = {
        "agreement": np.mean(a == b),
        "mean_difference": np.mean(b - a),
        "mean_absolute_difference": np.mean(np.abs(b - a)),
        "rank_correlation": None if constant else spearmanr(a, b).statistic,
        "changed_decisions": np.mean((a >= 0.5) != (b >= 0.5)),
    }
    for name, value in figures.items():
        assert row[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


@pytest.mark.parametrize("seed", range(6))
def test_histories_are_paired_and_judged_as_in_python(
    seed: int, warehouse: duckdb.DuckDBPyConnection
) -> None:
    rng = random.Random(seed)
    world = World.make(rng, entities=(2, 9, 25)[seed % 3], nights=NIGHTS)
    ledgers = play(rng, world, CHAMPION), play(rng, world, CHALLENGER)
    for name, ledger in zip(("odd", "odd_others"), ledgers, strict=True):
        load(warehouse, name, ledger)
    pairs = rows_of(warehouse, "from history_pairs")
    check(rows_of(warehouse, "from history"), pairs, expected_pairs(*ledgers))
    sizes = [abs(row["difference"]) for row in pairs]
    assert sizes == sorted(sizes, reverse=True)
    assert [row["difference"] for row in pairs] == [
        row["challenger_value"] - row["champion_value"] for row in pairs
    ]
    assert rows_of(warehouse, "from largest") == pairs[:3]
    check(
        rows_of(warehouse, "from one_moment"),
        rows_of(warehouse, "from one_moment_pairs"),
        pairs_in_force(*ledgers, ABOUT),
    )


def test_figures_of_many_rows_are_those_of_scipy(warehouse: duckdb.DuckDBPyConnection) -> None:
    rng = np.random.default_rng(7)
    rows = 20_000
    # rounded, so that there are ties; one value is nine orders of magnitude larger than the others
    a = (rng.normal(size=rows).round(1) + 3).astype(np.float32)
    b = (a + rng.normal(size=rows).round(2)).astype(np.float32)
    b[0] = 1e9
    for name, values in (("odd", a), ("odd_others", b)):
        load(warehouse, name, Ledger())
        warehouse.register("given", {"i": np.arange(rows), "v": values})
        warehouse.execute(
            f"insert into {name} by name select i as {quote(ODD_KEY[0])}, 'x' as {quote(ODD_KEY[1])}, "
            f"v as {quote(OUTPUT)}, timestamp '1998-01-01' as as_of, 'scored' as status, "
            "'m' as model_name, '1' as model_version, 'r' as run_id, now() as scored_at from given"
        )
        warehouse.unregister("given")
    [row] = rows_of(warehouse, "from history")
    a, b = a.astype(float), b.astype(float)
    assert row["paired_rows"] == rows
    assert row["rank_correlation"] == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)
    assert row["mean_difference"] == pytest.approx(np.mean(b - a), rel=1e-9)
    assert row["mean_absolute_difference"] == pytest.approx(np.mean(np.abs(b - a)), rel=1e-9)


@pytest.mark.parametrize(("values", "others"), [([0.5], [0.5]), ([0.1, 0.1], [0.2, 0.3])])
def test_a_constant_has_no_rank_correlation(
    values: list[float], others: list[float], warehouse: duckdb.DuckDBPyConnection
) -> None:
    for name, given in (("odd", values), ("odd_others", others)):
        stamps: dict[str, Any] = {
            "status": "scored",
            "model_name": "churn",
            "model_version": "1",
            "run_id": "r",
        }
        stamps |= {"as_of": moment(0), "scored_at": moment(0), "label": 0}
        rows = [{ODD_KEY[0]: i, ODD_KEY[1]: "x", OUTPUT: v, **stamps} for i, v in enumerate(given)]
        load(warehouse, name, Ledger(rows=rows))
    [row] = rows_of(warehouse, "from history")
    check_figures(row, *(np.array(v, dtype=np.float32).astype(float) for v in (values, others)))
    assert row["rank_correlation"] is None


def test_labels_agree_or_not_and_text_has_nothing_else(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    for name, labels in (("odd", "aabb"), ("odd_others", "abbb")):
        load(warehouse, name, Ledger())
        warehouse.execute(
            f"insert into {name} by name select i as {quote(ODD_KEY[0])}, 'x' as {quote(ODD_KEY[1])}, "
            f"'{labels}'[i] as name, ascii('{labels}'[i]) as label, timestamp '1998-01-01' as as_of, "
            "'scored' as status, 'm' as model_name, '1' as model_version, 'r' as run_id, "
            "now() as scored_at from range(1, 5) as numbers (i)"
        )
    [names] = rows_of(warehouse, "from names")
    [labels_row] = rows_of(warehouse, "from labels")
    assert (names["paired_rows"], names["agreement"], labels_row["agreement"]) == (4, 0.75, 0.75)
    assert labels_row["mean_difference"] == 0.25
    for figure in (
        "mean_difference",
        "mean_absolute_difference",
        "rank_correlation",
        "changed_decisions",
    ):
        assert names[figure] is None


def test_empty_ledgers_have_nothing_to_compare(warehouse: duckdb.DuckDBPyConnection) -> None:
    for name in ("odd", "odd_others"):
        load(warehouse, name, Ledger())
    for view in ("history", "one_moment", "history_pairs", "labels"):
        assert rows_of(warehouse, f"from {view}") == []


def test_what_did_not_change_is_paired_and_what_was_not_said_is_not(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    movers = warehouse.execute(
        "select customer_id, moment, champion, champion_value, challenger_value, champion_as_of, "
        "challenger_as_of from simple_movers"
    ).fetchall()

    def day(number: int) -> datetime:
        return datetime(1998, 3, number)

    assert movers == [
        ("a", day(2), "churn/1", 0.2, 0.9, day(1), day(2)),
        ("a", day(3), "churn/2", 0.6, 0.9, day(3), day(2)),
        ("b", day(3), "churn/2", 0.5, 0.7, day(3), day(1)),
        ("a", day(1), "churn/1", 0.2, 0.3, day(1), day(1)),
        ("b", day(1), "churn/1", 0.7, 0.7, day(1), day(1)),
        ("said twice", day(1), "churn/1", 0.9, 0.9, day(1), day(1)),
    ]
    assert warehouse.execute(
        "select champion, challenger, paired_rows, only_in_champion, only_in_challenger, "
        "changed_decisions from simple order by all asc nulls last"
    ).fetchall() == [
        ("churn/1", "churn/1", 4, 0, 0, 0.25),
        # an entity that has gone; in the last row, a moment without the champion, and values that are no predictions
        ("churn/1", None, 0, 1, 0, None),
        ("churn/2", "churn/1", 2, 0, 0, 0.0),
        (None, "churn/1", 0, 0, 4, None),
    ]


def test_at_one_moment_each_key_counts_once(warehouse: duckdb.DuckDBPyConnection) -> None:
    assert warehouse.execute(
        "select champion, challenger, last_moment, paired_rows, only_in_champion, only_in_challenger "
        "from simple_about order by all asc nulls last"
    ).fetchall() == [
        ("churn/2", "churn/1", datetime(1998, 4, 1), 2, 0, 0),
        (None, "churn/1", datetime(1998, 4, 1), 0, 0, 4),
    ]


def test_two_versions_of_one_ledger_meet_at_a_moment(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    counts = "select champion, challenger, paired_rows, only_in_champion, mean_difference from "
    assert warehouse.execute(
        counts + "two_versions_about order by all asc nulls last"
    ).fetchall() == [
        ("churn/1", "churn/2", 2, 0, pytest.approx((0.4 - 0.2) / 2)),
        ("churn/1", None, 0, 2, None),
    ]
    # the two versions never ran for the same moment
    assert warehouse.execute("select sum(paired_rows) from two_versions").fetchall() == [(0,)]


def test_before_the_first_run_there_is_nothing_to_pair(
    warehouse: duckdb.DuckDBPyConnection,
) -> None:
    assert warehouse.execute(
        "select champion, sum(paired_rows), sum(only_in_challenger) from no_ledger group by all"
    ).fetchall() == [(None, 0, 6)]


def test_only_wrong_arguments_fail(project: Project) -> None:
    statuses = project.outcome.statuses()
    assert {name for name, status in statuses.items() if status != "success"} == REFUSED


@pytest.mark.parametrize(
    ("model", "faults"),
    [
        (
            "same",
            ["champion and challenger are the same predictions. Hint: to compare two versions"],
        ),
        (
            "no_such_columns",
            [
                'compare_predictions on "warehouse"."main"."scores" has 4 wrong arguments',
                "key names column 'customer'",
                'column names column \'chrn\'; "warehouse"."main"."others" has',
            ],
        ),
        ("not_numbers", ["column 'name' of", "is not numeric: it is VARCHAR"]),
        ("names_cannot_move", ["prediction_movers on", "is not numeric: it is VARCHAR"]),
        (
            "other_kinds",
            ["column 'mixed' holds numbers in the champion and VARCHAR in the challenger"],
        ),
        (
            "wrong_kinds",
            [
                "has 6 wrong arguments",
                "key column 'champion' has the name of a result column",
                "column is 7; it takes an output column",
                "threshold is 'high'; it takes a number",
                "about is 'yesterday'; it takes a date or a timestamp",
                "champion_version is 2; it takes a version as text",
                "challenger_version is ; it takes a version as text",
            ],
        ),
        ("wrong_limit", ["limit is '0'; it takes a whole number from 1", "key column 'moment'"]),
        (
            "not_relations",
            [
                'champion is "scores"; it takes',
                "challenger is",
                "key must be a list of column names; got []",
            ],
        ),
    ],
)
def test_wrong_arguments_are_named(project: Project, model: str, faults: list[str]) -> None:
    message = project.outcome.nodes[model].message
    for fault in faults:
        assert fault in message
