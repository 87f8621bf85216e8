"""Checks that the tables of a scoring model are as its runs left them, so that users get what was scored.

The checks find run rows that were altered, doubled or deleted, rows of no successful run, runs with more or
fewer rows than they wrote or with other values, and rows of current that are not the newest.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import duckdb

from dbt_onnx.engines.duckdb import inputs
from dbt_onnx.engines.duckdb.cursor import Cursor, duckdb_errors
from dbt_onnx.engines.duckdb.feature_types import hashable_columns
from dbt_onnx.engines.duckdb.identifiers import absent, compared_key, not_null, quote, types_of
from dbt_onnx.engines.duckdb.ledger import (
    REJECTED,
    ROW_TYPES,
    all_rows,
    fingerprint,
    fingerprint_of_rows,
    select_ledger,
)
from dbt_onnx.engines.duckdb.planning import uses_same_hash
from dbt_onnx.engines.duckdb.runs import read_run_rows
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.runs.answered import REAL_TIME
from dbt_onnx.runs.proof import (
    DOUBLED,
    ERASED,
    NEWER,
    altered_runs,
    faults_of_counts,
    faults_of_fingerprints,
    key_of_runs,
    lost_outputs,
    missing_runs,
    not_newest,
    nothing_erased,
    other_view,
    strange_rows,
)
from dbt_onnx.runs.replay import MAX_FINDINGS
from dbt_onnx.runs.tables import RUN, RUNS_TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dbt_onnx.engines.base import TableName
    from dbt_onnx.runs.history import RunRow
    from dbt_onnx.runs.proof import Erased
    from dbt_onnx.runs.replay import Finding


def prove(
    connection: duckdb.DuckDBPyConnection, name: TableName, *, with_values: bool
) -> list[Finding]:
    """See `base.Warehouse.prove`."""
    with Cursor(connection.cursor()) as cursor, duckdb_errors(), cursor.transaction():
        tables = ScoringTables(name, cursor.storage_of(name))
        tables.check_runs(cursor)
        tables.check_names(cursor)
        if not cursor.has(tables.current):
            return []
        runs = read_run_rows(cursor, tables)
        key = types_of(key_of_runs(runs), cursor.columns_of(tables.current.sql))
        findings = [*_faults_of_runs(cursor, tables, runs)]
        findings += _strange_rows(cursor, tables, runs, list(key))
        findings += _faults_of_current(cursor, tables, key, with_history=with_values)
        findings += _faults_of_counts(cursor, tables, runs)
        if with_values:
            findings += _faults_of_values(cursor, tables, runs)
            findings += _faults_of_view(cursor, tables, key)
    return findings


def _faults_of_runs(
    cursor: Cursor, tables: ScoringTables, runs: Sequence[RunRow]
) -> Iterator[Finding]:
    yield from altered_runs(runs)
    # the runs of all scoring models of the schema are numbered together
    every = tables.ledger.beside(RUNS_TABLE)
    last = tables.storage.last_number(cursor, tables.ledger)
    gone = cursor.rows(
        f"""
        with numbers as (
            select 0 as number
            union
            select {RUN} from {every.sql} where {RUN} > 0
            union
            select 1 + {last}
        )

        select first, last
        from (select 1 + number as first, lead(number) over (order by number asc) - 1 as last from numbers)
        where first <= last
        order by first asc
        limit {MAX_FINDINGS}"""
    )
    yield from missing_runs(gone, every)


def _strange_rows(
    cursor: Cursor, tables: ScoringTables, runs: Sequence[RunRow], key: Sequence[str]
) -> Iterator[Finding]:
    """Yield findings about rows that belong to no successful run of this scoring model."""
    numbers = [run.run_no for run in runs if run.status == "success"]
    listed = ", ".join(f"any_value({quote(name)})" for name in key) or "null"
    places = {"ledger": ("row(s)", all_rows(tables, [*key, RUN]))}
    if cursor.has(tables.inputs):
        places["inputs"] = ("kept input(s)", tables.inputs.sql)
    for problem, (what, rows) in places.items():
        found = cursor.rows(
            f"select {RUN}, count(*), {listed} from {rows} as written where {RUN} is null "
            f"or {RUN} not in (select unnest($numbers)) group by {RUN} order by {RUN} asc "
            f"limit {MAX_FINDINGS}",
            {"numbers": numbers},
        )
        yield from strange_rows(problem, what, found, key)


def _faults_of_current(
    cursor: Cursor, tables: ScoringTables, key: Mapping[str, str], *, with_history: bool
) -> Iterator[Finding]:
    """Yield findings about entities that have, for one model version, more than one score or rejection in
    current or, if `with_history`, a newer one in history.
    """
    if not key:
        return
    aliases = ", ".join(f"key_{i}" for i in range(len(key)))

    def with_version(table: TableName, where: str) -> str:
        return f"""(
            select * from (
                select {compared_key(key)}, {RUN}, {REJECTED} is null, {RUN}
                from {table.sql} where {where}
            ) as slots({aliases}, {RUN}, is_scored, number)
            inner join (
                select {RUN}, model_name, model_version from {tables.runs.sql} where status = 'success'
            ) using ({RUN})
        )"""

    current = with_version(tables.current, "true")
    slot = f"{aliases}, model_name, model_version, is_scored"
    questions = {
        DOUBLED: f"select {aliases}, count(*) "
        f"from {current} group by {slot} having count(*) > 1 limit {MAX_FINDINGS}"
    }
    if with_history:
        # answers on request may be newer, but are never in current
        is_run = f"score_reason is distinct from '{REAL_TIME}'"
        history = with_version(tables.history, f"not is_late and {is_run} and {not_null(key)}")
        questions[NEWER] = (
            f"select {aliases}, count(*) from {history} as history left join (select {slot}, max(number) as "
            f"newest from {current} group by {slot}) as current using ({slot}) "
            "where number >= newest or (newest is null and is_scored) "
            f"group by {aliases} limit {MAX_FINDINGS}"
        )
    for what, question in questions.items():
        yield from not_newest(what, cursor.rows(question), list(key))


def _faults_of_counts(
    cursor: Cursor, tables: ScoringTables, runs: Sequence[RunRow]
) -> Iterator[Finding]:
    """Yield findings about runs with more or fewer rows, or kept inputs, than they wrote."""
    numbers = {"numbers": [run.run_no for run in runs if run.status == "success"]}
    found, kept = rows_by_run(cursor, tables, f"{RUN} in (select unnest($numbers))", numbers)
    yield from faults_of_counts(runs, found, kept, erased_of_runs(cursor, tables))


def rows_by_run(
    cursor: Cursor, tables: ScoringTables, where: str, parameters: Mapping[str, Any]
) -> tuple[dict[int, int], dict[int, int]]:
    """Return {run_no: number of rows in current and history}, and {run_no: number of kept inputs}."""
    relations = [all_rows(tables, [RUN], where=where)]
    if cursor.has(tables.inputs):
        relations.append(f"(select {RUN} from {tables.inputs.sql} where {where})")
    rows, *kept = (
        dict(cursor.rows(f"select {RUN}, count(*) from {one} as r group by {RUN}", parameters))
        for one in relations
    )
    return rows, kept[0] if kept else {}


def faults_of_run(cursor: Cursor, tables: ScoringTables, run: RunRow) -> Iterator[Finding]:
    """Yield findings about one run: the number of its rows and kept inputs, and the values of its rows."""
    yield from _faults_of_counts(cursor, tables, [run])
    yield from _faults_of_values(cursor, tables, [run])


def _faults_of_values(
    cursor: Cursor, tables: ScoringTables, runs: Sequence[RunRow]
) -> Iterator[Finding]:
    """Yield findings about runs with rows that differ from what they wrote, according to fingerprints."""
    written = {name for run in runs for name in run.output_columns or []}
    gone = set(absent(written, cursor.columns_of(tables.current.sql)))
    if gone:
        yield lost_outputs(gone)
    whole = [run for run in runs if not gone & set(run.output_columns or [])]
    found = fingerprints(cursor, tables, whole)
    yield from faults_of_fingerprints(whole, found, erased_of_runs(cursor, tables))


def _faults_of_view(
    cursor: Cursor, tables: ScoringTables, key: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield a finding if the ledger's view does not return what its tables have: anybody can replace a view.
    A dropped view is not a fault, because the next run creates it again.
    """
    if not key or "" in key.values() or not cursor.has(tables.ledger):
        return
    wanted = f"({select_ledger(tables, tables.whole_shape(cursor, key))})"
    columns = cursor.columns_of(wanted)
    try:
        altered = cursor.columns_of(tables.ledger.sql) != columns
    except duckdb.BinderException:
        # the view reads a column that is gone
        altered = True
    if not altered:
        said = f"select count(*), {fingerprint(hashable_columns(columns))} from {{}} as said"
        altered = cursor.rows(said.format(tables.ledger.sql)) != cursor.rows(said.format(wanted))
    if altered:
        yield other_view(tables.ledger)


