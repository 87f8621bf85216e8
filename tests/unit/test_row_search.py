"""The rows on which a model fails are found with few calls, and no other row is lost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_onnx.errors import DataError, ModelCrashError, ModelError, ScoringError
from dbt_onnx.kernel.row_search import MAX_CRASHES, RowSearch

if TYPE_CHECKING:
    from collections.abc import Mapping

SAID = (
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running Gather node. "
    "Name:'Gather_12' Status Message: idx={} must be within the inclusive range [-4,3], 1.5e-7 or 0x1f"
)


class Picky:
    """y = 2 x, unless the call has a bad row. With `kills`, the error names the first bad row, as a
    child process does.
    """

    def __init__(self, bad: set[int], *, kills: bool = False, alone: bool = True) -> None:
        self.bad, self.kills, self.alone = bad, kills, alone
        self.calls: list[int] = []

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        rows = feeds["x"][:, 0].tolist()
        self.calls.append(len(rows))
        found = [i for i, x in enumerate(rows) if x in self.bad]
        if found and (self.alone or len(rows) > 1):
            said = SAID.format(rows[found[0]])
            if self.kills:
                raise ModelCrashError("it died", hint="look", reason=said, row=found[0])
            raise ModelError("it failed", hint="look", reason=said)
        return [feeds["x"] * 2, [{"x": x} for x in rows]]


def feeds_of(rows: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(rows)[:, None]}


@settings(deadline=None, max_examples=200)
@given(
    rows=st.integers(1, 300),
    kills=st.booleans(),
    data=st.data(),
)
def test_what_is_left_is_scored_in_order_and_the_calls_are_bounded(
    rows: int, kills: bool, data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(0, rows - 1), max_size=MAX_CRASHES))
    scorer, search = Picky(bad, kills=kills), RowSearch()
    outputs, reasons = search.run(scorer, feeds_of(rows))
    good = [i for i in range(rows) if i not in bad]
    assert set(reasons) == bad
    if good:
        doubled, maps = outputs
        assert doubled.ravel().tolist() == [2 * i for i in good]
        assert maps == [{"x": i} for i in good]
    else:
        assert outputs == []
    assert search.found.total() == len(bad)
    assert search.calls == len(scorer.calls) - 1
    assert len(scorer.calls) <= 1 + 2 * len(bad) * (1 + math.ceil(math.log2(rows)))
    assert len(scorer.calls) <= 2 * rows + 1


def test_a_reason_has_the_message_without_the_values() -> None:
    _, reasons = RowSearch().run(Picky({3, 4, 5}), feeds_of(9))
    assert set(reasons.values()) == {
        (
            "model_error:Gather node. Name:'Gather_12' Status Message: idx=N must be within the inclusive "
            "range [N,N], N or 0x1f"
        )
    }


def test_a_message_without_end_is_cut() -> None:
    class Long:
        def run(self, feeds: Any) -> list[Any]:
            raise ModelError("it failed", hint="look", reason="x" * 10_000)

    _, reasons = RowSearch().run(Long(), feeds_of(1))
    assert len(reasons[0]) < 250


def test_a_failure_of_rows_together_only_rejects_none() -> None:
    outputs, reasons = RowSearch().run(Picky({1, 6}, alone=False), feeds_of(8))
    assert (outputs[0].ravel().tolist(), reasons) == ([0, 2, 4, 6, 8, 10, 12, 14], {})


def test_more_than_may_fail_ends_the_search() -> None:
    scorer = Picky(set(range(0, 1_000, 2)))
    with pytest.raises(DataError, match="fails on more than 20 of 1,000 rows"):
        RowSearch(rows=1_000, max_rows=20).run(scorer, feeds_of(1_000))
    assert len(scorer.calls) < 21 * 12


@pytest.mark.parametrize("bad", [{1, 4, 7}, set(range(9))])
def test_as_many_as_may_fail_are_rejected(bad: set[int]) -> None:
    _, reasons = RowSearch(rows=9, max_rows=len(bad)).run(Picky(bad), feeds_of(9))
    assert set(reasons) == bad


def test_a_model_that_fails_on_the_first_rows_only_is_searched() -> None:
    bad = set(range(20))
    _, reasons = RowSearch(rows=1_000, max_rows=20).run(Picky(bad), feeds_of(1_000))
    assert set(reasons) == bad


@pytest.mark.parametrize("kills", [False, True])
def test_a_model_that_fails_on_every_row_is_told_by_a_few(kills: bool) -> None:
    scorer = Picky(set(range(100_000)), kills=kills)
    with pytest.raises(ModelError, match=r"it failed|it died"):
        RowSearch(rows=5_000_000, max_rows=500_000).run(scorer, feeds_of(100_000))
    assert len(scorer.calls) == (4 if kills else 9)


def test_one_that_has_answered_is_not_broken() -> None:
    search = RowSearch(rows=200, max_rows=150)
    search.run(Picky(set()), feeds_of(100))
    _, reasons = search.run(Picky(set(range(100))), feeds_of(100))
    assert len(reasons) == 100


def test_deaths_are_bounded_for_each_costs_a_process() -> None:
    scorer = Picky(set(range(0, 1_000, 2)), kills=True)
    with pytest.raises(ScoringError, match=f"more than {MAX_CRASHES} rows kill the process"):
        RowSearch().run(scorer, feeds_of(1_000))
    bad = set(range(MAX_CRASHES))
    _, reasons = RowSearch().run(Picky(bad, kills=True), feeds_of(1_000))
    assert set(reasons) == bad


def test_what_is_about_the_model_is_raised_as_it_was() -> None:
    class Slow:
        def run(self, feeds: Any) -> list[Any]:
            raise ScoringError("it has not ended", hint="wait")

    with pytest.raises(ScoringError, match="it has not ended"):
        RowSearch().run(Slow(), feeds_of(9))
