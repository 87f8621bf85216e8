"""Feature tables, made by seeded SQL and kept in DuckDB files between runs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from benchmarks.measure import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(os.environ.get("DBT_ONNX_BENCHMARKS", ROOT / "warehouse" / "benchmarks"))
"""Folder of data, models, projects and their output. It can be deleted at any time."""
_MIXED = ("s0", "s1", "s2", "i0", "i1", "i2", "i3", "d0", "d1", "d2")


def table(select: str, *, name: str = "features") -> Path:
    """Return a DuckDB file with the rows of `select` in a table. Made once for each query text and DuckDB version."""
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
    """Return SQL for a number in [0, 1). A row gets the same number in any order and any thread."""
    return f"((hash({row}, {seed}) >> 40) / 16777216.0)"


def floats(rows: int, features: int) -> Path:
    """Make a table with `id` and the FLOAT columns f0, f1, ..., uniform between -2 and 2."""
    columns = [f"cast({uniform(k)} * 4 - 2 as float) as f{k}" for k in range(features)]
    return table(f"select i as id, {', '.join(columns)} from range({rows}) as rows(i)")


def coarse_floats(rows: int, features: int) -> Path:
    """Make a table as `floats` does, with 64 distinct values per column: 100 million rows of 10 take 2 GB."""
    columns = [f"cast(floor({uniform(k)} * 64) / 16 - 2 as float) as f{k}" for k in range(features)]
    return table(f"select i as id, {', '.join(columns)} from range({rows}) as rows(i)")


def mixed(rows: int, features: int = 10) -> Path:
    """Make a table with `id` and three text, four BIGINT and three DOUBLE columns. In each, one value in 20 is NULL."""
    if features != len(_MIXED):
        raise ValueError(f"the mixed table has {len(_MIXED)} features, not {features}")
    values = {
        "s": "concat('{name}_', cast(floor({u} * {u} * 40) as integer))",
        "i": "cast(floor({u} * 1000) as bigint)",
        "d": "({u} * 4 - 2)",
    }
    columns = []
    for k, name in enumerate(_MIXED):
        value = values[name[0]].format(name=name, u=uniform(k))
        columns.append(f"case when {uniform(100 + k)} >= 0.05 then {value} end as {name}")
    return table(f"select i as id, {', '.join(columns)} from range({rows}) as rows(i)")


def array(rows: int, features: int = 64) -> Path:
    """Make a table with `id` and `embedding`, a FLOAT[`features`]."""
    values = ", ".join(f"cast({uniform(k)} * 4 - 2 as float)" for k in range(features))
    return table(
        f"select i as id, array_value({values}) as embedding from range({rows}) as rows(i)"
    )


TABLES: dict[str, Callable[[int, int], Path]] = {"floats": floats, "mixed": mixed, "array": array}


def columns(table_name: str, features: int) -> list[str]:
    """Return the feature columns of a table, in the order of the model."""
    if table_name == "array":
        return ["embedding"]
    return list(_MIXED) if table_name == "mixed" else [f"f{k}" for k in range(features)]
