"""In every macro, texts are equal if their bytes are, whatever the collation; and vectors survive joins."""

from __future__ import annotations

from typing import Any

import pytest
from consumer import Project
from hand_written import HandWritten, generic_test, prediction, run, sources

LATER = "1998-04-01 14:00:00"
KEYS = ["A", "a", "Ä", "ä", "é"]
TEXT = "varchar collate nocase.noaccent"
COLLATED = {"default_collation": "nocase.noaccent"}
ARGUMENTS = {"registry": "source('hand', 'registry')", "key": ["customer_id"]}
ENTITIES = {"entities": "source('hand', 'entities')"}
FALLBACK = {
    "segment": ["segment"],
    "min_segment_size": 1,
    "constant": {"churn": 0.5, "vector": [7.0, 8.0, 9.0]},
}
OUTPUTS = {"churn": "double", "label": "varchar", "vector": "float[3]"}


def call(macro: str, *relations: str, **arguments: Any) -> str:
    given = [f"source('hand', '{name}')" for name in relations]
    given += [f"{name}={value}" for name, value in arguments.items()]
    return f"{{{{ config(materialized='table') }}}} {{{{ dbt_onnx.{macro}({', '.join(given)}) }}}}"


def filled(hand: HandWritten, key: str) -> None:
    """Write a ledger: A and a, Ä and ä are scored, é is rejected, b has no row. Many more rows give the joins work."""
    hand.registry("registry", ("2", "champion"))
    rows, other = [], []
    for n, name in enumerate(KEYS[:4]):
        shown = {"label": ("Yes", "yes")[n % 2], "vector": [float(n), 1.0, 2.0]}
        rows.append(prediction(name, churn=0.1 * n, **shown))
        other.append(prediction(name, churn=0.1 * n, **{**shown, "label": "yes"}))
    rows.append(prediction("é", status="rejected"))
    rows += [
        prediction(f"n{n}", churn=0.5, label="no", vector=[0.0, 0.0, 0.0])
        if n % 3
        else prediction(f"n{n}", status="rejected")
        for n in range(60)
    ]
    types = {"customer_id": key}
    hand.scoring_model("scores", rows, [run("2")], key=types, outputs=OUTPUTS)
    hand.scoring_model("others", other, [run("2")], key=types, outputs=OUTPUTS)
    names = [*KEYS, "b", *(f"n{n}" for n in range(120))]
    segments = [(name, ("S", "s")[n % 2]) for n, name in enumerate(names)]
    hand.table("entities", {**types, "segment": TEXT if "collate" in key else "varchar"}, segments)
    outcomes = [
        (name, n % 2, "1998-04-01 13:30", "1998-04-01 13:00") for n, name in enumerate(KEYS[:4])
    ]
    known = {"happened": "integer", "known_at": "timestamp", "about": "timestamp"}
    hand.table("outcomes", {**types, **known}, outcomes)


@pytest.fixture(scope="module", params=["column", "session", "neither"])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Project:
    profile = {"settings": COLLATED} if request.param == "session" else {}
    project = Project(tmp_path_factory.mktemp("bytes"), profile=profile)
    hand = HandWritten(project.warehouse)
    hand.connection.begin()
    filled(hand, TEXT if request.param == "column" else "varchar")
    hand.connection.commit()
    hand.close()
    tests = [
        generic_test("predictions_are_complete", "complete", key=["customer_id"], **ENTITIES),
        generic_test("predictions_are_fresh", "fresh", warn_after={"count": 1, "period": "day"}, key=["customer_id"], **ENTITIES),
        generic_test("predictions_match_registry", "registry_test", **ARGUMENTS, **ENTITIES),
        generic_test("predictions_match_baseline", "share", column="label", max_label_share=0.001, min_rows=1),
        generic_test("predictions_are_valid", "valid", key=["customer_id"], max_rejected_fraction=1),
    ]  # fmt: skip
    project.write_yaml(
        "models/hand.yml",
        sources(scores=tests, **dict.fromkeys(("registry", "others", "entities", "outcomes"))),
    )
    both = {"champion": "source('hand', 'scores')", "challenger": "source('hand', 'others')"}
    judged = {
        "outcome": "'happened'",
        "known_at": "'known_at'",
        "as_of": "'about'",
        "made_at": "'as_of'",
    }
    for name, text in {
        "served": call("current_predictions", "scores", **ARGUMENTS),
        "of_entities": call("current_predictions", "scores", **ARGUMENTS, **ENTITIES),
        "fallen_back": call("current_predictions", "scores", **ARGUMENTS, **ENTITIES, fallback=FALLBACK),
        "stale_too": call(
            "current_predictions", "scores", **ARGUMENTS, **ENTITIES,
            fallback={"allow_stale": {"count": 9, "period": "day"}, "segment": ["segment"]},
        ),
        "averages": call("segment_averages", "scores", **ARGUMENTS, **ENTITIES, segment=["segment"], min_segment_size=1),
        "missing": call("missing_predictions", "scores", "entities", key=ARGUMENTS["key"]),
        "as_of": call("predictions_as_of", "scores", key=ARGUMENTS["key"]),
        "compared": call("compare_predictions", **both, key=ARGUMENTS["key"], column="'label'"),
        "vectors": call("compare_predictions", **both, key=ARGUMENTS["key"], column="'vector'"),
        "movers": call("prediction_movers", **both, key=ARGUMENTS["key"], column="'churn'", limit="none"),
        "judged": call("prediction_outcomes", "scores", "outcomes", key=ARGUMENTS["key"], column="'churn'", **judged),
    }.items():  # fmt: skip
        project.write(f"models/{name}.sql", text)
    made = project.dbt("run", vars={"dbt_onnx_clock": LATER})
    assert made.success, made.log
    project.dbt("test", vars={"dbt_onnx_clock": LATER})
    failed = {n.name: n.message for n in project.outcome.nodes.values() if n.status == "error"}
    assert not failed, failed
    return project


