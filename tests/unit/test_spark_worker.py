"""The sessions that a Python worker of Spark keeps between tasks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import graphs

from dbt_onnx.engines.spark import worker
from dbt_onnx.engines.spark.worker import Work
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTRACT = Contract(
    features=(Feature(name="x"),),
    inputs=(Input(name="x", dtype="float32", features=("x",)),),
    outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
)


@dataclass
class Broadcast:
    value: bytes


@pytest.fixture(autouse=True)
def _new_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    sessions: dict[Any, Any] = {}
    monkeypatch.setattr(worker, "_SESSIONS", sessions)
    yield
    sessions.clear()


def session(*, threads: int = 1, batch_rows: int | None = 7, in_child_process: bool = False) -> Any:
    """Return the session of a task of a run with these settings."""
    model = graphs.echo("float32")
    work = Work(
        contract=CONTRACT,
        model=Broadcast(model),
        sha256=hashlib.sha256(model).hexdigest(),
        batch_rows=batch_rows,
        threads=threads,
        rows=None,
        max_rows=None,
        features=(),
    )
    return work._session(in_child_process=in_child_process)


def test_tasks_with_the_same_settings_share_a_session() -> None:
    assert session() is session()


def test_a_run_with_other_settings_in_the_same_worker_has_its_own_session() -> None:
    first = session()
    assert (first.threads, first.batch_rows) == (1, 7)
    assert session(batch_rows=9).batch_rows == 9
    assert session(threads=2).threads == 2
    assert type(session(in_child_process=True)) is not type(first)
    assert session() is first
