"""What a run writes: the predictions, the latest table, and the checks before the commit."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_onnx.engines.duckdb import inputs, ledger, plan
from dbt_onnx.engines.duckdb.feature_types import kept_as
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.kernel.contract import CARRIED_PREFIX, KEY_PREFIX
from dbt_onnx.runs.run import Written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.fed_rows import FedRows
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.runs.plan import Planned
    from dbt_onnx.runs.run import Scores

_STREAM = "__dbt_onnx_predictions"
_FED = "__dbt_onnx_fed"
_ROW_GROUP = 122_880
_SQL_TYPES = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
}


def append_predictions(
    reader: Cursor,
    writer: Cursor,
    tables: ScoringTables,
    planned: Planned,
    scores: Scores,
    fed: FedRows | None,
) -> None:
    """Stream the planned rows through `scores` into the ledger; `fed` sets aside what is to be kept.
    What the stream raises is raised here as it was.
    """
    rows = reader.stream(
        plan.select_rows(planned.rows.question, planned.rows.sql),
        planned.rows.parameters,
        batch_rows=scores.part_rows,
    )
    try:
        batches = rows if fed is None else fed.passing(rows, columns=_kept_columns(rows.schema))
        _insert(writer, tables, planned, scores(batches), schema=scores.schema_for(rows.schema))
    finally:
        # an unfinished stream would keep the reader from ending its transaction
        rows.close()


def _kept_columns(schema: pa.Schema) -> list[str]:
    """Key and features."""
    return [
        name
        for name in schema.names
        if name.startswith(KEY_PREFIX) or not name.startswith(CARRIED_PREFIX)
    ]


def _insert(
    writer: Cursor,
    tables: ScoringTables,
    planned: Planned,
    predictions: Iterator[pa.RecordBatch],
    *,
    schema: pa.Schema,
) -> None:
    failures: list[BaseException] = []
    batches = _in_row_groups(_keep_failure(predictions, failures))
    stream = pa.RecordBatchReader.from_batches(schema, batches)
    writer.raw.register(_STREAM, stream)
    try:
        writer.execute(
            ledger.insert_predictions(
                tables.ledger, planned.rows.question.shape, stream=quote(_STREAM)
            ),
            planned.rows.parameters,
        )
    except Exception as error:
        # Arrow's C stream turns every exception into a text; the first one tells more
        if failures:
            raise failures[0] from error
        raise
    # not after a failure: duckdb refuses, and the cursor goes with what it has registered
    writer.raw.unregister(_STREAM)


def _in_row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of a row group of DuckDB's: what comes in smaller ones is written twice."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        while rows >= _ROW_GROUP:
            joined = waiting[0] if len(waiting) == 1 else pa.concat_batches(waiting)
            yield joined.slice(0, _ROW_GROUP)
            rows -= _ROW_GROUP
            waiting = [joined.slice(_ROW_GROUP)] if rows else []
    if rows:
        yield waiting[0] if len(waiting) == 1 else pa.concat_batches(waiting)


def _keep_failure(
    batches: Iterator[pa.RecordBatch], failures: list[BaseException]
) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except BaseException as error:
        failures.append(error)
        raise


def read_written(writer: Cursor, tables: ScoringTables, planned: Planned) -> Written:
    """What the run's rows say, as they are in the ledger."""
    if not planned.summary.rows_to_score:
        return Written(rejected={})
    shape = planned.rows.question.shape
    statement = ledger.fingerprints_of_run(tables.ledger, key=shape.key, outputs=shape.outputs)
    rows, groups, scored, said = writer.rows(statement, planned.rows.parameters)[0]
    rejected: Counter[str] = Counter()
    for group in groups or []:
        rejected[group["reason"]] += group["rows"]
    return Written(
        rows=int(rows), rejected=rejected, input_fingerprint=scored, ledger_fingerprint=said
    )