def fingerprints(
    cursor: Cursor,
    tables: ScoringTables,
    runs: Sequence[RunRow],
    *,
    where: str = "true",
    parameters: Mapping[str, Any] | None = None,
) -> dict[int, int]:
    """Return {run_no: fingerprint of its rows, or of its rows that match `where`}. Leaves out runs that hashed
    in another way than this warehouse does.
    """
    columns = cursor.columns_of(tables.current.sql)
    alike = defaultdict(list)
    for run in runs:
        is_sealed = run.status == "success" and run.ledger_fingerprint is not None
        if is_sealed and uses_same_hash(cursor, run):
            alike[tuple(run.key_columns), tuple(run.output_columns)].append(run.run_no)
    found: dict[int, int] = {}
    for (key, outputs), numbers in alike.items():
        number = fingerprint_of_rows(key=types_of(key, columns), outputs=types_of(outputs, columns))
        others = absent(columns, (*key, *outputs, *ROW_TYPES))
        # output columns of other versions, which are NULL in these runs' rows
        is_as_written = " and ".join([f"{quote(name)} is null" for name in others] or ["true"])
        rows = all_rows(
            tables,
            [*key, *outputs, *others, *ROW_TYPES],
            where=f"{RUN} in (select unnest($numbers)) and {where}",
        )
        found |= dict.fromkeys(numbers, 0)
        found |= cursor.rows(
            f"select {RUN}, coalesce({number} filter (where {is_as_written}), 0) "
            f"from {rows} as written group by {RUN}",
            {"numbers": numbers, **(parameters or {})},
        )
    return found


