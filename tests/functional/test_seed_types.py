"""Whatever types dbt gives a seed, a version is scored as written, or refused with a hint that helps."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner
from hardening import CONFIG
from scoring_project import ScoringProject

from dbt_onnx.cli import main

if TYPE_CHECKING:
    from consumer import Outcome

ROOT = Path(__file__).parents[2]
# a hardened warehouse cannot read files in SQL
FAST = [False] if CONFIG else [False, True]
DOCUMENTED = re.findall(
    r"^```yaml\n(# seeds/.*?)^```$",
    (ROOT / "docs" / "registry.md").read_text(),
    re.MULTILINE | re.DOTALL,
)
PROMOTION = "2024-01-0{day}T00:00:00.000000Z,line,{version},{before},promote,{gate},{reason}\n"


def create(root: Path, *, fast: bool, types: dict[str, Any] | None) -> ScoringProject:
    project = ScoringProject(root)
    project.facts(4)
    project.scoring_model("scores")
    path = root / "dbt_project.yml"
    path.write_text(path.read_text().replace("seeds: {+fast: false}\n", ""))
    with path.open("a") as stream:
        stream.write(f"seeds: {{+fast: {str(fast).lower()}}}\n")
    (root / "seeds" / "seeds.yml").unlink()
    if types is not None:
        project.write_yaml("seeds/seeds.yml", types)
    project.entries.clear()
    shutil.rmtree(root / "artifacts")
    return project


def promotions(project: ScoringProject, *rows: str) -> None:
    header = "promoted_at,model_name,model_version,replaced_version,action,gate,reason\n"
    (project.root / "seeds" / "model_promotions.csv").write_text(header + "".join(rows))


def said(outcome: Outcome) -> str:
    return " ".join(outcome.nodes["scores"].message.split())


@pytest.mark.parametrize("fast", FAST)
def test_the_documented_types_take_what_comes_one_after_the_other(
    tmp_path: Path, fast: bool
) -> None:
    [documented] = DOCUMENTED
    project = create(tmp_path, fast=fast, types=yaml.safe_load(documented))
    project.register("1")
    promotions(project, PROMOTION.format(day=1, version="1", before="", gate="passed", reason=""))
    assert project.dbt("build").success
    scored = {"1"}
    for day, version in enumerate(["v2", "1.10", "01", "1_0", "true", "2024-1-5"], start=2):
        project.register(version)
        rows = PROMOTION.format(
            day=day, version=version, before="1", gate="overridden", reason="a text"
        )
        with (project.root / "seeds" / "model_promotions.csv").open("a") as stream:
            stream.write(rows)
        assert project.dbt("build").success, version
        scored.add(version)
    assert {row[0] for row in project.sql("select model_version from scores")} == scored
    found = project.sql("select model_version, reason from model_promotions order by promoted_at")
    assert found[:3] == [("1", None), ("v2", "a text"), ("1.10", "a text")]


@pytest.mark.parametrize("fast", FAST)
def test_without_types_a_version_is_scored_as_it_is_written_or_refused(
    tmp_path: Path, fast: bool
) -> None:
    project = create(tmp_path, fast=fast, types=None)
    outcomes = {}
    for version in ("1", "2024-01-05", "1.10", "1.0", "01", "1_0", "true", "1e3", "2024-1-5"):
        project.entries.clear()
        project.register(version)
        outcome = project.dbt("build", "--full-refresh")
        if outcome.nodes["scores"].status == "success":
            outcomes[version] = "scored"
            newest = project.sql("select arg_max(model_version, scored_at) from scores")
            assert newest == [(version,)]
        else:
            outcomes[version] = "refused"
            assert "`+column_types: {model_version: string}`" in said(outcome), version
            assert "`dbt seed --full-refresh`" in said(outcome), version
    assert outcomes.pop("1") == outcomes.pop("2024-01-05") == "scored"
    assert {"1.10", "1.0", "01", "true", "1e3"} <= {
        version for version, how in outcomes.items() if how == "refused"
    }


@pytest.mark.parametrize("fast", FAST)
def test_a_blank_line_gets_the_same_answer_from_a_build_and_from_verify(
    tmp_path: Path, fast: bool
) -> None:
    [documented] = DOCUMENTED
    project = create(tmp_path, fast=fast, types=yaml.safe_load(documented))
    project.register("1", alias="")
    project.register("2")
    seed = project.root / "seeds" / "model_registry.csv"
    header, first, second = seed.read_text().splitlines()
    seed.write_text(f"{header}\n\n{first}\n\n{second}\n\n")
    promotions(project)
    outcome = project.dbt("build", "-s", "model_registry", "features", "scores")
    assert outcome.success, said(outcome)
    done = CliRunner().invoke(main, ["verify", "--project-dir", str(project.root)])
    assert done.exit_code == 0
    assert done.stdout.count("ok") == 2