def by_key(project: Project, relation: str, column: str) -> dict[str, Any]:
    rows = project.sql(f"select customer_id, {column} from {relation}")
    assert len({row[0] for row in rows}) == len(rows), rows
    return dict(rows)  # type: ignore[arg-type]


def test_each_key_is_an_entity_of_its_own_in_each_macro(project: Project) -> None:
    expected = {name: pytest.approx(0.1 * n) for n, name in enumerate(KEYS[:4])}
    for relation in ("served", "of_entities", "fallen_back", "stale_too", "as_of"):
        found = by_key(project, relation, "churn")
        assert {k: found[k] for k in KEYS[:4]} == expected, relation
    assert len(by_key(project, "of_entities", "churn")) == 126
    missing = by_key(project, "missing", "problem")
    assert {k: v for k, v in missing.items() if not k.startswith("n")} == {
        "é": "rejected",
        "b": "missing",
    }
    assert set(by_key(project, "movers", "difference")) == set(KEYS[:4])
    assert project.sql('select "rows", positives from judged') == [(4, 2)]


def test_tests_find_the_same(project: Project) -> None:
    assert project.outcome.nodes["fresh"].status == "pass"
    # a ledger written by hand has no artifact files
    assert project.found("registry_test", "problem") == [("artifact_missing",)]
    complete = project.found("complete", "customer_id", "problem")
    assert {row for row in complete if not row[0].startswith("n")} == {
        ("é", "rejected"),
        ("b", "missing"),
    }
    assert {key for (key, *_), in zip(project.found("complete", "customer_id"), strict=True)} == {
        "é", "b", *(f"n{n}" for n in range(120) if n >= 60 or n % 3 == 0)
    }  # fmt: skip


def test_labels_that_differ_are_different_labels(project: Project) -> None:
    assert project.sql(
        "select agreement, paired_rows from compared where challenger is not null and champion is not null"
    ) == [(0.5, 4)]
    found = project.found("share", "problem", "actual")
    shares = {actual.split(":")[0] for problem, actual in found if problem == "label_share"}
    assert shares == {"Yes", "yes", "no"}
    sizes = dict(project.sql("select segment, segment_size from averages"))
    assert set(sizes) == {"S", "s"}
    assert sum(sizes.values()) == 44


def test_a_vector_that_is_not_there_is_null_and_others_are_what_they_were(project: Project) -> None:
    vectors = {name: (float(n), 1.0, 2.0) for n, name in enumerate(KEYS[:4])}
    vectors |= {f"n{n}": (0.0, 0.0, 0.0) for n in range(60) if n % 3}
    names = [*KEYS, "b", *(f"n{n}" for n in range(120))]
    for relation in ("of_entities", "stale_too", "fallen_back"):
        found = by_key(project, relation, "vector")
        assert found == {name: vectors.get(name) for name in names}, relation
        assert project.sql(f"select distinct typeof(vector) from {relation}") == [("FLOAT[3]",)]
    assert project.sql("select distinct vector, typeof(vector) from averages") == [
        (None, "FLOAT[3]")
    ]
    [row] = project.rows("from vectors where champion is not null and challenger is not null")
    assert (row["paired_rows"], row["agreement"]) == (4, 1.0)
