"""Publishing, mostly through dbt: it comes after the tests, so that predictions they refuse are not served."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from consumer import Project
from hand_written import CLOCK as HAND_CLOCK
from hand_written import HandWritten, prediction, run, sources
from publishing import Publisher
from scoring_project import CLOCK, ScoringProject, expect
from warehouse import Warehouse

from dbt_onnx.serving import Predictions

if TYPE_CHECKING:
    from pathlib import Path

    from consumer import Outcome

NOW = datetime.fromisoformat(CLOCK)
CURRENT = (
    "{{ dbt_onnx.current_predictions(ref('scores'), registry=ref('model_registry'), key=['id']) }}"
)


def published(relation: str, *, key: str, name: str, more: str = "") -> str:
    return f"""
    from dbt_onnx import publish


    def model(dbt, session):
        dbt.config(materialized="published")
        return publish(dbt, session, predictions=dbt.ref("{relation}"), key={key}, name="{name}"{more})
    """


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    project = ScoringProject(tmp_path_factory.mktemp("publishing"))
    project.facts(20)
    project.scoring_model("scores")
    project.write("models/scores_current.sql", CURRENT)
    project.write(
        "tests/no_large_score.sql", "select * from {{ ref('scores_current') }} where y > 100"
    )
    project.write(
        "python_models/scores_published.py",
        published("scores_current", key='["id"]', name="scores"),
    )
    # any table with a key can be published
    project.write("models/prices.sql", "select 'a''b' as sku, 1.50::decimal(9, 2) as price")
    project.write(
        "python_models/prices_published.py",
        published("prices", key='["sku"]', name="prices", more=", stale_after=None"),
    )
    return project


def opened(project: Project, name: str = "scores", *, clock: datetime = NOW) -> Predictions:
    return Predictions.open(project.root / "serving" / name, clock=lambda: clock)


def published_as(outcome: Outcome, node: str = "scores_published") -> str:
    expect(outcome, **{node: "success"})
    return outcome.nodes[node].message


def test_what_a_red_test_refuses_is_not_published(project: ScoringProject) -> None:
    """In order: a good night, a bad one, a repaired one, one without changes, an empty build, a full refresh."""
    assert published_as(outcome := project.dbt("build")) == "scores: published 20 (changed 20)"
    assert published_as(outcome, "prices_published") == "prices: published 1 (changed 1)"
    with opened(project, "prices") as prices:
        assert str(prices.get("a'b").outputs["price"]) == "1.50"

    project.sql("update facts set a = 100 where id = 3")
    project.sql("delete from facts where id = 5")
    outcome = project.dbt("build", "-s", "+scores_published")
    expect(outcome, no_large_score="fail", scores_published="skipped")
    with opened(project) as predictions:
        assert predictions.manifest.rows == 20
        assert predictions.get(3).outputs == {"y": 2.5}
        assert predictions.get(5).status == "predicted"

    project.sql("update facts set a = 10 where id = 3")
    outcome = project.dbt("build", "-s", "+scores_published")
    assert published_as(outcome) == "scores: published 19 (changed 1, removed 1)"
    with opened(project) as predictions:
        assert predictions.get(3).outputs == {"y": 19.5}
        assert predictions.get(5).status == "missing"
        assert predictions.manifest.served == (
            {"model_name": "line", "model_version": "1", "served_from": "serving_version", "status": "scored", "rows": 19},
        )  # fmt: skip

    tomorrow = NOW + timedelta(days=1)
    outcome = project.dbt(
        "build", "-s", "+scores_published", vars={"dbt_onnx_clock": str(tomorrow)}
    )
    assert published_as(outcome) == "scores: published 19 (changed 0)"
    with opened(project, clock=tomorrow) as predictions:
        assert predictions.get(3).outputs == {"y": 19.5}
        assert (predictions.get(3).fresh_as_of, predictions.get(3).age) == (tomorrow, timedelta())

    before = kept(project)
    outcome = project.dbt(
        "build", "-s", "+scores_published", "--empty", vars={"dbt_onnx_clock": str(tomorrow)}
    )
    assert published_as(outcome) == "scores: nothing published (--empty)"
    assert kept(project) == before

    outcome = project.dbt(
        "build", "-s", "+scores_published", "--full-refresh", vars={"dbt_onnx_clock": str(tomorrow)}
    )
    assert published_as(outcome) == "scores: published 19 (changed 19)"
    told = project.sql(
        "select target, switch_number, why, rows_published, rows_changed, rows_removed, relation, clock "
        "from dbt_onnx_publications where name = 'scores' order by served_since"
    )
    where = "main.scores_current"
    assert told == [
        ("files", 1, "published", 20, 20, 0, where, NOW),
        ("files", 2, "published", 19, 1, 1, where, NOW),
        ("files", 3, "published", 19, 0, 0, where, tomorrow),
        ("files", 4, "published", 19, 19, 0, where, tomorrow),
    ]
    [(run_id,)] = project.sql(
        "select run_id from dbt_onnx_publications order by served_since desc limit 1"
    )
    assert run_id == project.invocation_id()


def kept(project: Project) -> Any:
    """Return the published files, and the warehouse's tables about them."""
    folder = project.root / "serving"
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return files, project.rows("from scores_published order by all"), project.rows("from dbt_onnx_publications order by all")  # fmt: skip


