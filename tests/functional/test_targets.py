"""Lookups give the same answers from files, Postgres and Valkey; a publication is whole or absent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
import redis
import servers
from error_cases_of_targets import TARGETS
from error_catalogue import faults_of_error
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rows_to_publish import NOON, ListWarehouse, Relation, Row

from dbt_onnx.errors import DataError, DbtOnnxError, ServingError
from dbt_onnx.serving import Predictions, lookup, postgres_target, publish, redis_target
from dbt_onnx.serving.kinds import kind_of
from dbt_onnx.serving.places import SYSTEMS as SYSTEMS_BY_SCHEME
from dbt_onnx.serving.places import shown
from dbt_onnx.serving.targets import open_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbt_onnx.serving import Answer

SYSTEMS = ("files", "postgres", "redis")
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    with servers.valkey() as url:
        yield url


@dataclass
class Places:
    """The addresses of the three targets, all of them empty."""

    files: str
    postgres: str
    redis: str

    def open(self, system: str, *, name: str = "churn", now: datetime = NOON) -> Predictions:
        return Predictions.open(getattr(self, system), name=name, clock=lambda: now)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    def keys(self) -> set[str]:
        with redis.Redis.from_url(self.redis, decode_responses=True) as client:
            return set(client.keys())

    def content(self, system: str) -> Any:
        """Return what a target stores, to check that nothing useless is left."""
        if system == "files":
            return sorted(path.name for path in (Path(self.files) / "churn").iterdir())
        if system == "redis":
            return sorted(self.keys())
        return self.sql(
            "select relname from pg_class where relnamespace = 'dbt_onnx'::regnamespace "
            "and relkind in ('r', 'v') order by 1"
        )


@pytest.fixture
def places(
    postgres_url: str, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Places:
    found = Places(str(tmp_path / "serving"), postgres_url, valkey_url)
    found.sql("drop schema if exists dbt_onnx cascade")
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    for system in SYSTEMS:
        monkeypatch.setenv(f"DBT_ONNX_SERVING_{system.upper()}", getattr(found, system))
    monkeypatch.setattr(publish, "project_folder", lambda: tmp_path)
    return found


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    return request.param


@contextmanager
def documented(name: str) -> Iterator[list[DbtOnnxError]]:
    """Expect an error with the words in docs/errors.md inside the block, and append it to the yielded list."""
    raised: list[DbtOnnxError] = []
    with pytest.raises(DbtOnnxError) as caught:
        yield raised
    raised.append(caught.value)
    assert name in TARGETS
    assert faults_of_error(name, caught.value) == []


def relation(*rows: tuple[int, Any], **stamps: Any) -> Relation:
    """Return a relation of customers with one number each."""
    return Relation(
        key={"id": "integer"},
        outputs={"p": "float"},
        rows=[Row(key=(key,), outputs=(p,), **stamps) for key, p in rows],
    )


def outputs(predictions: Predictions, *keys: int) -> list[Any]:
    return [
        answer.outputs.get("p") if answer.status == "predicted" else answer.status
        for answer in predictions.get_many(keys)
    ]


# --- every kind of value

ONE_OF_EACH = {
    "boolean": True, "integer": -(2**63), "large_integer": 2**127, "float": -0.0, "text": "d'été \" 🦉",
    "bytes": b"\x00\xff", "date": date(1, 1, 1), "time": time_of_day(23, 59, 59, 999_999),
    "timestamp": datetime(9999, 12, 31, 23, 59, 59, 999_999),
    "timestamp_tz": datetime(1, 1, 1, tzinfo=UTC),
    "uuid": UUID(int=2**127 + 1), "decimal(5)": Decimal("123456789012345678901234567890123.12300"),
}  # fmt: skip
NO_KEYS = {
    "json": {"a": [1.0, 1e5, None, -0.0], "b": {"": "\0"}},
    "vector_float32": [0.5, -0.0, float("nan")],
    "vector_float64": [0.1, None, float("-inf")],
}


def _without_fold(moment: Any) -> Any:
    return moment.replace(fold=0)


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_FLOATS = st.floats() | st.sampled_from(
    [0.0, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324]
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "integer": st.integers(-(2**63), 2**63 - 1),
    "large_integer": st.integers(-(10**60), 10**60),
    "float": _FLOATS,
    "text": _TEXT | st.sampled_from(["", " ", "a ", "A", "\\", "\\N", "\t\n\r", "'", '"', "{}", "%s", "$1"]),
    "bytes": st.binary(max_size=20),
    "date": st.dates() | st.sampled_from([date.min, date.max]),
    "time": st.times().map(_without_fold),
    "timestamp": st.datetimes().map(_without_fold) | st.sampled_from([datetime.min, datetime.max]),
    "timestamp_tz": st.datetimes(timezones=st.just(UTC)).map(_without_fold),
    "uuid": st.uuids(),
    "decimal(0)": st.decimals(-(10**38) + 1, 10**38 - 1, places=0),
    "decimal(5)": st.decimals("-" + "9" * 33, "9" * 33, places=5),
    "decimal(38)": st.decimals(-1, 1, places=38),
    "json": st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
        max_leaves=5,
    ),
    "vector_float32": st.lists(st.none() | st.floats(width=32), max_size=5),
    "vector_float64": st.lists(st.none() | _FLOATS, max_size=5),
}  # fmt: skip
KEY_KINDS = [kind for kind in VALUES if kind not in NO_KEYS]
_SEVERAL = settings(
    max_examples=10,
    deadline=None,
    # no shrinking: each attempt at a smaller example publishes to three places
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def alike(value: Any) -> str:
    """Return a text that is equal only for values equal to the last bit and of the same type; a
    decimal zero has no sign.
    """
    if isinstance(value, Decimal) and value == 0:
        value = abs(value)
    return repr(value)


@_SEVERAL
@given(rows=st.lists(st.fixed_dictionaries({k: st.none() | v for k, v in VALUES.items()}), min_size=1, max_size=5))  # fmt: skip
def test_every_value_comes_back_as_it_was(places: Places, rows: list[dict[str, Any]]) -> None:
    given_rows = [
        Row(key=(i,), outputs=tuple(row[kind] for kind in VALUES), as_of=row["timestamp"])
        for i, row in enumerate(rows)
    ]
    columns = {f"{kind} %s $1 \"'é": kind for kind in VALUES}
    ListWarehouse().publish(
        Relation(key={"id": "integer"}, outputs=columns, rows=given_rows), targets=SYSTEMS
    )
    for system in SYSTEMS:
        with places.open(system) as predictions:
            for i, row in enumerate(rows):
                answer = predictions.get(i)
                assert list(answer.outputs) == list(columns)
                assert list(map(alike, answer.outputs.values())) == [
                    alike(row[kind]) for kind in VALUES
                ]
                assert answer.as_of == row["timestamp"]
                assert predictions.get_many([i, -1])[0] == answer or "nan" in repr(answer)


@pytest.mark.parametrize("kinds", [*([kind] for kind in KEY_KINDS), ["text", "date"], ["integer", "text"], KEY_KINDS], ids=str)  # fmt: skip
def test_a_row_is_found_by_its_key_and_by_no_other(places: Places, kinds: list[str]) -> None:
    columns = {f"key {i}": kind for i, kind in enumerate(kinds)}

    def stored(key: tuple[Any, ...]) -> str:
        # equal keys are one key: no relation has both 0.0 and -0.0
        values = [kind_of(kind).store(value) for kind, value in zip(kinds, key, strict=True)]
        return repr([value + 0.0 if isinstance(value, float) else value for value in values])

    @settings(_SEVERAL, max_examples=5)
    @given(
        keys=st.lists(
            st.tuples(*(VALUES[kind] for kind in kinds)), min_size=2, max_size=8, unique_by=stored
        )
    )
    def check(keys: list[tuple[Any, ...]]) -> None:
        *kept, _ = keys
        rows = [Row(key=key, outputs=(i,)) for i, key in enumerate(kept)]
        ListWarehouse().publish(
            Relation(key=columns, outputs={"n": "integer"}, rows=rows), targets=SYSTEMS
        )
        for system in SYSTEMS:
            with places.open(system) as predictions:
                answers = [predictions.get(key) for key in keys]
                assert [a.outputs.get("n") for a in answers] == [*range(len(kept)), None]
                assert answers[-1].status == "missing"
                assert [repr(a) for a in predictions.get_many(keys)] == [repr(a) for a in answers]
                assert predictions.get_many([]) == []

    check()


def test_keys_that_are_equal_are_one_key(places: Places, system: str) -> None:
    rows = [
        Row(key=(-0.0, Decimal("1.50"), datetime(2024, 1, 1, tzinfo=UTC)), outputs=(1,)),
        Row(key=(2.0, Decimal("-2.00"), datetime(2024, 1, 1, 12, tzinfo=UTC)), outputs=(2,)),
    ]
    kinds = {"f": "float", "d": "decimal(2)", "t": "timestamp_tz"}
    ListWarehouse().publish(
        Relation(key=kinds, outputs={"n": "integer"}, rows=rows), targets=[system]
    )
    east = timezone(timedelta(hours=5))
    with places.open(system) as predictions:
        for key, n in (
            ((0.0, Decimal("1.5"), datetime(2024, 1, 1, 5, tzinfo=east)), 1),
            ((0, Decimal("1.500"), datetime(2024, 1, 1)), 1),
            ((2, -2, datetime(2024, 1, 1, 17, tzinfo=east)), 2),
            (predictions.parse_key(["2", "-2", "2024-01-01T12:00:00Z"]), 2),
        ):
            assert predictions.get(key).outputs == {"n": n}
        assert predictions.get((0.0, 1, datetime(2024, 1, 1))).status == "missing"


def test_a_relation_that_has_only_a_key_is_published(places: Places, system: str) -> None:
    rows = [Row(key=("a", 1), outputs=())]
    only_keys = Relation(
        key={"name": "text", "n": "integer"}, outputs={}, rows=rows, is_served=False
    )
    ListWarehouse().publish(only_keys, targets=[system], stale_after=timedelta(hours=1))
    with places.open(system, now=NOON + timedelta(hours=2)) as predictions:
        answer = predictions.get(("a", 1))
        assert (answer.status, answer.outputs, answer.age) == ("predicted", {}, timedelta(hours=2))
        assert answer.is_stale
        assert predictions.get(("a", 2)).status == "missing"


def test_a_text_with_nul_comes_back_or_is_refused(places: Places) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=["postgres"])
    rows = [Row(key=("a\0b",), outputs=("c\0",)), Row(key=("b",), outputs=("",))]
    with_nul = Relation(key={"k": "text"}, outputs={"t": "text"}, rows=rows)
    ListWarehouse().publish(with_nul, targets=["files", "redis"])
    for system in ("files", "redis"):
        with places.open(system) as predictions:
            assert predictions.get("a\0b").outputs == {"t": "c\0"}
    before = places.content("postgres")
    with documented("postgres-value"):
        ListWarehouse().publish(with_nul, targets=["postgres"])
    assert places.content("postgres") == before
    with places.open("postgres") as predictions:
        assert outputs(predictions, 1) == [0.5]
    ListWarehouse().publish(replace(with_nul, rows=rows[1:]), targets=["postgres"], name="other")
    with places.open("postgres", name="other") as predictions:
        assert predictions.get("a\0b").status == "missing"
        assert [a.status for a in predictions.get_many(["a\0b", "b", "a\0b"])] == [
            "missing", "predicted", "missing",
        ]  # fmt: skip


def test_numbers_that_json_does_not_have_are_text_in_postgres(places: Places) -> None:
    rows = [Row(key=(1,), outputs=({"a": float("nan"), "b": [float("-inf")], "c": "é"},))]
    ListWarehouse().publish(
        Relation(key={"id": "integer"}, outputs={"j": "json"}, rows=rows), targets=SYSTEMS
    )
    with places.open("postgres") as predictions:
        assert predictions.get(1).outputs == {"j": {"a": "NaN", "b": ["-Infinity"], "c": "é"}}
    with places.open("redis") as predictions, places.open("files") as files:
        assert repr(predictions.get(1).outputs) == repr(files.get(1).outputs)


def test_postgres_has_the_types_of_a_table_that_a_person_would_make(places: Places) -> None:
    kinds = {**ONE_OF_EACH, **NO_KEYS, "json": {"a": 1}}
    columns = {kind: kind for kind in kinds}
    rows = [Row(key=tuple(ONE_OF_EACH.values()), outputs=tuple(kinds[kind] for kind in NO_KEYS))]
    ListWarehouse().publish(
        Relation(
            key={kind: kind for kind in ONE_OF_EACH},
            outputs={kind: kind for kind in NO_KEYS},
            rows=rows,
        ),
        targets=["postgres"],
    )
    types = dict(
        places.sql(
            "select column_name, data_type from information_schema.columns "
            "where table_schema = 'dbt_onnx' and table_name = 'churn'"
        )
    )
    assert {kind: types[kind] for kind in columns} == {
        "boolean": "boolean", "integer": "bigint", "large_integer": "numeric", "float": "double precision",
        "text": "text", "bytes": "bytea", "date": "date", "time": "time without time zone",
        "timestamp": "timestamp without time zone", "timestamp_tz": "timestamp with time zone",
        "uuid": "uuid", "decimal(5)": "numeric", "json": "json", "vector_float32": "ARRAY",
        "vector_float64": "ARRAY",
    }  # fmt: skip
    assert types["age"] == "interval"
    # the tables of the rows, of the origins, and `_publications`
    assert places.sql(
        "select count(*) from pg_index where indisprimary and indrelid in "
        "(select oid from pg_class where relnamespace = 'dbt_onnx'::regnamespace)"
    ) == [(3,)]


# --- the four answers, and ages


def test_null_rejected_missing_and_unknown_are_told_apart(places: Places, system: str) -> None:
    rows = [
        Row(key=(1,), outputs=(None,)),
        Row(key=(2,), outputs=(None,), status="rejected", served_from="missing", rejected_reason="null:a",
            fresh_as_of=None, scored_at=None, model_name=None, model_version=None, run_id=None),
        Row(key=(3,), outputs=(None,), status=None, served_from="missing", fresh_as_of=None),
        Row(key=(4,), outputs=(0.5,), served_from="constant", fresh_as_of=None, as_of=None),
    ]  # fmt: skip
    ListWarehouse().publish(
        Relation(key={"id": "integer"}, outputs={"p": "float"}, rows=rows), targets=[system]
    )
    with places.open(system) as predictions:
        null, rejected, nothing, constant, unknown = predictions.get_many([1, 2, 3, 4, 5])
    assert (null.status, null.outputs, null.is_stale) == ("predicted", {"p": None}, False)
    assert (null.model_name, null.model_version, null.run_id) == ("churn", "1", "run-1")
    assert (rejected.status, rejected.rejected_reason) == ("rejected", "null:a")
    assert (nothing.status, nothing.served_from) == ("missing", "missing")
    assert (constant.status, constant.age, constant.is_stale) == ("predicted", None, True)
    assert (unknown.status, unknown.served_from, unknown.outputs) == ("missing", None, {})


def test_age_is_counted_by_the_clock_of_whoever_reads(places: Places, system: str) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=[system], stale_after=timedelta(days=2))
    for hours, is_stale in ((-1, False), (0, False), (48, False), (49, True)):
        with places.open(system, now=NOON + timedelta(hours=hours)) as predictions:
            answer = predictions.get(1)
            assert (answer.status, answer.outputs) == ("predicted", {"p": 0.5})
            assert (answer.age, answer.is_stale) == (timedelta(hours=max(hours, 0)), is_stale)


@pytest.mark.parametrize(("stale_after", "is_stale"), [(timedelta(hours=2), [False, True, True, True]), (None, [False, False, True, True])])  # fmt: skip
def test_the_view_of_postgres_counts_age_when_it_is_selected(
    places: Places, stale_after: timedelta | None, is_stale: list[bool]
) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    rows = [
        Row(key=(1,), outputs=(0.5,), fresh_as_of=now - timedelta(hours=1)),
        Row(key=(2,), outputs=(None,), fresh_as_of=now - timedelta(hours=3)),
        Row(key=(3,), outputs=(0.5,), fresh_as_of=None),
        Row(key=(4,), outputs=(None,), fresh_as_of=now, served_from="missing"),
    ]
    ListWarehouse().publish(
        Relation(key={"id": "integer"}, outputs={"p": "float"}, rows=rows),
        targets=["postgres"],
        stale_after=stale_after,
    )
    found = places.sql("select id, p, age, is_stale, run_id from dbt_onnx.churn order by id")
    assert [(key, p, stale, run) for key, p, _, stale, run in found] == [
        (row.key[0], row.outputs[0], stale, "run-1")
        for row, stale in zip(rows, is_stale, strict=True)
    ]
    ages = [age for _, _, age, _, _ in found]
    assert timedelta(hours=1) <= ages[0] < timedelta(hours=1, minutes=5)
    assert timedelta(hours=3) <= ages[1] < timedelta(hours=3, minutes=5)
    assert ages[2:] == [None, None]
    # a row that is fresh as of a future moment has age 0, not a negative age
    ListWarehouse().publish(
        relation((1, 0.5), fresh_as_of=datetime(9000, 1, 1)), targets=["postgres"]
    )
    assert places.sql("select age from dbt_onnx.churn") == [(timedelta(),)]


# --- one publication after another


def test_changed_rows_change_and_removed_keys_are_gone(places: Places, system: str) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.1), (2, 0.2), (3, 0.3)), targets=[system])
    summary = warehouse.publish(relation((1, 0.1), (2, 0.9), (4, 0.4)), targets=[system])
    if system != "redis":
        assert (summary.rows_changed, summary.rows_removed) == (2, 1)
    with places.open(system) as predictions:
        assert outputs(predictions, 1, 2, 3, 4) == [0.1, 0.9, "missing", 0.4]
        assert predictions.manifest.rows == 3
    # only the origin changes
    later = NOON + timedelta(hours=5)
    rows = [(1, 0.1), (2, 0.9), (4, 0.4)]
    summary = warehouse.publish(
        relation(*rows, fresh_as_of=later, run_id="run-2"), targets=[system]
    )
    if system != "redis":
        assert summary.rows_written == 0
    with places.open(system) as predictions:
        assert outputs(predictions, 1, 2, 3, 4) == [0.1, 0.9, "missing", 0.4]
        assert predictions.get(1).fresh_as_of == later
        assert predictions.get(1).run_id == "run-2"


@_SEVERAL
@given(
    nights=st.lists(
        st.dictionaries(
            st.tuples(_TEXT, st.sampled_from([0.0, float("nan"), 1.5])),
            st.tuples(_FLOATS, st.sampled_from(["run-1", "run-2"])),
            min_size=1,
            max_size=6,
        ),
        min_size=2,
        max_size=4,
    )
)
def test_what_is_built_on_the_publication_before_is_what_would_be_written_whole(
    places: Places, nights: list[dict[tuple[str, float], tuple[float, str]]]
) -> None:
    places.sql("drop schema if exists dbt_onnx cascade")
    warehouse = ListWarehouse()
    for night in nights:
        rows = {
            repr(key): Row(key=key, outputs=(p,), run_id=run) for key, (p, run) in night.items()
        }
        tonight = Relation(
            key={"k": "text", "f": "float"}, outputs={"p": "float"}, rows=list(rows.values())
        )
        warehouse.publish(tonight, targets=["files", "postgres"])
        with places.open("files") as files, places.open("postgres") as tables:
            assert files.manifest.rows == len(rows)
            for other in nights:
                for key in other:
                    from_file, from_table = files.get(key), tables.get(key)
                    assert (from_file.status, repr(from_file.outputs), from_file.run_id) == (
                        from_table.status, repr(from_table.outputs), from_table.run_id,
                    )  # fmt: skip


def test_the_last_three_are_kept_and_one_can_return_to_them(places: Places, system: str) -> None:
    warehouse = ListWarehouse()
    other = ListWarehouse()
    for i in range(5):
        warehouse.publish(relation((1, float(i))), targets=[system])
        other.publish(relation((1, 7.0)), targets=[system], name="other")
    content = str(places.content(system))
    ids = set(re.findall(r"\d{8}T\d{12}Z-[0-9a-f]{8}", content))
    assert len(ids) == (3 if system == "files" else 6)
    with places.open(system) as predictions:
        assert outputs(predictions, 1) == [4.0]
        target = open_target(system, "churn", project=Path())
        for expected in (3.0, 2.0):
            with target.locked():
                found = target.publications()
                assert found is not None
                target.switch(found.unpublished(at=NOON))
            assert predictions.refresh()
            assert outputs(predictions, 1) == [expected]
    warehouse.publish(relation((1, 9.0)), targets=[system])
    with places.open(system) as predictions:
        assert outputs(predictions, 1) == [9.0]
    if system == "postgres":
        assert places.sql("select p from dbt_onnx.churn") == [(9.0,)]


def test_a_publication_may_have_other_columns_than_the_one_before(
    places: Places, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "CHECK_SECONDS", 3600.0)
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=[system])
    with places.open(system) as predictions:
        rows = [Row(key=("a", 1), outputs=([1.0], "t"))]
        other = Relation(
            key={"k": "text", "id": "integer"},
            outputs={"v": "vector_float32", "p": "text"},
            rows=rows,
        )
        warehouse.publish(other, targets=[system])
        assert outputs(predictions, 1) == [0.5]
        predictions.refresh()
        assert predictions.get(("a", 1)).outputs == {"v": [1.0], "p": "t"}
        with pytest.raises(ServingError, match=r"the key of 'churn' is k \(text\), id \(integer\)"):
            predictions.get(1)


def test_a_key_that_is_there_twice_is_refused(places: Places, system: str) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=[system])
    before = places.content(system)
    for rows in (((2, 0.1), (2, 0.2)), ((1, 0.5), (3, 0.1), (3, 0.1))):
        with documented("publication-key-twice"):
            warehouse.publish(relation(*rows), targets=[system])
        with places.open(system) as predictions:
            assert outputs(predictions, 1, 2) == [0.5, "missing"]
    # the next publisher removes the unfinished file
    assert [n for n in places.content(system) if ".partial" not in str(n)] == before


def test_publications_that_are_not_there_are_said_to_be_so(places: Places, system: str) -> None:
    name = "publication-not-in-folder" if system == "files" else "publication-not-in-database"
    with documented(name):
        places.open(system)
    ListWarehouse().publish(relation((1, 0.5)), targets=[system])
    with documented(name):
        places.open(system, name="other")


# --- readers while publishers work


@pytest.mark.parametrize("check_seconds", [0.0, 3600.0], ids=["often", "never"])
def test_a_reader_sees_one_publication_whole_while_ten_go_by(
    places: Places, system: str, monkeypatch: pytest.MonkeyPatch, check_seconds: float
) -> None:
    monkeypatch.setattr(lookup, "CHECK_SECONDS", check_seconds)
    columns = {f"o{i}": "integer" for i in range(5)}
    warehouse = ListWarehouse()

    def publish_number(number: int) -> None:
        rows = [Row(key=(i,), outputs=(number,) * 5, model_version=str(number)) for i in range(300)]
        warehouse.publish(
            Relation(key={"id": "integer"}, outputs=columns, rows=rows), targets=[system]
        )

    publish_number(0)
    ended = threading.Event()
    seen: list[set[int]] = [set(), set()]
    faults: list[Any] = []

    def read(predictions: Predictions, mine: set[int]) -> None:
        newest = 0
        while not ended.is_set():
            try:
                answers = predictions.get_many([1, 299, 150])
                answers.append(predictions.get(7))
                told = [{*a.outputs.values(), int(a.model_version or -1)} for a in answers]
            except Exception as error:  # noqa: BLE001, the test reports it
                faults.append(error)
                return
            if any(len(numbers) != 1 for numbers in told) or len(set.union(*told[:3])) != 1:
                faults.append(told)
            [number] = told[3]
            if number < newest:
                faults.append((newest, number))
            newest = number
            mine.add(number)

    with places.open(system) as predictions:
        threads = [threading.Thread(target=read, args=(predictions, mine)) for mine in seen]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, 11):
                publish_number(number)
            until = time.monotonic() + (20 if check_seconds == 0.0 else 0.2)
            while time.monotonic() < until and not (faults or all(10 in mine for mine in seen)):
                time.sleep(0.01)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert faults == []
        if check_seconds == 0.0:
            assert all(10 in mine for mine in seen)
        elif system != "files":
            # the publication that was opened first no longer exists
            assert all(mine - {0} for mine in seen)
        assert predictions.fault is None


def test_a_new_publication_is_noticed(places: Places, system: str) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=[system])
    with places.open(system) as predictions:
        assert not predictions.refresh()
        warehouse.publish(relation((1, 0.6)), targets=[system])
        until = time.monotonic() + 10
        while outputs(predictions, 1) != [0.6]:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_whoever_closes_does_not_wait_for_a_thread_that_has_not_been_started(
    places: Places, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "CHECK_SECONDS", 0.0)
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=[system])
    predictions = places.open(system)

    class Late(threading.Thread):
        def start(self) -> None:
            predictions.close()
            super().start()

    warehouse.publish(relation((1, 0.6)), targets=[system])
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", Late)
        with suppress(ServingError):
            predictions.get(1)
    predictions.close()


def test_the_next_publisher_does_not_wait_until_the_server_closes_the_connection(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = postgres_target.Postgres(places.postgres, "churn")
    with psycopg.connect(places.postgres) as late, monkeypatch.context() as patched:
        patched.setattr(late, "close", lambda: None)
        patched.setattr(postgres_target, "connect", lambda _: late)
        late.autocommit = True
        late.cursor_factory = psycopg.RawCursor
        with target.locked():
            pass
        patched.undo()
        with target.locked():
            pass


def test_a_select_that_does_not_end_locks_nobody_out(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=["postgres"])
    with psycopg.connect(places.postgres) as analyst:
        assert analyst.execute("select p from dbt_onnx.churn").fetchall() == [(0.5,)]
        monkeypatch.setattr(postgres_target, "_SWITCH_SECONDS", 1.0)
        said: list[str] = []

        def publish_in_vain() -> None:
            with documented("postgres-view-in-use"):
                warehouse.publish(relation((1, 0.6)), targets=["postgres"])
            said.append("as documented")

        publishing = threading.Thread(target=publish_in_vain)
        publishing.start()
        slowest = 0.0
        with psycopg.connect(places.postgres, autocommit=True) as reader:
            while publishing.is_alive():
                began = time.monotonic()
                assert reader.execute("select p from dbt_onnx.churn").fetchall() == [(0.5,)]
                slowest = max(slowest, time.monotonic() - began)
        publishing.join()
        assert slowest < 0.8
        assert said == ["as documented"]
        monkeypatch.setattr(postgres_target, "_SWITCH_SECONDS", 30.0)
        ending = threading.Timer(0.5, analyst.rollback)
        ending.start()
        warehouse.publish(relation((1, 0.7)), targets=["postgres"])
        ending.join()
        assert places.sql("select p from dbt_onnx.churn") == [(0.7,)]


def test_whoever_may_only_select_can_look_up(places: Places) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=["postgres"])
    places.sql(
        "drop role if exists application; create role application login; "
        "drop role if exists analyst; create role analyst login; "
        "grant usage on schema dbt_onnx to analyst; grant select on dbt_onnx.churn to analyst; "
        "grant usage on schema dbt_onnx to application; "
        "grant select on all tables in schema dbt_onnx to application; "
        "alter default privileges in schema dbt_onnx grant select on tables to application"
    )
    url = places.postgres.replace("postgres:@", "application:@")
    with Predictions.open(url, name="churn") as predictions:
        assert outputs(predictions, 1) == [0.5]
        warehouse.publish(relation((1, 0.6)), targets=["postgres"])
        predictions.refresh()
        assert outputs(predictions, 1) == [0.6]
    with psycopg.connect(url) as connection:
        assert connection.execute("select p from dbt_onnx.churn").fetchall() == [(0.6,)]
    # privileges granted on the view still apply
    with psycopg.connect(url.replace("application:@", "analyst:@")) as connection:
        assert connection.execute("select p from dbt_onnx.churn").fetchall() == [(0.6,)]
    places.sql("revoke select on dbt_onnx._publications from application")
    with documented("postgres-refused"):
        Predictions.open(url, name="churn")
    places.sql("drop owned by application, analyst; drop role application, analyst")


# --- publishers that fail, die, or meet

DIES = """
import sys, time
from pathlib import Path
from dbt_onnx.serving import publish, redis_target, targets
from rows_to_publish import ListWarehouse, Relation, Row

