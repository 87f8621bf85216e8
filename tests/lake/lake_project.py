"""A dbt project with a scoring model, in a lake or in a DuckDB file."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from scoring_project import ScoringProject

from dbt_onnx.cli import main
from dbt_onnx.engines.adapters import close_idle_connections

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import duckdb
    from catalogs import Lake
    from consumer import Outcome


class LakeProject(ScoringProject):
    """A project with a current view and generic tests. If `lake` is None, its warehouse is a DuckDB file."""

    def __init__(self, root: Path, lake: Lake | None) -> None:
        self.lake = lake
        super().__init__(root, profile=lake.profile if lake else None)
        with (self.root / "dbt_project.yml").open("a") as stream:
            stream.write('on-run-end: "{{ dbt_onnx.record_test_results(results) }}"\n')
        self.write(
            "models/features.sql",
            "{{ config(materialized='table') }} select * from {{ source('shop', 'facts') }} "
            "where since <= {{ dbt_onnx.clock() }} and coalesce(until > {{ dbt_onnx.clock() }}, true)",
        )
        self.sql(
            "create or replace table facts (id integer, a double, b double, since timestamp, until timestamp)"
        )
        self.write(
            "models/current_scores.sql",
            "{{ dbt_onnx.current_predictions(ref('scores'), registry=ref('model_registry'), key=['id'], "
            "entities=ref('features')) }}",
        )
        self.scoring_model("scores", arguments="max_rejected_fraction=0.5")
        arguments = {"key": ["id"]}
        tests = [
            {
                "dbt_onnx.predictions_are_fresh": {
                    "name": "fresh",
                    "arguments": {
                        **arguments,
                        "warn_after": {"count": 1, "period": "day"},
                        "error_after": {"count": 2, "period": "day"},
                    },
                }
            },
            {
                "dbt_onnx.predictions_are_complete": {
                    "name": "complete",
                    "arguments": {**arguments, "entities": "ref('features')"},
                }
            },
            {"dbt_onnx.predictions_are_valid": {"name": "valid", "arguments": arguments}},
            {
                "dbt_onnx.predictions_match_registry": {
                    "name": "registered",
                    "arguments": {**arguments, "registry": "ref('model_registry')"},
                }
            },
        ]
        self.write_yaml(
            "python_models/scores.yml", {"models": [{"name": "scores", "data_tests": tests}]}
        )

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        if self.lake is None:
            with super().connection() as connection:
                yield connection
            return
        with self.lake.connect() as connection:
            yield connection

    def sql(self, query: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        with self.connection() as connection:
            return connection.execute(query, list(parameters)).fetchall()

    def dbt(self, *arguments: str, vars: Mapping[str, Any] | None = None) -> Outcome:  # noqa: A002
        """Run dbt like `Project.dbt`, then close what dbt keeps open: a catalog in a file allows only one process."""
        try:
            return super().dbt(*arguments, vars=vars)
        finally:
            close_idle_connections()

    def night(self, clock: str) -> Outcome:
        return self.dbt("build", vars={"dbt_onnx_clock": clock})

    def command(self, *arguments: str, exit_code: int = 0) -> str:
        """Run `dbt-onnx ARGUMENTS` and return its output."""
        folders = ("--project-dir", str(self.root), "--profiles-dir", str(self.root))
        done = CliRunner().invoke(main, [*arguments, *folders])
        assert done.exit_code == exit_code, (done.output, done.exception)
        return done.output
