"""One or several Ctrl-C end dbt without aborting its process, and leave the ledger whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from graphs import build, constant, tensor
from onnx import helper
from scoring_project import ScoringProject

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 200_000
ENDS_AT_WORK = """
import sys, threading, time
import numpy as np
from dbt_onnx.kernel.session import OnnxSession

session = OnnxSession(open(sys.argv[1], "rb").read(), output_names=["y"], batch_rows=int(sys.argv[2]))
x = np.ones((50_000, 2), np.float32)
thread = threading.Thread(target=lambda: [session.run({"X": x}) for _ in range(50)], daemon=True)
thread.start()
time.sleep(float(sys.argv[3]))
"""


def heavy(layers: int = 6) -> bytes:
    """y = the mean of 512 numbers after `layers` layers; 100,000 rows take some seconds."""
    nodes = [helper.make_node("MatMul", ["X", "first"], ["h0"])]
    for i in range(layers):
        nodes += [
            helper.make_node("MatMul", [f"h{i}", "next"], [f"m{i}"]),
            helper.make_node("Tanh", [f"m{i}"], [f"h{i + 1}"]),
        ]
    nodes.append(helper.make_node("ReduceMean", [f"h{layers}", "axis"], ["y"], keepdims=1))
    constants = [
        constant("first", np.ones((2, 512))),
        constant("next", np.eye(512)),
        constant("axis", [1], "int64"),
    ]
    return build(nodes, [tensor("X", shape=("N", 2))], [tensor("y")], constants=constants, opset=18)


@pytest.mark.parametrize("seconds", [0.3, 0.7])
@pytest.mark.parametrize("batch_rows", [10, 2_000])
def test_a_process_that_ends_while_a_model_runs_does_not_abort(
    tmp_path: Path, seconds: float, batch_rows: int
) -> None:
    (tmp_path / "model.onnx").write_bytes(heavy())
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_AT_WORK, str(tmp_path / "model.onnx"), str(batch_rows), str(seconds)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    made = ScoringProject(tmp_path_factory.mktemp("interrupts"))
    made.facts(ROWS)
    made.register("2", heavy())
    made.scoring_model("scores")
    for command in (["deps"], ["seed"], ["run", "-s", "features"]):
        with dbt(made, *command) as ended:
            assert ended.wait() == 0, ended.stdout and ended.stdout.read()
    return made


def dbt(project: ScoringProject, *arguments: str) -> subprocess.Popen[str]:
    """Start dbt in a separate process: after an interrupt, this process would keep the database open."""
    folders = ["--project-dir", str(project.root), "--profiles-dir", str(project.root)]
    return subprocess.Popen(
        [sys.executable, "-c", "from dbt.cli.main import cli; cli()", *arguments, *folders],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("gaps", [[0.02], [0.3, 0.3]])
def test_dbt_ends_and_the_ledger_is_whole(project: ScoringProject, gaps: list[float]) -> None:
    before = rows(project)
    with dbt(project, "run", "-s", "scores", "--full-refresh") as process:
        assert process.stdout is not None
        while "START" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(2)
        for gap in [0, *gaps]:
            time.sleep(gap)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode in {0, 1, 2}, said
    assert rows(project) in {before, before + ROWS}
    with dbt(project, "run", "-s", "scores") as again:
        assert again.wait() == 0
    status = "select status from dbt_onnx_runs order by started_at desc limit 1"
    assert project.sql(status) == [("success",)]
    assert project.sql(f"select count(distinct id), count(*) % {ROWS} from scores") == [(ROWS, 0)]


def rows(project: ScoringProject) -> int:
    if not project.sql("from duckdb_tables() where table_name = 'scores__current'"):
        return 0
    count: int = project.sql("select count(*) from scores")[0][0]
    return count
