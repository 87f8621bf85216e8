"""A past run on DuckDB: its run row, compared with its rows in ledger and kept inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.engines.duckdb import inputs, ledger
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors
from dbt_onnx.engines.duckdb.feature_types import features_hash
from dbt_onnx.engines.duckdb.identifiers import compared, quote
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.errors import ConfigError
from dbt_onnx.runs.history import RunRow
from dbt_onnx.runs.replay import MAX_FINDINGS, Finding, Replay, key_text, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

    from dbt_onnx.engines.base import TableName

_RUN_COLUMNS = (
    "run_id", "status", "scored_at", "rows_scored", "rows_rejected", "rows_inputs_kept",
    "key_columns", "features", "feature_types", "feature_precisions", "output_columns", "model_name", "model_version", "artifact_sha256", "card_sha256",
    "ledger_fingerprint", "inputs_fingerprint", "features_hash_function", "onnxruntime_version", "threads", "batch_rows",
)  # fmt: skip


def replayable_runs(connection: duckdb.DuckDBPyConnection, name: TableName) -> list[str]:
    """The ids of a scoring model's runs whose inputs are kept, newest first."""
    tables = ScoringTables(name)
    with Cursor(connection.cursor()) as cursor, duckdb_errors():
        if not cursor.has(tables.runs):
            return []
        found = cursor.rows(
            f"select run_id from {tables.runs.sql} where scoring_model = $scoring_model "
            "and status = 'success' and rows_inputs_kept > 0 order by scored_at desc",
            {"scoring_model": name.identifier},
        )
    return [row[0] for row in found]


def read_run(cursor: Cursor, tables: ScoringTables, run_id: str) -> RunRow:
    """The run, if it can be replayed. Raises ConfigError when not, with the reason."""
    # an older dbt_onnx did not write all columns; its table lacks them until the next run
    there = cursor.columns_of(tables.runs.sql) if cursor.has(tables.runs) else {}
    listed = ", ".join(name if name in there else f"null as {name}" for name in _RUN_COLUMNS)
    identity = {"scoring_model": tables.ledger.identifier, "run_id": run_id}
    found = (
        cursor.rows(
            f"select {listed} from {tables.runs.sql} "
            "where scoring_model = $scoring_model and run_id = $run_id",
            identity,
        )
        if cursor.has(tables.runs)
        else []
    )
    if not found:
        raise ConfigError(
            f"{tables.ledger.identifier} has no run {run_id!r} in {tables.runs}",
            hint="`dbt-onnx runs` lists the runs",
        )
    run = RunRow(values=dict(zip(_RUN_COLUMNS, found[0], strict=True)))
    nothing = None
    if run.status != "success":
        nothing = f"it ended as {run.status!r} and wrote nothing"
    elif not (run.rows_scored or 0) + (run.rows_rejected or 0):
        nothing = "it scored no row: nothing had changed"
    elif not run.rows_inputs_kept:
        nothing = "its inputs are not kept: keep_inputs was False, or their time is over"
    if nothing:
        raise ConfigError(
            f"run {run_id!r} of {tables.ledger.identifier} cannot be replayed: {nothing}",
            hint="`dbt-onnx runs` shows how many rows of inputs are kept of each run",
        )
    return run


def check_ledger(
    cursor: Cursor, tables: ScoringTables, run: RunRow, replay: Replay, *, with_hash: bool
) -> None:
    """Compare the ledger's rows of the run with the run row: their number and their fingerprint."""
    wanted = run.rows_scored + run.rows_rejected
    count = f"select count(*) from {tables.ledger.sql} where run_id = $run_id"
    rows = cursor.rows(count, run.values)[0][0]
    if rows != wanted:
        replay.report(
            Finding(problem="ledger", expected=f"{wanted:,}", actual=f"{rows:,} rows of the run")
        )
    if not with_hash:
        return
    columns = cursor.columns_of(tables.ledger.sql)
    gone = [name for name in run.output_columns if name not in columns]
    fingerprint = (
        f"columns {gone} are gone"
        if gone
        else cursor.rows(
            ledger.fingerprints_of_run(
                tables.ledger,
                key=key_types(run, columns),
                outputs={name: columns[name] for name in run.output_columns},
            ),
            run.values,
        )[0][-1]
    )
    if fingerprint != run.ledger_fingerprint:
        replay.report(
            Finding(
                problem="ledger",
                expected=f"{run.ledger_fingerprint}",
                actual=f"the fingerprint of the rows is {fingerprint}",
            )
        )
        _name_rows(cursor, tables, run, replay)