HAND_NOW = datetime.fromisoformat(HAND_CLOCK)
ENTITIES = {
    "fresh": "FR", "earlier": "FR", "stale": "FR", "rejected": "IT", "rejected since": "FR", "averaged": "FR",
    "rejected, averaged": "FR", "never": "IT",
}  # fmt: skip
FALLBACKS = {
    "plain": "",
    "chain": ", fallback={'segment': ['country'], 'min_segment_size': 1, 'constant': {'churn': 0.5}}",
    "never_stale": ", stale_after=none",
}


@pytest.fixture(scope="module")
def hand(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Views that contain every value of `served_from`, and a publication of each."""
    project = Project(tmp_path_factory.mktemp("hand"))
    hand = HandWritten(project.warehouse)
    hand.registry("registry", ("1", None), ("2", "champion"))
    hand.table("entities", {"customer_id": "varchar", "country": "varchar"}, list(ENTITIES.items()))
    old = HAND_NOW - timedelta(days=3)
    hand.scoring_model(
        "ledger",
        [
            prediction("fresh"),
            prediction("earlier", "1", churn=0.1),
            prediction("stale", as_of=old, scored_at=old, last_seen_as_of=old),
            prediction("rejected", status="rejected"),
            prediction(
                "rejected since", churn=None, as_of=HAND_NOW - timedelta(days=1), scored_at=old
            ),
            prediction("rejected since", status="rejected"),
            prediction("rejected, averaged", status="rejected"),
        ],
        [run("1", started_at="1998-03-31", as_of=HAND_NOW - timedelta(days=1)), run("2")],
    )
    hand.close()
    project.write_yaml(
        "models/hand.yml", sources(**dict.fromkeys(["registry", "ledger", "entities"]))
    )
    for name, arguments in FALLBACKS.items():
        project.write(
            f"models/{name}.sql",
            "{{ dbt_onnx.current_predictions(source('hand', 'ledger'), registry=source('hand', 'registry'), "
            f"key=['customer_id'], entities=source('hand', 'entities'){arguments}) }}}}",
        )
        stale_after = ", stale_after=None" if name == "never_stale" else ""
        project.write(
            f"python_models/{name}_published.py",
            published(name, key='["customer_id"]', name=name, more=stale_after),
        )
    outcome = project.dbt("build", vars={"dbt_onnx_clock": HAND_CLOCK})
    assert outcome.success, [node.message for node in outcome.nodes.values()]
    return project


@pytest.mark.parametrize("name", FALLBACKS)
def test_an_answer_says_what_the_view_says(hand: Project, name: str) -> None:
    rows = {row["customer_id"]: row for row in hand.rows(f"from {name}")}
    assert set(rows) == set(ENTITIES)
    with opened(hand, name, clock=HAND_NOW) as predictions:
        for key, row in rows.items():
            answer = predictions.get(key)
            assert (answer.served_from, answer.is_stale, answer.age) == (
                row["served_from"], row["is_stale"], row["age"],
            ), key  # fmt: skip
            assert answer.rejected_reason == row["rejected_reason"]
            if row["served_from"] == "missing":
                assert answer.status == ("rejected" if row["status"] == "rejected" else "missing")
                assert answer.outputs == {}
                continue
            assert answer.status == "predicted"
            assert answer.outputs == {"churn": row["churn"]}
            for stamp in (
                "as_of",
                "scored_at",
                "fresh_as_of",
                "model_name",
                "model_version",
                "run_id",
            ):
                assert getattr(answer, stamp) == row[stamp], (key, stamp)


def test_every_way_to_be_served_is_published(hand: Project) -> None:
    def told(name: str) -> dict[str, tuple[str, str | None]]:
        with opened(hand, name, clock=HAND_NOW) as predictions:
            return {
                key: (predictions.get(key).status, predictions.get(key).served_from)
                for key in ENTITIES
            }

    plain = told("plain")
    assert plain["fresh"] == ("predicted", "serving_version")
    assert plain["earlier"] == ("predicted", "earlier_version")
    assert plain["rejected since"] == ("predicted", "serving_version")
    assert plain["rejected"] == ("rejected", "missing")
    assert plain["never"] == ("missing", "missing")
    chain = told("chain")
    assert chain["rejected, averaged"] == ("predicted", "segment_average")
    assert chain["never"] == ("predicted", "constant")


def test_a_model_is_published_with_the_types_of_its_own_features(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.register("1", name="line")
    warehouse.features((1, 1.0, 2.0))
    warehouse.run(features='select * from "w"."main"."features"')
    warehouse.register("2", name="other", alias="best")
    warehouse.name = "others"
    warehouse.sql(
        "create view numbers as select id, a::integer as a, b::decimal(9, 2) as b from features"
    )
    warehouse.run(model="other@best", features='select * from "w"."main"."numbers"')
    publisher = Publisher(tmp_path, connection=warehouse.connection)
    registry = warehouse.connection.sql("from model_registry")
    found = {}
    for model in ("line/1", "other/2"):
        publisher.publish(
            "select id, y from scores join others using (id, y)",
            ledgers=["scores", "others"], registry=registry, model=model,
        )  # fmt: skip
        with publisher.open() as predictions:
            served = predictions.manifest.model
            assert served is not None
            found[served.model_name] = {column.name: column.kind for column in served.features}
    assert found == {
        "line": {"a": "double", "b": "double"},
        "other": {"a": "int32", "b": "decimal128(9, 2)"},
    }
    warehouse.connection.close()
