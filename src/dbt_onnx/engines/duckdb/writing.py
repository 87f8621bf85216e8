"""What a run writes and reads back: predictions, presence, kept inputs and references."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_onnx.artifacts.reference import MODEL_TYPES, REFERENCES_TYPES, references_of
from dbt_onnx.engines.duckdb import current, inputs, ledger, plan
from dbt_onnx.engines.duckdb.feature_types import kept_as
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.runs.run import Written

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from datetime import datetime, timedelta

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.input_spool import InputSpool
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.runs.plan import Planned
    from dbt_onnx.runs.scorer import RunScorer

_STREAM = "__dbt_onnx_predictions"
_FED = "__dbt_onnx_fed"
_REASON = "rejected_reason"
_ROW_GROUP = 122_880
_AHEAD = 3
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
    scorer: RunScorer,
    spool: InputSpool | None,
) -> list[str]:
    """Stream the planned rows through `scorer` into current or history. `spool` sets aside the rows to keep as
    inputs. Returns the reasons of rejections, in the order of their numbers. An exception in the stream is
    raised unchanged.
    """
    reasons: list[str] = []
    question = planned.rows.question
    # always closed: an unfinished stream would keep the reader from ending its transaction
    with reader.stream(
        plan.select_rows(question, planned.rows.sql),
        planned.rows.parameters,
        batch_rows=scorer.part_rows,
    ) as rows:
        given = [*question.shape.carried_key.values(), *question.features]
        batches = rows if spool is None else spool.passing(rows, columns=given)
        schema = scorer.schema_for(rows.schema)
        number = pa.field(_REASON, pa.uint16())
        schema = schema.set(schema.get_field_index(_REASON), number)
        with closing(prefetched(_numbered(scorer(batches), reasons))) as predictions:
            _insert(writer, tables, planned, predictions, schema=schema)
    return reasons


def _numbered(batches: Iterator[pa.RecordBatch], reasons: list[str]) -> Generator[pa.RecordBatch]:
    """Yield the batches with each reason replaced by its number, from 1. Appends new reasons to `reasons`."""
    for batch in batches:
        given = batch.column(_REASON)
        numbers = pa.nulls(len(given), pa.uint16())
        if given.null_count < len(given):
            found = given.dictionary_encode()
            texts = found.dictionary.to_pylist()
            reasons += [text for text in texts if text not in reasons]
            known = pa.array([reasons.index(text) + 1 for text in texts], pa.uint16())
            numbers = known.take(found.indices)
        yield batch.set_column(batch.schema.get_field_index(_REASON), _REASON, numbers)


def prefetched(batches: Generator[pa.RecordBatch]) -> Generator[pa.RecordBatch]:
    """Yield the batches. A thread makes the next batches while DuckDB's threads write the previous ones. A
    caller that stops early waits for the batch that is being made.
    """
    with closing(batches), ThreadPoolExecutor(1) as pool:
        making = deque(pool.submit(next, batches, None) for _ in range(_AHEAD))
        try:
            while (batch := making.popleft().result()) is not None:
                making.append(pool.submit(next, batches, None))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


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
        _insert_stream(writer, tables, planned)
    except Exception as error:
        # Arrow's C stream turns every exception into text; the original one has more information
        if failures:
            raise failures[0] from error
        raise
    # not after a failure: duckdb refuses it then, and closing the cursor removes the registration, too
    writer.raw.unregister(_STREAM)


def _in_row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows in batches as large as DuckDB's row groups, because DuckDB writes smaller ones twice."""
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


def _insert_stream(writer: Cursor, tables: ScoringTables, planned: Planned) -> None:
    """Insert the rows of the stream. If nothing can be superseded, insert them directly into their table."""
    question, parameters = planned.rows.question, planned.rows.parameters
    shape = question.shape
    stream = current.select_scored(shape, stream=quote(_STREAM))
    rows = f"({stream}) as scored"
    known = f"select 1 from {tables.current.sql} where {question.is_of_version()} limit 1"
    if planned.scope == "backfill":
        statements = [current.insert_rows(tables.history, shape.history_columns, rows=rows)]
    elif not planned.rows.facts.is_incomplete and not writer.rows(known, parameters):
        statements = [current.insert_rows(tables.current, shape.row_columns, rows=rows)]
    else:
        stays = current.is_current(shape.key)
        [(known_rows,)] = writer.rows(f"select count(*) from {tables.current.sql}")
        rewrites = known_rows > writer.max_rows_held()
        statements = [
            f"create or replace temp table {current.SCORED} as {stream}",
            *current.supersede(tables, question, rewrites=rewrites),
            current.insert_rows(
                tables.current, shape.row_columns, rows=current.SCORED, where=stays
            ),
            current.insert_rows(
                tables.history, shape.history_columns, rows=current.SCORED, where=f"not ({stays})"
            ),
            f"drop table {current.SCORED}",
        ]
    for statement in statements:
        writer.execute(statement, parameters)


def read_written(
    writer: Cursor, tables: ScoringTables, planned: Planned, reasons: list[str]
) -> Written:
    """Return counts and fingerprints of the run's rows, as they are in current and history."""
    if not planned.summary.rows_to_score:
        return Written(rejected={})
    parameters = planned.rows.parameters
    statement = ledger.describe_run(tables, planned.rows.question.shape)
    rows, scored, all_of_them = writer.rows(statement, parameters)[0]
    rejected = writer.rows(ledger.count_rejected(tables), parameters)
    return Written(
        rows=rows,
        rejected={reasons[number - 1]: count for number, count in rejected},
        input_fingerprint=scored,
        ledger_fingerprint=all_of_them,
    )


