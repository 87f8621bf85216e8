"""Taking over what a service has answered on request: each answer becomes one row of history in the ledger.

    dbt_onnx_request_logs    how far each segment of a log was read for a scoring model

The answers of one version form a separate run with the scope `real_time`, a run row, fingerprints and kept
inputs. They are never in current. Rows, inputs, run rows and the positions in the logs are written in one
transaction, so each answer is in the ledger once, even if a process dies. The position of a line that
cannot be taken over is recorded, and each run tries the line again.
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_onnx.engines.duckdb import inputs, ledger, writing
from dbt_onnx.engines.duckdb.feature_types import features_hash, kept_as
from dbt_onnx.engines.duckdb.identifiers import compared, not_null, quote
from dbt_onnx.engines.duckdb.ledger import REJECTED, ROW_TYPES, LedgerShape
from dbt_onnx.engines.duckdb.planning import features_hash_function
from dbt_onnx.engines.duckdb.publishing import PUBLICATIONS_TABLE
from dbt_onnx.engines.duckdb.runs import LOCK, NOW, advance_run_counter, open_run
from dbt_onnx.engines.duckdb.stored_kinds import stored_kind
from dbt_onnx.errors import DbtOnnxError
from dbt_onnx.kernel.json_values import type_of, value_of
from dbt_onnx.runs.answered import NOT_AN_ANSWER, REAL_TIME, Answered
from dbt_onnx.runs.precisions import precisions_of
from dbt_onnx.runs.run import RunSummary
from dbt_onnx.runs.tables import RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import ModelVersion
    from dbt_onnx.engines.duckdb.cursor import Cursor
    from dbt_onnx.engines.duckdb.tables import ScoringTables
    from dbt_onnx.runs.answered import Answerer, AnswerLogs
    from dbt_onnx.runs.run import ScoringRun

_STREAM = "__dbt_onnx_answers"
_SEGMENT, _LINE, _REASON = (f"__dbt_onnx_{name}" for name in ("segment", "line", "reason"))
_OUTPUT = "__dbt_onnx_output_"
_OCCURRENCE = "__dbt_onnx_occurrence"
_LINES_AT_ONCE = 10_000
_MOST_REASONS = 5


class _RefusedError(Exception):
    """An answer cannot be taken over; the text is the reason."""


@dataclass(kw_only=True)
class _Segment:
    """A file of a log. It was read up to the byte `read`, except for the lines that begin at the bytes `left`."""

    publication: str
    name: str
    size: int
    read: int
    left: list[int]

    def lines(self, logs: AnswerLogs) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        """Yield the documents that were not taken over yet, each with the byte at which its line begins."""
        left, self.left = self.left, []
        for start in left:
            for _, document in logs.read(self.publication, self.name, start=start):
                yield start, document
                break
        for end, document in logs.read(self.publication, self.name, start=self.read):
            yield self.read, document
            self.read = end


_Line = tuple[int, int, Answered]
"""The index of the segment, the byte at which the line begins, and the answer."""


def take_over(
    cursor: Cursor,
    tables: ScoringTables,
    run: ScoringRun,
    logs: AnswerLogs,
    artifact_of: Callable[[ModelVersion], Artifact],
) -> None:
    """Add the answers that services gave on request to the ledger of a run. Does nothing in a backfill.

    Raises a DbtOnnxError or OSError if nothing can be taken over. If only some answers cannot be taken over,
    one line in the run's log lists the reasons.
    """
    found = _segments(cursor, tables, logs)
    segments = [segment for segment in found if segment.left or segment.read < segment.size]
    if not segments:
        return
    is_past, scored_at, models = cursor.rows(
        f"select coalesce({run.settings.clock_sql} < max(clock) filter (scope = 'full'), false), "
        f"greatest({NOW}, max(scored_at) + to_microseconds(1)), list(distinct model_name) "
        f"from {tables.runs.sql} where scoring_model = $scoring_model and status = 'success' "
        "and scope <> 'empty'",
        {"scoring_model": tables.ledger.identifier},
    )[0]
    if run.is_other_version or is_past:
        return
    with LOCK, cursor.transaction():
        taking = _TakingOver(
            cursor,
            tables,
            run,
            artifact_of,
            segments,
            # the answers of other models belong to other ledgers
            models={run.artifact.model_name, *(models or [])},
        )
        taking.read(logs)
        rows = taking.write(scored_at)
    if rows:
        run.log(
            f"{run.settings.identifier}: {rows:,} answer(s) given on request were added to the ledger"
        )
    if taking.refused:
        run.log(f"{run.settings.identifier}: {taking.refusals()}")


def _segments(cursor: Cursor, tables: ScoringTables, logs: AnswerLogs) -> list[_Segment]:
    """Return the segments of all publications of this ledger, with how far each was read."""
    publications = tables.ledger.beside(PUBLICATIONS_TABLE)
    if not cursor.has(publications):
        return []
    of_model = {"scoring_model": tables.ledger.identifier}
    names = cursor.rows(
        f"select distinct name from {publications.sql} where target = 'files' "
        "and list_contains(scoring_models, $scoring_model) order by name",
        of_model,
    )
    found = [(name, segments) for (name,) in names if (segments := logs.segments(name))]
    if not found:
        return []
    known = {}
    if cursor.has(tables.request_logs):
        known = {
            (name, segment): (read, left)
            for name, segment, read, left in cursor.rows(
                f"select name, segment, bytes_read, lines_left from {tables.request_logs.sql} "
                "where scoring_model = $scoring_model",
                of_model,
            )
        }
    return [
        _Segment(publication=name, name=segment, size=size, read=read, left=list(left))
        for name, segments in found
        for segment, size in segments.items()
        for read, left in [known.get((name, segment), (0, []))]
    ]


@dataclass
class _TakingOver:
    """One pass over the unread lines of the logs, in the transaction of its cursor."""

    cursor: Cursor
    tables: ScoringTables
    run: ScoringRun
    artifact_of: Callable[[ModelVersion], Artifact]
    segments: Sequence[_Segment]
    models: set[str]
    answers: dict[Answerer, _Answers | str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def read(self, logs: AnswerLogs) -> None:
        """Read the logs, and put the answers that can be taken over into temporary tables."""
        lines = self._lines(logs)
        while some := list(itertools.islice(lines, _LINES_AT_ONCE)):
            by: dict[Answerer, list[_Line]] = defaultdict(list)
            for line in some:
                by[line[2].by].append(line)
            for answerer, its in by.items():
                answers = self._answers_of(answerer)
                if isinstance(answers, str):
                    for segment, start, _ in its:
                        self._refuse(segment, start, answers)
                else:
                    for segment, start, why in answers.add(its):
                        self._refuse(segment, start, why)

    def _lines(self, logs: AnswerLogs) -> Iterator[_Line]:
        for number, segment in enumerate(self.segments):
            try:
                next(logs.read(segment.publication, segment.name, start=segment.size), None)
            except OSError as error:
                self._tell(segment, f"the file cannot be read: {error.strerror or error}")
                continue
            for start, document in segment.lines(logs):
                if document is None:
                    self._refuse(number, start, "the line is damaged")
                    continue
                try:
                    answered = Answered.from_document(document)
                except NOT_AN_ANSWER as error:
                    self._refuse(
                        number, start, f"the line is not an answer: {type(error).__name__}: {error}"
                    )
                    continue
                if answered.by.model.name in self.models:
                    yield number, start, answered

    def _answers_of(self, by: Answerer) -> _Answers | str:
        """Return the object that collects the answers of a version, or why they cannot be taken over."""
        if by not in self.answers:
            try:
                self.answers[by] = _Answers(
                    self.cursor,
                    self.tables,
                    self.run,
                    by,
                    self.artifact_of(by.model),
                    table=f"temp.main.{_STREAM}_{len(self.answers)}",
                )
            except (_RefusedError, *NOT_AN_ANSWER) as error:
                self.answers[by] = str(error)
            except DbtOnnxError as error:
                self.answers[by] = error.message
        return self.answers[by]

    def _refuse(self, segment: int, start: int, why: str) -> None:
        self.segments[segment].left.append(start)
        self._tell(self.segments[segment], why, f", from byte {start:,} on")

    def _tell(self, segment: _Segment, why: str, where: str = "") -> None:
        why = " ".join(why.split())[:200]
        self.refused[why] += 1
        self.examples.setdefault(
            why, f"{segment.name} of publication {segment.publication!r}{where}"
        )

    def refusals(self) -> str:
        """Return a message about the answers that stay in the logs, with reasons."""
        reasons = "; ".join(
            f"{why} ({count:,}, such as {self.examples[why]})"
            for why, count in self.refused.most_common(_MOST_REASONS)
        )
        return (
            f"{self.refused.total():,} answer(s) or file(s) of answers given on request could not be taken "
            f"over and are retried by the next run: {reasons}"
        )

    def write(self, scored_at: datetime) -> int:
        """Write the answers and the positions in the logs. Returns the number of rows."""
        written: dict[int, int] = {}
        for answers in self.answers.values():
            if isinstance(answers, str):
                continue
            for segment, start, why in answers.remove_unfit():
                self._refuse(segment, start, why)
            written |= answers.write(scored_at)
        self._write_positions()
        for number in written:
            advance_run_counter(self.cursor, self.tables, number)
        return sum(written.values())

    def _write_positions(self) -> None:
        """Write how far each segment was read, and which lines of it are left."""
        self.tables.create_request_logs(self.cursor)
        table = self.tables.request_logs
        for segment in self.segments:
            values = {
                "scoring_model": self.tables.ledger.identifier,
                "name": segment.publication,
                "segment": segment.name,
                "bytes_read": segment.read,
                "lines_left": sorted(segment.left),
            }
            which = "scoring_model = $scoring_model and name = $name and segment = $segment"
            self.cursor.execute(f"delete from {table.sql} where {which}", values)
            self.cursor.insert(table, values, read_at=NOW)


class _Answers:
    """The answers of one version, kept in a temporary table until all logs have been read."""

    def __init__(
        self,
        cursor: Cursor,
        tables: ScoringTables,
        run: ScoringRun,
        by: Answerer,
        artifact: Artifact,
        *,
        table: str,
    ) -> None:
        """Create the temporary table. Raises _RefusedError or a DbtOnnxError if the ledger cannot take answers
        of this version.
        """
        self._cursor, self._tables, self._run = cursor, tables, run
        self._by, self._contract, self._table = by, artifact.contract, table
        fields = self._contract.output_fields()
        outputs = tables.storage.types(writing.output_types(fields))
        self._shape = LedgerShape(key=run.shape.key, outputs=outputs)
        self._check(artifact)
        tables.check_shape(cursor, self._shape)
        tables.check_outputs(cursor, self._shape, by.model)
        self._outputs = {item.name: item.type for item in fields}
        types = dict(by.feature_types)
        self._features = {name: type_of(types[name]) for name in self._contract.feature_names}
        self._kinds = {
            name.casefold(): stored_kind(quote(name), kind)[0]
            for name, kind in self._shape.key.items()
        }
        self._schema = pa.schema(
            [
                (_SEGMENT, pa.int32()),
                (_LINE, pa.int64()),
                (inputs.MOMENT, pa.timestamp("us")),
                (_REASON, pa.string()),
                *((carried, pa.string()) for carried in self._shape.carried_key.values()),
                *((f"{_OUTPUT}{i}", item.type) for i, item in enumerate(fields)),
                *self._features.items(),
            ]
        )
        columns = [quote(name) for name in (_SEGMENT, _LINE, inputs.MOMENT, _REASON)]
        for name, carried in self._shape.carried_key.items():
            kind, given = self._shape.key[name], quote(carried)
            value = f"try(unhex({given}))" if kind == "BLOB" else f"try_cast({given} as {kind})"
            columns.append(f"{value} as {given}")
        columns += [
            f"cast({quote(f'{_OUTPUT}{i}')} as {kind}) as {quote(f'{_OUTPUT}{i}')}"
            for i, kind in enumerate(self._shape.outputs.values())
        ]
        columns += map(quote, self._features)
        self._converted = f"select {', '.join(columns)} from {_STREAM}"
        nothing = pa.RecordBatch.from_pylist([], schema=self._schema)
        self._put(nothing, f"create or replace temp table {table} as")

    def _check(self, artifact: Artifact) -> None:
        if (self._by.sha256, self._by.card_sha256) != (artifact.sha256, artifact.card_sha256):
            raise _RefusedError(f"the registry now has other files for {self._by.model}")
        features = self._contract.feature_names
        if {name for name, _ in self._by.feature_types} != set(features):
            raise _RefusedError(f"the answer has other features than {self._by.model} reads")
        taken = {*map(str.casefold, self._shape.key), RUN}
        if taken & set(map(str.casefold, self._shape.outputs)) or RUN in map(
            str.casefold, features
        ):
            raise _RefusedError(
                f"a column of {self._by.model} has the same name as a column of the ledger"
            )

    def add(self, lines: Sequence[_Line]) -> Iterator[tuple[int, int, str]]:
        """Add answers to the temporary table. Yields (segment, byte, reason) for answers that do not fit."""
        faults = (pa.ArrowException, *NOT_AN_ANSWER, _RefusedError)
        try:
            batch = self._batch(lines)
        except faults:
            good = []
            for line in lines:
                try:
                    self._batch([line])
                except faults as error:
                    yield line[0], line[1], f"the answer does not fit the ledger: {error}"
                else:
                    good.append(line)
            if not good:
                return
            batch = self._batch(good)
        self._put(batch, f"insert into {self._table}")

    def _put(self, batch: pa.RecordBatch, into: str) -> None:
        self._cursor.raw.register(_STREAM, batch)
        self._cursor.execute(f"{into} {self._converted}")
        self._cursor.raw.unregister(_STREAM)

    def _batch(self, lines: Sequence[_Line]) -> pa.RecordBatch:
        rows = [(segment, start, *self._values(answered)) for segment, start, answered in lines]
        columns = zip(*rows, strict=True)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _values(self, answered: Answered) -> Iterator[Any]:
        kinds = {name.casefold(): kind for name, kind in answered.key_kinds.items()}
        if kinds != self._kinds:
            raise _RefusedError(f"its key is {dict(answered.key_kinds)}, not {self._kinds}")
        expected = [] if answered.rejected_reason is not None else list(self._outputs)
        if set(answered.outputs) != set(expected) or set(answered.features) != set(self._features):
            raise _RefusedError("it has other features or outputs than the model")
        key = {name.casefold(): text for name, text in answered.key.items()}
        yield answered.at
        yield answered.rejected_reason
        yield from (key[name.casefold()] for name in self._shape.key)
        yield from (value_of(answered.outputs.get(n), kind) for n, kind in self._outputs.items())
        yield from (value_of(answered.features[n], kind) for n, kind in self._features.items())

    def remove_unfit(self) -> list[tuple[int, int, str]]:
        """Remove and return the answers with a key that does not fit the ledger's types, or that differs from
        the feature of the same name.
        """
        keys = self._shape.carried_key
        conditions = [f"not ({not_null(keys.values())})"]
        features = {name.casefold(): name for name in self._features}
        for name, carried in keys.items():
            if feature := features.get(name.casefold()):
                given = f"try_cast({quote(feature)} as {self._shape.key[name]})"
                # a column that is both key and feature is kept once
                conditions.append(f"{given} is distinct from {quote(carried)}")
        found = self._cursor.rows(
            f"delete from {self._table} where {' or '.join(conditions)} returning {_SEGMENT}, {_LINE}"
        )
        why = "its key does not fit the ledger's key types, or differs from the feature of the same name"
        return [(segment, start, why) for segment, start in found]

    def write(self, scored_at: datetime) -> Iterator[tuple[int, int]]:
        """Write the answers as runs. Each run has an entity at most once per moment, so several runs may be
        needed. Yields (run_no, number of rows) of each run.
        """
        keys = self._shape.carried_key
        entity = ", ".join(compared(c, self._shape.key[n]) for n, c in keys.items())
        numbered = (
            f"(select *, row_number() over (partition by {entity}, {quote(inputs.MOMENT)} "
            f"order by {_SEGMENT}, {_LINE}) as {_OCCURRENCE} from {self._table})"
        )
        [(most,)] = self._cursor.rows(f"select max({_OCCURRENCE}) from {numbered} as numbered")
        for occurrence in range(1, (most or 0) + 1):
            rows = f"(select * from {numbered} as numbered where {_OCCURRENCE} = {occurrence})"
            yield self._write_run(f"{rows} as answers", scored_at)
        self._cursor.execute(f"drop table {self._table}")

    def _write_run(self, rows: str, scored_at: datetime) -> tuple[int, int]:
        """Write rows of the temporary table as a run. Returns the number of the run, and the number of rows."""
        cursor, tables, shape, settings = (
            self._cursor, self._tables, self._shape, self._run.settings,
        )  # fmt: skip
        kinds = cursor.columns_of(self._table)
        features = {name: kinds[name] for name in self._features}
        precisions = precisions_of(self._contract, self._run.request.significant_digits)
        tables.create(cursor, shape)
        [(as_of, rejected, reasons)] = cursor.rows(
            f"select max({quote(inputs.MOMENT)}), count({_REASON}), "
            f"list(distinct {_REASON} order by {_REASON}) filter ({_REASON} is not null) from {rows}"
        )
        reasons = reasons or []
        # derived from the invocation's id, to differ from the id of the run that takes over
        record = open_run(cursor, tables, settings, run_id="")
        run_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{settings.run_id}/{record.run_no}")
        values = {
            **{name: quote(carried) for name, carried in shape.carried_key.items()},
            **{name: quote(f"{_OUTPUT}{i}") for i, name in enumerate(shape.outputs)},
            "as_of": quote(inputs.MOMENT),
            "features_hash": features_hash(features, precisions),
            "score_reason": f"cast('{REAL_TIME}' as {ROW_TYPES['score_reason']})",
            REJECTED: f"cast(list_position(cast($reasons as varchar[]), {_REASON}) as {ROW_TYPES[REJECTED]})",
            RUN: f"cast($run_no as {ROW_TYPES[RUN]})",
            "is_late": "false",
        }
        cursor.execute(
            f"insert into {tables.history.sql} ({', '.join(map(quote, values))}) "
            f"select {', '.join(values.values())} from {rows}",
            {**record.identity, "reasons": reasons},
        )
        [(count, of_input, of_rows)] = cursor.rows(
            ledger.describe_run(tables, shape), record.identity
        )
        summary = RunSummary(
            model=self._by.model,
            rows_in=count,
            rows_scored=count - rejected,
            rows_rejected=rejected,
            per_reason={REAL_TIME: count},
        )
        record.close(
            cursor,
            status="success",
            run_id=str(run_id),
            scope=REAL_TIME,
            as_of=as_of,
            scored_at=scored_at,
            model_name=self._by.model.name,
            model_version=self._by.model.version,
            artifact_sha256=self._by.sha256,
            card_sha256=self._by.card_sha256,
            key_columns=list(shape.key),
            features=list(features),
            feature_types=[kept_as(kind) for kind in features.values()],
            feature_precisions=list(precisions.values()),
            features_hash_function=features_hash_function(cursor, precisions),
            output_columns=list(shape.outputs),
            input_fingerprint=of_input,
            ledger_fingerprint=of_rows,
            onnxruntime_version=self._by.onnxruntime_version,
            provider=self._by.provider,
            threads=self._by.threads,
            workers=1,
            # the service scores one row at a time, and so does a replay
            batch_rows=1,
            rejected_reasons=reasons,
            **summary.counts,
            **self._keep_inputs(record.identity, rows, features),
        )
        return record.run_no, count

    def _keep_inputs(
        self, identity: Mapping[str, Any], rows: str, features: Mapping[str, str]
    ) -> dict[str, Any]:
        if self._run.request.keep_inputs is False:
            return {"rows_inputs_kept": 0}
        cursor, tables, shape = self._cursor, self._tables, self._shape
        types = tables.create_inputs(cursor, shape, features, with_moment=True)
        statement = inputs.insert_inputs(
            tables.inputs,
            shape,
            features=features,
            kept_types=types,
            stream=rows,
            with_moment=True,
        )
        [(kept,)] = cursor.rows(statement, identity)
        statement = inputs.fingerprint_of_run(
            tables.inputs,
            key=shape.key,
            features={name: kept_as(kind) for name, kind in features.items()},
            with_moment=True,
        )
        [(fingerprint,)] = cursor.rows(statement, identity)
        return {"rows_inputs_kept": kept, "inputs_fingerprint": fingerprint}
