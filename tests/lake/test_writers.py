"""Several processes write to one lake: no row is lost or doubled, and a run that loses a conflict reports it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from warehouse import line_contract, line_model

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.proof import prove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from catalogs import Lake

HERE = Path(__file__).parent
ROWS = 2_000
NIGHTS = ["2024-01-10", "2024-01-11", "2024-01-12"]


class Writers:
    """Starts processes that score models into a lake."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake = lake
        self.started: list[subprocess.Popen[str]] = []
        model = line_model()
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.artifacts = folder / "artifacts"
        place = self.artifacts / "line" / "1"
        place.mkdir(parents=True)
        (place / "model.onnx").write_bytes(model)
        card = {
            "format_version": 1,
            "model_name": "line",
            "model_version": "1",
            "sha256": self.sha256,
            "contract": line_contract().to_dict(),
        }
        (place / "card.json").write_text(json.dumps(card))

    def start(
        self, name: str, nights: list[str] = NIGHTS, *, how: str | None = None
    ) -> subprocess.Popen[str]:
        given = {
            "lake": {key: str(value) for key, value in asdict(self.lake).items()},
            "name": name,
            "nights": nights,
            "rows": ROWS,
            "artifacts": str(self.artifacts),
            "sha256": self.sha256,
            "disturbed": how is not None,
            **({"how": how} if how else {}),
        }
        paths = [HERE, HERE.parent / "support", *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, str(HERE / "writer.py"), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        )
        self.started.append(process)
        return process

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with self.lake.connect() as connection:
            return connection.execute(query).fetchall()

    def check(self, name: str, nights: int) -> None:
        """Check that the ledger has each row of each night once, with its score, and that `prove` finds no fault."""
        found = self.sql(f"select id, y, score_reason from {name}")
        wanted = [(i, 2 * (i / 2) - 1 + 0.5, "new") for i in range(ROWS)]
        for number in range(1, nights):
            wanted += [
                (i, i - 2 + 0.5, "features_changed") for i in range(ROWS) if i % 10 == number - 1
            ]
        # pytest takes minutes to show how two long lists differ
        lost, doubled = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
        assert (list(lost)[:5], list(doubled)[:5]) == ([], [])
        assert self.sql(f"select count(*), count(distinct id) from {name}__current") == [
            (ROWS, ROWS)
        ]
        table = TableName(database="lake", schema="main", identifier=name)
        with self.lake.connect() as connection:
            assert list(map(str, prove(connection, table, with_values=True))) == []


@pytest.fixture
def writers(lake_in: Callable[[str], Lake], tmp_path: Path) -> Iterator[Callable[[str], Writers]]:
    made: list[Writers] = []

    def make(kind: str) -> Writers:
        made.append(Writers(lake_in(kind), tmp_path))
        return made[-1]

    yield make
    for process in made[0].started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("time", ["once", "again"])
def test_eight_processes_score_eight_models_at_once(
    writers: Callable[[str], Writers], time: str
) -> None:
    shared = writers("postgres")
    names = [f"scores_{number}" for number in range(8)]
    started = [shared.start(name, NIGHTS[:2]) for name in names]
    said = [process.communicate()[0] for process in started]
    print("".join(said))
    for name, text in zip(names, said, strict=True):
        assert re.findall(rf"{name}: (line/1: scored .*)", text) == [
            f"line/1: scored {ROWS:,} (new {ROWS:,}), unchanged 0",
            f"line/1: scored {ROWS // 10} (features_changed {ROWS // 10}), unchanged {ROWS * 9 // 10:,}",
        ]
        shared.check(name, nights=2)
    numbers = sorted(n for (n,) in shared.sql("select run_no from dbt_onnx_runs"))
    assert numbers == list(range(1, len(numbers) + 1))
    succeeded = "select scoring_model, count(*) from dbt_onnx_runs where status = 'success' group by all order by all"
    assert shared.sql(succeeded) == [(name, 2) for name in names]


@pytest.mark.parametrize("kind", ["postgres", "sqlite", "duckdb"])
def test_a_killed_process_leaves_nothing_and_the_next_goes_on(
    writers: Callable[[str], Writers], kind: str
) -> None:
    shared = writers(kind)
    assert shared.start("scores", NIGHTS[:1]).wait() == 0
    killed = shared.start("scores", NIGHTS[1:], how="die")
    assert killed.wait() == -signal.SIGKILL
    shared.check("scores", nights=1)
    last = shared.start("scores", NIGHTS[1:])
    text, _ = last.communicate()
    assert last.returncode == 0, text
    assert "child process" in text
    shared.check("scores", nights=3)
    assert shared.sql("select run_no, status from dbt_onnx_runs order by run_no") == [
        (1, "success"),
        (2, "interrupted"),
        (3, "success"),
        (4, "success"),
    ]


@pytest.mark.parametrize("nights", [1, 2])
def test_of_two_processes_that_score_one_model_the_later_wins(
    writers: Callable[[str], Writers], nights: int
) -> None:
    """The first has written all its rows when the second starts, both in a first run and with an existing ledger."""
    shared = writers("postgres")
    if nights == 2:
        assert shared.start("scores", NIGHTS[:1]).wait() == 0
    first = shared.start("scores", NIGHTS[:nights][-1:], how="wait")
    assert first.stdout is not None
    assert any(line == "written\n" for line in iter(first.stdout.readline, ""))
    second = shared.start("scores", NIGHTS[:nights][-1:])
    text, _ = second.communicate()
    assert second.returncode == 0, text
    said, _ = first.communicate("")
    assert first.returncode == 1
    [(winner,)] = shared.sql("select arg_max(run_id, run_no) from dbt_onnx_runs")
    assert f"this run of scores was taken over: run {winner!r} has begun" in said
    shared.check("scores", nights=nights)
    statuses = [
        status for (status,) in shared.sql("select status from dbt_onnx_runs order by run_no")
    ]
    assert statuses == ["success"] * (nights - 1) + ["interrupted", "success"]
