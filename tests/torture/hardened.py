"""Hardened warehouse: the functional tests pass on it, and SQL on its connection can neither read nor write files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import duckdb
from hardening import HARDENED, VARIABLE
from test_reference_project import SCORING_MODELS, Reference
from tests.torture import processes
from tests.torture.report import Attack
from warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROMISE = "Hardened warehouse"
ROOT = Path(__file__).parents[2]
FUNCTIONAL = ROOT / "tests" / "functional"
_OTHER_PROFILES = {
    # the profile of the reference project, see `_reference`
    "test_backfill_of_reference.py", "test_benchmark_history.py", "test_drift_of_reference.py",
    "test_fallback_of_reference.py", "test_played_history.py", "test_reference_features.py",
    "test_reference_models.py", "test_reference_project.py",
    "test_installing.py",  # a profile written as the documentation shows it
    "test_documentation_of_macros.py",  # no profile: no warehouse is opened
}  # fmt: skip
_LEFT_OUT = (
    # here SQL reads the artifacts' files to compare them with the registry. For the answer without file access, see
    # test_a_warehouse_that_is_closed_to_files_is_judged_by_its_runs in the same file
    "test_predictions_match_registry.py::test_it_returns_what_it_should[missing_file]",
    "test_predictions_match_registry.py::test_it_returns_what_it_should[altered_file]",
    # the features are a view over a file
    "test_kept_inputs.py::test_a_file_that_another_process_replaces_keeps_what_was_scored",
    "test_keys_by_bytes.py::test_tests_find_the_same",
    "test_gate_compares.py::test_features_that_are_no_relation_by_name_are_refused_before_anything_is_written[file]",
    # attaches a second database file, which counts as external access
    "test_predictions_materialization.py::test_odd_names_other_schemas_and_other_databases",
    "test_gate_compares.py::test_features_of_another_database_are_not_taken_for_those_of_the_same_name",
    # changes a setting, but settings are locked
    "test_errors.py::test_wrong_input_gives_its_message_and_changes_nothing[key-follows-a-collation]",
    # dbt-duckdb reads the seed as a file, and gives a different message if it may not
    "test_errors.py::test_dbt_shows_the_documented_message[seed-of-another-type]",
)
ATTACKS = (
    "select * from read_csv('{0}/secret.csv')", "select * from '{0}/secret.csv'",
    "select * from sniff_csv('{0}/secret.csv')", "select * from read_text('{0}/secret.csv')",
    "select * from read_blob('{0}/secret.csv')", "select * from glob('{0}/*')",
    "select * from read_json('{0}/secret.json')", "select * from read_ndjson_objects('{0}/secret.json')",
    "select * from read_parquet('{0}/secret.parquet')", "select * from parquet_schema('{0}/secret.parquet')",
    "select * from parquet_metadata('{0}/secret.parquet')",
    "create table taken as from read_csv('{0}/secret.csv')", "create view seen as from read_csv('{0}/secret.csv')",
    "copy features from '{0}/secret.csv'", "copy features to '{0}/out.csv'", "copy scores to '{0}/out.parquet'",
    "copy scores to '{0}/out.json' (format json)", "copy features to '{0}/parts' (format csv, partition_by (id))",
    "export database '{0}/exported'", "attach '{0}/other.duckdb' as other", "attach '{0}/new.duckdb' as new",
    "set lock_configuration = false", "reset lock_configuration", "set allowed_directories = ['{0}']",
    "set allowed_paths = ['{0}/secret.csv']", "set autoload_known_extensions = true",
    "set autoinstall_known_extensions = true", "set temp_directory = '{0}/temp'", "set home_directory = '{0}'",
    "set extension_directory = '{0}/extensions'", "set log_query_path = '{0}/queries.log'",
    "call enable_logging(storage = 'file', storage_config = {{'path': '{0}/logs'}})",
    "call enable_logging('QueryLog', storage_path = '{0}/logs')", "set memory_limit = '1MB'",
)  # fmt: skip


def measure(folder: Path, *, tests: Sequence[str] | None, builds: int) -> Iterator[Attack]:
    """Run functional `tests` (file names; all by default), `builds` builds of the reference
    project, and hostile SQL.
    """
    attack = Attack(PROMISE, f"functional tests, {len(_LEFT_OUT)} left out")
    yield run_functional_tests(attack, folder, tests, variable=VARIABLE, left_out=_LEFT_OUT)
    if builds:
        yield _reference(folder / "reference", builds)
    attack = Attack(PROMISE, "SQL that reads or writes a file, or changes a setting")
    for statement, harm in processes.run(attacked, str(folder / "sql"))[1].items():
        attack.made(harm=f"{statement}: {harm}" if harm else None)
    yield attack


def run_functional_tests(
    attack: Attack,
    folder: Path,
    files: Sequence[str] | None,
    *,
    variable: str,
    left_out: Sequence[str],
) -> Attack:
    """Run functional tests (file names; all by default) on a warehouse that `hardening` sets up for this variable."""
    for test in left_out:
        file, _, name = test.partition("::")
        if f"def {name.partition('[')[0]}(" not in (FUNCTIONAL / file).read_text():
            attack.harm.append(f"{test} is to be left out, and is not there")
    files = files or [path.name for path in FUNCTIONAL.glob("test_*.py")]
    report = folder / "report.xml"
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider",
            f"--junitxml={report}", f"--basetemp={folder / 'pytest'}",
            *(f"--deselect=tests/functional/{test}" for test in left_out),
            *(f"tests/functional/{name}" for name in sorted(set(files) - _OTHER_PROFILES)),
        ],
        cwd=ROOT, env={**os.environ, variable: "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    cases = ET.parse(report).findall(".//testcase") if report.exists() else []
    for case in cases:
        if case.find("skipped") is not None:
            continue
        broken = case.find("failure") if case.find("error") is None else case.find("error")
        name = f"{case.get('classname')}.{case.get('name')}"
        said = None if broken is None else f"{name}: {(broken.get('message') or '')[:300]}"
        attack.made(harm=said)
    if done.returncode and not attack.harm:
        attack.harm.append(done.stdout[-1_000:] + done.stderr[-1_000:])
    return attack


def _reference(root: Path, builds: int) -> Attack:
    """Build under the hardened target as profiles.yml describes: load the purchases first, under the other target."""
    attack = Attack(PROMISE, "builds of the reference project under its hardened target")
    root.mkdir()
    reference = Reference(root)
    dbt = str(Path(sys.executable).with_name("dbt"))
    reference.command(dbt, "seed", "--select", "purchases")
    hardened = ("--target", "hardened", "--exclude", "purchases")
    for week in range(builds):
        clock = f'{{dbt_onnx_clock: "1998-04-{1 + 7 * week:02}"}}'
        try:
            reference.command(dbt, "build", *hardened, "--vars", clock)
        except AssertionError as error:
            attack.made(harm=str(error)[-1_000:])
            continue
        runs = reference.sql(
            f"select status from dbt_onnx_runs where clock = '1998-04-{1 + 7 * week:02}'"
        )
        is_well = len(runs) == len(SCORING_MODELS) and set(runs) == {("success",)}
        attack.made(harm=None if is_well else f"runs of week {week}: {runs}")
    return attack


def attacked(path: str) -> dict[str, str]:
    """In a child process: run each statement on the connection of a finished run. Run it also on a
    warehouse that is not hardened, to show that there is something to refuse. Returns harm by
    statement.
    """
    folder = Path(path)
    folder.mkdir()
    hardened, free = _scored(folder, "hardened", HARDENED), _scored(folder, "free", {})
    (folder / "secret.csv").write_text("id,a,b\n7,7,7\n")
    (folder / "secret.json").write_text('{"a": 7}')
    duckdb.sql(f"copy (select 7 as a) to '{folder / 'secret.parquet'}'")
    duckdb.connect(str(folder / "other.duckdb")).close()
    harm = {}
    for statement in ATTACKS:
        sql = statement.format(folder)
        before = _files(folder)
        harm[statement] = ""
        if _said(hardened, sql) is None or _files(folder) != before:
            harm[statement] = f"was not refused; files: {_files(folder) - before}"
        refused = _said(free, sql)
        if refused is not None:
            harm[statement] = f"is refused without hardening, too: {refused}"
        for name in _files(folder) - before:
            (shutil.rmtree if (folder / name).is_dir() else os.unlink)(folder / name)
    hardened.connection.close()
    free.connection.close()
    return harm


def _scored(folder: Path, name: str, config: dict[str, str]) -> Warehouse:
    """Return a warehouse after one run, still open."""
    (folder / name).mkdir()
    warehouse = Warehouse(folder / name, config=config)
    warehouse.register("1")
    warehouse.features((1, 1.0, 2.0))
    warehouse.run()
    return warehouse


def _said(warehouse: Warehouse, sql: str) -> str | None:
    """Return DuckDB's refusal of a statement; None if DuckDB executed it."""
    try:
        warehouse.sql(sql)
    except duckdb.Error as error:
        return str(error)
    return None


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
