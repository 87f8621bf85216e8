"""A row that kills the dbt process: `dbt retry` finds nothing to do, and the next `dbt build` rejects the row."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import killers
import pytest
from scoring_project import ScoringProject
from test_bad_rows import DIVISION

if TYPE_CHECKING:
    from pathlib import Path

ROWS, BAD = 500, 123


@pytest.fixture
def project(tmp_path: Path) -> ScoringProject:
    """Return a project with two scoring models; the one that dies runs before the harmless one."""
    made = ScoringProject(tmp_path)
    made.sql(
        "create or replace table facts as select i::integer as id, case when i = 123 then "
        f"-9223372036854775808 else 9 * i end as a, case when i = {BAD} then -1 else 2 end::bigint as b "
        f"from range({ROWS}) as numbers (i)"
    )
    made.register("2", killers.division(), DIVISION, name="ratio")
    made.write(
        "models/honest_features.sql",
        "{{ config(materialized='table') }} select id, 1.0 as a, 2.0 as b "
        "from {{ source('shop', 'facts') }}",
    )
    made.scoring_model("a_ratio", arguments="model='ratio'")
    made.scoring_model("honest", features="honest_features")
    assert dbt(made, "deps").returncode == 0
    return made


def dbt(project: ScoringProject, *arguments: str) -> subprocess.CompletedProcess[str]:
    folders = ["--project-dir", str(project.root), "--profiles-dir", str(project.root)]
    program = "from dbt.cli.main import cli; cli()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments, *folders],
        check=False,
        capture_output=True,
        text=True,
    )


def test_retry_knows_of_nothing_and_build_rejects_the_row(project: ScoringProject) -> None:
    assert dbt(project, "seed").returncode == 0
    assert dbt(project, "build", "--threads", "1").returncode == -signal.SIGFPE
    assert not project.sql("from duckdb_tables() where ends_with(table_name, '__current')")

    # `dbt retry` reads the results of `dbt seed`, the last command that ended; so the documentation says `dbt build`
    again = dbt(project, "retry")
    assert again.returncode == 0, again.stdout
    assert "othing to do" in again.stdout

    built = dbt(project, "build", "--threads", "1")
    assert built.returncode == 0, built.stdout
    assert "rejected as model_crashed" in built.stdout
    assert project.sql("select id, rejected_reason from a_ratio where status = 'rejected'") == [
        (BAD, "model_crashed")
    ]
    assert project.sql("select id, y from a_ratio where status = 'scored' order by id") == [
        (i, float(9 * i // 2)) for i in range(ROWS) if i != BAD
    ]
    assert project.sql("select distinct y from honest") == [(0.5,)]
    assert project.sql(
        "select scoring_model, status, in_child_process from dbt_onnx_runs order by started_at"
    ) == [
        ("a_ratio", "interrupted", None),
        ("a_ratio", "success", True),
        ("honest", "success", False),
    ]
