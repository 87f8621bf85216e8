"""Compare errors with their rows in docs/errors.md."""

from __future__ import annotations

import re
import shutil
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from error_cases import CASES, run
from error_cases_of_models import MODEL_CASES
from error_cases_of_publishing import PUBLISHING, folder_of, published
from error_cases_of_targets import TARGETS
from error_commands import COMMANDS, called, files, message_and_hint
from error_document import ERRORS, ON_SPARK, faults_of_text, pattern
from error_project import BY_DBT, HAS_TRACEBACK
from warehouse import Warehouse

from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from error_cases import Attempt, Case

RUNS: dict[str, Case] = CASES | MODEL_CASES
PROVOKED = {*RUNS, *PUBLISHING, *TARGETS, *COMMANDS, *BY_DBT, *ON_SPARK}


def create_template(folder: Path) -> Path:
    """Create a warehouse with three predictions and one feature that has changed since."""
    folder.mkdir(parents=True, exist_ok=True)
    warehouse = Warehouse(folder)
    warehouse.register("1")
    warehouse.features((1, 1.0, 2.0), (2, 3.0, 1.0), (3, 0.0, 0.0))
    run(warehouse, {})
    warehouse.sql("update features set a = 7 where id = 2")
    warehouse.connection.close()
    return folder


def reopened(folder: Path, *, runs: int = 1) -> Warehouse:
    warehouse = Warehouse(folder)
    warehouse.runs = runs
    return warehouse


@contextmanager
def copied(template: Path, folder: Path) -> Iterator[Warehouse]:
    """Open a copy of the warehouse, and delete it afterwards."""
    shutil.copytree(template, folder)
    warehouse = reopened(folder)
    try:
        yield warehouse
    finally:
        warehouse.connection.close()
        shutil.rmtree(folder)


def content(warehouse: Warehouse) -> dict[str, Any]:
    """Return every table with its columns and rows, and every view with its text, except the runs table."""
    found: dict[str, Any] = {}
    for name, sql in warehouse.sql(
        "select table_name, sql from duckdb_tables() where not internal "
        "union all select view_name, sql from duckdb_views() where not internal"
    ):
        if name != "dbt_onnx_runs":
            is_table = sql.startswith("CREATE TABLE")
            rows = warehouse.sql(f'from "{name}"') if is_table else []
            found[name] = (sql, sorted(map(repr, rows)))
    return found


def run_rows(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    """Return the rows of the runs table; none if it is gone."""
    is_there = "select 1 from duckdb_columns() where table_name = 'dbt_onnx_runs' limit 1"
    return warehouse.sql("from dbt_onnx_runs order by all") if warehouse.sql(is_there) else []


def faults_of_run(warehouse: Warehouse, name: str) -> list[str]:
    """Provoke an error of a run. Returns all faults: in the type or the text of the error, in written rows, in the run
    row, or in the next run after the cause was fixed.
    """
    attempt = RUNS[name](warehouse)
    before, rows_before = content(warehouse), run_rows(warehouse)
    try:
        run(warehouse, attempt.arguments)
    except DbtOnnxError as error:
        faults = faults_of_text(name, f"{error.kind} error: {error.message}", error.hint)
        if type(error) is not attempt.kind:
            faults.append(f"the error is a {type(error).__name__}")
        faults += _faults_of_state(warehouse, attempt, str(error), before, rows_before)
    except Exception as error:  # noqa: BLE001, a traceback is what a user must not see
        return [f"a traceback: {traceback.format_exception_only(error)}"]
    else:
        return ["no error"]
    return faults or _faults_of_next_run(warehouse, attempt)


def faults_of_error(name: str, error: DbtOnnxError) -> list[str]:
    """Return the faults in the text of an error."""
    return faults_of_text(name, f"{error.kind} error: {error.message}", error.hint)


def _faults_of_state(
    warehouse: Warehouse,
    attempt: Attempt,
    error: str,
    before: dict[str, Any],
    rows_before: list[tuple[Any, ...]],
) -> list[str]:
    faults = [] if content(warehouse) == before else ["something was written"]
    rows = run_rows(warehouse)
    if attempt.run_row is None:
        return faults if rows == rows_before else [*faults, "a run row was written"]
    wanted = f"run-{warehouse.runs}"
    new = [row for row in rows if row not in rows_before]
    last = warehouse.last_run("run_id, status, error, ended_at is not null")
    if len(new) != 1 or len(rows) != len(rows_before) + 1:
        faults.append(f"{len(new)} run rows were written or changed")
    elif last != (wanted, "error", error, True):
        faults.append(f"the run row has {last}")
    return faults


def _faults_of_next_run(warehouse: Warehouse, attempt: Attempt) -> list[str]:
    if attempt.undo is None:
        return []
    attempt.undo()
    run(warehouse, {})
    last = warehouse.last_run("status, rows_scored > 0")
    return (
        [] if last == ("success", True) else [f"after the cause was fixed, the run row has {last}"]
    )


def faults_of_publishing(folder: Path, name: str) -> list[str]:
    """Provoke an error of a publication. It must leave the previous publication unchanged."""
    with published(folder) as publisher:
        attempt = PUBLISHING[name](publisher)
        before = folder_of(publisher)
        try:
            attempt()
        except DbtOnnxError as error:
            faults = faults_of_text(name, f"{error.kind} error: {error.message}", error.hint)
        except Exception as error:  # noqa: BLE001, a traceback is what a user must not see
            return [f"a traceback: {traceback.format_exception_only(error)}"]
        else:
            return ["no error"]
        return faults if folder_of(publisher) == before else [*faults, "something was published"]


def faults_of_command(folder: Path, name: str) -> list[str]:
    """Call a command that must fail without changing anything below the folder."""
    arguments = COMMANDS[name](folder)
    before = files(folder)
    faults = faults_of_call(name, called(folder, arguments))
    return faults if files(folder) == before else [*faults, "a file was written"]


def faults_of_call(name: str, result: Result) -> list[str]:
    """Return the faults in the output of a command. If click cannot parse a call, it prints its own message without a
    hint. Then only docs/errors.md has the hint.
    """
    faults = [] if result.exit_code in (1, 2) else [f"exit code {result.exit_code}"]
    message, hint = message_and_hint(result)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        faults.append(f"a traceback: {result.exception!r}")
    if "Traceback" in result.output:
        faults.append("a traceback in the output")
    is_usage = "Usage: " in result.stderr
    return faults + faults_of_text(name, message, ERRORS[name].hint if is_usage else hint)


def faults_of_dbt(name: str, text: str) -> list[str]:
    """Return the faults in dbt's output."""
    text = " ".join(text.split())
    row = ERRORS[name]
    faults = (
        []
        if re.search(pattern(row.message), text)
        else [f"the output does not match the documented message: {text}"]
    )
    if "Hint: " in text and not re.search(pattern(row.hint), text):
        faults.append(f"the output does not contain the documented hint: {text}")
    if "Traceback" in text and name not in HAS_TRACEBACK:
        faults.append("a traceback")
    return faults
