"""A conversion that takes too long is stopped, and the error says so."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from sklearn.tree import DecisionTreeRegressor

import dbt_onnx
from dbt_onnx.authoring import conversion
from dbt_onnx.errors import ArtifactError
from dbt_onnx.kernel.native import OverdueError, Threads

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("seed", [0, 1])
def test_a_tree_trained_with_nan_is_given_up_for_float64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(conversion, "MAX_SECONDS", 3.0)
    chance = np.random.default_rng(seed)
    rows = chance.normal(size=(300, 2))
    target = rows[:, 0] + chance.normal(size=300) / 10
    rows[chance.random(rows.shape) < 0.05] = np.nan
    target = np.where(np.isnan(rows[:, 0]), 5, target)
    tree = DecisionTreeRegressor(random_state=0).fit(rows, target)
    assert np.isinf(tree.tree_.threshold).any()
    others = set(threading.enumerate())
    began = time.monotonic()
    with pytest.raises(ArtifactError, match="did not convert DecisionTreeRegressor within 3 s"):
        dbt_onnx.export(
            tree,
            pa.table({"a": rows[:, 0], "b": rows[:, 1]}),
            name="tree",
            version="1",
            dtype="float64",
            artifacts=tmp_path,
        )
    assert time.monotonic() - began < 60
    assert not any(tmp_path.iterdir())
    assert_nothing_goes_on(others)


def test_a_converter_that_catches_every_exception_is_ended_too() -> None:
    def goes_on() -> None:
        while True:
            with suppress(Exception):
                time.sleep(0.01)

    others = set(threading.enumerate())
    work = conversion._Conversion(goes_on)
    with pytest.raises(OverdueError):
        Threads().run(work.run, max_seconds=0.2, cancel=work.stop)
    assert_nothing_goes_on(others)


def assert_nothing_goes_on(others: set[threading.Thread]) -> None:
    """Assert that no thread started by the conversion is still running."""
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - others:
        assert time.monotonic() < deadline
        time.sleep(0.05)
