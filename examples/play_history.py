"""Play ten months of a churn model on the real purchases, and keep the warehouse for queries.

    1997-06-01 to 1998-01-01   one build a month; in September the scheduler is down
    1998-01-15                 churn/2 passes the gate, is promoted and scores all customers
    1998-02-10                 rollback: the next build of the view serves churn/1, nothing is scored
    1998-03-01                 a backfill fills the gap of September
    1998-04-01                 the last build

Everything happens in a copy of the project, so that your registry stays as it is:

    python examples/play_history.py            # below warehouse/history, about two minutes
    cd warehouse/history && dbt-onnx history churn_predictions 00042
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dbt_onnx.project.dbt_project import DbtProject

ROOT = Path(__file__).resolve().parents[1]
PARTS = (
    "artifacts", "macros", "models", "python_models", "seeds", "tests/dbt",
    "dbt_project.yml", "profiles.yml",
)  # fmt: skip
NIGHTS_BEFORE = (
    "1997-06-01", "1997-07-01", "1997-08-01", "1997-10-01", "1997-11-01", "1997-12-01",
    "1998-01-01",
)  # fmt: skip
PROMOTED, ROLLED_BACK = "1998-01-15", "1998-02-10"
NIGHTS_OF_CHURN_2 = (PROMOTED, "1998-02-01", "1998-02-03")
FILLED = "1998-03-01"
NIGHTS_AFTER = ("1998-02-11", FILLED)
LAST_NIGHT = "1998-04-01"
# purchases are loaded once. The two tests are made for nightly builds: a month changes the distributions
# more than they allow, and a failed test skips everything downstream
NOT_AT_NIGHT = (
    "purchases", "ai_features+",
    "test_name:features_match_training", "test_name:predictions_match_baseline",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=ROOT / "warehouse" / "history")
    options = parser.parse_args()
    play(options.folder.resolve())
    return 0


def play(folder: Path, *, target: str = "dev", left_out: tuple[str, ...] = ()) -> None:
    """Play the history in a new copy of the project. `left_out` are nodes that the target cannot build."""
    copy_project(folder, target=target)
    os.environ["DBT_ONNX_WAREHOUSE"] = str(folder / "history.duckdb")
    os.environ["DBT_PROFILES_DIR"] = str(folder)
    project = DbtProject(folder, profiles_dir=folder)
    manifest = project.manifest

    def dbt(clock: str, *arguments: str) -> None:
        done = project.invoke(*arguments, variables={"dbt_onnx_clock": clock}, manifest=manifest)
        print(f"{clock}  dbt {' '.join(arguments)}", *problems(done), sep="\n    ", flush=True)

    def night(clock: str) -> None:
        dbt(clock, "build", "--exclude", *NOT_AT_NIGHT, *left_out)

    def command(clock: str, *arguments: str) -> None:
        print(f"{clock}  dbt-onnx {' '.join(arguments)}", flush=True)
        program = str(Path(sys.executable).with_name("dbt-onnx"))
        subprocess.run([program, *arguments], cwd=folder, check=True)

    dbt(NIGHTS_BEFORE[0], "seed", "-s", "purchases")
    for clock in NIGHTS_BEFORE:
        night(clock)
    command(PROMOTED, "promote", "churn/2")
    for clock in NIGHTS_OF_CHURN_2:
        night(clock)
    command(
        ROLLED_BACK, "rollback", "churn", "--reason", "complaints about offers to loyal customers"
    )
    dbt(ROLLED_BACK, "build", "-s", "model_registry", "model_promotions", "churn_current")
    for clock in NIGHTS_AFTER:
        night(clock)
    command(
        FILLED,
        *("backfill", "churn_predictions", "--every", "month"),
        *("--from", "1997-08-01", "--to", "1997-10-01"),
        *("--vars", f'{{dbt_onnx_clock: "{FILLED}"}}'),
    )
    night(LAST_NIGHT)


def copy_project(folder: Path, *, target: str) -> None:
    """Copy the project for one target of the profile, with churn/1 as champion and churn/2 as challenger."""
    if folder.exists():
        shutil.rmtree(folder)
    for part in PARTS:
        source, place = ROOT / part, folder / part
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, place)
    profiles = folder / "profiles.yml"
    profiles.write_text(profiles.read_text().replace("target: dev", f"target: {target}"))
    registry = folder / "seeds" / "model_registry.csv"
    lines = [line.split(",") for line in registry.read_text().splitlines()]
    for line in lines:
        if line[0] == "churn":
            line[2] = {"1": "champion", "2": "challenger"}.get(line[1], "")
    registry.write_text("".join(",".join(line) + "\n" for line in lines))


def problems(done: Any) -> list[str]:
    """Return a line for each node or test with a warning, a failure or an error."""
    if done.exception is not None:
        return [str(done.exception)]
    return [
        f"{result.status} {result.node.name}: {' '.join(str(result.message).split())[:150]}"
        for result in done.result.results
        if str(result.status) in {"warn", "fail", "error"}
    ]


if __name__ == "__main__":
    sys.exit(main())
