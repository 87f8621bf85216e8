"""A backfill of 1997 on real purchases changes neither the rows served in 1998 nor the predictions known before it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from test_reference_project import Reference

KILLS = int(os.environ.get("DBT_ONNX_KILLS", "0"))
DBT = str(Path(sys.executable).with_name("dbt"))
DBT_ONNX = [sys.executable, "-c", "from dbt_onnx.cli import main; main(prog_name='dbt-onnx')"]
SUMMER = ("churn_predictions", "--from", "1997-08-01", "--to", "1997-09-01", "--every", "month")
# as text: the hash of an ENUM depends on its number, which changes with a new version
CONTENT = "select count(*), bit_xor(hash(cast(t as varchar))) from {} as t"
SAID = "{{{{ dbt_onnx.predictions_as_of(ref('churn_predictions'), key=['customer_id'], {}) }}}}"
PRESENT = ("customer_features", "churn_current", "churn_predictions__current")
LEDGER = "select * exclude (run_id, scored_at) from churn_predictions order by all"


def content(reference: Reference) -> dict[str, list[tuple[Any, ...]]]:
    """Return row count and hash of the served view and of the tables behind it."""
    return {name: reference.sql(CONTENT.format(name)) for name in PRESENT}


def backfill(reference: Reference, *arguments: str) -> str:
    return reference.command(*DBT_ONNX, "backfill", *arguments)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Scored on 1998-04-01, with views of the predictions made by, and about, 1997-09-01."""
    made = Reference(tmp_path_factory.mktemp("reference"))
    for name, argument in (("said", "said_at"), ("about", "about")):
        text = SAID.format(f"{argument}='1997-09-01'")
        (made.root / "models" / "serving" / f"{name}_by_september.sql").write_text(text)
    views = ("said_by_september", "about_by_september")
    made.build("--select", "+churn_current", *views, "--exclude-resource-type", "test")
    return made


def customers_by(reference: Reference, day: str) -> int:
    [(count,)] = reference.sql(
        f"select count(distinct customer_id) from purchases where purchased_on <= '{day}'"
    )
    return int(count)


def test_1998_stays_as_it_is_and_1997_is_answered_for(reference: Reference) -> None:
    before = content(reference)
    for version, options in (("2", ()), ("1", ("--model", "churn/1"))):
        printed = backfill(reference, *SUMMER, *options)
        assert f"churn_predictions with churn/{version}: 2 slices" in printed
        assert "2 slices run" in printed
        assert content(reference) == before

        rows = reference.sql(
            "select cast(as_of as date)::varchar, count(*), bool_and(is_late), "
            "min(scored_at) > '2020-01-01' from churn_predictions "
            f"where model_version = '{version}' and as_of < '1998-01-01' group by 1 order by 1"
        )
        # September scores only new customers and those whose features have changed since August
        assert [row[0] for row in rows] == ["1997-08-01", "1997-09-01"]
        assert rows[0][1] == customers_by(reference, "1997-08-01")
        assert all(row[2:] == (True, True) for row in rows)

        # by September no prediction existed, but there are now predictions about September
        assert reference.sql("select count(*) from said_by_september") == [(0,)]
        assert reference.sql(
            "select model_version, count(*), max(as_of) from about_by_september group by 1"
        ) == [(version, customers_by(reference, "1997-09-01"), datetime(1997, 9, 1))]

    # the predictions by the registry's version are still fresh, complete and valid
    assert "WARN=0 ERROR=0" in reference.command(DBT, "test", "--select", "churn_predictions")


@pytest.mark.skipif(not KILLS, reason="a sweep of minutes: make test-long")
def test_killed_again_and_again_it_is_as_if_never_killed(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    first = Reference(whole)
    first.build("--select", "+churn_predictions", "--exclude-resource-type", "test")
    shutil.copytree(whole, torn)
    second = object.__new__(Reference)
    second.root, second.warehouse = torn, torn / first.warehouse.relative_to(whole)
    year = ("churn_predictions", "--from", "1997-02-01", "--to", "1997-12-01", "--every", "month")
    backfill(first, *year)

    environment = {
        **os.environ,
        "DBT_ONNX_WAREHOUSE": str(second.warehouse),
        "DBT_PROFILES_DIR": str(torn),
        "DO_NOT_TRACK": "1",
    }
    chance, killed = random.Random(KILLS), 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*DBT_ONNX, "backfill", *year], cwd=torn, env=environment, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(chance.uniform(3, 12))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        else:
            assert process.returncode == 0
            break
    assert killed > 0
    backfill(second, *year)
    assert second.sql(LEDGER) == first.sql(LEDGER)
