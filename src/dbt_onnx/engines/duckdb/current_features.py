"""The features as they are now, for scoring that writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from dbt_onnx.engines.duckdb.features import FeatureRelation, refuse_expressions
from dbt_onnx.engines.duckdb.identifiers import compared, quote
from dbt_onnx.errors import DataError
from dbt_onnx.kernel.contract import KEY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.project.scoring_calls import Upstream

BATCH_ROWS = 65_536


class MissingFeaturesError(DataError):
    """The feature relation has not been built yet, or is gone."""


def open_features(reader: Cursor, relation: Upstream) -> FeatureRelation:
    """The feature relation of a scoring model, outside of its runs.

    Raises ConfigError when `score()` refuses it, MissingFeaturesError when it is not in the warehouse.
    """
    sql = f"select * from {relation.sql}"
    refuse_expressions(features=sql)
    try:
        columns = reader.columns_of(relation.sql)
    except duckdb.CatalogException as error:
        raise MissingFeaturesError(
            f"{relation.name} is not in the warehouse: {str(error).partition(chr(10))[0]}",
            hint=f"`dbt build -s +{relation.selector}` makes it",
        ) from error
    return FeatureRelation(sql=sql, name=relation.name, columns=columns)


def sample_features(
    reader: Cursor,
    features: FeatureRelation,
    *,
    key: Sequence[str],
    columns: Iterable[str],
    rows: int,
) -> list[pa.RecordBatch]:
    """At most `rows` rows, held in memory, ready for `score_batches`: key and the `columns`.

    The hash of the key decides which rows: the same ones as long as the entities are the same. Rows
    with a NULL in the key are left out, since no run scores them.
    """
    keys = [quote(name) for name in key]
    selected = [f'{name} as "{KEY_PREFIX}{place}"' for place, name in enumerate(keys)]
    selected += [quote(name) for name in columns]
    by_bytes = [compared(name, features.columns[name]) for name in key]
    order = ", ".join(f"{by} asc nulls last" for by in (f"hash({', '.join(by_bytes)})", *by_bytes))
    stream = reader.stream(
        f"select {', '.join(selected)} from ({features.sql}) as features "
        f"where {' and '.join(f'{name} is not null' for name in keys)} "
        f"order by {order} limit {int(rows)}",
        {},
        batch_rows=BATCH_ROWS,
    )
    try:
        return list(stream)
    finally:
        stream.close()


def count_features(reader: Cursor, features: FeatureRelation, *, key: Sequence[str]) -> int:
    """The number of rows. Raises DataError when there are none, or when a key occurs twice."""
    # the moments of the rows are not checked: the clock of the next run is not known
    rows: int = reader.rows(f"select count(*) from ({features.sql}) as features")[0][0]
    features.check_not_empty(rows)
    features.check_keys(reader, key=key)
    return rows
