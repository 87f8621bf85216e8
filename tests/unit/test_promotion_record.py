"""Registry and promotions change together, stay consistent, and refuse when the record is incomplete."""

from __future__ import annotations

import csv
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from warehouse import line_contract, line_model

from dbt_onnx.artifacts.artifact import write_artifact
from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.artifacts.registry_file import put_entry
from dbt_onnx.cli import main
from dbt_onnx.errors import ConfigError, DbtOnnxError, RegistryError
from dbt_onnx.project.scoring_calls import literal_arguments
from dbt_onnx.promotion.promote import (
    Change,
    ModelState,
    clean_reason,
    promote_version,
    read_promotion,
    roll_back,
)
from dbt_onnx.promotion.promotions_file import FOUND, PROMOTION_COLUMNS, read_history

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


class Seeds:
    """A registry and promotions of one model `m` with versions 1 to 4; 1 is champion."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "seeds" / "model_registry.csv"
        self.promotions = folder / "seeds" / "model_promotions.csv"
        self.artifacts = folder / "artifacts"
        for version in "1234":
            entry = write_artifact(
                self.artifacts,
                line_model(a=float(version)),
                model_name="m",
                model_version=version,
                contract=line_contract(),
            )
            put_entry(self.registry, entry)
        self.edit(m={"1": "champion"})

    def edit(self, **models: dict[str, str]) -> None:
        """Write aliases into the registry, like a person with an editor."""
        rows = read(self.registry)
        for row in rows:
            if row["model_name"] in models:
                row["alias"] = models[row["model_name"]].get(row["model_version"], "")
        with self.registry.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def promote(self, version: str, **options: Any) -> Change:
        state, entry = read_promotion(self.registry, f"m/{version}")
        known = {"action": "promote", "gate": "passed", "reason": "", **options}
        return promote_version(state, entry, **known)

    def roll_back(self, to: str | None = None, reason: str = "") -> Change:
        return roll_back(self.registry, "m", to=to, artifacts=self.artifacts, reason=reason)

    @property
    def aliases(self) -> dict[str, str | None]:
        return {
            entry.model_version: entry.alias for entry in Registry.from_csv(self.registry).entries
        }

    @property
    def champion(self) -> str | None:
        entry = ModelState.read(self.registry, "m").champion
        return entry.model_version if entry else None

    def rows(self, *columns: str) -> list[tuple[str, ...]]:
        return [tuple(row[column] for column in columns) for row in read(self.promotions)]

    def content(self) -> tuple[bytes, bytes | None]:
        promotions = self.promotions
        return self.registry.read_bytes(), promotions.read_bytes() if promotions.exists() else None


@pytest.fixture
def seeds(tmp_path: Path) -> Seeds:
    return Seeds(tmp_path)


def refusal(seeds: Seeds, attempt: Any) -> DbtOnnxError:
    """Return the error of an attempt, which must leave both files unchanged."""
    before = seeds.content()
    with pytest.raises(DbtOnnxError) as caught:
        attempt()
    assert seeds.content() == before
    assert caught.value.hint
    return caught.value


STORY = ("action", "model_version", "replaced_version", "gate")


def test_a_promotion_moves_the_alias_and_is_recorded(seeds: Seeds) -> None:
    change = seeds.promote("2")
    assert seeds.aliases == {"1": None, "2": "champion", "3": None, "4": None}
    assert seeds.rows(*STORY) == [("promote", "2", "1", "passed")]
    assert (change.first, change.replaced_alias, change.found) == (True, None, None)
    assert not seeds.promote("3").first


def test_a_challenger_that_is_promoted_makes_the_champion_challenger(seeds: Seeds) -> None:
    seeds.edit(m={"1": "champion", "2": "challenger"})
    assert seeds.promote("2").replaced_alias == "challenger"
    assert seeds.aliases == {"1": "challenger", "2": "champion", "3": None, "4": None}
    seeds.roll_back()
    assert seeds.aliases == {"1": "champion", "2": "challenger", "3": None, "4": None}


def test_a_first_champion_replaces_nobody(seeds: Seeds) -> None:
    seeds.edit(m={})
    seeds.promote("2")
    assert seeds.rows(*STORY) == [("promote", "2", "", "passed")]
    message = refusal(seeds, seeds.roll_back).message
    assert "m/2 is the first champion in" in message


def test_which_version_was_champion_when_is_a_question_of_the_promotions(seeds: Seeds) -> None:
    seeds.promote("2")
    seeds.promote("3")
    seeds.roll_back()
    times = [row[0] for row in seeds.rows("promoted_at")]
    assert times == sorted(set(times))
    assert all(
        len(time) == len("1998-01-05T14:03:07.000000Z") and time[-1] == "Z" for time in times
    )


def test_a_clock_that_was_set_back_does_not_turn_the_order_round(seeds: Seeds) -> None:
    seeds.promote("2")
    text = seeds.promotions.read_text()
    (year,) = {row[0][:4] for row in seeds.rows("promoted_at")}
    seeds.promotions.write_text(text.replace(f"{year}-", "2999-"))
    seeds.promote("3")
    first, second = (row[0] for row in seeds.rows("promoted_at"))
    assert first < second


def test_a_rollback_returns_to_the_version_before(seeds: Seeds) -> None:
    for version in "234":
        seeds.promote(version)
    assert seeds.roll_back(reason="too many calls").promotion.reason == "too many calls"
    assert seeds.champion == "3"
    # each rollback goes one further back, not to and fro
    seeds.roll_back()
    assert seeds.champion == "2"
    seeds.roll_back()
    assert seeds.champion == "1"
    assert "there is no earlier champion" in refusal(seeds, seeds.roll_back).message
    assert seeds.rows("action", "model_version")[3:] == [("rollback", v) for v in "321"]
    assert set(seeds.rows("gate")[3:]) == {("not_run",)}


def test_what_was_rolled_back_and_promoted_again_can_be_rolled_back_again(seeds: Seeds) -> None:
    seeds.promote("2")
    seeds.roll_back()
    seeds.promote("3")
    seeds.promote("2")
    seeds.roll_back()
    assert seeds.champion == "3"
    seeds.roll_back()
    assert seeds.champion == "1"


def test_a_rollback_can_name_any_version_that_was_champion(seeds: Seeds) -> None:
    seeds.promote("2")
    seeds.promote("3")
    seeds.roll_back(to="1")
    assert seeds.champion == "1"
    assert read_history(seeds.promotions, "m").champion_stack == ("1",)
    seeds.roll_back(to="3")
    assert read_history(seeds.promotions, "m").champion_stack == ("1", "3")


def test_without_promotions_the_version_before_is_not_known(seeds: Seeds) -> None:
    error = refusal(seeds, seeds.roll_back)
    assert "no promotion of 'm' is recorded in" in error.message
    assert "`dbt-onnx rollback m --to VERSION`; its versions are 1, 2, 3, 4" in error.hint
    seeds.roll_back(to="2")
    assert seeds.rows(*STORY) == [("rollback", "2", "1", "not_run")]


def test_a_rollback_is_no_way_around_the_gate(seeds: Seeds) -> None:
    seeds.promote("2")
    error = refusal(seeds, lambda: seeds.roll_back(to="3"))
    assert "m/3 has never been champion" in error.message
    assert "`dbt-onnx promote m/3` takes it through the gate" in error.hint


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("2", "m/2 is already the champion"),
        ("9", "has no version '9'"),
        ("../1", "does not name a model"),
    ],
)
def test_a_rollback_to_nowhere_is_refused(seeds: Seeds, to: str, message: str) -> None:
    seeds.promote("2")
    assert message in refusal(seeds, lambda: seeds.roll_back(to=to)).message


def test_a_champion_changed_by_hand_stops_a_rollback_that_names_no_version(seeds: Seeds) -> None:
    seeds.promote("2")
    seeds.edit(m={"3": "champion"})
    error = refusal(seeds, seeds.roll_back)
    assert "champion of 'm' is 3 in" in error.message
    assert "but 2 in the last promotion in" in error.message
    assert "`dbt-onnx rollback m --to VERSION`; champions were 1, 2" in error.hint

    change = seeds.roll_back(to="1")
    assert change.found is not None
    assert (change.found.model_version, change.found.replaced_version) == ("3", "2")
    assert seeds.rows("action", "model_version", "replaced_version", "reason") == [
        ("promote", "2", "1", ""),
        ("found", "3", "2", FOUND),
        ("rollback", "1", "3", ""),
    ]


def test_a_champion_taken_away_by_hand_is_nobody(seeds: Seeds) -> None:
    seeds.promote("2")
    seeds.edit(m={})
    assert "champion of 'm' is none in" in refusal(seeds, seeds.roll_back).message
    seeds.promote("3")
    assert seeds.rows(*STORY)[1:] == [("promote", "3", "", "passed")]


def test_a_rollback_checks_the_file_that_it_returns_to(seeds: Seeds) -> None:
    seeds.promote("2")
    path = seeds.artifacts / "m" / "1" / "model.onnx"
    altered = bytearray(path.read_bytes())
    altered[-3] ^= 1
    path.write_bytes(altered)
    error = refusal(seeds, seeds.roll_back)
    assert error.kind == "artifact"
    assert "is not the file that was registered as 'm/1'" in error.message
    path.unlink()
    assert "does not exist" in refusal(seeds, seeds.roll_back).message


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("m/1", RegistryError, "m/1 is already the champion"),
        ("m/9", RegistryError, "model 'm' has no version '9'"),
        ("n/1", RegistryError, "has no model 'n'; it has m"),
        ("m", ConfigError, "'m' does not name a version to promote"),
        ("m@challenger", ConfigError, "'m@challenger' does not name a version to promote"),
        ("m/1/2", ConfigError, "does not name a model"),
        ("m/$(id)", ConfigError, "version '$(id)'"),
    ],
)
def test_what_cannot_be_promoted_is_said(
    seeds: Seeds, spec: str, kind: type[DbtOnnxError], message: str
) -> None:
    error = refusal(seeds, lambda: read_promotion(seeds.registry, spec))
    assert type(error) is kind
    assert message in error.message


def test_a_registry_that_changed_while_the_gate_ran_is_not_overwritten(seeds: Seeds) -> None:
    state, entry = read_promotion(seeds.registry, "m/2")
    seeds.edit(m={"3": "champion"})
    error = refusal(
        seeds, lambda: promote_version(state, entry, action="promote", gate="passed", reason="")
    )
    assert "champion of 'm' was 1 and is now 3" in error.message


def test_of_two_promotions_at_the_same_time_one_wins_and_both_files_agree(seeds: Seeds) -> None:
    prepared = [read_promotion(seeds.registry, f"m/{version}") for version in "234"]

    def attempt(number: int) -> bool:
        state, entry = prepared[number]
        try:
            promote_version(state, entry, action="promote", gate="passed", reason="")
        except RegistryError:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(attempt, range(3))) == [False, False, True]
    assert seeds.rows("model_version") == [(seeds.champion,)]


def test_two_models_promoted_at_the_same_time_are_both_recorded(seeds: Seeds) -> None:
    for version in "12":
        entry = write_artifact(
            seeds.artifacts, line_model(), model_name="n", model_version=version,
            contract=line_contract(),
        )  # fmt: skip
        put_entry(seeds.registry, entry)
    prepared = [read_promotion(seeds.registry, spec) for spec in ("m/2", "n/1")]

    def attempt(number: int) -> None:
        promote_version(*prepared[number], action="promote", gate="passed", reason="")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(attempt, range(2)))
    assert sorted(seeds.rows("model_name", "model_version")) == [("m", "2"), ("n", "1")]
    champions = [e for e in Registry.from_csv(seeds.registry).entries if e.alias == "champion"]
    assert [(e.model_name, e.model_version) for e in champions] == [("m", "2"), ("n", "1")]


KILLED = """
import os, signal, sys
from pathlib import Path
from dbt_onnx.promotion import promote as promotion

