"""`make schedulers` is red if any part of the two nights is not as it must be."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.syspath_prepend(ROOT / "scripts" / "schedulers")
    return importlib.import_module("play")


def nights(play: Any) -> tuple[Any, Any]:
    good = {"state": "success", "run_ids": ["a"], "failed": []}
    bad = {"state": "failed", "run_ids": ["b"], "failed": ["predictions_replay_churn"]}
    return (
        play.Night(reported=good, run_ids={"a"}, alerts=[], seconds=1.0),
        play.Night(reported=bad, run_ids={"b"}, alerts=["degraded"], seconds=1.0),
    )


def wrong(play: Any, good: Any, bad: Any) -> list[str]:
    return [text for text, is_right in play.judged(good, bad) if not is_right]


def test_two_nights_as_they_must_be(play: Any) -> None:
    assert wrong(play, *nights(play)) == []


@pytest.mark.parametrize(
    ("reported", "found"),
    [
        ({"state": "success"}, ["success"]),
        ({"run_ids": ["c"]}, ["no"]),
        ({"run_ids": ["b", "c"]}, ["no"]),
        ({"failed": ["build"]}, ["not named"]),
    ],
)
def test_a_bad_night_reported_wrongly(
    play: Any, reported: dict[str, Any], found: list[str]
) -> None:
    good, bad = nights(play)
    assert wrong(play, good, replace(bad, reported=bad.reported | reported)) == found


def test_a_run_for_each_model(play: Any) -> None:
    good, bad = nights(play)
    ids = {"a", "d"}
    several = replace(good, run_ids=ids, reported=good.reported | {"run_ids": list(ids)})
    assert wrong(play, several, bad) == ["no"]


def test_no_alert(play: Any) -> None:
    good, bad = nights(play)
    assert wrong(play, good, replace(bad, alerts=[])) == ["not sent"]


def test_no_answer(play: Any) -> None:
    none = play.NO_NIGHT
    assert wrong(play, none, none) == ["no answer", "no", "no answer", "not named", "not sent"]
