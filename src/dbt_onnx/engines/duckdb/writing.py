"""What a run writes: the predictions, the latest table, and the checks before the commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_onnx.engines.duckdb import inputs, ledger, plan
from dbt_onnx.engines.duckdb.feature_types import kept_as
from dbt_onnx.engines.duckdb.features import unstable
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime, timedelta

    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.fed_rows import FedRows
    from dbt_onnx.engines.duckdb.planning import PlannedRun
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.kernel.tally import Tally

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
    writer: Cursor,
    tables: ScoringTables,
    planned: PlannedRun,
    predictions: Iterator[pa.RecordBatch],
    *,
    schema: pa.Schema,
) -> None:
    """Stream predictions into the ledger. What the stream raises is raised here as it was."""
    failures: list[BaseException] = []
    batches = _in_row_groups(_keep_failure(predictions, failures))
    stream = pa.RecordBatchReader.from_batches(schema, batches)
    writer.raw.register(_STREAM, stream)
    try:
        writer.execute(
            ledger.insert_predictions(tables.ledger, planned.plan.shape, stream=quote(_STREAM)),
            planned.parameters,
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


def check_written(
    writer: Cursor, tables: ScoringTables, planned: PlannedRun, tally: Tally, *, where: str
) -> int | None:
    """Raise ScoringError when what was written is not, row by row, what was planned. Returns the
    fingerprint of the rows that were written, none without any.
    """
    planned_rows, written_rows = planned.summary.rows_to_score, tally.scored + tally.rejected
    difference, said = "", None
    if written_rows != planned_rows:
        difference = f"{planned_rows:,} rows were planned and {written_rows:,} came back"
    elif written_rows:
        shape = planned.plan.shape
        fingerprints = ledger.fingerprints_of_run(
            tables.ledger, key=shape.key, outputs=shape.outputs
        )
        scored, said = writer.rows(fingerprints, planned.parameters)[0]
        if scored != planned.summary.input_fingerprint:
            difference = f"{planned_rows:,} rows were planned and came back with other features"
    if difference:
        raise unstable(where, difference)
    return said


def check_rejected(
    planned: PlannedRun, tally: Tally, *, where: str, max_rejected_fraction: float
) -> None:
    """Raise DataError when a larger share of all rows is rejected, old rejections included."""
    summary = planned.summary
    rejected = tally.rejected + summary.rows_still_rejected
    share = rejected / summary.rows_in
    if not tally.rejected or share <= max_rejected_fraction:
        return
    reasons = "; ".join(
        f"{reason} in {count:,} row(s)"
        + (f", such as {tally.examples[reason]}" if reason in tally.examples else "")
        for reason, count in tally.rejected_reasons.most_common(5)
    )
    raise DataError(
        f"{rejected:,} of {summary.rows_in:,} rows of {where} are rejected ({share:.1%}); "
        f"max_rejected_fraction is {max_rejected_fraction:g}: {reasons}",
        hint=f"{remedy(tally.rejected_reasons)}, or raise max_rejected_fraction",
    )


def remedy(reasons: Iterable[str]) -> str:
    """What to do about rejected rows, for each kind of reason that there is."""
    remedies: dict[str, None] = {}
    for reason in reasons:
        kind = reason.partition(":")[0]
        remedies[
            "look at the model, which gives NaN or infinity for these rows"
            if kind.endswith("_output")
            else "look at the model, which fails on these rows"
            if kind in {"model_error", "model_crashed"}
            else "fill in the key, or the moment of as_of, upstream"
            if kind in {"null_key", "null_as_of"}
            else "mend the features upstream, or register a version that takes NULL (a null policy or "
            "a fill)"
            if kind in {"null", "nan"}
            else "mend the features upstream"
        ] = None
    return "; ".join(remedies)


def keep_inputs(
    writer: Cursor,
    tables: ScoringTables,
    planned: PlannedRun,
    fed: FedRows,
    *,
    keep: timedelta | bool,
) -> dict[str, Any]:
    """Keep what the run has scored, and forget what was kept long enough. Returns the columns of the
    run row that tell of it.
    """
    if keep is False:
        return {"rows_inputs_kept": 0}
    shape, features = planned.plan.shape, planned.plan.features
    types = tables.create_inputs(writer, shape, features)
    kept, fingerprint = 0, None
    if fed.schema is not None:
        statement = inputs.insert_inputs(
            tables.inputs, shape, features=features, kept_types=types, stream=quote(_FED)
        )
        writer.raw.register(_FED, fed.read())
        kept = writer.rows(statement, planned.parameters)[0][0]
        writer.raw.unregister(_FED)
        given = {name: kept_as(kind) for name, kind in features.items()}
        statement = inputs.fingerprint_of_run(tables.inputs, key=shape.key, features=given)
        fingerprint = writer.rows(statement, planned.parameters)[0][0]
    if keep is not True:
        _forget_inputs(writer, tables, planned, kept_since=planned.scored_at - keep)
    return {"rows_inputs_kept": kept, "inputs_fingerprint": fingerprint}


def _forget_inputs(
    writer: Cursor, tables: ScoringTables, planned: PlannedRun, *, kept_since: datetime
) -> None:
    parameters = {**planned.parameters, "kept_since": kept_since}
    outdated = [row[0] for row in writer.rows(inputs.outdated_runs(tables.runs), parameters)]
    if outdated:
        for statement in inputs.delete_inputs(tables.inputs, tables.runs):
            writer.execute(statement, {**parameters, "run_ids": outdated})


def update_latest(writer: Cursor, tables: ScoringTables, planned: PlannedRun) -> None:
    """Bring the latest table up to date with the rows just written and the entities just seen.

    A backfill has written late rows only and seen nobody.
    """
    latest, shape, summary = tables.latest, planned.plan.shape, planned.summary
    if planned.scope == "backfill":
        return
    statements: list[str] = []
    if summary.rows_to_score:
        _replace_rows(writer, tables, planned)
        [(_, has_rejected)] = writer.rows(ledger.rows_of_model(latest), planned.parameters)
        if has_rejected:
            statements.append(ledger.delete_healed(latest, shape))
            statements.append(ledger.mark_rejected_present(latest, shape))
    present = {"features_sql": planned.plan.features_sql}
    if planned.has_absent:
        statements.append(ledger.mark_absent(latest, shape, **present))
    if summary.rows_returned:
        statements.append(ledger.mark_returned(latest, shape, **present))
    # last: a row that this run has rejected confirms nothing
    if planned.plan.has_one_moment:
        statements.append(ledger.confirm_present(latest, shape))
    elif summary.rows_advanced:
        confirmed = plan.select_advanced(planned.plan)
        statements.append(ledger.confirm_rows(latest, shape, rows_sql=confirmed))
    for statement in statements:
        writer.execute(statement, planned.parameters)


def _replace_rows(writer: Cursor, tables: ScoringTables, planned: PlannedRun) -> None:
    """Put the run's rows into latest, in the place of those that they replace."""
    names, shape = (tables.ledger, tables.latest), planned.plan.shape
    [(rows, _)] = writer.rows(ledger.rows_of_model(tables.latest), planned.parameters)
    if rows:
        is_small = rows <= writer.max_rows_held()
        remove = ledger.delete_replaced if is_small else ledger.rewrite_without_replaced
        writer.execute(remove(*names, shape), planned.parameters)
    writer.execute(ledger.insert_latest(*names, shape), planned.parameters)


def output_types(fields: list[pa.Field]) -> dict[str, str]:
    """DuckDB's own names for the Arrow types of the outputs.

    A table rather than a question to DuckDB: it imports pandas before it looks at an Arrow object.
    """
    return {field.name: _sql_type(field.type) for field in fields}


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{_sql_type(kind.value_type)}[{kind.list_size}]"
    return _SQL_TYPES[kind]


def run_columns(planned: PlannedRun) -> dict[str, Any]:
    """The columns of the run row that come from the plan."""
    return {
        "scope": planned.scope,
        "clock": planned.clock,
        "as_of": planned.as_of,
        "scored_at": planned.scored_at,
        "input_fingerprint": planned.summary.input_fingerprint,
        "features_hash_function": planned.hash_function,
        "features": list(planned.plan.features),
        "feature_types": list(map(kept_as, planned.plan.features.values())),
        "feature_precisions": list(planned.plan.precisions.values()),
        "output_columns": list(planned.plan.shape.outputs),
    }
