"""The next run takes a service's answers over into the ledger: each once, proved and replayed like other rows."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from answering import MORNING, Answering, document, keep
from test_replay import LEDGER, problems, replay
from warehouse import Warehouse, line_contract, line_model

from dbt_onnx.engines.base import TableName
from dbt_onnx.engines.duckdb import taking_over
from dbt_onnx.engines.duckdb.cursor import Cursor
from dbt_onnx.engines.duckdb.erasing import forget, prune
from dbt_onnx.engines.duckdb.history import read_history, read_runs
from dbt_onnx.engines.duckdb.proof import prove
from dbt_onnx.engines.duckdb.tables import ScoringTables
from dbt_onnx.errors import ConfigError, DataError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dbt_onnx.serving.manifest import ServedModel

SECOND = timedelta(seconds=1)
ANSWERS = "select id, as_of, y, status, rejected_reason from scores where score_reason = 'real_time' order by as_of"


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Iterator[Warehouse]:
    """One night has run: entities 1, 2 and 3 have predictions."""
    made = new_warehouse(tmp_path)
    made.register("1")
    made.features((1, 1.0, 1.0), (2, 2.0, 1.0), (3, 3.0, 1.0))
    made.run()
    made.clock = "2024-01-11 00:00:00"
    yield made
    made.connection.close()


@pytest.fixture
def answering(warehouse: Warehouse) -> Iterator[Answering]:
    made = Answering(warehouse)
    yield made
    made.real_time.close()


def served(answering: Answering) -> ServedModel:
    assert answering.manifest.model is not None
    return answering.manifest.model


def answers(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.sql(ANSWERS)


def said(warehouse: Warehouse) -> list[str]:
    """Return the runs' messages about answers on request."""
    return [message for message in warehouse.log_messages if "on request" in message]


def run_ids(warehouse: Warehouse) -> list[str]:
    """Return the ids of the runs that took answers over."""
    return [
        run.run_id for run in read_runs(warehouse.connection, LEDGER) if run.scope == "real_time"
    ]


def check(warehouse: Warehouse) -> None:
    """Check that the tables are as the runs left them, and that each run of answers replays bit for bit."""
    assert prove(warehouse.connection, LEDGER, with_values=True) == []
    for run_id in run_ids(warehouse):
        result = replay(warehouse, run_id)
        assert problems(result) == set()
        assert result.identical == result.rows


def test_the_answers_of_a_day_are_in_the_ledger_once(
    warehouse: Warehouse, answering: Answering
) -> None:
    """New, known and rejected entities, and one entity that asks three times, through the service's own code."""
    given = [
        answering.ask(9, 0.1, at=MORNING),
        answering.ask(1, 1.0, at=MORNING + SECOND),
        answering.ask(9, 0.3, 7, at=MORNING + 2 * SECOND),
        answering.ask(9, None, at=MORNING + 3 * SECOND),
    ]
    night = warehouse.run()
    assert (night.rows_in, night.rows_unchanged) == (3, 3)
    assert answers(warehouse) == []  # without logs, a run takes no answers over
    before = warehouse.latest()

    assert str(answering.run()) == "line/1: scored 0, unchanged 3"
    told = [(a.key[0], a.as_of, a.outputs.get("y"), a.rejected_reason) for a in given]
    assert [(key, at, y, why) for key, at, y, _, why in answers(warehouse)] == told
    assert [status for *_, status, _ in answers(warehouse)] == ["scored"] * 3 + ["rejected"]
    assert said(warehouse) == ["scores: 4 answer(s) given on request were added to the ledger"]
    for _ in range(2):
        answering.run()
    assert len(answers(warehouse)) == 4
    assert warehouse.latest() == before

    [(run_id, *told_of_run)] = warehouse.sql(
        "select run_id, status, rows_in, rows_scored, rows_rejected, rows_unchanged, rows_real_time, rows_new, "
        "rows_inputs_kept, as_of, model_name, model_version, batch_rows, rejected_reasons, features_relation "
        "from dbt_onnx_runs where scope = 'real_time'"
    )
    assert told_of_run == [
        "success", 4, 3, 1, 0, 4, 0, 4, MORNING + 3 * SECOND, "line", "1", 1, ["null:a"], None,
    ]  # fmt: skip
    assert run_id in run_ids(warehouse)
    stamps = warehouse.sql(
        "select distinct scored_at = as_of, is_late, run_id from scores where score_reason = 'real_time'"
    )
    assert stamps == [(True, False, run_id)]
    kept = "select id, a, b from scores__inputs where run_no = (select max(run_no) from scores__inputs) order by all"
    assert warehouse.sql(kept) == [(1, 1, 1), (9, 0.1, 1), (9, 0.3, 7), (9, None, 1)]
    # the same features have the same hash as in the nightly run
    hashes = "select count(distinct features_hash), count(*) from scores where id = 1"
    assert warehouse.sql(hashes) == [(1, 2)]
    check(warehouse)