def fingerprint_of_inputs(
    cursor: Cursor,
    tables: ScoringTables,
    run: RunRow,
    key: Mapping[str, str],
    *,
    where: str = "true",
    parameters: Mapping[str, Any] | None = None,
) -> int:
    """Return the fingerprint of a run's kept inputs, or of those that match `where`; 0 without any."""
    features = inputs.by_feature(tables.inputs, run.features, run.feature_types)
    statement = inputs.fingerprint_of_run(
        tables.inputs,
        key=key,
        features=features,
        where=where,
        with_moment=run.scope == REAL_TIME,
    )
    return cursor.rows(statement, {**run.values, **(parameters or {})})[0][0] or 0


def erased_of_runs(cursor: Cursor, tables: ScoringTables) -> Erased:
    """Return what was erased of each run, by run number."""
    erased = nothing_erased()
    if cursor.has(tables.erasures):
        for number, *values in cursor.rows(
            f'select {RUN}, cast(sum("rows") as bigint), cast(sum(rows_inputs) as bigint), '
            "coalesce(bit_xor(ledger_fingerprint), 0), coalesce(bit_xor(inputs_fingerprint), 0) "
            f"from {tables.erasures.sql} where scoring_model = $scoring_model group by {RUN}",
            {"scoring_model": tables.ledger.identifier},
        ):
            erased[number].update(zip(ERASED, values, strict=True))
    return erased
