"""A file arrives and its predictions are published, without anybody starting dbt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from hardening import IS_HARDENED
from scoring_project import ScoringProject

from dbt_onnx.errors import ConfigError
from dbt_onnx.project import watching
from dbt_onnx.project.dbt_project import DbtProject
from dbt_onnx.project.watching import Watch
from dbt_onnx.serving import Predictions

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    IS_HARDENED,
    reason="the files of these tests are read in SQL, which a hardened warehouse forbids",
)

PUBLISHED = """
from dbt_onnx import publish


def model(dbt, session):
    dbt.config(materialized="published")
    return publish(
        dbt, session, predictions=dbt.ref("scores_current"), key=["id"], name="scores"
    )
"""


class Landing(ScoringProject):
    """A project whose features are read from the files of a folder; the newest file of an id counts."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.write(
            "models/features.sql",
            f"select id, a, b from read_parquet('{root}/landing/*.parquet', filename=true) "
            "qualify row_number() over (partition by id order by filename desc) = 1",
        )
        self.scoring_model("scores")
        self.write(
            "models/scores_current.sql",
            "{{ dbt_onnx.current_predictions("
            "ref('scores'), registry=ref('model_registry'), key=['id']) }}",
        )
        self.write("python_models/scores_published.py", PUBLISHED)
        self.land("0", rows=10, a=1)
        self.dbt("deps")

    def land(self, name: str, *, rows: int, a: float) -> None:
        folder = self.root / "landing"
        folder.mkdir(exist_ok=True)
        written = folder / f".{name}"
        with duckdb.connect() as connection:
            connection.execute(
                f"copy (select i::integer as id, {a}::double as a, 1::double as b from range({rows}) t (i)) "
                f"to '{written}' (format parquet)"
            )
        written.rename(folder / f"{name}.parquet")

    def watch(self, every: float = 0.1) -> Watch:
        return Watch(
            lambda: DbtProject(self.root, profiles_dir=self.root),
            select=["+scores_published"],
            patterns=["landing/*.parquet"],
            every=every,
        )

    def published(self, key: int) -> float | None:
        with Predictions.open(self.root / "serving" / "scores") as predictions:
            return predictions.get(key).outputs.get("y")


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Landing:
    return Landing(tmp_path_factory.mktemp("watch") / "project")


@pytest.fixture
def watch(landing: Landing) -> Iterator[Watch]:
    started = landing.watch()
    first = started.look()
    assert first is not None
    assert first.succeeded, first
    yield started


def test_a_file_that_arrives_is_scored_and_published_once(landing: Landing, watch: Watch) -> None:
    assert watch.look() is None
    landing.land("1", rows=12, a=5)
    build = watch.look()
    assert build is not None
    assert build.succeeded, build
    assert [Path(path).name for path in build.arrived] == ["1.parquet"]
    assert (landing.published(0), landing.published(11)) == (9.5, 9.5)
    assert watch.look() is None
    # the same name with different content counts as new, too
    landing.land("1", rows=12, a=6)
    build = watch.look()
    assert build is not None
    assert [Path(path).name for path in build.arrived] == ["1.parquet"]
    assert landing.published(11) == 11.5


def test_after_a_failure_it_tries_again_by_itself_and_waits_longer_each_time(
    landing: Landing, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = landing.published(0)
    assert watch.wait == 0.1
    broken = landing.root / "landing" / "2.parquet"
    broken.write_bytes(b"PAR1 half of a file")
    waits = []
    for _ in range(3):
        build = watch.look()
        assert build is not None
        assert "2.parquet" in build.failed["scores"]
        waits.append(watch.wait)
    assert waits == [0.2, 0.4, 0.8]
    assert landing.published(0) == before
    monkeypatch.setattr(watching, "LONGEST_WAIT", 0.5)
    assert watch.wait == 0.5
    broken.unlink()
    build = watch.look()
    assert build is not None
    assert build.succeeded
    assert watch.wait == 0.1


def test_the_project_is_read_again_when_its_files_have_changed(
    landing: Landing, watch: Watch
) -> None:
    model = landing.root / "models" / "scores_current.sql"
    text = model.read_text()
    model.write_text("{{ never_closed")
    landing.land("3", rows=12, a=7)
    build = watch.look()
    assert build is not None
    assert build.error is not None
    assert "never_closed" in build.error
    model.write_text(text)
    build = watch.look()
    assert build is not None
    assert build.succeeded
    assert landing.published(0) == 13.5


def test_a_project_that_cannot_be_read_is_told_at_the_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a dbt project"):
        Watch(lambda: DbtProject(tmp_path), select=[], patterns=[], every=1)


def test_ctrl_c_ends_after_the_build(landing: Landing) -> None:
    command = [
        str(Path(sys.executable).with_name("dbt-onnx")),
        *(
            "watch",
            "--select",
            "+scores_published",
            "--files",
            "landing/*.parquet",
            "--every",
            "1s",
        ),
    ]
    landing.land("4", rows=12, a=8)
    environment = {**os.environ, "DBT_PROFILES_DIR": str(landing.root)}
    with subprocess.Popen(
        command, cwd=landing.root, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("watching for files like landing/*.parquet")
        assert " ok " in process.stdout.readline()
        landing.land("5", rows=12, a=9)
        assert process.stdout.readline().rstrip().endswith("5.parquet")
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.stdout.read() == "ended\n"
        assert process.wait(20) == 0
    assert time.monotonic() - began < 20
    assert landing.published(0) == 17.5
