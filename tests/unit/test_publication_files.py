"""Publications as files: readers get exactly what was published, and a publication is whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from every_type import TYPES, values_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from publishing import CLOCK, Publisher, faults_of

from dbt_onnx.errors import ServingError
from dbt_onnx.serving import Predictions, file_source, lookup
from dbt_onnx.serving.files import Files
from dbt_onnx.serving.manifest import POINTER, Publications, read_publications

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

settings.register_profile("small", max_examples=40, deadline=None, derandomize=True)
settings.load_profile("small")


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    publisher = Publisher(tmp_path)
    yield publisher
    publisher.close()


def numbered(publisher: Publisher, value: int, *, rows: int = 10) -> None:
    """Make table `t` with the same value in all rows, in two columns."""
    publisher.sql(
        f"create or replace table t as select i::integer as id, {value} as y, {value} as z "
        f"from range({rows}) as numbers (i)"
    )


def files_of(publisher: Publisher) -> list[str]:
    return sorted(path.name for path in publisher.folder().iterdir())


def served(publisher: Publisher) -> int:
    """Return the value of all rows, which must be the same."""
    with publisher.open() as predictions:
        assert predictions.fault is None
        answers = predictions.get_many(range(predictions.manifest.rows))
    [value] = {value for answer in answers for value in answer.outputs.values()}
    return int(value)


# --- types

AS_TEXT = {"TIMESTAMP_NS", "TIMESTAMPTZ_NS"}
OTHERS = {
    "BLOB": ["'\\x00\\xFFa'", "''"],
    "TIME": ["'00:00:00'", "'23:59:59.999999'"],
    "UHUGEINT": ["'340282366920938463463374607431768211455'"],
    "DECIMAL(9,2)": ["'-0.01'", "'1234567.89'"],
}
VALUES_ONLY = {
    "FLOAT[]": ["[0.1, 1e-45, 'nan', '-inf']", "[]", "[NULL, 1.5]", "[NULL]"],
    "DOUBLE[3]": ["[0.1, 5e-324, -0.0]", "[NULL, 1, 2]"],
    "INTEGER[]": ["[1, NULL, -2147483648]", "[]"],
    "HUGEINT[]": ["[170141183460469231731687303715884105727]"],
    "VARCHAR[]": ["['a''b', '🦆', NULL, chr(0)]"],
    "STRUCT(a INTEGER, b VARCHAR[])": ["{'a': 1, 'b': ['x']}", "{'a': NULL, 'b': NULL}"],
    "MAP(VARCHAR, DOUBLE)": ["map {'a': 0.1::double, 'b': 'nan'::double}"],
    "FLOAT[][]": ["[[0.5], [], NULL]"],
}
KEY_VALUES: dict[str, list[str]] = {
    **{kind: [f"'{text.replace(chr(39), chr(39) * 2)}'" for text in values_of(kind)]
       for kind in TYPES if kind != "JSON"},
    **OTHERS,
}  # fmt: skip
KEY_VALUES["VARCHAR"] += [
    "'a' || chr(0)",
    "'a' || chr(0) || 'b'",
    "chr(0)",
    "'''; drop table rows; --'",
]


def typed(publisher: Publisher, kind: str, values: list[str]) -> None:
    publisher.sql(f"create table t (id integer, v {kind})")
    for number, value in enumerate([*values, "NULL"]):
        publisher.sql(f"insert into t values ({number}, {value}::{kind})")


def as_published(kind: str) -> str:
    """Return SQL of the value that a reader gets: text for types with nanoseconds, which Python's moments lack."""
    return "v::varchar as v" if kind in AS_TEXT else "v"


@pytest.mark.parametrize("kind", [*KEY_VALUES, *VALUES_ONLY])
def test_a_value_is_read_as_duckdb_itself_gives_it(publisher: Publisher, kind: str) -> None:
    typed(publisher, kind, {**KEY_VALUES, **VALUES_ONLY}[kind])
    publisher.publish()
    assert faults_of(publisher, f"select id, {as_published(kind)} from t") == []


