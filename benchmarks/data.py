"""Feature tables, made by seeded SQL and kept in DuckDB files between runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import duckdb

from benchmarks.measure import ROOT

FOLDER = Path(os.environ.get("DBT_ONNX_BENCHMARKS", ROOT / "warehouse" / "benchmarks"))
"""Where data, models, projects and what they write are kept; nothing in it is precious."""


def table(select: str, *, name: str = "features") -> Path:
    """A DuckDB file with the rows of `select` in a table; made once for each text and version."""
    digest = hashlib.sha256(f"{duckdb.__version__} {name} {select}".encode()).hexdigest()[:16]
    path = FOLDER / "data" / f"{digest}.duckdb"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    with duckdb.connect(str(unfinished)) as connection:
        connection.execute(f'create table "{name}" as {select}')
    unfinished.rename(path)
    return path


def uniform(seed: int, row: str = "i") -> str:
    """An SQL expression: a number of [0, 1) for a row, the same in whichever order or thread."""
    return f"((hash({row}, {seed}) >> 40) / 16777216.0)"


def floats(rows: int, features: int) -> Path:
    """`id` and f0, f1, ... of FLOAT, evenly between -2 and 2."""
    columns = [f"cast({uniform(k)} * 4 - 2 as float) as f{k}" for k in range(features)]
    return table(f"select i as id, {', '.join(columns)} from range({rows}) as rows(i)")


def names(features: int) -> list[str]:
    return [f"f{k}" for k in range(features)]