promotion.append_promotions = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
state, entry = promotion.read_promotion(Path(sys.argv[1]), "m/3")
promotion.promote_version(state, entry, action="promote", gate="overridden", reason="why")
"""


def test_a_command_killed_between_the_two_files_is_found_said_and_recorded(seeds: Seeds) -> None:
    seeds.promote("2")
    done = subprocess.run([sys.executable, "-c", KILLED, seeds.registry], check=False)
    assert done.returncode == -9
    # promoted, but not recorded
    assert (seeds.champion, seeds.rows("model_version")) == ("3", [("2",)])
    error = refusal(seeds, seeds.roll_back)
    assert "or a command was stopped before it could record this" in error.message
    seeds.promote("4")
    assert seeds.rows(*STORY) == [
        ("promote", "2", "1", "passed"),
        ("found", "3", "2", "not_run"),
        ("promote", "4", "3", "passed"),
    ]
    seeds.roll_back()
    assert seeds.champion == "3"


def test_when_the_promotion_cannot_be_recorded_nothing_is_promoted(
    seeds: Seeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds.promote("2")

    def full(*_: Any) -> None:
        raise RegistryError("cannot be written: No space left on device", hint="make room")

    monkeypatch.setattr("dbt_onnx.promotion.promote.append_promotions", full)
    assert "No space left" in refusal(seeds, lambda: seeds.promote("3")).message


def test_other_columns_and_models_of_the_promotions_stay(seeds: Seeds) -> None:
    head = f"ticket,{','.join(PROMOTION_COLUMNS)}"
    other = '"A-1, B",1998-01-05,other,7,,promote,passed,"said ""yes"", twice"'
    seeds.promotions.write_text(f"{head}\n{other}\n")
    seeds.promote("2")
    lines = seeds.promotions.read_text().splitlines()
    assert lines[:2] == [head, other]
    assert lines[2].startswith(",")
    assert read_history(seeds.promotions, "m").versions == ("1", "2")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("1998-01-05,m,2,1,elected,passed,", "row 1: action 'elected' is not one of promote"),
        ("1998-01-05,m,2,1,promote,yes,", "row 1: gate 'yes' is not one of passed"),
        ("soon,m,2,1,promote,passed,", "row 1: promoted_at 'soon' is not a time"),
        ("1998-01-05,m,$(id),1,promote,passed,", "row 1: model_version '$(id)'"),
        ("1998-01-05,../m,2,1,promote,passed,", "row 1: model_name '../m'"),
        ("1998-01-05,m,2,'; drop,promote,passed,", "row 1: replaced_version"),
        ("1998-01-05,m", "row 1: model_version ''"),
    ],
)
def test_promotions_that_are_not_valid_stop_every_change(
    seeds: Seeds, row: str, fault: str
) -> None:
    seeds.promotions.write_text(f"{','.join(PROMOTION_COLUMNS)}\n{row}\n")
    for attempt in (lambda: seeds.promote("2"), lambda: seeds.roll_back(to="2")):
        assert fault in refusal(seeds, attempt).message


@pytest.mark.parametrize("text", ["model_name,model_version\n", 'a,"b\n', "\xff"])
def test_a_promotions_file_that_is_none_is_refused(seeds: Seeds, text: str) -> None:
    seeds.promotions.write_bytes(text.encode("latin-1"))
    message = refusal(seeds, lambda: seeds.promote("2")).message
    assert "have no column" in message or "cannot be read" in message


def test_an_empty_promotions_file_is_begun(seeds: Seeds) -> None:
    seeds.promotions.write_text("")
    seeds.promote("2")
    assert seeds.rows(*STORY) == [("promote", "2", "1", "passed")]


@pytest.mark.parametrize("text", ["", " ", "\n\t", "a\x1b[31m", "x" * 1001])
def test_a_reason_says_something(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--override (is blank|is not plain text)"):
        clean_reason(text, option="--override")


def test_a_reason_is_one_line() -> None:
    assert clean_reason(" new\n  prices ", option="--override") == "new prices"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(item) for item in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_the_rollback_of_the_shell_needs_no_dbt_project(seeds: Seeds) -> None:
    seeds.promote("2")
    done = run("rollback", "m", "--project-dir", seeds.folder, "--reason", "worse")
    assert done.exit_code == 0
    assert "m/1 is champion; m/2 was, and has no alias now" in done.stdout
    assert "unchanged rows are not scored again" in done.stdout
    assert seeds.rows("action", "reason")[-1] == ("rollback", "worse")
    again = run("rollback", "m", "--project-dir", seeds.folder)
    assert again.exit_code == 2
    assert "Error: m/1 is the first champion in" in again.stderr


@pytest.mark.parametrize("name", ["m/1", "m@champion", "../m", "unknown"])
def test_a_rollback_wants_the_name_of_a_model(seeds: Seeds, name: str) -> None:
    assert run("rollback", name, "--project-dir", seeds.folder).exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--override", ""),
        ("--override", "  "),
        ("--max-rejected", "1.1"),
        ("--min-rank-correlation", "2"),
        ("--sample", "0"),
    ],
)
def test_a_wrong_option_of_promote_is_a_usage_error(seeds: Seeds, options: tuple[str, str]) -> None:
    before = seeds.content()
    assert run("promote", "m/2", "--project-dir", seeds.folder, *options).exit_code == 2
    assert seeds.content() == before


def test_a_promotion_outside_a_dbt_project_is_refused(seeds: Seeds) -> None:
    done = run("promote", "m/2", "--project-dir", seeds.folder)
    assert done.exit_code == 2
    assert "is not a dbt project" in done.stderr


def test_hostile_text_of_the_registry_reaches_no_terminal(seeds: Seeds) -> None:
    text = seeds.registry.read_text().replace("m,2,", '"m\x1b[2J",2,')
    seeds.registry.write_text(text)
    done = run("rollback", "m", "--project-dir", seeds.folder)
    assert done.exit_code == 2
    assert "\x1b" not in done.output


CALL = """
from dbt_onnx import score
KEY = ["id"]

