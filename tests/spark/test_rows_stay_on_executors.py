"""No feature or prediction row reaches the driver, and each executor receives the model only once."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import dataframe as pyspark_dataframe
from test_nights import NAMES, REGISTRY, ROOT, Night, OnSpark, score

from dbt_onnx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ROWS = 32
"""The most rows that may reach the driver in one answer: reasons, runs, columns of the card, the registry."""
[MODEL] = [
    (ROOT / "artifacts" / row["artifact"]).read_bytes()
    for row in REGISTRY
    if (row["model_name"], row["alias"]) == ("churn", "champion")
]


def write_features(spark: SparkSession, rows: int, *, plus: int = 0) -> None:
    """Write features. One row in 50 has a NULL. With `plus`, one row in ten is changed, and one in 20 is gone."""
    values = ", ".join(
        f"cast((id * {place + 3}) % 97 + case when id % 10 = 1 then {plus} else 0 end as double) as {name}"
        for place, name in enumerate(NAMES[1:])
    )
    spark.sql(
        "create or replace table lab.features using iceberg as select concat('c', id) as customer_id, "
        f"case when id % 50 <> 0 then cast(id % 89 as double) end as {NAMES[0]}, {values} "
        f"from range({rows}) where {plus} = 0 or id % 20 <> 3"
    )


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The row counts of all answers that the driver receives, and of all frames that it sends."""
    counts: list[int] = []
    load, send = pyspark_dataframe._load_from_socket, SparkSession.createDataFrame

    def counted(*arguments: Any) -> Iterator[Any]:
        rows = list(load(*arguments))
        counts.append(len(rows))
        return iter(rows)

    def sent(self: SparkSession, data: Any, *arguments: Any, **more: Any) -> DataFrame:
        counts.append(len(data))
        return send(self, data, *arguments, **more)

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("rows would come to the driver")

    monkeypatch.setattr(pyspark_dataframe, "_load_from_socket", counted)
    monkeypatch.setattr(SparkSession, "createDataFrame", sent)
    for name in ("toPandas", "toLocalIterator", "foreach", "_collect_as_arrow"):
        monkeypatch.setattr(DataFrame, name, refused)
    monkeypatch.setattr(DataFrame, "rdd", property(refused))
    return counts


def test_as_few_rows_come_to_the_driver_of_many_as_of_few(
    spark: SparkSession, answers: list[int]
) -> None:
    OnSpark(spark)
    said: dict[int, list[list[int]]] = {}
    for rows in (2_000, 20_000):
        said[rows] = []
        for number, plus in enumerate((0, 1, 1)):
            write_features(spark, rows, plus=plus)
            answers.clear()
            summary = score(
                spark, Night(f"1998-01-0{number + 2}", []), f"{rows} {number}", f"scores{rows}"
            )
            said[rows].append(list(answers))
            assert summary.rows_in >= 0.9 * rows, summary
            assert summary.rows_written >= (0.1 * rows if number != 2 else 0), summary
    few, many = said.values()
    assert few == many
    assert max(map(max, few)) <= MOST_ROWS


def probe(spark: SparkSession) -> dict[int, list[tuple[int, int]]]:
    """Return {process: [(id of an ONNX session, its threads)]} for the Python workers that runs use."""

    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from dbt_onnx.engines.spark.worker import _SESSIONS

        found = [
            (id(s), s._session.get_session_options().intra_op_num_threads)
            for s in _SESSIONS.values()
        ]
        for _ in batches:
            yield pa.RecordBatch.from_pydict(
                {"process": [os.getpid()], "sessions": [json.dumps(found)]}
            )

    # mapInArrow, like a run: an RDD would have other workers
    asked = spark.range(0, 8, 1, 8).mapInArrow(look, "process bigint, sessions string")
    return {
        process: [tuple(session) for session in json.loads(sessions)]
        for process, sessions in asked.collect()
    }


@pytest.fixture
def new_workers(spark: SparkSession) -> Iterator[None]:
    """Give the test new Python workers, which have scored nothing: Spark starts them for each new environment."""
    environment = spark.sparkContext.environment
    environment["DBT_ONNX_TEST"] = os.urandom(8).hex()
    yield
    del environment["DBT_ONNX_TEST"]


@pytest.mark.usefixtures("new_workers")
def test_a_worker_has_one_session_with_one_thread_and_gets_the_model_once(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    broadcast = SparkContext.broadcast

    def counted(self: SparkContext, value: Any) -> Any:
        sent.append(value)
        return broadcast(self, value)

    monkeypatch.setattr(SparkContext, "broadcast", counted)
    OnSpark(spark)
    write_features(spark, 2_000)
    score(spark, Night("1998-01-02", []), "first", "scores")
    # if a closure contained the model, Spark would broadcast it, too, because it is large
    assert sent == [MODEL]
    before = probe(spark)
    write_features(spark, 2_000, plus=1)
    score(spark, Night("1998-01-03", []), "second", "scores")
    after = probe(spark)
    used = {process: sessions for process, sessions in after.items() if sessions}
    assert used
    assert all([threads for _, threads in sessions] == [1] for sessions in used.values())
    for process in used.keys() & before.keys():
        if before[process]:
            assert used[process] == before[process], "the session was opened again"
    assert len(sent) == 2


@pytest.mark.usefixtures("new_workers")
def test_a_model_that_was_altered_on_its_way_is_refused(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    broadcast = SparkContext.broadcast
    monkeypatch.setattr(
        SparkContext, "broadcast", lambda self, value: broadcast(self, value[:-1] + b"?")
    )
    on_spark = OnSpark(spark)
    write_features(spark, 2_000)
    with pytest.raises(ArtifactError, match="received a corrupted model"):
        score(spark, Night("1998-01-02", []), "altered", "scores")
    assert on_spark.rows("select status from dbt_onnx_runs") == [("error",)]
    assert on_spark.rows("select count(*) from scores") == [(0,)]
