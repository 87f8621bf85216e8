"""Refusals that no other test provokes: each is provoked here, and its message checked."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import duckdb
import pytest
from click.testing import CliRunner
from scoring_project import ScoringProject

from dbt_onnx.cli import main, predictions
from dbt_onnx.engines.base import Sources, TableName
from dbt_onnx.engines.duckdb import health
from dbt_onnx.engines.duckdb.cursor import Cursor
from dbt_onnx.errors import ConfigError, DataError, RegistryError, WarehouseError
from dbt_onnx.project import backfill
from dbt_onnx.project.dbt_project import DbtProject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

P = "ref('scores')"
OF_SCORES = f"{P}, registry=ref('model_registry'), key=['id']"
CALLS = {
    "key_of_numbers": (
        f"missing_predictions({P}, ref('features'), key=[7], entity_since=7)",
        [
            "key has 7, which is not a column name",
            "entity_since is 7; it takes the name of a column of",
        ],
    ),
    "no_moments": (
        f"""prediction_calibration({P}, ref('features'), key=['id'], column='y', outcome='a',
        known_at=7, as_of='')""",
        [
            "known_at is 7; it takes a date or timestamp column of outcomes",
            "as_of is ; it takes a date or timestamp column of outcomes",
        ],
    ),
    "no_view_of_predictions": (
        f"prediction_health({OF_SCORES}, view=ref('features'))",
        ["view names column 'served_from'", "view names column 'is_stale'"],
    ),
    "averages_without_outputs": (
        f"""current_predictions({OF_SCORES}, entities=ref('features'),
        fallback={{'segment': ['a'], 'segment_averages': ref('features')}})""",
        ["fallback.segment_averages names column 'y'"],
    ),
    "no_period": (
        f"current_predictions({OF_SCORES}, stale_after={{'count': 2, 'period': 'fortnight'}})",
        ["stale_after is", "it takes {count: 2, period: day}: a whole number"],
    ),
    "no_moment": (
        f"predictions_as_of({P}, key=['id'], said_at='last week')",
        ["said_at is 'last week'; it takes a date or a timestamp"],
    ),
    "no_output": (
        f"test_predictions_match_baseline({P}, column=7, baseline='last_week')",
        ["column is 7; it takes the name of an output", 'baseline is "last_week"'],
    ),
    "no_grace": (
        f"test_predictions_are_complete({P}, key=['id'], entities=ref('features'), grace=2)",
        [
            "grace is 2; it takes {count: 2, period: day}",
            "grace needs entity_since, and entity_since needs grace",
        ],
    ),
    "no_registry": (
        f"test_predictions_replay({P}, registry='model_registry', sample=0)",
        ['registry is "model_registry"; it takes a relation', "sample is 0; it takes a whole"],
    ),
}
# the first required argument of each macro after the predictions
LEFT_OUT = {
    "current_predictions": "registry",
    "missing_predictions": "entities",
    "predictions_as_of": "key",
    "segment_averages": "registry",
    "prediction_health": "registry",
    "prediction_outcomes": "outcomes",
    "prediction_calibration": "outcomes",
    "compare_predictions": "challenger",
    "prediction_movers": "challenger",
    "test_predictions_are_fresh": "key",
    "test_predictions_are_complete": "entities",
    "test_predictions_are_valid": "key",
    "test_predictions_match_registry": "registry",
    "test_predictions_match_baseline": "column",
    "test_predictions_replay": "registry",
    "test_features_match_training": "features",
}
CALLS |= {
    f"{macro}_of_nothing": (
        f"{macro}({P})",
        [
            f"{name} is missing; it takes"
            if name in {"key", "column"}
            else f"parameter '{name}' was not provided"
        ],
    )
    for macro, name in LEFT_OUT.items()
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    project = ScoringProject(tmp_path_factory.mktemp("refusals"))
    project.facts(3)
    project.scoring_model("scores")
    assert project.dbt("build").success
    for name, (call, _) in CALLS.items():
        project.write(
            f"models/{name}.sql", f"-- depends_on: {{{{ {P} }}}}\n{{{{ dbt_onnx.{call} }}}}"
        )
    project.dbt("run", "-s", *CALLS)
    return project


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_of_a_macro_is_named(project: ScoringProject, name: str) -> None:
    node = project.outcome.nodes[name]
    assert node.status == "error"
    for fault in CALLS[name][1]:
        assert fault in node.message


# after a failed compilation, dbt leaves its pool to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")
def test_a_query_that_dbt_cannot_make_is_said(project: ScoringProject) -> None:
    opened = DbtProject(project.root, profiles_dir=project.root)
    with pytest.raises(
        ConfigError, match=r"dbt cannot render a query for the project .*no_such_thing"
    ):
        opened.render("select {{ no_such_thing.of() }}", variables={})
    gc.collect()


def test_a_name_in_two_packages_is_asked_for_by_its_id(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = DbtProject(project.root, profiles_dir=project.root)
    [own] = opened.scoring_models()
    other = replace(own, unique_id="model.other.scores")
    monkeypatch.setattr(opened, "scoring_models", lambda: [own, other])
    assert opened.scoring_model("model.other.scores") == other
    wanted = "2 scoring models of the project are called 'scores'\nHint: name one of model.consumer"
    with pytest.raises(ConfigError, match=wanted):
        opened.scoring_model("scores")


def test_another_warehouse_than_duckdb_is_refused(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dbt.adapters.factory import FACTORY

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    opened = DbtProject(project.root, profiles_dir=project.root)
    monkeypatch.setattr(opened, "invoke", lambda *_: SimpleNamespace(success=True))
    monkeypatch.setattr(FACTORY, "adapters", {"postgres": None})
    with pytest.raises(
        ConfigError, match="warehouse is of type postgres; dbt_onnx reads duckdb and sparkonnx"
    ):
        opened.scoring_models()


def test_a_command_that_needs_dbt_says_how_to_get_it(
    project: ScoringProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "dbt.cli.main", None)
    done = CliRunner().invoke(main, ["runs", "--project-dir", str(project.root)])
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "this command runs dbt, which is not installed here" in said
    assert "pip install 'dbt-onnx[duckdb]'" in said


def test_variables_are_a_mapping(project: ScoringProject) -> None:
    for wrong in ("[1, 2]", "{unclosed"):
        done = CliRunner().invoke(main, ["runs", "--vars", wrong])
        assert done.exit_code == 2
        assert "is not a mapping such as" in done.output


def test_the_beginning_of_two_run_ids_names_neither() -> None:
    assert predictions._full_id("ab", ["abc", "bcd"]) == "abc"
    with pytest.raises(ConfigError, match=r"2 runs begin with 'a'\nHint: name one of abc, acd"):
        predictions._full_id("a", ["abc", "acd", "bcd"])


def test_a_run_without_the_scoring_model_is_no_slice() -> None:
    other = SimpleNamespace(node=SimpleNamespace(unique_id="model.shop.other"), message="OK")
    done = SimpleNamespace(result=SimpleNamespace(results=[other]))
    assert backfill._message_of(done, "model.shop.other") == "OK"
    with pytest.raises(WarehouseError, match="dbt ran, but not the scoring model"):
        backfill._message_of(done, "model.shop.scores")


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def sources(registry: str | None) -> Sources:
    table = TableName(database="memory", schema="main", identifier=registry) if registry else None
    return Sources(
        key=("id",),
        features_name="main.features",
        features=None,
        registry_name="main.model_registry",
        registry=table,
        gone=(),
        is_broken=False,
    )


def test_a_registry_that_is_gone_or_cannot_be_read_is_said(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    cursor = Cursor(connection)
    with pytest.raises(RegistryError, match=r"registry main\.model_registry is not in the ware"):
        health.read_registry(cursor, sources(None))
    connection.execute("create table t (a int); create view model_registry as from t; drop table t")
    with pytest.raises(RegistryError, match=r"main\.model_registry cannot be read: .*t does not"):
        health.read_registry(cursor, sources("model_registry"))


def test_features_that_cannot_tell_who_they_are_about_are_a_fault(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    found = replace(
        sources(None), features=TableName(database="memory", schema="main", identifier="features")
    )
    connection.execute("create table t (number int); create view features as from t")
    cursor = Cursor(connection)
    with pytest.raises(DataError, match=r"relation main\.features is not in the warehouse"):
        health.check_features(cursor, sources(None))
    with pytest.raises(ConfigError, match=r"\['id'\] not found in main\.features"):
        health.check_features(cursor, found)
    connection.execute("drop table t")
    with pytest.raises(DataError, match=r"the feature relation main\.features cannot be read: "):
        health.check_features(cursor, found)


def test_figures_of_health_that_cannot_be_read_are_said(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    with pytest.raises(WarehouseError, match=r"the warehouse cannot answer: .*nowhere"):
        health.read_answers(Cursor(connection), "select * from nowhere")


def test_a_backfill_without_a_registry_in_the_warehouse_is_refused(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    features = TableName(database="memory", schema="main", identifier="features")
    connection.execute("create table features (id int)")
    with pytest.raises(RegistryError, match=r"none of main\.features has the columns model_name"):
        health.registry_among(Cursor(connection), [features])
    with pytest.raises(RegistryError, match="none of the relations that the scoring model reads"):
        health.registry_among(Cursor(connection), [])