def model(dbt, session):
    dbt.config(materialized="predictions")
    return {function}(dbt, session, {arguments})
"""


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ('model="m", key=["id"]', {"model": "m", "key": ["id"]}),
        ('features=dbt.ref("f"), model="m"', {"features": "f", "model": "m"}),
        ('features=dbt.ref("pack", "f")', {"features": "pack.f"}),
        ('features=dbt.source("shop", "f")', {"features": "shop.f"}),
        ('features=dbt.ref("f", v=2)', {"features": "f.v2"}),
        ('features=dbt.ref("f").filter("b > 2")', {}),
        ("features=relation, key=KEY, model=NAME", {}),
        ('model="m" + suffix, **more', {}),
        ("features=dbt.ref()", {}),
    ],
)
def test_literal_arguments_are_read_from_a_models_code(
    arguments: str, found: dict[str, Any]
) -> None:
    for function in ("score", "dbt_onnx.score"):
        assert literal_arguments(CALL.format(function=function, arguments=arguments)) == found


@pytest.mark.parametrize("code", ["", "def model(", "\0", "score(); score()", "other(model='m')"])
def test_code_without_one_call_says_nothing(code: str) -> None:
    assert literal_arguments(code) == {}


def test_a_gate_that_was_passed_over_is_recorded_with_its_reason(seeds: Seeds) -> None:
    why = 'prices are in "EUR", not 2,5 {{ env_var("X") }}'
    seeds.promote("2", gate="overridden", reason=why)
    assert seeds.rows("gate", "reason") == [("overridden", why)]
