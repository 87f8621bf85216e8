"""The SQL that orbital generates for the estimator, run by DuckDB: no Python and no onnxruntime.

orbital needs an older onnx than the project, so it generates the SQL in a separate environment.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Stopwatch
from benchmarks.models import MISSING
from benchmarks.rivals import environment, warehouse

if TYPE_CHECKING:
    from collections.abc import Mapping

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "orbital_requirements.txt"


def score(*, folder: str, workload: Mapping[str, Any]) -> dict[str, float]:
    """A task: write key, score and stamps into `scores`."""
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
    """Return the file with the SQL of the workload's model. File and environment are made if needed."""
    estimator = Path(workload["model"]["estimator"])
    path = estimator.with_name("orbital.sql")
    if not path.exists():
        # -P: otherwise `import orbital` would find this module instead of the package
        python = environment.python_with(_REQUIREMENTS)
        command = [str(python), "-P", str(_HERE / "orbital_sql.py"), str(estimator)]
        environment.run(*command, json.dumps(workload["columns"]), str(path))
    return path


def _features(workload: Mapping[str, Any]) -> str:
    columns = [
        f"coalesce({name}, '{MISSING}') as {name}" if name.startswith("s") else name
        for name in workload["columns"]
    ]
    return f"select id, {', '.join(columns)} from source.features"