def stands_still(*_):
    print("here", flush=True)
    time.sleep(600)

def stream(batches):
    yield next(batches)
    if point == "rows":
        yield next(batches)
        stands_still()
    yield from batches

system, point, folder = sys.argv[1:]
publish.project_folder = lambda: Path(folder)
redis_target.LOCK_SECONDS = 1.0
redis_target._FIELDS_AT_ONCE = 10
if point == "switch":
    type(targets.open_target(system, "churn", project=Path(folder))).switch = stands_still
rows = [Row(key=(i,), outputs=(float(i),)) for i in range(1000)]
warehouse = ListWarehouse(stream=stream)
relation = Relation(key={"id": "integer"}, outputs={"p": "float"}, rows=rows)
warehouse.publish(relation, targets=[system])
"""


@pytest.mark.parametrize("point", ["rows", "switch"])
def test_a_publisher_that_is_killed_leaves_the_publication_before(
    places: Places, system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=[system])
    paths = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", DIES, system, point, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            with documented(f"{system}-locked"):
                warehouse.publish(relation((1, 0.6)), targets=[system])
            # wait longer than for a dead publisher's lock to expire: this publisher is alive, and keeps its lock
            time.sleep(1.5 if system == "redis" else 0)
            with pytest.raises(ServingError, match="another process is publishing"):
                warehouse.publish(relation((1, 0.6)), targets=[system])
        finally:
            process.send_signal(signal.SIGKILL)
    with places.open(system) as predictions:
        assert outputs(predictions, 1, 2) == [0.5, "missing"]
    until = time.monotonic() + 10
    while True:
        try:
            warehouse.publish(relation((1, 0.7)), targets=[system])
            break
        except ServingError:
            assert time.monotonic() < until
            time.sleep(0.1)
    with places.open(system) as predictions:
        assert outputs(predictions, 1, 2) == [0.7, "missing"]
        before, now = (m.id for m in predictions._source.publications().publications)
    assert set(re.findall(r"\d{8}T\d{12}Z-[0-9a-f]{8}", str(places.content(system)))) == {
        before,
        now,
    }


def test_a_publisher_that_fails_leaves_the_publication_before(
    places: Places, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_target, "_FIELDS_AT_ONCE", 10)
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=[system])
    before = places.content(system)

    def fails(batches: Any) -> Iterator[Any]:
        yield next(batches)
        raise DataError("the year 10000", hint="there is none")

    warehouse.stream = fails
    with pytest.raises(DataError, match="the year 10000"):
        warehouse.publish(relation(*((i, 0.1) for i in range(500))), targets=[system])
    assert [n for n in places.content(system) if ".partial" not in str(n)] == before
    with places.open(system) as predictions:
        assert outputs(predictions, 1, 2) == [0.5, "missing"]


def test_two_first_publishers_of_two_names_do_not_meet(places: Places, system: str) -> None:
    faults: list[Any] = []

    def work(name: str) -> None:
        try:
            ListWarehouse().publish(relation((1, 0.5)), targets=[system], name=name)
        except DbtOnnxError as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(f"n{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    for i in range(6):
        with places.open(system, name=f"n{i}") as predictions:
            assert outputs(predictions, 1) == [0.5]


def test_a_publisher_that_lost_its_lock_does_not_switch(places: Places) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=["redis"])

    def stands_still(batches: Any) -> Iterator[Any]:
        with redis.Redis.from_url(places.redis) as client:
            client.delete("dbt_onnx:{churn}:lock")
        other = ListWarehouse()
        other.publish(relation((1, 0.6)), targets=["redis"])
        yield from batches

    warehouse.stream = stands_still
    with documented("redis-lock-lost"):
        warehouse.publish(relation((1, 0.7)), targets=["redis"])
    with places.open("redis") as predictions:
        assert outputs(predictions, 1) == [0.6]
        kept = {m.id for m in predictions._source.publications().publications}
    # the pointer, and the rows that the failed publisher wrote
    assert len(places.keys()) == len(kept) + 2


def test_a_publication_that_is_evicted_is_not_a_missing_key(places: Places) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=["redis"])
    warehouse.publish(relation((1, 0.6), (2, 0.2)), targets=["redis"])
    with places.open("redis") as predictions, redis.Redis.from_url(places.redis) as client:
        newest = f"dbt_onnx:{{churn}}:{predictions.manifest.id}"
        client.delete(newest)
        with documented("publication-gone"):
            predictions.get(2)
        with places.open("redis") as opened:
            assert outputs(opened, 1, 2) == [0.5, "missing"]
            assert "has 0 fields, not 3" in str(opened.fault)
        client.flushall()
        with pytest.raises(ServingError, match="is gone from redis://"):
            predictions.get_many([1])


def test_the_size_of_a_publication_in_redis_is_in_bytes(places: Places) -> None:
    texts = Relation(
        key={"name": "text"},
        outputs={"note": "text"},
        rows=[Row(key=("José",), outputs=("日本 🦉",))],
    )
    ListWarehouse().publish(texts, targets=["redis"])
    with places.open("redis") as predictions, redis.Redis.from_url(places.redis) as client:
        manifest = predictions.manifest
        stored = client.hgetall(f"dbt_onnx:{{churn}}:{manifest.id}")
    assert manifest.bytes == sum(len(field) + len(line) for field, line in stored.items())


def test_a_torn_publication_is_not_opened(places: Places) -> None:
    warehouse = ListWarehouse()
    for p in (0.5, 0.6):
        warehouse.publish(relation((1, p)), targets=["postgres", "redis"])
    with places.open("redis") as predictions, redis.Redis.from_url(places.redis) as client:
        client.hdel(f"dbt_onnx:{{churn}}:{predictions.manifest.id}", "[1]")
        table = predictions.manifest.id
    places.sql(f'drop table dbt_onnx."{table}-origins" cascade')
    for system in ("postgres", "redis"):
        with places.open(system) as predictions:
            assert outputs(predictions, 1) == [0.5]
            assert predictions.fault is not None


# --- the servers


def test_a_reader_connects_again(places: Places) -> None:
    warehouse = ListWarehouse()
    warehouse.publish(relation((1, 0.5)), targets=["postgres", "redis"])
    with places.open("postgres") as tables, places.open("redis") as hashes:
        places.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'dbt_onnx'"
        )
        with redis.Redis.from_url(places.redis) as client:
            client.client_kill_filter(_type="normal", skipme=True)
        for predictions in (tables, hashes):
            assert outputs(predictions, 1) == [0.5]
            warehouse.publish(relation((1, 0.5)), targets=["postgres", "redis"])
            assert predictions.refresh()


@pytest.mark.parametrize("url", ["postgresql://u:{}@127.0.0.1:9/db", "redis://u:{}@127.0.0.1:9/0", "valkey://:{}@127.0.0.1:9"])  # fmt: skip
def test_a_server_that_is_not_there_is_said_to_be_so(
    places: Places, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    secret = url.format("sesame")
    name = f"{'postgres' if 'postgres' in url else 'redis'}-unreachable"
    with documented(name) as raised:
        Predictions.open(secret, name="churn")
    assert shown(secret) in raised[0].message
    assert "127.0.0.1:9" in raised[0].message
    monkeypatch.setenv("DBT_ONNX_SERVING_SHOP", secret)
    with documented(name if "postgres" in url else "redis-unwritable"):
        ListWarehouse().publish(relation((1, 0.5)), targets=["shop"])


ODD_URLS = [
    "postgresql://u:sesame@[h/db", "postgresql://u:se%zzsame@h/db", "postgresql://u:1/sesame@h/db",
    "postgresql://u:x?sesame@h/db", "postgresql://u:x#sesame@h/db", "postgresql://u:sesame@h:port/db",
    "postgresql://u@h/db?password=sesame&pass=sesame", "postgresql://h/db?password=x@sesame",
    "redis://u:sesame@h:port/0", "redis://u:x/sesame@h/0", "redis://u:x#sesame@h/0",
    "redis://:sesame@h/0?socket_timeout=never", "mysql://u:sesame@h/db", "sesame@://h",
]  # fmt: skip


@pytest.mark.parametrize("url", ODD_URLS)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("DBT_ONNX_SERVING_SHOP", url)

    def published() -> None:
        target = open_target("shop", "churn", project=tmp_path)
        with target.locked():
            pass

    for work in (lambda: Predictions.open(url, name="churn"), published):
        scheme = url.partition("://")[0]
        with documented(
            "url-unreadable" if scheme in SYSTEMS_BY_SCHEME else "url-scheme"
        ) as raised:
            work()
        error: BaseException | None = raised[0]
        while error is not None:
            assert "same" not in str(error)
            error = error.__cause__ or error.__context__
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_in_no_error_no_log_and_no_row(
    places: Places, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = places.postgres.replace("postgres:@", "postgres:sesame@")
    hashes = places.redis.replace("redis://", "redis://default:sesame@")
    with redis.Redis.from_url(places.redis) as client:
        client.config_set("requirepass", "sesame")
    try:
        for system, url in (("postgres", tables), ("redis", hashes)):
            monkeypatch.setenv(f"DBT_ONNX_SERVING_{system.upper()}", url)
            warehouse = ListWarehouse()
            for p in (0.5, 0.6):
                warehouse.publish(relation((1, p)), targets=[system])
            target = open_target(system, "churn", project=Path())
            said = [str(target), str(warehouse.switches), str(target.publications())]
            with target.locked(), pytest.raises(ServingError) as raised:
                warehouse.publish(relation((1, 0.7)), targets=[system])
            said.append(str(raised.value))
            with Predictions.open(url, name="churn") as predictions:
                said.append(predictions.place)
            wrong = url.replace("sesame", "sesame2")
            if system == "redis":
                with pytest.raises(ServingError) as raised:
                    Predictions.open(wrong, name="churn")
                said.append(str(raised.value))
            assert "sesame" not in "".join(said)
    finally:
        with redis.Redis.from_url(hashes) as client:
            client.config_set("requirepass", "")
    assert "sesame" not in caplog.text
    assert "sesame" not in str(places.sql("select document from dbt_onnx._publications"))


@pytest.mark.parametrize("package", ["psycopg", "redis"])
def test_a_package_that_is_not_installed_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = {"psycopg": "postgres", "redis": "redis"}[package]
    for module in ("source", "target"):
        monkeypatch.delitem(sys.modules, f"dbt_onnx.serving.{system}_{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("DBT_ONNX_SERVING_SHOP", f"{system}://h/db")
    with documented("package-not-installed"):
        Predictions.open(f"{system}://h/db", name="churn")
    with documented("package-not-installed"):
        open_target("shop", "churn", project=Path())


@pytest.mark.parametrize("system", ["postgres", "redis"])
def test_a_pointer_that_was_altered_is_said_to_be_so(places: Places, system: str) -> None:
    ListWarehouse().publish(relation((1, 0.5)), targets=[system])
    with places.open(system) as predictions:
        places.sql("update dbt_onnx._publications set switch_number = 0, document = '{}'") if (
            system == "postgres"
        ) else redis.Redis.from_url(places.redis).set("dbt_onnx:{churn}", "{}")
        assert not predictions.refresh()
        assert outputs(predictions, 1) == [0.5]
        assert "cannot be read: KeyError" in str(predictions.fault)
    with documented(f"{system}-pointer"):
        places.open(system)
    with documented(f"{system}-pointer"):
        ListWarehouse().publish(relation((1, 0.5)), targets=[system])


def test_a_database_has_publications_of_several_names(places: Places) -> None:
    for url in (places.postgres, places.redis):
        with documented("publication-unnamed"):
            Predictions.open(url)
        with documented("publication-name-malformed"):
            Predictions.open(url, name="../x")


def test_a_column_that_postgres_cannot_have_is_named(places: Places) -> None:
    name = "p" * 64
    with documented("postgres-column-name"):
        ListWarehouse().publish(
            Relation(
                key={"id": "integer"}, outputs={name: "float"}, rows=[Row(key=(1,), outputs=(1.0,))]
            ),
            targets=["postgres"],
        )
    with documented("postgres-unwritable"):
        ListWarehouse().publish(
            Relation(
                key={"id": "integer"},
                outputs={"xmin": "float"},
                rows=[Row(key=(1,), outputs=(1.0,))],
            ),
            targets=["postgres"],
        )


@pytest.mark.parametrize("name", ["_publications", "publications"])
def test_names_of_publications_and_of_our_tables_do_not_meet(places: Places, name: str) -> None:
    if name.startswith("_"):
        assert not publish.is_publication_name(name)
        return
    ListWarehouse().publish(relation((1, 0.5)), targets=["postgres", "redis"], name=name)
    for system in ("postgres", "redis"):
        with places.open(system, name=name) as predictions:
            assert outputs(predictions, 1) == [0.5]


def test_three_targets_have_the_same_answers(places: Places) -> None:
    warehouse = ListWarehouse()
    for i in range(3):
        warehouse.publish(
            relation(*((key, key * 0.1 + i) for key in range(250)), run_id=f"run-{i}"),
            targets=SYSTEMS,
        )
    assert {s["target"] for s in warehouse.switches} == set(SYSTEMS)

    def answers(system: str) -> list[Answer]:
        with places.open(system) as predictions:
            return predictions.get_many(range(251))

    assert answers("files") == answers("postgres") == answers("redis")


def test_every_error_of_a_target_is_provoked_here() -> None:
    words = set(re.findall(r'"([a-z-]+)"', Path(__file__).read_text(encoding="utf-8")))
    words |= {
        f"{system}-{what}" for system in SYSTEMS for what in ("locked", "unreachable", "pointer")
    }
    assert set(TARGETS) <= words
