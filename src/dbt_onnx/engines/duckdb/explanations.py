"""SQL for the stored explanations: the contribution of each feature to predictions that somebody had explained.

    <name>__explanations    `run_no`, the key columns, `as_of`: the row of the ledger; `output`: its column;
                            `feature`, its `value` as text, its `contribution`; `base` and `scale`

The contributions to a prediction and `base` add up to its score, whose unit is `scale`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.identifiers import by_bytes, compared_key, quote
from dbt_onnx.errors import ConfigError
from dbt_onnx.kernel.contract import CARRIED_PREFIX, KEY_PREFIX
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.engines.base import TableName

EXPLANATIONS_SUFFIX = "__explanations"
EXPLANATION_TYPES = {
    "as_of": "TIMESTAMP",
    "output": "VARCHAR",
    "feature": "VARCHAR",
    "value": "VARCHAR",
    "contribution": "DOUBLE",
    "base": "DOUBLE",
    "scale": "VARCHAR",
}
CARRIED_MOMENT = CARRIED_PREFIX + "as_of"


def explanation_columns(key: Mapping[str, str]) -> dict[str, str]:
    """Return the SQL types of the table's columns. Raises ConfigError if a key column has the name of another."""
    taken = [name for name in key if name.casefold() in EXPLANATION_TYPES]
    if taken:
        raise ConfigError(
            f"predictions with the key column(s) {taken} cannot be explained: the table of explanations has "
            f"columns {list(EXPLANATION_TYPES)} of its own",
            hint="rename the key column in the features model; a scoring model under another alias then begins "
            "a new ledger",
        )
    return {RUN: "INTEGER", **key, **EXPLANATION_TYPES}


def insert_explanations(table: TableName, key: Mapping[str, str], *, stream: str) -> str:
    """SQL that stores the rows of a stream, which has the key as `__dbt_onnx_key_0`, ... Parameter: $run_no."""
    sources = {RUN: "$run_no"}
    sources |= {
        name: f"cast({quote(f'{KEY_PREFIX}{i}')} as {kind})"
        for i, (name, kind) in enumerate(key.items())
    }
    sources |= {name: quote(name) for name in EXPLANATION_TYPES}
    return (
        f"insert into {table.sql} ({', '.join(map(quote, sources))}) "
        f"select {', '.join(sources.values())} from {stream}"
    )


def select_unexplained(rows: str, explanations: str, key: Mapping[str, str]) -> str:
    """SQL that returns the rows of a query that have no explanation yet. Parameter: $run_no.

    `rows` has the key as `__dbt_onnx_key_0`, ..., and the moment as `__dbt_onnx_as_of`. `explanations` is the
    text of a FROM clause. A moment alone does not identify a row, and neither does a key: a service may answer
    several times about an entity.
    """
    fed = [by_bytes(quote(f"{KEY_PREFIX}{i}"), kind) for i, kind in enumerate(key.values())]
    return f"""
        select * from ({rows}) as fed
        where ({", ".join([*fed, CARRIED_MOMENT])}) not in (
            select ({compared_key(key)}, as_of) from {explanations} as known where {RUN} = $run_no
        )"""


def count_explained(table: TableName, key: Mapping[str, str]) -> str:
    """SQL that returns the number of rows of a run that are explained. Parameter: $run_no."""
    return (
        f"select count(*) from (select distinct {compared_key(key)}, as_of from {table.sql} "
        f"where {RUN} = $run_no)"
    )


def select_contributions(table: TableName, runs: TableName, *, where: str) -> str:
    """SQL that returns the contributions to predictions, largest first: the id of the run, the moment, and the
    columns of `EXPLANATION_TYPES` after it.
    """
    listed = ", ".join(map(quote, EXPLANATION_TYPES))
    return f"""
        select run_id, {listed}
        from (select * from {table.sql} where {where}) as explained
        inner join (select {RUN}, run_id from {runs.sql}) as runs using ({RUN})
        order by run_id asc, as_of asc, abs(contribution) desc, output asc, feature asc"""
