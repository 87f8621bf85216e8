"""The registry vouches for a version's card as it does for its file: a changed card is refused by name."""

from __future__ import annotations

import csv
import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from scoring_project import ScoringProject
from sklearn.linear_model import LinearRegression

import dbt_onnx
from dbt_onnx.artifacts.registry import Registry, RegistryEntry
from dbt_onnx.cli import main
from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb.replaying import replay_run
from dbt_onnx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from warehouse import Warehouse

SCORES = TableName(database="w", schema="main", identifier="scores")


class Shop(ScoringProject):
    """A scored project with `gain/1`, exported from an estimator that was trained without missing values."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.facts(20)
        self.sql("update facts set b = null where id = 3")
        (root / "seeds" / "model_registry.csv").unlink()
        values = np.random.default_rng(7).normal(size=(50, 2))
        self.table = pa.table({"a": values[:, 0], "b": values[:, 1]})
        self.estimator = LinearRegression().fit(values, 2 * values[:, 0] - values[:, 1])
        self.export()
        types = dict.fromkeys(self.header(), "varchar")
        seed = {"name": "model_registry", "config": {"column_types": types}}
        self.write_yaml("seeds/seeds.yml", {"seeds": [seed]})
        self.scoring_model("scores", arguments="model='gain'")
        built = self.dbt("build")
        assert built.success, built.nodes["scores"].message

    def export(self, **options: object) -> RegistryEntry:
        return dbt_onnx.export(
            self.estimator, self.table, name="gain", version="1", alias="champion",
            artifacts=self.root / "artifacts", registry=self.seed, **options,  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def seed(self) -> Path:
        return self.root / "seeds" / "model_registry.csv"

    @property
    def card(self) -> Path:
        return self.root / "artifacts" / "gain" / "1" / "card.json"

    def header(self) -> list[str]:
        with self.seed.open(newline="") as stream:
            return list(csv.DictReader(stream).fieldnames or [])

    def call(self, command: str, *arguments: str) -> Result:
        where = ["--project-dir", str(self.root)]
        if command not in {"verify", "rollback"}:
            where += ["--profiles-dir", str(self.root)]
        done = CliRunner().invoke(main, [command, *arguments, *where], env={"COLUMNS": "250"})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_export_does_not_overwrite_the_card_of_a_version(shop: Shop) -> None:
    before, seed = shop.card.read_bytes(), shop.seed.read_bytes()
    with pytest.raises(ArtifactError, match=r"card\.json already exists and contains another card"):
        shop.export(fills={"b": 99.0})
    assert (shop.card.read_bytes(), shop.seed.read_bytes()) == (before, seed)
    shop.export()  # the same export again changes nothing
    assert (shop.card.read_bytes(), shop.seed.read_bytes()) == (before, seed)


def test_a_card_that_is_replaced_on_purpose_is_registered_so(shop: Shop) -> None:
    entry = shop.export(fills={"b": 99.0}, replace=True)
    assert entry.card_sha256 == hashlib.sha256(shop.card.read_bytes()).hexdigest()
    assert Registry.from_csv(shop.seed).resolve("gain/1") == entry
    assert shop.dbt("build").success
    # the honest run before used the earlier card, and a replay says so
    [(earlier,)] = shop.sql("select arg_min(run_id, started_at) from dbt_onnx_runs")
    done = shop.call("replay", "scores", "--run", earlier)
    assert done.exit_code == 1
    assert "the card was changed since the run" in " ".join(done.stdout.split())


def test_a_run_stamps_the_card_that_it_read(shop: Shop) -> None:
    digest = hashlib.sha256(shop.card.read_bytes()).hexdigest()
    assert shop.sql("select card_sha256 from dbt_onnx_runs") == [(digest,)]
    assert "card_sha256" not in shop.dbt("run").log


def test_whoever_reads_a_card_that_was_edited_refuses_it_by_name(shop: Shop) -> None:
    card = json.loads(shop.card.read_text())
    card["contract"]["features"][1] |= {"null_policy": "fill", "fill": 99.0}
    shop.card.write_text(json.dumps(card))
    wanted = "card.json is not the card that was registered with 'gain/1'"
    said = {
        "verify": shop.call("verify").stdout,
        "status": shop.call("status").stdout,
        "replay": shop.call("replay", "scores").stdout,
        "run": shop.dbt("run").nodes["scores"].message,
    }
    shop.seed.write_text(shop.seed.read_text().replace(",champion,", ",,"))
    said["promote"] = shop.call("promote", "gain/1", "--override", "I know").stderr
    assert {name for name, text in said.items() if wanted in " ".join(text.split())} == set(said)
    assert shop.sql("select count(*) from scores where status = 'scored'") == [(19,)]


# without dbt, and with a registry that has no card_sha256


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Iterator[Warehouse]:
    warehouse = new_warehouse(tmp_path)
    warehouse.register("1")
    warehouse.features((1, 1.0, 2.0), (2, 3.0, None))
    yield warehouse
    warehouse.connection.close()


def edit_card(warehouse: Warehouse) -> None:
    path = warehouse.artifacts / "line" / "1" / "card.json"
    path.write_text(path.read_text().replace('"reject"', '"nan"'))


def replayed(warehouse: Warehouse, run_id: str) -> list[tuple[str, str | None]]:
    rows = warehouse.sql("select * from model_registry")
    names = [row[0] for row in warehouse.sql("describe model_registry")]
    registry = Registry.from_rows([dict(zip(names, row, strict=True)) for row in rows], where="r")
    replay = replay_run(
        warehouse.connection, SCORES, run_id, registry=registry, artifacts=warehouse.artifacts
    )
    return [(finding.problem, finding.actual) for finding in replay.findings]


def test_a_registry_of_today_scores_and_its_runs_know_their_card(warehouse: Warehouse) -> None:
    warehouse.run()
    assert replayed(warehouse, "run-1") == []
    digest = hashlib.sha256((warehouse.artifacts / "line/1/card.json").read_bytes()).hexdigest()
    assert warehouse.last_run("card_sha256") == (digest,)
    edit_card(warehouse)
    [(problem, actual)] = replayed(warehouse, "run-1")
    assert problem == "artifact"
    assert actual is not None
    assert actual.endswith(": the card was changed since the run")


def test_a_run_of_before_the_stamp_is_replayed_as_before(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.sql("alter table dbt_onnx_runs drop column card_sha256")
    assert replayed(warehouse, "run-1") == []
    warehouse.sql("update features set a = 5 where id = 1")
    warehouse.run()  # this run adds the column again
    assert replayed(warehouse, "run-1") == []
    assert replayed(warehouse, "run-2") == []


@pytest.mark.parametrize("cell", ["", None])
def test_an_empty_cell_is_no_card(warehouse: Warehouse, cell: str | None) -> None:
    warehouse.sql("alter table model_registry add column card_sha256 varchar")
    cursor = warehouse.connection.cursor()
    cursor.execute("update model_registry set card_sha256 = $1", [cell])
    assert warehouse.run().rows_scored == 1
    cursor.execute("update model_registry set card_sha256 = $1", ["0" * 64])
    with pytest.raises(ArtifactError, match="the registry says 0000"):
        warehouse.run()
