"""What is served for an entity without a fresh prediction: a stale one, a segment average or a constant."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from consumer import Project
from hand_written import CLOCK, HandWritten, prediction, run, sources

NOW = datetime.fromisoformat(CLOCK)
STALE_AFTER, ALLOW_STALE = timedelta(days=2), timedelta(days=14)
CONFIRMED = {"1": NOW - timedelta(days=3), "2": NOW - timedelta(hours=12)}
OUTPUTS = {
    "churn": "double",
    "share": "float",
    "is_churn": "bigint",
    "label": "varchar",
    "loyal": "boolean",
    "vector": "float[]",
}
CONSTANT = {
    "Churn": 0.5,
    "is_churn": 0,
    "label": 'it\'s "new" \\ {{ x }}',
    "loyal": True,
    "vector": [1, 0.25],
}
SEGMENT = ["country", 'Größe "x"']
CHAIN = {
    "allow_stale": {"count": 14, "period": "day"},
    "segment": SEGMENT,
    "min_segment_size": 3,
    "constant": CONSTANT,
}
COLUMNS = [*OUTPUTS, "as_of", "model_version", "run_id", "status", "age", "is_stale", "served_from"]


def view(predictions: str = "scores", **arguments: Any) -> str:
    given = {
        "registry": "source('hand', 'registry')",
        "key": "['customer_id']",
        "entities": "source('hand', 'entities')",
        **{name: text if isinstance(text, str) else repr(text) for name, text in arguments.items()},
    }
    listed = ", ".join(f"{name}={text}" for name, text in given.items())
    return f"{{{{ dbt_onnx.current_predictions(source('hand', '{predictions}'), {listed}) }}}}"


def averages(**arguments: Any) -> str:
    given = {"segment": SEGMENT, "min_segment_size": 3, **arguments}
    text = view(**given).replace("current_predictions", "segment_averages")
    return "{{ config(materialized='table') }}" + text


CHAIN_FROM_TABLE = (
    f"{{'allow_stale': {CHAIN['allow_stale']}, 'segment': {SEGMENT}, 'constant': {CONSTANT!r}, "
    "'segment_averages': ref('segments')}"
)
VIEWS = {
    "plain": view(),
    "chain": view(fallback=CHAIN),
    "chain_from_table": view(fallback=CHAIN_FROM_TABLE),
    "segments": averages(),
    "segments_never_stale": averages(stale_after=None),
    "segments_unscored": averages().replace("'scores'", "'not_there'"),
    "never_stale": view(stale_after=None, fallback={"segment": SEGMENT, "min_segment_size": 1}),
    "only_stale": view(fallback={"allow_stale": {"count": 2, "period": "week"}}),
    "none_stale": view(fallback={"allow_stale": {"count": 48, "period": "hour"}}),
    "only_segment": view(fallback={"segment": "country"}),
    "only_constant": view(fallback={"constant": {"churn": 0.5}}),
    "unscored": view("not_there", fallback=CHAIN),
    "not_yet": view("unscored", fallback=CHAIN),
}
FAULTS = {
    "no_mapping": (view(fallback=["constant"]), ["fallback is ['constant']; it takes a mapping"]),
    "empty": (view(fallback={}), ["fallback is {}; it takes a mapping with one or more of allow"]),
    "unknown_link": (view(fallback={"constnt": 1}), ["fallback is {'constnt': 1}; it takes"]),
    "no_entities": (
        view(entities="none", fallback={"constant": {"churn": 1}}),
        ["fallback needs entities, a relation with one row per entity to serve"],
    ),
    "wrong_types": (
        view(
            fallback={
                "allow_stale": 14,
                "segment": {"country": 1},
                "min_segment_size": 0,
                "constant": [0.5],
            }
        ),
        [
            "has 4 wrong arguments",
            "fallback.allow_stale is 14; it takes {count: 2, period: day}",
            "fallback.segment is {'country': 1}; it takes a list of columns of entities",
            "fallback.min_segment_size is 0; it takes a whole number from 1",
            "fallback.constant is [0.5]; it takes output columns and their values",
        ],
    ),
    "twice_the_same": (view(fallback={"segment": ["a", "A"]}), ["segment is ['a', 'A']; it takes"]),
    "no_segment": (
        view(fallback={"min_segment_size": 3, "segment_averages": "averages"}),
        [
            "has 4 wrong arguments",
            "fallback.min_segment_size needs fallback.segment",
            "fallback.segment_averages needs fallback.segment",
            'fallback.segment_averages is "averages"; it takes a relation',
            "fallback.min_segment_size has no effect with fallback.segment_averages",
        ],
    ),
    "never_stale_and_stale": (
        view(stale_after=None, fallback={"allow_stale": {"count": 3, "period": "day"}}),
        ["fallback.allow_stale needs stale_after: without it no prediction is stale"],
    ),
    "less_than_stale": (
        view(fallback={"allow_stale": {"count": 47, "period": "hour"}}),
        [
            "fallback.allow_stale is {'count': 47, 'period': 'hour'}, which is less than stale_after, {'count'"
        ],
    ),
    "other_columns": (
        view(fallback={"segment": ["region"], "constant": {"Chrn": 0.5, "as_of": 1}}),
        [
            "has 3 wrong arguments",
            "fallback.segment names column 'region'; ",
            "fallback.constant has 'Chrn', which is not an output column; ",
            'has ["churn", "share", "is_churn", "label", "loyal", "vector"]',
            "fallback.constant has 'as_of', which is not an output column",
        ],
    ),
    "other_types": (
        view(
            fallback={
                "constant": {
                    "churn": "0.5",
                    "share": 1e39,
                    "is_churn": 0.5,
                    "label": 7,
                    "loyal": 1,
                    "vector": [0.5, "x"],
                }
            }
        ),
        [
            "has 6 wrong arguments",
            'fallback.constant.churn is "0.5"; the output column is DOUBLE',
            "fallback.constant.share is 1e+39; the output column is FLOAT",
            "fallback.constant.is_churn is 0.5; the output column is BIGINT",
            "fallback.constant.label is 7; the output column is VARCHAR",
            "fallback.constant.loyal is 1; the output column is BOOLEAN",
            "fallback.constant.vector is [0.5, 'x']; the output column is FLOAT[]",
        ],
    ),
    "too_large": (
        view(fallback={"constant": {"is_churn": 2**63, "churn": None, "loyal": "drop"}}),
        [
            "fallback.constant.is_churn is 9223372036854775808; the output column is BIGINT",
            "fallback.constant.churn is None; the output column is DOUBLE",
            'fallback.constant.loyal is "drop"; the output column is BOOLEAN',
        ],
    ),
    "not_a_number": (
        # Jinja folds a plain 'nan' | float at compile time into a name that Python does not know
        view(
            fallback="{'constant': {'churn': var('no', 'nan') | float, "
            "'share': var('no', 'inf') | float}}"
        ),
        ["fallback.constant.churn is nan; ", "fallback.constant.share is inf; "],
    ),
    "averages_of_others": (
        view(fallback="{'segment': ['country'], 'segment_averages': source('hand', 'entities')}"),
        ["fallback.segment_averages names column 'churn'; "],
    ),
    "wrong_averages": (
        averages(entities="'entities'", segment=[], min_segment_size=True, stale_after=2),
        [
            "segment_averages on",
            "has 4 wrong arguments",
            'entities is "entities"; it takes a relation',
            "segment is []; it takes a list of columns of entities",
            "min_segment_size is True; it takes a whole number from 1",
            "stale_after is 2; it takes {count: 2, period: day}",
        ],
    ),
    "averages_of_outputs": (
        averages(segment=["label", "area"], key=["customer"]),
        [
            "has 4 wrong arguments",
            "key names column 'customer'; ",
            "segment names column 'area'; ",
            "output column 'label' has the name of another column of this model",
        ],
    ),
}


@dataclass
class Hand:
    """Random rows of latest and random entities, and the expected result of the fallback chain."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    segments: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @classmethod
    def by_chance(cls, seed: int) -> Hand:
        chance = random.Random(seed)
        hand = cls()
        for number in range(240):
            name = f"c{number:03d}"
            if number % 6:
                size = None if number % 7 == 0 else chance.choice((1, 2))
                country = chance.choice(("nl", "nl", "de", "se", None, None))
                hand.segments[name] = (country if number > 20 else "xx", size)
            for version in ("0", "1", "2"):
                if chance.random() < 0.55:
                    hand.score(chance, name, version)
        return hand

    def score(self, chance: random.Random, name: str, version: str) -> None:
        days = chance.choice((0, 0.1, 1, 2, 2.5, 5, 14, 14.1, 30))
        as_of = NOW - timedelta(days=days)
        at = as_of + timedelta(hours=1)
        outputs = {
            "churn": chance.random(),
            "share": chance.choice((0.25, 0.5, 0.75)),
            "is_churn": chance.choice((0, 1, 1, 2)),
            "label": chance.choice(("a", "b", "z")),
            "loyal": chance.choice((True, False)),
            "vector": [0.5, 1.0],
        }
        seen = chance.choice((None, None, as_of, NOW - timedelta(days=4), NOW))
        shared = {"last_seen_as_of": seen, "run_id": f"{name}/{version}"}
        if chance.random() < 0.9:
            self.rows.append(
                prediction(name, version, as_of=as_of, scored_at=at, **shared, **outputs)
            )
        if chance.random() < 0.25:
            moved = timedelta(minutes=chance.choice((-30, 30)))
            rejected = {"as_of": as_of, "scored_at": at + moved, "status": "rejected"}
            self.rows.append({**prediction(name, version, **shared, **rejected)})

    def of(self, name: str, version: str, status: str) -> dict[str, Any] | None:
        found = [
            row
            for row in self.rows
            if (row["customer_id"], row["model_version"], row["status"]) == (name, version, status)
        ]
        return found[0] if found else None

    def age(self, name: str, version: str) -> timedelta | None:
        """Return the age of the scored row; None if there is none."""
        scored, rejected = (self.of(name, version, status) for status in ("scored", "rejected"))
        if scored is None:
            return None
        if rejected is not None and rejected["scored_at"] > scored["scored_at"]:
            return NOW - scored["as_of"]
        confirmed = scored["last_seen_as_of"] or CONFIRMED[version]
        return NOW - max(scored["as_of"], confirmed)

    def average(self, segment: tuple[Any, ...], *, at_least: int) -> dict[str, Any] | None:
        members = [
            self.of(name, "2", "scored") or {}
            for name, its in self.segments.items()
            if its == segment and (age := self.age(name, "2")) is not None and age <= STALE_AFTER
        ]
        if len(members) < at_least:
            return None

        def most_frequent(column: str) -> Any:
            counts = Counter(row[column] for row in members)
            return min(value for value in counts if counts[value] == max(counts.values()))

        return {
            "churn": float(np.mean([row["churn"] for row in members])),
            "share": float(np.float32(np.mean([row["share"] for row in members]))),
            **{column: most_frequent(column) for column in ("is_churn", "label", "loyal")},
            "vector": None,
        }

    def served(self, name: str) -> dict[str, Any]:
        """Return the expected row of view `chain`, by the documentation of `fallback`."""
        nothing = dict.fromkeys(COLUMNS)
        scored, rejected = (self.of(name, "2", status) for status in ("scored", "rejected"))
        nothing["status"] = "scored" if scored else None
        if rejected and not (scored and scored["scored_at"] > rejected["scored_at"]):
            nothing["status"] = "rejected"
        for version, source in (("2", "serving_version"), ("1", "earlier_version")):
            age, row = self.age(name, version), self.of(name, version, "scored")
            if age is not None and age <= ALLOW_STALE:
                own = {column: row[column] for column in COLUMNS if column in (row or {})}
                return {
                    **own,
                    "status": nothing["status"],
                    "age": age,
                    "is_stale": age > STALE_AFTER,
                    "served_from": source,
                }
        average = self.average(self.segments[name], at_least=3)
        if average is not None:
            return {**nothing, **average, "is_stale": True, "served_from": "segment_average"}
        constant = {name.lower(): value for name, value in CONSTANT.items()}
        return {**nothing, **constant, "is_stale": True, "served_from": "constant"}


