"""The history that `examples/play_history.py` plays, and its expected results, computed from the purchases alone.

The expected results use no code of the package: pandas computes the features from the seed file, and
onnxruntime scores the committed artifacts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import onnxruntime
import pandas as pd
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PLAYED = os.environ.get("DBT_ONNX_HISTORY_FOLDER")
FEATURES = {
    "1": ["recency_weeks", "frequency", "monetary"],
    "2": [
        "recency_weeks", "frequency", "active_weeks", "monetary", "average_purchase",
        "largest_purchase", "cds", "purchases_13w", "dollars_13w", "cds_13w",
    ],
}  # fmt: skip


@dataclass(frozen=True)
class History:
    """A folder with a played project and its warehouse."""

    folder: Path

    @property
    def warehouse(self) -> Path:
        return self.folder / "history.duckdb"

    def sql(self, query: str) -> list[dict[str, Any]]:
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def command(self, line: str) -> str:
        """Run a command in the folder and return its output. It must exit with 0."""
        program, *arguments = line.split()
        done = subprocess.run(
            [str(Path(sys.executable).with_name(program)), *arguments],
            check=False,
            cwd=self.folder,
            env={
                **os.environ,
                "DBT_ONNX_WAREHOUSE": str(self.warehouse),
                "DBT_PROFILES_DIR": str(self.folder),
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run_ids(self) -> dict[str, str]:
        """Return {day of the clock: run id} of churn_predictions."""
        return {
            str(row["clock"].date()): row["run_id"]
            for row in self.sql(
                "select clock, run_id from dbt_onnx_runs where scoring_model = 'churn_predictions'"
            )
        }


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """The history, played once for the module, or an existing one from DBT_ONNX_HISTORY_FOLDER."""
    if PLAYED:
        yield History(Path(PLAYED))
        return
    folder = tmp_path_factory.mktemp("played") / "history"
    done = subprocess.run(
        [sys.executable, "examples/play_history.py", "--folder", str(folder)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield History(folder)
    shutil.rmtree(folder)


def table_in(printed: str) -> list[list[str]]:
    """Return the cells of a printed table, without its header."""
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in printed.splitlines()
        if line.startswith("│")
    ]


def documented_answers() -> dict[str, str]:
    """Return {question: command or query} from docs/questions.md."""
    page = (ROOT / "docs" / "questions.md").read_text()
    rows = re.findall(r"^\| (.+\?) \| `([^`]+)` \|$", page, flags=re.MULTILINE)
    return dict(rows)


@cache
def purchases() -> pd.DataFrame:
    frame = pd.read_csv(
        ROOT / "seeds" / "purchases.csv",
        dtype={"customer_id": str},
        parse_dates=["purchased_on"],
    )
    frame["cents"] = (frame["dollars"] * 100).round().astype("int64")
    return frame


@cache
def features(day: str) -> pd.DataFrame:
    """Return the features of each customer on `day`, including the purchases of that day."""
    today = pd.Timestamp(day)
    known = purchases()[purchases()["purchased_on"] <= today].copy()
    first = known.groupby("customer_id")["purchased_on"].transform("min")
    known["week"] = (known["purchased_on"] - first).dt.days // 7
    known["now"] = (today - first).dt.days // 7
    by_customer = known.groupby("customer_id")
    lately = known[known["week"] > known["now"] - 13].groupby("customer_id")
    found = pd.DataFrame(
        {
            "recency_weeks": by_customer["now"].max() - by_customer["week"].max(),
            "frequency": by_customer.size(),
            "active_weeks": by_customer["week"].nunique(),
            "monetary": by_customer["cents"].sum() / 100,
            "largest_purchase": by_customer["cents"].max() / 100,
            "cds": by_customer["cds"].sum(),
            "purchases_13w": lately.size(),
            "dollars_13w": lately["cents"].sum() / 100,
            "cds_13w": lately["cds"].sum(),
        }
    ).fillna(0)
    # half a cent is rounded up
    cents, times = by_customer["cents"].sum(), by_customer.size()
    found["average_purchase"] = (2 * cents + times) // (2 * times) / 100
    return found


@cache
def probabilities(version: str, day: str) -> pd.Series[float]:
    """Return the artifact's churn probability of each customer for the features of `day`."""
    inputs = features(day)
    options = onnxruntime.SessionOptions()
    # more threads add the trees in another order, which can change the last bit
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        ROOT / "artifacts" / "churn" / version / "model.onnx",
        options,
        providers=["CPUExecutionProvider"],
    )
    rows = inputs[FEATURES[version]].to_numpy(dtype=np.float32)
    scored = session.run(["probabilities"], {"features": rows})[0]
    return pd.Series(scored[:, 1].astype(np.float64), index=inputs.index)


@cache
def has_churned(day: str) -> pd.Series[bool]:
    """Return for each customer whether there is no purchase in the 90 days after `day`."""
    today = pd.Timestamp(day)
    ahead = purchases()["purchased_on"].between(
        today, today + pd.Timedelta(days=90), inclusive="right"
    )
    bought = set(purchases()[ahead]["customer_id"])
    customers = features(day).index
    return pd.Series([customer not in bought for customer in customers], index=customers)