@pytest.mark.parametrize("kind", KEY_VALUES)
def test_a_value_is_found_as_a_key_and_as_part_of_one(publisher: Publisher, kind: str) -> None:
    typed(publisher, kind, KEY_VALUES[kind])
    publisher.sql("delete from t where v is null")
    query = f"select id, {as_published(kind)} from t"
    for key in (["v"], ["v", "id"]):
        publisher.publish(key=key, full_refresh=True)
        assert faults_of(publisher, query, key=key) == []
        # the same after a change, which finds each row by its key
        assert publisher.publish("select v, id, 1 as new from t", key=key).rows_changed > 0
        changed = publisher.publish("select v, id, 1 + id % 2 as new from t", key=key)
        assert (changed.rows_changed, changed.rows_removed) == (changed.rows // 2, 0)
        assert faults_of(publisher, f"select {as_published(kind)}, id, 1 + id % 2 as new from t", key=key) == []  # fmt: skip
        gone = publisher.publish("select v, id, 1 + id % 2 as new from t where id = 0", key=key)
        assert (gone.rows, gone.rows_changed, gone.rows_removed) == (1, 0, changed.rows - 1)


def test_a_whole_number_of_any_size_is_one(publisher: Publisher) -> None:
    """DuckDB itself returns a BIGNUM as text."""
    large = 10**60
    publisher.sql(f"create table t as select '{large}'::bignum as id, '-1'::bignum as y")
    publisher.publish()
    with publisher.open() as predictions:
        assert predictions.get(large).outputs == {"y": -1}


def test_json_stays_json(publisher: Publisher) -> None:
    publisher.sql("""create table t as select 1 as id, '{"a": [1, null]}'::json as v""")
    publisher.publish()
    with publisher.open() as predictions:
        assert predictions.get(1).outputs == {"v": {"a": [1, None]}}


def test_keys_that_a_collation_takes_for_equal_are_others(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, default_collation="nocase.noaccent")
    publisher.sql(
        "create table t as select * from (values ('a', 1), ('A', 2), ('á', 3)) as v (id, y)"
    )
    publisher.publish()
    publisher.sql("update t set y = 4 where y = 2")
    assert publisher.publish().rows_changed == 1
    with publisher.open() as predictions:
        assert [predictions.get(key).outputs["y"] for key in ("a", "A", "á")] == [1, 4, 3]
        assert predictions.get("Á").status == "missing"
    publisher.close()


@pytest.mark.parametrize(
    ("kind", "key", "text"),
    [
        ("decimal(9,9)", "0.5", "0.500000000"),
        ("date", "2024-02-29", "2024-02-29"),
        ("boolean", "true", "TRUE"),
        ("uuid", "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000A"),
        ("timestamp", "2024-01-01 12:00:00", "2024-01-01T14:00:00+02:00"),
        ("blob", "\\xAB", "ab"),
    ],
)
def test_a_key_comes_from_text_as_well(
    publisher: Publisher, kind: str, key: str, text: str
) -> None:
    publisher.sql(f"create table t as select '{key}'::{kind} as id, 1 as y")
    publisher.publish()
    with publisher.open() as predictions:
        assert predictions.get(predictions.parse_key([text])).outputs == {"y": 1}
        for wrong in (["no key", "at all"], []):
            with pytest.raises(ServingError, match="the key of 't' is id"):
                predictions.parse_key(wrong)


def test_a_key_that_can_be_none_is_an_error_and_not_missing(publisher: Publisher) -> None:
    numbered(publisher, 1)
    publisher.publish()
    with publisher.open() as predictions:
        for key in ("1", 1.0, None, True, (1, 2), (), 2**63):
            with pytest.raises(ServingError, match=r"the key of 't' is id \(integer\)"):
                predictions.get(key)


def test_a_key_may_be_called_as_the_package_calls_its_own(publisher: Publisher) -> None:
    publisher.sql(
        'create table t as select 1 as origin, 2 as "row_hash", 3 as "rows", 4 as key, 5 as "a""b"'
    )
    key = ["origin", "row_hash", "rows", 'a"b']
    for _ in range(2):
        publisher.publish(key=key)
    assert faults_of(publisher, key=key) == []


# --- the content of an answer


def test_null_is_an_output_and_not_a_missing_prediction(publisher: Publisher) -> None:
    publisher.sql("create table t as select 1 as id, null::double as y")
    publisher.publish()
    with publisher.open() as predictions:
        assert (predictions.get(1).status, predictions.get(1).outputs) == ("predicted", {"y": None})
        assert (predictions.get(2).status, predictions.get(2).outputs) == ("missing", {})


def test_age_goes_by_the_readers_clock_and_is_never_negative(publisher: Publisher) -> None:
    numbered(publisher, 1)
    publisher.publish()
    for hours, is_stale in ((-1, False), (0, False), (48, False), (49, True)):
        with publisher.open(clock=CLOCK + timedelta(hours=hours)) as predictions:
            answer = predictions.get(1)
            assert answer.fresh_as_of == CLOCK
            assert answer.age == timedelta(hours=max(hours, 0))
            assert answer.is_stale is is_stale
            assert predictions.get(-1).age is None
            assert predictions.get(-1).is_stale is True
    publisher.publish(stale_after=None)
    with publisher.open(clock=CLOCK + timedelta(days=9999)) as predictions:
        assert predictions.get(1).is_stale is False


def of_origins(publisher: Publisher, count: int) -> None:
    """Make table `t` with the stamps of `current_predictions`, and a different run for each row."""
    publisher.sql(
        "create or replace table t as select i::integer as id, i * 0.5 as y, "
        "timestamp '2024-01-01' + interval (i) hour as as_of, timestamp '2024-01-09' as scored_at, "
        "timestamp '2024-01-10' as fresh_as_of, 'churn' as model_name, '1' as model_version, "
        "'run ' || i as run_id, 'scored' as status, null::varchar as rejected_reason, "
        f"'serving_version' as served_from from range({count}) as numbers (i)"
    )


def test_a_reader_keeps_few_origins_in_memory_however_many_there_are(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_source, "_MAX_ORIGINS", 3)
    of_origins(publisher, 10)
    publisher.publish()
    assert faults_of(publisher) == []
    with publisher.open() as predictions:
        for key in (*range(10), *reversed(range(10)), 0, 0):
            assert predictions.get(key).run_id == f"run {key}"
            assert len(predictions._current._rows._origins) <= 3


def test_a_row_without_its_origin_is_an_error_and_no_answer(publisher: Publisher) -> None:
    of_origins(publisher, 10)
    publisher.publish()
    [served] = read_publications(publisher.folder()).publications
    path = publisher.folder() / served.file_name
    path.chmod(0o644)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("delete from origins")
    # as somebody would who can also change the pointer
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pointer = publisher.folder() / POINTER
    pointer.write_text(pointer.read_text().replace(str(served.sha256), digest))
    with publisher.open() as predictions, pytest.raises(ServingError, match="cannot be read"):
        predictions.get(2)


# --- what a publication is built from


def test_the_last_three_are_kept_and_never_written_again(publisher: Publisher) -> None:
    seen: dict[str, bytes] = {}
    for value in range(5):
        numbered(publisher, value)
        publisher.publish()
        names = files_of(publisher)
        assert len([name for name in names if name.endswith(".sqlite")]) == min(value + 1, 3)
        assert len(names) == min(value + 1, 3) + 1
        for name in names:
            content = (publisher.folder() / name).read_bytes()
            if name != POINTER:
                assert seen.setdefault(name, content) == content
        assert served(publisher) == value


def test_little_that_changed_is_little_that_is_written(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases: list[bool] = []
    write = Files.write

    def noted(self: Files, name: str, rows: Any, *, base: Any) -> Any:
        bases.append(base is not None)
        return write(self, name, rows, base=base)

    monkeypatch.setattr(Files, "write", noted)
    numbered(publisher, 1)
    publisher.publish()
    publisher.sql("update t set y = 7 where id = 3")
    publisher.sql("delete from t where id = 4")
    summary = publisher.publish()
    assert str(summary) == "t: published 9 (changed 1, removed 1)"
    assert str(publisher.publish()) == "t: published 9 (changed 0)"
    assert str(publisher.publish(full_refresh=True)) == "t: published 9 (changed 9)"
    assert bases == [False, True, True, False]
    assert faults_of(publisher) == []


def test_nights_of_few_changes_are_each_built_on_the_one_before(publisher: Publisher) -> None:
    numbered(publisher, 1, rows=1_000)
    publisher.publish()
    for change, said in (
        ("update t set y = 7 where id in (3, 500)", "published 1,000 (changed 2)"),
        ("delete from t where id in (4, 5)", "published 998 (changed 0, removed 2)"),
        ("select 1", "published 998 (changed 0)"),
        ("insert into t values (4, 2, 3)", "published 999 (changed 1)"),
        ("update t set y = 8 where id in (3, 4, 6)", "published 999 (changed 3)"),
    ):
        publisher.sql(change)
        assert str(publisher.publish()) == f"t: {said}"
        assert faults_of(publisher) == []


def removed(publisher: Publisher, backup: Path) -> None:
    shutil.rmtree(publisher.folder())


def restored(publisher: Publisher, backup: Path) -> None:
    shutil.rmtree(publisher.folder())
    shutil.copytree(backup, publisher.folder())


def base_damaged(publisher: Publisher, backup: Path) -> None:
    path = newest(publisher.folder())
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def state_dropped(publisher: Publisher, backup: Path) -> None:
    publisher.sql("drop table t_published")


def record_dropped(publisher: Publisher, backup: Path) -> None:
    publisher.sql("drop table dbt_onnx_publications")


def columns_changed(publisher: Publisher, backup: Path) -> None:
    publisher.sql("alter table t add column w integer default 5")


def kind_changed(publisher: Publisher, backup: Path) -> None:
    publisher.sql("alter table t alter z type varchar")


def key_type_changed(publisher: Publisher, backup: Path) -> None:
    publisher.sql("alter table t alter id type bigint")


def hashes_of_another_duckdb(publisher: Publisher, backup: Path) -> None:
    publisher.sql("update dbt_onnx_publications set hash_function = 'duckdb v1.3.0 hash'")


DISAGREEMENTS: list[Callable[[Publisher, Path], None]] = [
    removed, restored, base_damaged, state_dropped, record_dropped, columns_changed, kind_changed, key_type_changed,
    hashes_of_another_duckdb,
]  # fmt: skip


def newest(folder: Path) -> Path:
    return folder / read_publications(folder).served.file_name


@pytest.mark.parametrize("disagree", DISAGREEMENTS, ids=lambda function: function.__name__)
def test_where_folder_and_warehouse_disagree_the_next_one_is_whole_and_right(
    publisher: Publisher, tmp_path: Path, disagree: Callable[[Publisher, Path], None]
) -> None:
    numbered(publisher, 1)
    publisher.publish()
    shutil.copytree(publisher.folder(), tmp_path / "backup")
    publisher.sql("update t set y = 2")
    publisher.publish()
    publisher.sql("insert into t values (10, 3, 3)")
    publisher.sql("delete from t where id = 0")
    publisher.publish()
    disagree(publisher, tmp_path / "backup")
    publisher.sql("update t set y = 4 where id < 3")
    assert publisher.publish().rows_changed == 10
    assert faults_of(publisher) == []
    with publisher.open() as predictions:
        assert predictions.get(0).status == "missing"
    # each publication was recorded, so the next one is built from the right one
    publications = [row[0] for row in publisher.switches()]
    assert publications[-1] == read_publications(publisher.folder()).current
    assert len(publications) == len(set(publications)) == 4
    publisher.sql("update t set y = 5 where id = 3")
    assert publisher.publish().rows_changed == 1
    assert faults_of(publisher) == []


def test_a_backup_that_comes_back_later_is_not_built_on_with_other_rows(
    publisher: Publisher, tmp_path: Path
) -> None:
    for value in (1, 2, 3):
        numbered(publisher, value)
        publisher.publish()
        shutil.copytree(publisher.folder(), tmp_path / f"after {value}")
    restored(publisher, tmp_path / "after 2")
    publisher.sql("update t set y = 4 where id = 0")
    publisher.publish()
    restored(publisher, tmp_path / "after 3")
    assert publisher.publish().rows_changed == 10
    assert faults_of(publisher) == []


def test_a_target_that_lost_its_rows_leaves_none_at_the_other(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_ONNX_SERVING_OTHER", str(tmp_path / "other"))
    targets = ["files", "other"]
    numbered(publisher, 1)
    publisher.publish(targets=targets)
    shutil.rmtree(tmp_path / "other")
    publisher.sql("delete from t where id = 0")
    assert publisher.publish(targets=targets).rows == 9
    assert faults_of(publisher) == []
    with Predictions.open(tmp_path / "other" / "t") as predictions:
        assert predictions.manifest.rows == 9
    targets_told = publisher.sql(
        "select target, count(*) from dbt_onnx_publications group by all order by all"
    )
    assert targets_told == [("files", 2), ("other", 2)]


def test_what_was_unpublished_is_told_and_the_next_is_built_from_the_last(
    publisher: Publisher,
) -> None:
    for value in (1, 2):
        numbered(publisher, value)
        publisher.publish()
    files = Files(publisher.folder())
    with files.locked():
        files.switch(
            read_publications(publisher.folder()).unpublished(
                at=datetime.now(UTC).replace(tzinfo=None)
            )
        )
    assert served(publisher) == 1
    publisher.sql("update t set y = 3, z = 3 where id < 4")
    publisher.sql("update t set y = 2, z = 2 where id >= 4")
    assert publisher.publish().rows_changed == 4
    assert faults_of(publisher) == []
    ids = [row[0] for row in publisher.switches()]
    assert [row[1:] for row in publisher.switches()] == [
        ("published", 10), ("published", 10), ("unpublished", 10), ("published", 10),
    ]  # fmt: skip
    assert ids[2] == ids[0]
    # the publication that was taken back is not kept
    kept = [manifest.id for manifest in read_publications(publisher.folder()).publications]
    assert kept == [ids[0], ids[3]]


def test_the_oldest_that_is_kept_cannot_be_unpublished(publisher: Publisher) -> None:
    numbered(publisher, 1)
    publisher.publish()
    with pytest.raises(ServingError, match=r"no earlier publication of .* to return to"):
        read_publications(publisher.folder()).unpublished(at=CLOCK)


# --- damage


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


def linked(path: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [flipped, truncated, emptied, gone, linked, a_folder]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_where_the_newest_file_is_damaged_the_newest_good_one_answers(
    publisher: Publisher, damage: Callable[[Path], None]
) -> None:
    for value in (1, 2):
        numbered(publisher, value)
        publisher.publish()
    found = read_publications(publisher.folder())
    first, second = (publisher.folder() / manifest.file_name for manifest in found.publications)
    for path in (second, first):
        path.chmod(0o644)
    damage(second)
    with publisher.open() as predictions:
        assert predictions.fault is not None
        assert second.name in predictions.fault
        assert predictions.get(1).outputs == {"y": 1, "z": 1}
        # the next publication is whole, and the reader switches to it by itself
        numbered(publisher, 3)
        if second.is_dir():
            second.rmdir()
        assert publisher.publish().rows_changed == 10
        assert predictions.refresh()
        assert predictions.fault is None
        assert predictions.get(1).outputs == {"y": 3, "z": 3}
    for manifest in read_publications(publisher.folder()).publications:
        path = publisher.folder() / manifest.file_name
        if path.exists():
            path.chmod(0o644)
            path.write_bytes(b"nothing")
    with pytest.raises(ServingError, match="no publication can be read"):
        publisher.open()


POINTERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no JSON": lambda document: "{",
    "nothing": lambda document: "",
    "a list": lambda document: [],
    "not text": lambda document: b"\xff\xfe",
    "nested": lambda document: "[" * 100_000,
    "to nothing": lambda document: {**document, "current": "20240101T000000000000Z-00000000"},
    "to no publication": lambda document: {**document, "publications": []},
    "elsewhere": lambda document: {
        **document, "current": "../x", "publications": [{**document["publications"][0], "id": "../x"}],
    },
    "another format": lambda document: {**document, "format": 2},
    "two columns of one name": lambda document: changed(document, outputs=[{"name": "id", "kind": "integer"}]),
    "a stamp of its own": lambda document: changed(document, stamps=[{"name": "outputs", "kind": "text"}]),
    "a moment that is text": lambda document: changed(document, stamps=[{"name": "fresh_as_of", "kind": "text"}]),
    "a clock with a zone": lambda document: changed(document, clock="2024-01-10T06:00:00+00:00"),
    "a kind that is none": lambda document: changed(document, outputs=[{"name": "y", "kind": "pickle"}]),
    "a key that is none": lambda document: changed(document, key=[{"name": "id", "kind": "json"}]),
}  # fmt: skip


def changed(document: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Return the pointer's document with these values in all of its manifests."""
    return {**document, "publications": [{**m, **values} for m in document["publications"]]}


@pytest.mark.parametrize("name", POINTERS)
def test_a_pointer_that_cannot_be_read_is_an_error_and_open_readers_answer_on(
    publisher: Publisher, name: str
) -> None:
    for value in (1, 2):
        numbered(publisher, value)
        publisher.publish()
    path = publisher.folder() / POINTER
    content = path.read_bytes()
    spoilt = POINTERS[name](json.loads(content))
    with publisher.open() as predictions:
        path.write_bytes(
            spoilt if isinstance(spoilt, bytes)
            else spoilt.encode() if isinstance(spoilt, str) else json.dumps(spoilt).encode()
        )  # fmt: skip
        assert predictions.refresh() is False
        assert predictions.fault is not None
        assert POINTER in predictions.fault
        assert predictions.get(1).outputs == {"y": 2, "z": 2}
        for attempt in (publisher.open, publisher.publish):
            with pytest.raises(ServingError, match=r"publications\.json cannot be read") as raised:
                attempt()
            assert "publish again" in raised.value.hint
        path.write_bytes(content)
        predictions.refresh()
        assert predictions.fault is None
    publisher.publish()
    assert served(publisher) == 2


def test_a_pointer_is_a_file_and_not_too_large(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="there is no publication in"):
        Predictions.open(tmp_path)
    os.mkfifo(tmp_path / POINTER)
    with pytest.raises(ServingError, match="there is no publication in"):
        Predictions.open(tmp_path)
    (tmp_path / POINTER).unlink()
    (tmp_path / POINTER).write_bytes(b" " * (16 * 2**20 + 1))
    with pytest.raises(ServingError, match="it has more than"):
        Predictions.open(tmp_path)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["integer", "text", "decimal(99999999999)", "9999-12-31", "../x", "a" * 64, "\ud800"]),
)  # fmt: skip
NAMES = st.sampled_from(["name", "kind", "number", "at"])
JSON = st.one_of(LEAVES, st.lists(LEAVES, max_size=2), st.dictionaries(NAMES, LEAVES, max_size=3))


@st.composite
def edited(draw: st.DrawFn, document: Any) -> Any:
    """Return a document that differs in one place."""
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 4)) == 0:
        return draw(JSON)
    if isinstance(document, list):
        place = draw(st.integers(0, len(document) - 1))
        return [draw(edited(v)) if i == place else v for i, v in enumerate(document)]
    name = draw(st.sampled_from(sorted(document)))
    if draw(st.integers(0, 5)) == 0:
        return {key: value for key, value in document.items() if key != name}
    return {**document, name: draw(edited(document[name]))}


def test_whatever_a_pointer_says_it_is_read_or_refused(publisher: Publisher) -> None:
    """A changed pointer never causes another error, or an answer from elsewhere."""
    numbered(publisher, 1)
    for _ in range(2):
        publisher.publish()
    path = publisher.folder() / POINTER
    document = json.loads(path.read_bytes())

    @settings(max_examples=300, suppress_health_check=list(HealthCheck))
    @given(edited(document))
    def holds(spoilt: Any) -> None:
        path.write_text(json.dumps(spoilt))
        try:
            found = read_publications(publisher.folder())
        except ServingError:
            return
        assert isinstance(found, Publications)
        assert Publications.from_content(found.content()) == found
        try:
            with publisher.open() as predictions:
                key = ["1"] * len(predictions.manifest.key)
                answer = predictions.get(predictions.parse_key(key))
        except ServingError:
            return
        assert answer.publication in [manifest.id for manifest in found.publications]

    holds()


# --- readers and writers at the same time


def test_readers_never_see_half_of_a_publication(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "CHECK_SECONDS", 0.0)
    numbered(publisher, 0)
    publisher.publish()
    is_over = threading.Event()
    faults: list[str] = []
    seen: set[int] = set()

    def read() -> None:
        try:
            with publisher.open() as predictions:
                while not is_over.is_set():
                    many = predictions.get_many(range(10))
                    values = {v for a in many for v in a.outputs.values()}
                    if len(values) != 1 or len({answer.publication for answer in many}) != 1:
                        faults.append(f"answers of several: {values}")
                    one = predictions.get(3).outputs
                    if one["y"] != one["z"]:
                        faults.append(f"outputs of several: {one}")
                    seen.update(values)
        except Exception as error:  # noqa: BLE001
            faults.append(repr(error))

    def open_again() -> None:
        try:
            while not is_over.is_set():
                with publisher.open() as predictions:
                    if predictions.fault:
                        faults.append(predictions.fault)
                    predictions.get(3)
        except Exception as error:  # noqa: BLE001
            faults.append(repr(error))

    threads = [threading.Thread(target=target) for target in (read, read, open_again, open_again)]
    for thread in threads:
        thread.start()
    try:
        for value in range(1, 25):
            numbered(publisher, value)
            publisher.publish()
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert len(seen) > 3


# --- killed publishers, and a full disk

CHILD = """
import importlib, os, signal, sys
from pathlib import Path
from publishing import Publisher

root, place, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
module, _, path = place.partition(":")
*owners, name = path.split(".")
owner = importlib.import_module(module)
for part in owners:
    owner = getattr(owner, part)
real, calls = getattr(owner, name), 0

def dies(*arguments, **named):
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)

publisher = Publisher(root, path=root / "w.duckdb")
publisher.sql("update t set y = 2, z = 2")
import dbt_onnx.engines.duckdb.publishing as rows
rows._BATCH_ROWS = 2048
setattr(owner, name, dies)
publisher.publish(full_refresh=sys.argv[4] == "whole")
"""
FILES, TABLES = "dbt_onnx.serving.files", "dbt_onnx.engines.duckdb.publishing"
# name: (function in which the publisher dies, at which call, value that is then served)
STEPS = {
    "before anything": ("dbt_onnx.serving.publish:_draft", 1, 1),
    "before it writes": (f"{FILES}:Files.write", 1, 1),
    "while it writes": (f"{FILES}:stored_rows", 2, 1),
    "before it is moved": (f"{FILES}:hashlib.file_digest", 1, 1),
    "before the switch": (f"{FILES}:Files.switch", 1, 1),
    "at the switch": ("dbt_onnx.artifacts.card:os.fsync", 3, 1),
    "after the switch": (f"{FILES}:sync_folder", 2, 2),
    "before the warehouse knows": (f"{TABLES}:RowsToPublish.record", 1, 2),
    "before the warehouse commits": (f"{TABLES}:RowsToPublish._hash_function", 1, 2),
}


def child(root: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-c", program, str(root), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("step", STEPS)
def test_who_is_killed_leaves_the_old_or_the_new_and_the_next_is_right(
    tmp_path: Path, step: str
) -> None:
    place, count, value = STEPS[step]
    path = tmp_path / "w.duckdb"
    publisher = Publisher(tmp_path, path=path)
    numbered(publisher, 1, rows=10_000)
    publisher.publish()
    publisher.close()
    with publisher.open() as reader:
        died = child(tmp_path, CHILD, place, str(count), "whole")
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert served(publisher) == value
        # a lookup may notice the new publication by itself
        assert reader.get(1).outputs in ({"y": 1, "z": 1}, {"y": value, "z": value})
        reader.refresh()
        assert reader.get(1).outputs == {"y": value, "z": value}
        publisher = Publisher(tmp_path, path=path)
        publisher.sql("update t set y = 2, z = 2 where id < 5000")
        publisher.sql("delete from t where id = 9999")
        publisher.publish()
        reader.refresh()
        assert [reader.get(key).status for key in (4999, 5000, 9999)] == [
            "predicted",
            "predicted",
            "missing",
        ]
    assert faults_of(publisher) == []
    # the killed publisher left no file, and every switch is recorded in the warehouse
    folder = read_publications(publisher.folder())
    assert files_of(publisher) == sorted([*(m.file_name for m in folder.publications), POINTER])
    switches = [(switch.publication, switch.at) for switch in folder.switches]
    assert publisher.switches("publication, served_since") == switches
    assert len(switches) == value + 1
    publisher.close()


DISK_FULL = """
import resource, sys
from pathlib import Path
from publishing import Publisher

root = Path(sys.argv[1])
publisher = Publisher(root, path=root / "w.duckdb")
if sys.argv[2] == "changes":
    publisher.sql("create or replace view t as select i::integer as id, i % 2 + 1 as y, 2 as z from range(10000) as numbers (i)")
size = 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    publisher.publish(full_refresh=sys.argv[2] == "whole")
except Exception as error:
    print(type(error).__name__, error)
    print(sorted(path.name for path in publisher.folder().iterdir()))
"""


@pytest.mark.parametrize("built_from", ["whole", "changes"])
def test_a_full_disk_is_one_clear_error_and_takes_no_more_of_it(
    tmp_path: Path, built_from: str
) -> None:
    path = tmp_path / "w.duckdb"
    publisher = Publisher(tmp_path, path=path)
    publisher.sql(
        "create view t as select i::integer as id, 1 as y, 1 as z from range(10000) as numbers (i)"
    )
    publisher.publish()
    before = files_of(publisher)
    publisher.close()
    ended = child(tmp_path, DISK_FULL, built_from)
    said, hint, left = ended.stdout.splitlines()
    assert said.startswith(f"ServingError {publisher.folder()} cannot be written: "), ended.stderr
    assert said.endswith("the previous publication is still served")
    assert (
        hint
        == "Hint: check that the user who runs dbt may write there, and that the disk has free space"
    )
    assert left == str(before)
    assert served(publisher) == 1
    publisher = Publisher(tmp_path, path=path)
    publisher.publish()
    assert len(files_of(publisher)) == 3
    assert faults_of(publisher) == []
    publisher.close()
