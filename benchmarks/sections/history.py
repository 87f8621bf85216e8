"""The cost of planning, the current view and the tests after a year of nightly runs, compared with one run
of the same entities.

dbt does the first run. SQL adds the other nights to current, history and runs, in the state that real runs with
some changed features would leave.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import duckdb
import yaml

from benchmarks import models, project
from benchmarks.data import floats
from benchmarks.measure import Stopwatch, Task, run
from benchmarks.results import Row
from dbt_onnx.runs.chain import fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Scale

ONE, MANY = "one run", "many runs"
FIRST_NIGHT = "2025-01-01"
CHANGED_PER_MILLE = 274
MAX_RATIO = 1.5
READS_LEDGER = {"predictions_match_previous_run", "predictions_replay", "predictions as of"}
"""Reads that have to read the whole ledger. They are reported without a target."""
_CURRENT = "dbt_onnx.current_predictions(ref('scores'), registry=ref('model_registry'), key=['id'])"
_AS_OF = "dbt_onnx.predictions_as_of(ref('scores'), key=['id'], about='2025-01-01 12:00')"
_TESTS = {
    "predictions_are_fresh": {"key": ["id"], "error_after": {"count": 2, "period": "day"}},
    "predictions_are_complete": {"key": ["id"], "entities": "ref('features')"},
    "predictions_are_valid": {"key": ["id"]},
    "predictions_match_registry": {"key": ["id"], "registry": "ref('model_registry')"},
    "features_match_training": {"features": "ref('features')"},
    "predictions_match_baseline": {"column": "score"},
    "predictions_match_previous_run": {"column": "score", "baseline": "previous_run"},
    "predictions_replay": {"registry": "ref('model_registry')", "runs": 1},
}


def measure(scale: Scale) -> Iterator[Row]:
    with played(scale) as folders:
        nights = scale_of(scale)[1]
        projects = [{"folder": str(folders[ONE]), "nights": 1}]
        projects += [{"folder": str(folders[MANY]), "nights": nights}]
        result = run(
            Task(__name__, "measure_in_turns", {"projects": projects, "rounds": scale.rounds})
        ).result
        history = f"{nights} runs, {ledger_rows(folders[MANY]):,} ledger rows"
    for what in result["taken"][0][0]:
        one, many = ([taken[what] for taken in of_project] for of_project in result["taken"])
        yield _row(what, one, many, history)


def scale_of(scale: Scale) -> tuple[int, int]:
    """Return the number of entities and of nights. The full version has 100.7 million ledger rows."""
    return scale.of(full=(1_000_000, 365), smoke=(20_000, 60))


def _row(what: str, one: list[float], many: list[float], history: str) -> Row:
    return Row(
        section="history",
        workload=what,
        against=f"{ONE}, {history}",
        unit="x the time",
        figure=median(late / early for late, early in zip(many, one, strict=True)),
        at_most=None if what in READS_LEDGER else MAX_RATIO,
        detail=f"{median(many):.2f} s, one run {median(one):.2f} s",
    )


@contextmanager
def played(scale: Scale) -> Iterator[dict[str, Path]]:
    """Yield the folders of two projects, by `ONE` and `MANY`, and delete them afterwards."""
    entities, nights = scale_of(scale)
    folders = {name: project.new_folder() for name in (ONE, MANY)}
    try:
        settings = {"data": str(floats(entities, 10)), "model": models.model("logistic")}
        run(Task(__name__, "begin", {"folder": str(folders[ONE]), **settings}))
        project.copy(created=str(folders[ONE]), folder=str(folders[MANY]))
        run(Task(__name__, "append_nights", {"folder": str(folders[MANY]), "nights": nights}))
        yield folders
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def begin(*, folder: str, **settings: Any) -> None:
    """A task: create a project with views and tests, and do its first run."""
    project.create(folder=folder, **settings)
    made = project.Project(Path(folder))
    profiles = yaml.safe_load((made.folder / "profiles.yml").read_text())
    profiles["benchmark"]["outputs"]["dev"]["plugins"] = [{"module": "dbt_onnx.replay_plugin"}]
    made.write("profiles.yml", yaml.safe_dump(profiles))
    made.write("models/scores_current.sql", f"{{{{ {_CURRENT} }}}}")
    made.write("models/scores_as_of.sql", f"{{{{ {_AS_OF} }}}}")
    tests = [
        {f"dbt_onnx.{_macro(name)}": {"name": name, "arguments": arguments}}
        for name, arguments in _TESTS.items()
    ]
    described = {"models": [{"name": project.NODE, "data_tests": tests}]}
    made.write("models/scores.yml", yaml.safe_dump(described))
    project.run(folder=folder, clock=FIRST_NIGHT)
    made.dbt("run", "--select", "scores_current", "scores_as_of", "--vars", _clock(1))


def append_nights(*, folder: str, nights: int) -> None:
    """A task: add all nights after the first. On each night the features of `CHANGED_PER_MILLE` of the entities
    changed, but not their scores.
    """
    with duckdb.connect(str(project.Project(Path(folder)).warehouse)) as connection:
        append(connection, nights)


def append(connection: duckdb.DuckDBPyConnection, nights: int) -> None:
    """Write all nights after the first into the tables of `scores`."""
    for statement in _statements(nights):
        connection.execute(statement)
    _chain_runs(connection)


def _statements(nights: int) -> Iterator[str]:
    """Yield the SQL that fills `scores__current`, `scores__history` and `dbt_onnx_runs`.

    `night` is the last night on which an entity was scored; the first run is night 0.
    """
    is_changed = f"hash(id, {{}}) % 1000 < {CHANGED_PER_MILLE}"
    changed = f"list_filter(range(1, {nights}), lambda night: {is_changed.format('night')})"
    yield (
        f"create temp table first_run as select *, coalesce(list_max({changed}), 0)::integer as night "
        "from scores__current order by id"
    )
    kept = "* exclude (night)"
    for night in range(nights):
        written = is_changed.format(night) if night else "true"
        reason = "'features_changed'" if night else "score_reason"
        yield (
            f"insert into scores__history by name select {kept} replace (as_of + to_days({night}) as as_of, "
            f"run_no + {night} as run_no, {reason} as score_reason), false as is_late "
            f"from first_run where night > {night} and {written}"
        )
    yield (
        "update scores__current as current set as_of = current.as_of + to_days(night), "
        "run_no = current.run_no + night, score_reason = 'features_changed' "
        "from first_run where first_run.id = current.id and night > 0"
    )
    yield (
        "insert into dbt_onnx_runs select first.* replace (run_no + night as run_no, "
        "'night ' || night as run_id, "
        "clock + to_days(night) as clock, as_of + to_days(night) as as_of, "
        "scored_at + to_milliseconds(night) as scored_at, "
        "started_at + to_milliseconds(night) as started_at, "
        "ended_at + to_milliseconds(night) as ended_at, "
        "written as rows_scored, rows_in - written as rows_unchanged, 0 as rows_new, "
        "written as rows_features_changed, 0 as rows_inputs_kept) "
        "from dbt_onnx_runs as first inner join (select run_no - (select min(run_no) from first_run) as night, "
        "count(*) as written from (select run_no from scores__current union all "
        "select run_no from scores__history) group by all) on night > 0 order by night"
    )
    yield "drop table first_run"


def _chain_runs(connection: duckdb.DuckDBPyConnection) -> None:
    """Store the fingerprint of each run and of the previous run."""
    runs = connection.execute("select * from dbt_onnx_runs order by run_no")
    names = [column[0] for column in runs.description or []]
    previous = None
    for row in runs.fetchall():
        run_row = {**dict(zip(names, row, strict=True)), "previous_fingerprint": previous}
        fingerprint = fingerprint_of(run_row)
        connection.execute(
            "update dbt_onnx_runs set previous_fingerprint = $1, fingerprint = $2 where run_no = $3",
            [previous, fingerprint, run_row["run_no"]],
        )
        previous = fingerprint


def measure_in_turns(*, projects: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """A task: call `measure_project` for each project in turns. Returns a list of rounds for each project.

    All rounds run in one process, because the imports of dbt would take longer than the measurements.
    """
    project.import_all()
    taken: list[list[dict[str, float]]] = [[] for _ in projects]
    for _ in range(rounds):
        for of_project, arguments in zip(taken, projects, strict=True):
            of_project.append(measure_project(**arguments))
    return {"taken": taken}


def measure_project(*, folder: str, nights: int) -> dict[str, float]:
    """Return the seconds of planning, of the views, and of each test."""
    made = project.Project(Path(folder))
    clock = _clock(nights)
    nodes = made.dbt("run", "--select", project.NODE, "--vars", clock)
    if "scored 0," not in (message := nodes[project.NODE].message):
        raise ValueError(f"the run without changes did not report 'scored 0': {message}")
    taken = {"planning": nodes[project.NODE].seconds}
    for what, view in (("current view", "scores_current"), ("predictions as of", "scores_as_of")):
        with duckdb.connect(str(made.warehouse)) as connection, Stopwatch() as watch:
            connection.execute(f"create temp table result as select * from {view}")
        taken[what] = watch.taken()["seconds"]
    tested = made.dbt("test", "--vars", clock)
    return {**taken, **{name: tested[name].seconds for name in _TESTS}}


def ledger_rows(folder: Path) -> int:
    with duckdb.connect(str(project.Project(folder).warehouse), read_only=True) as connection:
        return int(connection.execute("select count(*) from scores").fetchall()[0][0])


def _clock(night: int) -> str:
    clock = date.fromisoformat(FIRST_NIGHT) + timedelta(days=night - 1)
    return f'{{dbt_onnx_clock: "{clock}"}}'


def _macro(name: str) -> str:
    return "predictions_match_baseline" if name.endswith("previous_run") else name
