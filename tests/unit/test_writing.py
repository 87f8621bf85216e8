"""Batches are made while others are written: in order, and only as far ahead as the writer needs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from dbt_onnx.engines.duckdb.writing import prefetched

if TYPE_CHECKING:
    from collections.abc import Generator

FAILS_AT = 5


def batches(events: list[str], *, most: int = 100) -> Generator[pa.RecordBatch]:
    try:
        for number in range(most):
            if number == FAILS_AT:
                raise ValueError(threading.current_thread().name)
            yield pa.record_batch({"x": [number]})
    finally:
        events.append("closed")


def test_batches_come_in_order_and_what_is_raised_comes_after_them() -> None:
    events: list[str] = []
    came = []
    with pytest.raises(ValueError, match="ThreadPoolExecutor"):
        for batch in prefetched(batches(events)):
            came.append(batch["x"][0].as_py())
    assert came == list(range(FAILS_AT))
    assert events == ["closed"]


def test_all_batches_come_and_none_more() -> None:
    assert len(list(prefetched(batches([], most=3)))) == 3
    assert list(prefetched(batches([], most=0))) == []


def test_who_stops_early_leaves_no_thread_and_a_closed_source() -> None:
    events: list[str] = []
    before = threading.active_count()
    source = batches(events)  # keep a reference, so that only a call closes it
    made = prefetched(source)
    next(made)
    made.close()
    assert events == ["closed"]
    assert threading.active_count() == before
