"""Let a run fail or its process die at one step: the first, the second, and so on to the last.

Steps come before and after each statement, stream and batch, and each begin and commit of a
transaction.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.torture import processes

from dbt_onnx.engines.duckdb import cursor
from dbt_onnx.runs import scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Broken(Exception):
    """The fault that is injected at a step."""


class Steps:
    """Counts the steps of this process; calls `what` at step number `at`."""

    def __init__(self, at: int | None, what: Callable[[], None]) -> None:
        self.taken, self.at, self.what = 0, at, what

    def take(self) -> None:
        self.taken += 1
        if self.taken == self.at:
            self.what()

    def install(self) -> None:
        """Put a step before and after every warehouse operation of a run, for the rest of the process."""
        rows, stream, transaction = (
            cursor.Cursor.rows, cursor.Cursor.stream, cursor.Cursor.transaction,
        )  # fmt: skip
        score_batches, take = scorer.score_batches, self.take

        def counted_rows(self: Any, *arguments: Any) -> Any:
            take()
            found = rows(self, *arguments)
            take()
            return found

        def counted_stream(self: Any, *arguments: Any, **settings: Any) -> Any:
            take()
            return stream(self, *arguments, **settings)

        @contextmanager
        def counted_transaction(self: Any) -> Iterator[None]:
            take()
            with transaction(self):
                yield
                take()  # before the commit
            take()

        def counted_batches(*arguments: Any, **settings: Any) -> Iterator[Any]:
            for batch in score_batches(*arguments, **settings):
                take()
                yield batch
                take()

        cursor.Cursor.rows = counted_rows  # type: ignore[method-assign]
        cursor.Cursor.stream = counted_stream  # type: ignore[method-assign]
        cursor.Cursor.transaction = counted_transaction  # type: ignore[method-assign]
        scorer.score_batches = counted_batches


def fail() -> None:
    raise Broken("this step fails")


FAULTS: dict[str, Callable[[], None]] = {"fails": fail, "dies": processes.die}


def installed(at: int | None, fault: str) -> Steps:
    steps = Steps(at, FAULTS[fault])
    steps.install()
    return steps