def keep_inputs(
    writer: Cursor,
    tables: ScoringTables,
    planned: Planned,
    spool: InputSpool,
    *,
    keep: timedelta | bool,
) -> dict[str, Any]:
    """Keep the inputs that the run has scored, and delete inputs that were kept long enough. Returns the
    columns of the run row about kept inputs.
    """
    if keep is False:
        return {"rows_inputs_kept": 0}
    shape, features = planned.rows.question.shape, planned.rows.question.features
    types = tables.create_inputs(writer, shape, features)
    kept, fingerprint = 0, None
    if spool.schema is not None:
        statement = inputs.insert_inputs(
            tables.inputs, shape, features=features, kept_types=types, stream=quote(_FED)
        )
        batches = _in_row_groups(spool.read())
        writer.raw.register(_FED, pa.RecordBatchReader.from_batches(spool.schema, batches))
        kept = writer.rows(statement, planned.rows.parameters)[0][0]
        writer.raw.unregister(_FED)
        given = {name: kept_as(kind) for name, kind in features.items()}
        statement = inputs.fingerprint_of_run(tables.inputs, key=shape.key, features=given)
        fingerprint = writer.rows(statement, planned.rows.parameters)[0][0]
    if keep is not True:
        _forget_inputs(writer, tables, kept_since=planned.scored_at - keep)
    return {"rows_inputs_kept": kept, "inputs_fingerprint": fingerprint}


def _forget_inputs(writer: Cursor, tables: ScoringTables, *, kept_since: datetime) -> None:
    parameters = {"scoring_model": tables.ledger.identifier, "kept_since": kept_since}
    outdated = writer.rows(
        f"select run_no from {tables.runs.sql} where scoring_model = $scoring_model "
        "and scored_at < $kept_since and rows_inputs_kept > 0",
        parameters,
    )
    if outdated:
        of_them = "run_no in (select unnest($run_nos))"
        numbers = {"run_nos": [run_no for (run_no,) in outdated]}
        writer.execute(
            f"update {tables.runs.sql} set rows_inputs_kept = 0 where {of_them}", numbers
        )
        writer.execute(f"delete from {tables.inputs.sql} where {of_them}", numbers)
        # an explanation has the values of the inputs
        if tables.has_explanations(writer):
            writer.execute(f"delete from {tables.explanations.sql} where {of_them}", numbers)


def note_presence(
    writer: Cursor, tables: ScoringTables, planned: Planned, *, has_rejected: bool
) -> None:
    """Record which entities this run has seen, as far as the run row does not already imply it. A backfill
    records nothing.
    """
    question, summary, facts = planned.rows.question, planned.summary, planned.rows.facts
    if planned.scope == "backfill":
        return
    presence_rows: list[str] = []
    if has_rejected:
        presence_rows.append(current.overruled(question))
    if planned.has_absent:
        presence_rows.append(current.absent(question))
    if summary.rows_returned:
        presence_rows.append(current.returned(question))
    if summary.rows_advanced:
        rows_sql = plan.select_advanced(question, facts)
        presence_rows.append(current.advanced(question, rows_sql=rows_sql))
    statements = [
        s for rows_sql in presence_rows for s in current.write_presence(tables, question, rows_sql)
    ]
    # last, so that the scores of entities that this run has rejected are not confirmed
    if facts.has_one_moment:
        statements += current.confirm_present(tables, question)
    for statement in statements:
        writer.execute(statement, planned.rows.parameters)


def write_references(writer: Cursor, tables: ScoringTables, artifact: Artifact) -> None:
    """Write the training distributions from the card, in the caller's transaction.

    Nothing is written if the table has them already, as on every night but the first of a version.
    Each row belongs to one scoring model, so two scoring models in one dbt run never write the same row.
    """
    table = tables.references.sql
    model = {
        "scoring_model": tables.ledger.identifier,
        "model_name": artifact.model_name,
        "model_version": artifact.model_version,
        "artifact_sha256": artifact.sha256,
    }
    own = " and ".join(f"{quote(name)} = ${name}" for name in MODEL_TYPES)
    described = {name: kind for name, kind in REFERENCES_TYPES.items() if name not in MODEL_TYPES}
    columns = ", ".join(map(quote, described))
    wanted = references_of(artifact)
    found = writer.rows(f"select {columns} from {table} where {own}", model)
    if sorted(found, key=repr) == sorted(wanted, key=repr):
        return
    writer.execute(f"delete from {table} where {own}", model)
    if not wanted:
        return
    values = dict(zip(described, map(list, zip(*wanted, strict=True)), strict=True))
    constants = [f"${name}" for name in MODEL_TYPES]
    unnested = [f"unnest(cast(${name} as {kind}[]))" for name, kind in described.items()]
    writer.execute(
        f"insert into {table} ({', '.join(map(quote, MODEL_TYPES))}, {columns}) "
        f"select {', '.join([*constants, *unnested])}",
        {**model, **values},
    )


def output_types(fields: list[pa.Field]) -> dict[str, str]:
    """Return DuckDB's names for the Arrow types of the outputs.

    They come from a Python table, because DuckDB would import pandas before it looks at an Arrow object.
    """
    return {field.name: _sql_type(field.type) for field in fields}


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{_sql_type(kind.value_type)}[{kind.list_size}]"
    return _SQL_TYPES[kind]