@pytest.mark.parametrize(
    "alteration",
    [
        "update scores__history set y = y + 1e-6 where id = 9 and rejected_reason_no is null",
        "update scores__history set as_of = as_of + interval 1 hour",
        "delete from scores__history where id = 9",
        "insert into scores__history from scores__history where id = 1",
        "update scores__inputs set b = 5 where id = 9 and a = 0.25",
        "update scores__inputs set a = a + 1e-12 where id = 9 and a = 0.25",
        "update dbt_onnx_runs set rows_real_time = 7 where scope = 'real_time'",
    ],
)
def test_what_is_altered_is_found(
    warehouse: Warehouse, answering: Answering, alteration: str
) -> None:
    keep(
        answering,
        document(9, 0.25, served=served(answering)),
        document(9, 0.25, served=served(answering), at=MORNING),
        document(1, 1.0, served=served(answering)),
    )
    answering.run()
    check(warehouse)
    warehouse.sql(alteration)
    [run_id] = run_ids(warehouse)
    assert replay(warehouse, run_id).findings or prove(
        warehouse.connection, LEDGER, with_values=True
    )


def test_two_answers_about_one_entity_in_one_microsecond_are_both_kept(
    warehouse: Warehouse, answering: Answering
) -> None:
    model = served(answering)
    keep(answering, document(9, 0.5, served=model), document(8, 0.5, served=model))
    keep(answering, document(9, 1.5, served=model))
    answering.run()
    assert sorted(row[::2] for row in answers(warehouse)) == sorted(
        [(9, 0.5, None), (8, 0.5, None), (9, 2.5, None)]
    )
    assert len(run_ids(warehouse)) == 2
    check(warehouse)
    rows = read_history(warehouse.connection, LEDGER, ["9"])
    assert [row.score_reason for row in rows] == ["real_time"] * 2


def test_a_run_that_fails_afterwards_loses_and_doubles_nothing(
    warehouse: Warehouse, answering: Answering
) -> None:
    keep(answering, document(9, 0.5, served=served(answering)))
    with pytest.raises(DataError):
        answering.run(features="select * from features where false")
    assert [row[0] for row in answers(warehouse)] == [9]
    keep(answering, document(8, 0.5, served=served(answering)))
    answering.run()
    assert sorted(row[0] for row in answers(warehouse)) == [8, 9]
    check(warehouse)


