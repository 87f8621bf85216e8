"""SQL for the kept inputs: the features that each run fed to the model, by run and key.

    <name>__inputs    `run_no`, the key columns, the contract's features under their own names

A service may answer about the same entity several times before a run takes its answers over. So once there are
kept inputs of answers, the table also has their moment, `__dbt_onnx_as_of`, which is NULL in other rows.

A replay needs only the kept inputs and the run row, which has the sha256 of the model and the types of
the features. One table holds the inputs of all model versions: a column that a version does not read
is NULL in its rows. Rows without a key are not kept, because nothing could find them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb.feature_types import (
    TYPE,
    converted,
    hashable_columns,
    kept_as,
)
from dbt_onnx.engines.duckdb.identifiers import absent, not_null, quote
from dbt_onnx.engines.duckdb.ledger import fingerprint
from dbt_onnx.kernel.contract import CARRIED_PREFIX
from dbt_onnx.runs import history
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.engines.duckdb.ledger import LedgerShape

INPUTS_SUFFIX = "__inputs"
MOMENT = CARRIED_PREFIX + "as_of"
"""The column with the moment of a service's answer. No feature can have this name."""


def input_columns(
    shape: LedgerShape, features: Mapping[str, str], *, with_moment: bool = False
) -> dict[str, str]:
    """Return the SQL types of the table's columns. A feature that is also a key column is there only once."""
    others = {name: kept_as(features[name]) for name in absent(features, shape.key)}
    moment = {MOMENT: "TIMESTAMP"} if with_moment else {}
    return {RUN: "INTEGER", **moment, **shape.key, **others}


def insert_inputs(
    inputs: TableName,
    shape: LedgerShape,
    *,
    features: Mapping[str, str],
    kept_types: Mapping[str, str],
    stream: str,
    with_moment: bool = False,
) -> str:
    """SQL that keeps the features of the rows that this run has read, as they were fed to the model.

    `stream` has the features under their own names, the key as `__dbt_onnx_key_0`, ..., and, with
    `with_moment`, the moment. `features` are the SQL types of the features in the stream, `kept_types`
    the types of the table's columns. Parameter: $run_no.
    """
    keys = shape.carried_key
    sources = {RUN: "$run_no"} | ({MOMENT: quote(MOMENT)} if with_moment else {})
    for name in input_columns(shape, features):
        if name != RUN:
            given = shape.key.get(name) or features[name]
            sources[name] = converted(quote(keys.get(name, name)), given, kept_types[name])
    return (
        f"insert into {inputs.sql} ({', '.join(map(quote, sources))}) "
        f"select {', '.join(sources.values())} from {stream} where {not_null(keys.values())}"
    )


def by_feature(
    inputs: TableName, features: Sequence[str] | None, types: Sequence[str] | None
) -> dict[str, str]:
    """Return the features of a run and their SQL types, see `history.by_feature`."""
    return history.by_feature(inputs, features, types, valid=TYPE)


def select_inputs(
    inputs: TableName,
    *,
    key: Sequence[str],
    features: Mapping[str, str],
    where: str,
    with_moment: bool = False,
) -> str:
    """SQL that returns kept inputs in their original types: run number, key columns, `features` by name, the
    moment if `with_moment`, and `__dbt_onnx_place`, which has the order in which they were scored.

    A value that no longer fits its type was altered, and becomes NULL.
    """
    listed = [quote(name) for name in (RUN, *key, *([MOMENT] if with_moment else []))]
    listed += [
        f"try_cast({quote(name)} as {features[name]}) as {quote(name)}"
        for name in absent(features, key)
    ]
    return f"select {', '.join(listed)}, rowid as __dbt_onnx_place from {inputs.sql} where {where}"


def fingerprint_of_run(
    inputs: TableName,
    *,
    key: Mapping[str, str],
    features: Mapping[str, str],
    where: str = "true",
    with_moment: bool = False,
) -> str:
    """SQL that returns one hash over the kept inputs of a run, in any order; `where` restricts the rows.

    Unlike the features hash, it is exact: a change of any digit changes it. `key` and `features` are
    SQL types by column. Parameter: $run_no.
    """
    kept = select_inputs(
        inputs,
        key=list(key),
        features=features,
        where=f"run_no = $run_no and {where}",
        with_moment=with_moment,
    )
    # the moment is hashed, too: two equal rows would cancel out
    moment = {MOMENT: "TIMESTAMP"} if with_moment else {}
    hashed = hashable_columns({**features, **key, **moment})
    return f"select {fingerprint(hashed)} from ({kept}) as kept"