@pytest.fixture(scope="module")
def hand() -> Hand:
    return Hand.by_chance(7)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, hand: Hand) -> Project:
    project = Project(tmp_path_factory.mktemp("fallback"))
    written = HandWritten(project.warehouse)
    written.registry("registry", ("1", None), ("2", "champion"))
    runs = [
        run("1", started_at="1998-03-29", as_of=CONFIRMED["1"]),
        run("2", as_of=CONFIRMED["2"]),
    ]
    written.scoring_model("scores", hand.rows, runs, outputs=OUTPUTS)
    written.scoring_model("unscored", [], [], outputs=OUTPUTS)
    entities = [(name, *segment) for name, segment in hand.segments.items()]
    # an entity listed twice counts once, in the segment that sorts first; NULL sorts last
    twice = [(name, None, None) for name in list(hand.segments)[20:40]]
    twice += [(name, "zz", 9) for name, (country, _) in entities_of(hand)[40:60] if country]
    columns = dict(zip(SEGMENT, ("varchar", "integer"), strict=True))
    written.table(
        "entities",
        {"customer_id": "varchar", **columns, "label": "varchar"},
        [(*row, "x") for row in [*entities, *twice, entities[50], (None, "nl", 1)]],
    )
    written.close()
    tables = ("registry", "scores", "unscored", "entities", "not_there")
    project.write_yaml("models/hand.yml", sources(**dict.fromkeys(tables)))
    for name, text in {**VIEWS, **{name: text for name, (text, _) in FAULTS.items()}}.items():
        project.write(f"models/{name}.sql", text)
    project.dbt("run", vars={"dbt_onnx_clock": CLOCK})
    return project