def _name_rows(cursor: Cursor, tables: ScoringTables, run: RunRow, replay: Replay) -> None:
    """Report the rows whose stamps differ from the run row."""
    listed = ", ".join(map(quote, run.key_columns))
    for stamp in ("model_name", "model_version", "scored_at"):
        expected = getattr(run, stamp)
        for *key, actual in cursor.rows(
            f"select {listed}, {stamp} from {tables.ledger.sql} "
            f"where run_id = $run_id and {stamp} is distinct from ${stamp} limit {MAX_FINDINGS}",
            run.values,
        ):
            named = dict(zip(run.key_columns, key, strict=True))
            replay.report(
                Finding(
                    problem="ledger",
                    key=key_text(named),
                    column_name=stamp,
                    expected=shown(expected),
                    actual=shown(actual),
                )
            )


def check_inputs(
    cursor: Cursor, tables: ScoringTables, run: RunRow, replay: Replay, *, with_hash: bool
) -> bool:
    """Compare the kept inputs with the ledger, row by row. Returns whether they can be scored."""
    columns = cursor.columns_of(tables.inputs.sql) if cursor.has(tables.inputs) else {}
    known = {name.casefold() for name in columns}
    gone = [n for n in ("run_id", *run.key_columns, *run.features) if n.casefold() not in known]
    if gone:
        replay.report(
            Finding(problem="inputs", expected="there", actual=f"{tables.inputs} lacks {gone}")
        )
        return False
    types = key_types(run, columns)
    same = " and ".join(
        f"{compared(n, kind, of='said')} = {compared(n, kind, of='fed')}"
        for n, kind in types.items()
    )
    grouped = [compared(n, kind) for n, kind in types.items()]
    keys = ", ".join(f"coalesce(said.{quote(n)}, fed.{quote(n)})" for n in run.key_columns)
    has_key = " and ".join(f"{quote(n)} is not null" for n in run.key_columns)
    fed_hash = (
        features_hash(
            inputs.kept_types(tables.inputs, run.features, run.feature_types),
            inputs.kept_precisions(tables.inputs, run.features, run.feature_precisions),
        )
        if with_hash
        else "null"
    )
    changed = (
        "or said.features_hash is distinct from case when said.rejected_reason = 'null_as_of' "
        "then hash(fed.values_hash, 'null_as_of') else fed.values_hash end"
        if with_hash
        else ""
    )
    problems = cursor.rows(
        f"""
        with said as (
            select * from {tables.ledger.sql} where run_id = $run_id and {has_key}
        ),

        fed as (
            select {", ".join(f"{text} as {quote(n)}" for text, n in zip(grouped, types, strict=True))},
                any_value({fed_hash}) as values_hash, count(*) as occurrences
            from ({kept_features(tables, run)}) as kept
            group by {", ".join(grouped)}
        )

        select
            {keys},
            case
                when fed.occurrences is null then 'no inputs'
                when said.status is null then 'inputs of a row that the ledger does not have'
                when fed.occurrences > 1 then fed.occurrences || ' inputs'
                else 'other inputs, or another features_hash'
            end
        from said
        full join fed on {same}
        where fed.occurrences is null or said.status is null or fed.occurrences > 1 {changed}
        limit 20""",
        run.values,
    )
    for *key, problem in problems:
        named = dict(zip(run.key_columns, key, strict=True))
        finding = Finding(
            problem="inputs", key=key_text(named), expected="those that were scored", actual=problem
        )
        replay.report(finding)
    if with_hash and not problems:
        _check_fingerprint(cursor, tables, run, replay, types)
    return True


def key_types(run: RunRow, columns: Mapping[str, str]) -> dict[str, str]:
    """The SQL types of the key columns in a table, which may spell them in another case.

    The type of a column that is gone is empty.
    """
    folded = {name.casefold(): kind for name, kind in columns.items()}
    return {name: folded.get(name.casefold(), "") for name in run.key_columns}


def _check_fingerprint(
    cursor: Cursor, tables: ScoringTables, run: RunRow, replay: Replay, key: Mapping[str, str]
) -> None:
    """Compare all bits: features_hash ignores last digits, so an altered one only shows here."""
    features = inputs.kept_types(tables.inputs, run.features, run.feature_types)
    statement = inputs.fingerprint_of_run(tables.inputs, key=key, features=features)
    fingerprint = cursor.rows(statement, run.values)[0][0]
    if fingerprint != run.inputs_fingerprint:
        replay.report(
            Finding(
                problem="inputs",
                expected=f"{run.inputs_fingerprint}",
                actual=f"the fingerprint of the kept inputs is {fingerprint}",
            )
        )


def kept_features(tables: ScoringTables, run: RunRow) -> str:
    """SQL of the run's kept inputs, in the types that they had. Parameter: $run_id."""
    return inputs.select_inputs(
        tables.inputs,
        key=run.key_columns,
        features=inputs.kept_types(tables.inputs, run.features, run.feature_types),
        where="run_id = $run_id",
    )