def keep_inputs(
    writer: Cursor,
    tables: ScoringTables,
    planned: Planned,
    fed: FedRows,
    *,
    keep: timedelta | bool,
) -> dict[str, Any]:
    """Keep what the run has scored, and forget what was kept long enough. Returns the columns of the
    run row that tell of it.
    """
    if keep is False:
        return {"rows_inputs_kept": 0}
    shape, features = planned.rows.question.shape, planned.rows.question.features
    types = tables.create_inputs(writer, shape, features)
    kept, fingerprint = 0, None
    if fed.schema is not None:
        statement = inputs.insert_inputs(
            tables.inputs, shape, features=features, kept_types=types, stream=quote(_FED)
        )
        writer.raw.register(_FED, fed.read())
        kept = writer.rows(statement, planned.rows.parameters)[0][0]
        writer.raw.unregister(_FED)
        given = {name: kept_as(kind) for name, kind in features.items()}
        statement = inputs.fingerprint_of_run(tables.inputs, key=shape.key, features=given)
        fingerprint = writer.rows(statement, planned.rows.parameters)[0][0]
    if keep is not True:
        _forget_inputs(writer, tables, planned, kept_since=planned.scored_at - keep)
    return {"rows_inputs_kept": kept, "inputs_fingerprint": fingerprint}


def _forget_inputs(
    writer: Cursor, tables: ScoringTables, planned: Planned, *, kept_since: datetime
) -> None:
    parameters = {**planned.rows.parameters, "kept_since": kept_since}
    outdated = [row[0] for row in writer.rows(inputs.outdated_runs(tables.runs), parameters)]
    if outdated:
        for statement in inputs.delete_inputs(tables.inputs, tables.runs):
            writer.execute(statement, {**parameters, "run_ids": outdated})


def update_latest(writer: Cursor, tables: ScoringTables, planned: Planned) -> None:
    """Bring the latest table up to date with the rows just written and the entities just seen.

    A backfill has written late rows only and seen nobody.
    """
    latest, shape, summary = tables.latest, planned.rows.question.shape, planned.summary
    if planned.scope == "backfill":
        return
    statements: list[str] = []
    if summary.rows_to_score:
        _replace_rows(writer, tables, planned)
        [(_, has_rejected)] = writer.rows(ledger.rows_of_model(latest), planned.rows.parameters)
        if has_rejected:
            statements.append(ledger.delete_healed(latest, shape))
            statements.append(ledger.mark_rejected_present(latest, shape))
    present = {"features_sql": planned.rows.question.features_sql}
    if planned.has_absent:
        statements.append(ledger.mark_absent(latest, shape, **present))
    if summary.rows_returned:
        statements.append(ledger.mark_returned(latest, shape, **present))
    # last: a row that this run has rejected confirms nothing
    if planned.rows.facts.has_one_moment:
        statements.append(ledger.confirm_present(latest, shape))
    elif summary.rows_advanced:
        confirmed = plan.select_advanced(planned.rows.question, planned.rows.facts)
        statements.append(ledger.confirm_rows(latest, shape, rows_sql=confirmed))
    for statement in statements:
        writer.execute(statement, planned.rows.parameters)


def _replace_rows(writer: Cursor, tables: ScoringTables, planned: Planned) -> None:
    """Put the run's rows into latest, in the place of those that they replace."""
    names, shape = (tables.ledger, tables.latest), planned.rows.question.shape
    [(rows, _)] = writer.rows(ledger.rows_of_model(tables.latest), planned.rows.parameters)
    if rows:
        is_small = rows <= writer.max_rows_held()
        remove = ledger.delete_replaced if is_small else ledger.rewrite_without_replaced
        writer.execute(remove(*names, shape), planned.rows.parameters)
    writer.execute(ledger.insert_latest(*names, shape), planned.rows.parameters)


def output_types(fields: list[pa.Field]) -> dict[str, str]:
    """DuckDB's own names for the Arrow types of the outputs.

    A table rather than a question to DuckDB: it imports pandas before it looks at an Arrow object.
    """
    return {field.name: _sql_type(field.type) for field in fields}


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{_sql_type(kind.value_type)}[{kind.list_size}]"
    return _SQL_TYPES[kind]


def run_columns(planned: Planned) -> dict[str, Any]:
    """The columns of the run row that come from the plan."""
    return {
        "scope": planned.scope,
        "clock": planned.clock,
        "as_of": planned.as_of,
        "scored_at": planned.scored_at,
        "input_fingerprint": planned.summary.input_fingerprint,
        "features_hash_function": planned.hash_function,
        "features": list(planned.rows.question.features),
        "feature_types": list(map(kept_as, planned.rows.question.features.values())),
        "feature_precisions": list(planned.rows.question.precisions.values()),
        "output_columns": list(planned.rows.question.shape.outputs),
    }