def entities_of(hand: Hand) -> list[tuple[str, tuple[Any, ...]]]:
    return list(hand.segments.items())


def rows(project: Project, name: str, columns: str = "*") -> dict[str, dict[str, Any]]:
    found = project.rows(f"select customer_id, {columns} from {name}")
    assert len({row["customer_id"] for row in found}) == len(found)
    return {row.pop("customer_id"): row for row in found}


def served_from(project: Project, name: str) -> dict[str, str]:
    return {key: row["served_from"] for key, row in rows(project, name, "served_from").items()}


def test_only_wrong_arguments_fail(project: Project) -> None:
    failed = {n for n, s in project.outcome.statuses().items() if s != "success"}
    assert failed == set(FAULTS), {n: project.outcome.nodes[n].message for n in failed}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_of_an_argument_is_named(project: Project, name: str) -> None:
    message = project.outcome.nodes[name].message
    for part in FAULTS[name][1]:
        assert part in message


@pytest.mark.parametrize("name", ["chain", "chain_from_table"])
def test_the_chain_serves_what_a_computation_from_scratch_does(
    project: Project, hand: Hand, name: str
) -> None:
    found = rows(project, name, ", ".join(COLUMNS))
    assert set(found) == set(hand.segments)
    for entity, row in found.items():
        expected = hand.served(entity)
        churn = expected.pop("churn")
        assert row.pop("churn") == (churn if churn is None else pytest.approx(churn, abs=1e-12))
        assert row == expected, entity
    counts = Counter(row["served_from"] for row in found.values())
    # the rows are random, but each source must occur often enough
    assert min(counts[source] for source in counts) >= 8
    assert len(counts) == 4