def test_what_fails_while_it_is_taken_over_is_taken_over_by_the_next_run(
    warehouse: Warehouse, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step fails: its earlier steps are rolled back, and the nightly run goes on."""
    keep(answering, document(9, 0.5, served=served(answering)))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(taking_over, "advance_run_counter", fail)
        warehouse.sql("update features set a = 7 where id = 1")
        assert answering.run().rows_scored == 1
    assert answers(warehouse) == []
    [told] = said(warehouse)
    assert told.startswith("scores: answers on request stay in their log until the next run: ")
    assert "[Errno 28] No space left on device" in told
    check(warehouse)
    answering.run()
    assert [row[0] for row in answers(warehouse)] == [9]
    check(warehouse)


KILLED = """
import os, sys
from pathlib import Path
from warehouse import Warehouse
from dbt_onnx.serving.request_log import RequestLogs

def log(message):
    if "added to the ledger" in message:
        os._exit(7)

warehouse = Warehouse(Path(sys.argv[1]))
warehouse.runs, warehouse.clock = 50, "2024-01-12 00:00:00"
warehouse.log_messages = type("Said", (), {"append": staticmethod(log)})()
warehouse.run(logs=RequestLogs(warehouse.folder))
"""


def test_a_process_that_dies_between_the_answers_and_its_own_rows_has_taken_them_over(
    warehouse: Warehouse, answering: Answering
) -> None:
    keep(answering, document(9, 0.5, served=served(answering)))
    folder = warehouse.folder
    warehouse.sql("update features set a = 7 where id = 1")
    warehouse.connection.close()
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder)],
        check=False,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert ended.returncode == 7
    again = Warehouse(folder)
    again.runs, again.clock = 60, "2024-01-13 00:00:00"
    answering.warehouse = again
    assert [row[0] for row in answers(again)] == [9]
    assert answering.run().rows_scored == 1
    assert [row[0] for row in answers(again)] == [9]
    check(again)
    again.connection.close()


def test_a_service_appends_meanwhile(warehouse: Warehouse, answering: Answering) -> None:
    """A run takes a line over only after it is complete, and only once."""
    segment = keep(answering, *(document(n, 0.5, served=served(answering)) for n in (7, 8, 9)))
    whole = segment.read_bytes()
    first = whole.index(b"\n") + 1
    for length, expected in (
        (first // 2, []),
        (first, [7]),
        (len(whole) - 1, [7, 8]),
        (len(whole), [7, 8, 9]),
    ):
        segment.write_bytes(whole[:length])
        answering.run()
        assert [row[0] for row in answers(warehouse)] == expected
    assert warehouse.sql("select bytes_read, lines_left from dbt_onnx_request_logs") == [
        (len(whole), [])
    ]
    check(warehouse)


def test_what_cannot_be_taken_over_stays_and_the_rest_is_there(
    warehouse: Warehouse, answering: Answering
) -> None:
    """A run reports each reason in one line, and later runs try again."""
    model = served(answering)
    segment = keep(
        answering,
        document(1, 0.5, served=model),
        {"nothing": "of the kind"},
        document(2, 0.5, served=model, key=["x"]),
        document(3, 0.5, served=model, key_kinds={"customer": "integer"}),
        document(4, 0.5, served=model, key=[2**40]),
        document(5, 0.5, served=model, features={"a": 1.0, "c": 1.0}),
        document(6, 0.5, served=model, outputs={"y": "x"}),
        document(7, 0.5, served=model, feature_types={"a": "double", "b": "nonsense"}),
        document(8, 0.5, served=model, sha256="0" * 64),
        document(9, 0.5, served=model, model_version="2"),
        document(10, 0.5, served=model, model_name="other"),
        document(11, 0.5, served=model, features={"a": None, "b": 1.0}, outputs={}),
        document(12, 0.5, served=model, scored_at="yesterday"),
        document(99, 1.5, served=model),
    )
    content = segment.read_bytes()
    lines = content.splitlines(keepends=True)
    damaged = lines[1].replace(b"nothing", b"n0thing")
    segment.write_bytes(b"".join([lines[0], damaged, *lines[2:]]))
    answering.run()
    taken = [1, 99]
    assert sorted(row[0] for row in answers(warehouse)) == taken
    done, left = said(warehouse)
    assert done == "scores: 2 answer(s) given on request were added to the ledger"
    assert left.startswith(
        "scores: 11 answer(s) or file(s) of answers given on request could not be taken over "
    )
    assert "\n" not in left
    [(read, places)] = warehouse.sql("select bytes_read, lines_left from dbt_onnx_request_logs")
    assert (read, len(places)) == (len(content), 11)

    # repair the damaged line, and register the version that was missing
    segment.write_bytes(content)
    warehouse.register("2", line_model(c=0.5), alias=None)
    entries = warehouse.sql("select sha256 from model_registry order by model_version")
    assert entries[0] == entries[1]
    warehouse.log_messages.clear()
    answering.run()
    assert sorted(row[0] for row in answers(warehouse)) == taken
    assert all("given on request could not be taken over" in told for told in said(warehouse))
    check(warehouse)


def test_a_file_that_may_not_be_read_holds_the_others_not_back(
    warehouse: Warehouse, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, a file of another user; once it is readable, the next run takes it over."""
    model = served(answering)
    keep(answering, document(8, 0.5, served=model))
    secret = keep(answering, document(9, 0.5, served=model))
    read = answering.logs.read

    def refused(publication: str, segment: str, *, start: int) -> Any:
        if segment == secret.name:
            raise PermissionError(13, "Permission denied")
        return read(publication, segment, start=start)

    with monkeypatch.context() as patched:
        patched.setattr(answering.logs, "read", refused)
        answering.run()
    assert [row[0] for row in answers(warehouse)] == [8]
    assert f"Permission denied (1, such as {secret.name} of" in said(warehouse)[-1]
    answering.run()
    assert sorted(row[0] for row in answers(warehouse)) == [8, 9]


def test_answers_of_two_versions_are_two_runs_and_bring_their_columns(
    warehouse: Warehouse, answering: Answering
) -> None:
    """Version 2, which has another output, answers before any run has scored with it."""
    warehouse.register("2", line_model(c=8.5), line_contract("z"), alias=None)
    old = served(answering)
    answering.publish("2")
    new = served(answering)
    keep(
        answering,
        document(8, 0.5, served=old),
        document(9, 0.5, served=new, outputs={"z": 8.5}),
        document(9, 0.25, served=new, at=MORNING, outputs={"z": 8.0}),
    )
    answering.run()
    found = warehouse.sql(
        "select id, model_version, y, z from scores where score_reason = 'real_time' order by all"
    )
    assert found == [(8, "1", 0.5, None), (9, "2", None, 8.0), (9, "2", None, 8.5)]
    check(warehouse)
    warehouse.promote("2")
    assert answering.run().per_reason["model_changed"] == 3
    check(warehouse)


def test_types_that_the_night_has_not_are_kept_and_fed_again(
    warehouse: Warehouse, answering: Answering
) -> None:
    """The service gets decimals for features that are doubles in the nightly run."""
    other = Answering(warehouse, a=pa.decimal128(18, 2), b=pa.int8())
    other.ask(9, 0.1, 3)
    answering.run()
    other.real_time.close()
    kept = "select feature_types from dbt_onnx_runs where scope = 'real_time'"
    assert warehouse.sql(kept) == [(["DECIMAL(18,2)", "TINYINT"],)]
    check(warehouse)


def test_a_key_that_is_a_feature_too_is_kept_once(
    tmp_path: Path, new_warehouse: type[Warehouse]
) -> None:
    """The ledger has one column for both, so an answer in which they differ cannot be replayed and
    is not taken over.
    """
    warehouse = new_warehouse(tmp_path)
    warehouse.register("1", contract=line_contract(features=("id", "b")))
    warehouse.features((1, 1.0, 1.0))
    warehouse.run()
    answering = Answering(warehouse)
    model = served(answering)
    keep(
        answering,
        document(4, 4.0, served=model, features={"id": 4.0, "b": 1.0}),
        document(5, 4.0, served=model, features={"id": 4.0, "b": 1.0}),
    )
    answering.run()
    assert [row[0] for row in answers(warehouse)] == [4]
    assert "differs from the feature of the same name" in said(warehouse)[-1]
    check(warehouse)
    answering.real_time.close()


def test_without_kept_inputs_there_are_none_of_answers(
    warehouse: Warehouse, answering: Answering
) -> None:
    keep(answering, document(9, 0.5, served=served(answering)))
    answering.run(keep_inputs=False)
    kept = "select rows_inputs_kept, rows_real_time from dbt_onnx_runs where scope = 'real_time'"
    assert warehouse.sql(kept) == [(0, 1)]
    assert warehouse.sql("select count(*) from scores__inputs where id = 9") == [(0,)]
    assert prove(warehouse.connection, LEDGER, with_values=True) == []


def test_dry_builds_and_backfills_take_nothing_over(
    warehouse: Warehouse, answering: Answering
) -> None:
    keep(answering, document(9, 0.5, served=served(answering)))
    warehouse.register("2", line_model(c=8.5), alias=None)
    answering.run(empty=True)
    answering.run(requested_model="line/2")
    warehouse.clock = "2024-01-01 00:00:00"
    answering.run()
    assert answers(warehouse) == []
    assert said(warehouse) == []
    warehouse.clock = "2024-01-11 00:00:00"
    answering.run()
    assert len(answers(warehouse)) == 1
    check(warehouse)


def test_what_was_answered_decides_nothing_of_a_run(
    warehouse: Warehouse, answering: Answering
) -> None:
    """A backfill scores an entity that a service has answered for, and the nightly run scores it as new."""
    model = served(answering)
    at = datetime(2024, 1, 4)
    keep(answering, *(document(n, 5.0, served=model, at=at) for n in (1, 4)))
    answering.run()
    assert len(answers(warehouse)) == 2
    warehouse.clock = "2024-01-05 00:00:00"
    warehouse.features((1, 5.0, 1.0), (4, 5.0, 1.0))
    assert answering.run().per_reason["new"] == 2
    warehouse.clock = "2024-01-12 00:00:00"
    assert answering.run().per_reason == {
        **dict.fromkeys(answering.run().per_reason, 0), "features_changed": 1, "new": 1,
    }  # fmt: skip
    check(warehouse)


def test_who_is_forgotten_does_not_come_back(warehouse: Warehouse, answering: Answering) -> None:
    model = served(answering)
    keep(answering, *(document(9, n, served=model, at=MORNING + n * SECOND) for n in range(3)))
    keep(answering, document(8, 0.5, served=model))
    answering.run()
    erased = forget(warehouse.connection, LEDGER, ["9"], why="asked for", dry_run=False)
    assert (erased.rows, erased.rows_inputs, erased.runs) == (3, 3, 1)
    for _ in range(2):
        answering.run()
    assert [row[0] for row in answers(warehouse)] == [8]
    check(warehouse)
    pruned = prune(
        warehouse.connection, LEDGER, before=datetime(2100, 1, 1), why="time", dry_run=False
    )
    assert (pruned.rows, pruned.rows_inputs) == (1, 1)
    assert answers(warehouse) == []
    check(warehouse)


def test_the_history_of_an_entity_tells_what_was_answered(
    warehouse: Warehouse, answering: Answering
) -> None:
    """Each answer shows the inputs that changed; a nightly run is compared with the nightly run before it."""
    warehouse.clock = "2099-01-01 00:00:00"  # later than the answers
    model = served(answering)
    now = datetime.now(UTC).replace(tzinfo=None)
    keep(
        answering,
        document(1, 2.0, served=model, at=now),
        document(1, 4.0, served=model, at=now + timedelta(microseconds=1)),
    )
    warehouse.sql("update features set a = 3 where id = 1")
    answering.run()
    rows = read_history(warehouse.connection, LEDGER, ["1"])
    told = {(row.score_reason, row.outputs["y"]): row.changed_inputs for row in rows}
    assert told == {
        ("new", 1.5): None,
        ("real_time", 3.5): {"a": (1.0, 2.0)},
        ("real_time", 7.5): {"a": (2.0, 4.0)},
        ("features_changed", 5.5): {"a": (1.0, 3.0)},
    }
    by_moment = [row.scored_at for row in rows if row.score_reason == "real_time"]
    assert by_moment == [now, now + timedelta(microseconds=1)]


def test_the_same_answers_again_under_another_name_of_the_project_are_not_doubled(
    warehouse: Warehouse, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder was moved, and another model made a publication of the same name."""
    keep(answering, document(9, 0.5, served=served(answering)))
    answering.run()
    warehouse.sql(
        "insert into dbt_onnx_publications values ('scores', 'files', ['scores', 'others'])"
    )
    (warehouse.folder / "serving").rename(warehouse.folder / "moved")
    monkeypatch.setenv("DBT_ONNX_SERVING_FILES", "moved")
    answering.run()
    assert len(answers(warehouse)) == 1


def test_a_foreign_table_of_request_logs_is_not_cured_by_another_alias(
    warehouse: Warehouse,
) -> None:
    """The table has one name per schema, so only another schema helps."""
    warehouse.sql("create table dbt_onnx_request_logs (note varchar)")
    tables = ScoringTables(TableName(database="w", schema="main", identifier="scores"))
    with (
        Cursor(warehouse.connection.cursor()) as cursor,
        pytest.raises(WarehouseError, match="was not created by dbt_onnx") as refused,
    ):
        tables.create_request_logs(cursor)
    assert refused.value.hint == "rename that table, or give the scoring model another schema"


def test_no_scoring_model_takes_the_name_of_the_table_of_request_logs(
    warehouse: Warehouse,
) -> None:
    warehouse.name = "dbt_onnx_request_logs"
    with pytest.raises(ConfigError, match="cannot be called 'dbt_onnx_request_logs'"):
        warehouse.run()
