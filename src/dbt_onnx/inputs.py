"""The kept inputs, as SQL text: what each run fed to the model, by run and key.

    <name>__inputs    `run_id`, the key columns, the contract's features under their own names

With the run row, which names the artifact and the types that the features had, a run can be
replayed. One table holds the inputs of all model versions: a column that a version does not read is
NULL in its rows. A row without a key has no inputs here, since nothing would find them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dbt_onnx import plan
from dbt_onnx.errors import WarehouseError
from dbt_onnx.identifiers import quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.ledger import LedgerShape, TableName

INPUTS_SUFFIX = "__inputs"
RUN_COLUMN = "run_id"

_TYPE = re.compile(r"[A-Z][A-Z0-9_ ]*(\(\d+(, ?\d+)?\))?(\[\d*\])*")
_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_UNSIGNED = ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")


def storable(sql_type: str) -> str:
    """The type in which values are kept: an ENUM's values as text, all others as they are."""
    is_enum = sql_type.startswith("ENUM") and not sql_type.endswith("]")
    return "VARCHAR" if is_enum else sql_type


def widened(kept: str, given: str) -> str:
    """The type for a column that holds `kept` and shall take `given`, too.

    Nothing is lost: the run row tells which type the values had, and text reads back to the same
    value.
    """
    if kept == given:
        return kept
    if kept in _SIGNED and given in _SIGNED:
        return max(kept, given, key=_SIGNED.index)
    if {kept, given} <= {*_SIGNED, *_UNSIGNED}:
        return "HUGEINT"
    return "VARCHAR"


def input_columns(shape: LedgerShape, features: Mapping[str, str]) -> dict[str, str]:
    """SQL types by column of the table; a feature that is a key column is there once."""
    keys = {name.casefold() for name in shape.key}
    return {
        RUN_COLUMN: "VARCHAR",
        **shape.key,
        **{n: storable(kind) for n, kind in features.items() if n.casefold() not in keys},
    }


def insert_inputs(
    inputs: TableName,
    ledger: TableName,
    shape: LedgerShape,
    *,
    features: Mapping[str, str],
    features_sql: str,
    kept_types: Mapping[str, str],
    every_row: bool,
) -> str:
    """Keep the features of the rows that this run has appended to the ledger.

    `features` maps what the model reads to its SQL types, `kept_types` the columns of the table to
    theirs. With `every_row` the run has taken all rows of the relation, and no join is needed; else
    a row whose features are not those that were scored is left out. Parameters: $run_id, $scored_at.
    """
    columns = list(input_columns(shape, features))
    values = [f"cast(source.{quote(n)} as {kept_types[n]})" for n in columns if n != RUN_COLUMN]
    not_null = " and ".join(f"source.{quote(name)} is not null" for name in shape.key)
    listed = ", ".join(quote(name) for name in columns)
    statement = (
        f"insert into {inputs.sql} ({listed}) select $run_id, {', '.join(values)} "
        f"from ({features_sql}) as source"
    )
    if every_row:
        return f"{statement} where {not_null}"
    same = " and ".join(f"said.{quote(name)} = source.{quote(name)}" for name in shape.key)
    values_hash = plan.features_hash(features, of="source")
    return f"""{statement}
        inner join (
            select * from {ledger.sql} where run_id = $run_id and scored_at = $scored_at
        ) as said on {same}
        where said.features_hash = case
            when said.rejected_reason = 'null_as_of' then hash({values_hash}, 'null_as_of')
            else {values_hash}
        end"""


def kept_types(
    inputs: TableName, features: Sequence[str] | None, types: Sequence[str] | None
) -> dict[str, str]:
    """The features of a run and their SQL types, as the run row has them.

    The types become part of statements: raises WarehouseError when one is none.
    """
    named = list(zip(features or [], types or [], strict=False))
    if len(features or []) != len(types or []) or not all(_TYPE.fullmatch(t) for _, t in named):
        raise WarehouseError(
            f"the run rows of {inputs} were altered: features {features} of types {types}",
            hint="restore the table of runs from a backup",
        )
    return dict(named)


def select_inputs(
    inputs: TableName, *, key: Sequence[str], features: Mapping[str, str], where: str
) -> str:
    """Kept inputs in the types that they had: run id, key columns, `features` by name.

    What is no value of its type any more was altered, and becomes NULL.
    """
    keys = {name.casefold() for name in key}
    listed = [quote(name) for name in (RUN_COLUMN, *key)]
    listed += [
        f"try_cast({quote(name)} as {kind}) as {quote(name)}"
        for name, kind in features.items()
        if name.casefold() not in keys
    ]
    return f"select {', '.join(listed)} from {inputs.sql} where {where}"


def outdated_runs(runs: TableName) -> str:
    """The run ids whose inputs have been kept long enough. Parameters: $scoring_model, $kept_since."""
    return (
        f"select run_id from {runs.sql} where scoring_model = $scoring_model "
        "and scored_at < $kept_since and rows_inputs_kept > 0"
    )


def delete_inputs(inputs: TableName, runs: TableName) -> Sequence[str]:
    """Forget the inputs of some runs. Parameters: $scoring_model, $run_ids."""
    return (
        f"delete from {inputs.sql} where run_id in (select unnest($run_ids))",
        (
            f"update {runs.sql} set rows_inputs_kept = 0 "
            "where scoring_model = $scoring_model and run_id in (select unnest($run_ids))"
        ),
    )