def test_what_was_never_of_the_entity_has_no_age_and_no_run(project: Project) -> None:
    columns = "as_of, scored_at, model_name, model_version, run_id, fresh_as_of, age"
    for row in project.rows(
        f"select {columns} from chain where served_from in ('segment_average', 'constant')"
    ):
        assert set(row.values()) == {None}
    assert project.sql(
        "select distinct is_stale from chain where served_from in ('segment_average', 'constant')"
    ) == [(True,)]


def test_the_columns_are_those_of_the_view_without_a_fallback(project: Project) -> None:
    described = {name: project.sql(f"describe {name}") for name in ("plain", "chain", "only_stale")}
    assert described["plain"] == described["chain"] == described["only_stale"]


def test_without_a_limit_of_age_the_predictions_are_those_of_the_plain_view(
    project: Project,
) -> None:
    plain = rows(project, "plain")
    for name in ("only_constant", "only_segment"):
        links = rows(project, name)
        for entity, row in plain.items():
            if row["served_from"] == "missing":
                assert links[entity]["served_from"] in {"constant", "segment_average", "missing"}
            else:
                assert links[entity] == row


def test_outputs_without_a_constant_are_null(project: Project) -> None:
    found = [
        row for row in rows(project, "only_constant").values() if row["served_from"] == "constant"
    ]
    assert len(found) >= 8
    for row in found:
        assert [row[name] for name in OUTPUTS] == [0.5, None, None, None, None, None]


