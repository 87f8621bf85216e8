"""The SQL that orbital makes of the estimator, run by DuckDB: no Python and no onnxruntime.

orbital needs an older onnx than the project, so an environment of its own makes the SQL.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.data import FOLDER
from benchmarks.measure import Stopwatch
from benchmarks.models import MISSING
from benchmarks.rivals import warehouse

if TYPE_CHECKING:
    from collections.abc import Mapping

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "orbital_requirements.txt"


def score(*, folder: str, workload: Mapping[str, Any]) -> dict[str, float]:
    """A task: key, score and stamps into `scores`."""
    sql = sql_of(workload).read_text()
    with Stopwatch() as watch:
        connection = warehouse.connect(folder, workload)
        connection.execute(f"create view features as {_features(workload)}")
        connection.execute(
            f'create table scores as select id, "output_probability.1" as score, '
            f"{warehouse.STAMPS} from ({sql})",
            warehouse.stamps(workload),
        )
    return watch.taken()


def sql_of(workload: Mapping[str, Any]) -> Path:
    """The file with the SQL of the workload's model; made, and with it the environment, if need be."""
    estimator = Path(workload["model"]["estimator"])
    path = estimator.with_name("orbital.sql")
    if not path.exists():
        # -P: this module must not be found under the name of the package
        command = [str(_python()), "-P", str(_HERE / "orbital_sql.py"), str(estimator)]
        _run(*command, json.dumps(workload["columns"]), str(path))
    return path


def _features(workload: Mapping[str, Any]) -> str:
    columns = [
        f"coalesce({name}, '{MISSING}') as {name}" if name.startswith("s") else name
        for name in workload["columns"]
    ]
    return f"select id, {', '.join(columns)} from source.features"


def _python() -> Path:
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:16]
    folder = FOLDER / "orbital" / digest
    python = folder / "bin" / "python"
    if not folder.exists():
        try:
            _run(sys.executable, "-m", "venv", str(folder))
            _run(
                str(python), "-m", "pip", "install", "--quiet", "--requirement", str(_REQUIREMENTS)
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]} failed:\n{done.stderr[-4000:]}")
