"""The package's tests and queries, compiled once by dbt, to run on any warehouse at any clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from consumer import Project
from hand_written import generic_test, sources
from warehouse import Warehouse

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    import duckdb

UNITS = ("second", "minute", "hour", "day", "week")
TABLES = ("scores", "text_scores", "absent")
_CLOCK = "2001-02-03 04:05:06.000007"
_OF_REAL_CLOCK = ("scores_fresh_served_day", "scores_complete_day", "scores_current_day")
_NOW = "make_timestamp(epoch_us(now()))"
# placeholders in the compiled SQL, replaced with the values of a case
_WARN, _ERROR, _SAID_AT, _ABOUT = 7919, 7927, "2001-02-03 04:05:07", "2001-02-03 04:05:08"


@dataclass(frozen=True)
class Claims:
    """`compiled`: SQL by name, under a fixed clock; `real`: the same queries under the real clock."""

    compiled: dict[str, str] = field(repr=False)
    real: dict[str, str] = field(repr=False)
    levels: tuple[str, str, str]  # freshness test: dbt's row count, warn, error

    def sql(self, name: str, clock: datetime | None, **values: Any) -> str:
        """Return the SQL with a case's values: `warn` and `error` (counts of a unit), `said_at`, `about`."""
        text = self.real[name] if clock is None else self.compiled[name].replace(_CLOCK, str(clock))
        marks = {"warn": _WARN, "error": _ERROR, "said_at": _SAID_AT, "about": _ABOUT}
        for argument, value in values.items():
            text = text.replace(str(marks[argument]), str(value))
        return text

    def rows(
        self, connection: duckdb.DuckDBPyConnection, name: str, clock: datetime | None, *,
        columns: str = "*", **values: Any,
    ) -> list[tuple[Any, ...]]:  # fmt: skip
        """Return the rows of a test or query."""
        text = self.sql(name, clock, **values)
        return connection.execute(f"select {columns} from ({text})").fetchall()

    def level(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        clock: datetime | None,
        **values: Any,
    ) -> str:
        """Return dbt's result for a freshness test: 'pass', 'warn' or 'error'."""
        count, warn, error = self.levels
        text = self.sql(name, clock, **values)
        counted = f"select {count} {warn}, {count} {error} from ({text})"
        [(warns, fails)] = connection.execute(counted).fetchall()
        return "error" if fails else "warn" if warns else "pass"


def compiled(folder: Path) -> Claims:
    """Compile every test and query in a project for a warehouse file `w`. The scoring model
    `absent` has not run yet, and its schema is empty.
    """
    folder.mkdir(parents=True)
    warehouse = Warehouse(folder)
    warehouse.register("1")
    warehouse.features((1, 1.0, 2.0))
    warehouse.run()
    warehouse.name = "text_scores"
    warehouse.run(features="select id::varchar as id, a, b from features")
    warehouse.sql("create table entities (id integer, since timestamp)")
    warehouse.connection.close()
    project = Project(folder / "project", profile={"path": str(folder / "w.duckdb")})
    tables = {"entities": None, "model_registry": None, **{name: _tests(name) for name in TABLES}}
    declared = sources(**tables)["sources"][0]
    *there, absent = declared["tables"]
    bare = {"name": "bare", "schema": "bare", "tables": [absent]}
    project.write_yaml("models/hand.yml", {"sources": [{**declared, "tables": there}, bare]})
    for table in TABLES:
        for name, text in _queries(table).items():
            project.write(f"models/{table}_{name}.sql", text)
    fixed = _compiled(project, {"dbt_onnx_clock": _CLOCK})
    # exclude rather than select: dbt prints the selection
    others = [name for name in fixed if name not in _OF_REAL_CLOCK]
    real = _compiled(project, None, "--exclude", *others)
    for name, text in real.items():
        set_back = fixed[name].replace(f"cast('{_CLOCK}' as timestamp)", _NOW)
        if "fresh" not in name and set_back != text:
            raise RuntimeError(f"the clock is not all that differs in {name}")
    config = next(
        result.node.config
        for result in project.outcome.value.results
        if result.node.name == _OF_REAL_CLOCK[0]
    )
    return Claims(fixed, real, (config.fail_calc, config.warn_if, config.error_if))


def _compiled(project: Project, given: dict[str, str] | None, *selected: str) -> dict[str, str]:
    outcome = project.dbt("compile", *selected, vars=given)
    if not outcome.success:
        raise RuntimeError(f"{outcome.error}\n{outcome.log}")
    return {result.node.name: result.node.compiled_code for result in outcome.value.results}


def _tests(table: str) -> list[dict[str, Any]]:
    """Return the tests of a table. Names with `_served` use the registry; without it, the version
    that ran last is served.
    """
    registry = {"registry": "source('hand', 'model_registry')"}
    entities = {"key": ["id"], "entities": "source('hand', 'entities')"}
    # report every entity that has left, however long ago
    unknown = {**entities, "max_unknown_fraction": 0}
    tests = [
        generic_test("predictions_are_complete", f"{table}_complete", **unknown),
        generic_test("predictions_are_complete", f"{table}_complete_served", **unknown, **registry),
    ]
    for unit in _units(table):
        periods = {"warn_after": _WARN, "error_after": _ERROR}
        fresh = {name: {"count": count, "period": unit} for name, count in periods.items()}
        grace = {"grace": {"count": _WARN, "period": unit}, "entity_since": "since"}
        if unit == "day":
            tests.append(
                generic_test("predictions_are_fresh", f"{table}_fresh_day", **entities, **fresh)
            )
        tests += [
            generic_test("predictions_are_fresh", f"{table}_fresh_served_{unit}", **entities, **fresh, **registry),
            generic_test("predictions_are_complete", f"{table}_complete_{unit}", **unknown, **grace),
        ]  # fmt: skip
    return tests


def _queries(table: str) -> dict[str, str]:
    scores = f"source('{'bare' if table == 'absent' else 'hand'}', '{table}')"
    entities, registry = "source('hand', 'entities')", "source('hand', 'model_registry')"
    serving = f"{scores}, registry={registry}, key=['id'], entities={entities}"
    return {
        "missing": f"{{{{ dbt_onnx.missing_predictions({scores}, {entities}, ['id']) }}}}",
        "as_of": f"{{{{ dbt_onnx.predictions_as_of({scores}, ['id'], '{_SAID_AT}', '{_ABOUT}') }}}}",
        **{
            f"current_{unit}": f"{{{{ dbt_onnx.current_predictions({serving}, "
            f"stale_after={{'count': {_WARN}, 'period': '{unit}'}}) }}}}"
            for unit in _units(table)
        },
    }


def _units(table: str) -> tuple[str, ...]:
    return UNITS if table == "scores" else ("day",)