def test_a_prediction_beyond_the_limit_is_missing_when_nothing_follows(
    project: Project, hand: Hand
) -> None:
    for name, oldest in (("only_stale", ALLOW_STALE), ("none_stale", STALE_AFTER)):
        for entity, row in rows(project, name).items():
            ages = [age for v in "21" if (age := hand.age(entity, v)) is not None and age <= oldest]
            assert row["age"] == (ages[0] if ages else None)
            assert (row["served_from"] == "missing") == (not ages)
    assert "missing" in served_from(project, "only_stale").values()
    assert not any(
        row["is_stale"] for row in rows(project, "none_stale").values() if row["age"] is not None
    )


def test_null_columns_are_a_segment_of_their_own(project: Project, hand: Hand) -> None:
    found = project.sql('select country, "Größe ""x""", segment_size, churn from segments')
    expected = {segment: hand.average(segment, at_least=3) for segment in hand.segments.values()}
    assert {row[:2]: row[3] for row in found} == {
        segment: pytest.approx(average["churn"], abs=1e-12)
        for segment, average in expected.items()
        if average is not None
    }
    assert (None, None) in {row[:2] for row in found}
    assert {row[:2] for row in found} != set(expected)


def test_averages_may_be_of_predictions_of_any_age(project: Project, hand: Hand) -> None:
    [(size,)] = project.sql("select sum(segment_size) from segments_never_stale")
    scored = [name for name in hand.segments if hand.of(name, "2", "scored")]
    assert 80 < size <= len(scored)
    [(fresh,)] = project.sql("select sum(segment_size) from segments")
    assert fresh < size
    assert "segment_average" in served_from(project, "never_stale").values()


def test_before_the_first_run_there_is_no_column_for_a_constant(project: Project) -> None:
    assert set(served_from(project, "unscored").values()) == {"missing"}
    assert project.sql("select * from segments_unscored") == []


def test_constants_are_served_where_nothing_was_ever_scored(project: Project, hand: Hand) -> None:
    found = rows(project, "not_yet", "churn, label, served_from")
    expected = {"churn": 0.5, "label": CONSTANT["label"], "served_from": "constant"}
    assert found == dict.fromkeys(hand.segments, expected)


def scans_of_latest(project: Project, name: str) -> list[bool]:
    """Return for each scan of the latest table, in a lookup by key, whether it filters by that key."""
    lookup = f"explain (format json) select * from {name} where customer_id = 'c001'"
    [(_, text)] = project.sql(lookup)
    found, nodes = [], json.loads(text)
    while nodes:
        node = nodes.pop()
        nodes += node["children"]
        about = json.dumps(node["extra_info"])
        if "scores__current" in about:
            found.append("customer_id = 'c001'" in about)
    return found


def test_a_lookup_by_key_is_pushed_down_to_the_scan_of_latest(project: Project) -> None:
    for name in ("plain", "chain_from_table", "only_constant", "only_stale"):
        assert set(scans_of_latest(project, name)) == {True}, name
    # the chain's averages scan the whole table; the scans for the entity itself filter by key
    assert sorted(scans_of_latest(project, "chain")) == [False, False, True, True]
