"""The named points of a `dbt run` at which its process is killed."""

from __future__ import annotations

from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from dbt.adapters.sql.connections import SQLConnectionManager
from tests.torture import processes

from dbt_onnx.engines.duckdb import cursor, planning, writing
from dbt_onnx.project import dbt_model
from dbt_onnx.runs import scorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PRE_HOOK, POST_HOOK = "/* before the scores */", "/* after the scores */"


def before(owner: Any, name: str, says: str = "") -> Callable[[], None]:
    """Die when the function is called; with `says`, only if a text among the arguments contains it."""
    return lambda: _replace(owner, name, says, when="before")


def after(owner: Any, name: str, says: str = "") -> Callable[[], None]:
    """Die when the function has returned."""
    return lambda: _replace(owner, name, says, when="after")


def _replace(owner: Any, name: str, says: str, *, when: str) -> None:
    function = getattr(owner, name)

    @wraps(function)
    def dies(*arguments: Any, **named: Any) -> Any:
        texts = [a for a in (*arguments, *named.values()) if isinstance(a, str)]
        is_here = not says or any(says in text for text in texts)
        if is_here and when == "before":
            processes.die()
        found = function(*arguments, **named)
        if is_here:
            processes.die()
        return found

    setattr(owner, name, dies)


def _in_stream(batch: int) -> None:
    score_batches = scorer.score_batches

    def dies(*arguments: Any, **settings: Any) -> Iterator[Any]:
        for number, scored in enumerate(score_batches(*arguments, **settings)):
            if number == batch:
                processes.die()
            yield scored

    scorer.score_batches = dies


def _around_commit(*, is_before: bool) -> None:
    """Die before or after the commit of the transaction that writes the predictions and the run row."""
    transaction, note_presence = cursor.Cursor.transaction, writing.note_presence
    written = []

    def noted(*arguments: Any, **named: Any) -> None:
        note_presence(*arguments, **named)
        written.append(True)

    @contextmanager
    def dies(self: cursor.Cursor) -> Iterator[None]:
        with transaction(self):
            yield
            if written and is_before:
                processes.die()
        if written:
            processes.die()

    writing.note_presence = noted
    cursor.Cursor.transaction = dies  # type: ignore[method-assign]


_STATEMENT = (SQLConnectionManager, "add_query")
POINTS: dict[str, Callable[[], None]] = {
    "before the pre-hook": before(*_STATEMENT, PRE_HOOK),
    "after the pre-hook": after(*_STATEMENT, PRE_HOOK),
    "before all that the package does": before(dbt_model, "run_model"),
    "before the plan": before(planning, "plan_run"),
    "after the plan": after(planning, "plan_run"),
    "at the first batch of the stream": lambda: _in_stream(0),
    "within the stream": lambda: _in_stream(1),
    "while superseded rows are in both tables": after(
        cursor.Cursor, "execute", 'insert into "warehouse"."main"."scores__history"'
    ),
    "after the stream": after(writing, "append_predictions"),
    "before it is noted who was there": before(writing, "note_presence"),
    "before the commit": lambda: _around_commit(is_before=True),
    "after the commit": lambda: _around_commit(is_before=False),
    "before the post-hook": before(*_STATEMENT, POST_HOOK),
    "after the post-hook": after(*_STATEMENT, POST_HOOK),
}
