"""The films example: the reranker's features and the figures that judge a ranking, computed by hand."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from types import ModuleType

FILE = Path(__file__).resolve().parents[2] / "examples" / "films" / "reranking.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("films_reranking", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reranking = load()

# two genres; the embeddings point right, up, and halfway between
EMBEDDINGS = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
GENRES = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
YEARS = np.array([1990.0, 2000.0, 1995.0])
RATINGS = np.array([9, 99, 3])
FILMS = reranking.Films(EMBEDDINGS, GENRES, YEARS, RATINGS)
NOTHING = reranking.Films(*(np.empty(0) for _ in range(4)))


def some(*places: int) -> object:
    return reranking.Films(*(part[list(places)] for part in FILMS))


def test_without_a_session_only_what_the_night_knows_is_not_zero() -> None:
    asked = reranking.features(np.array([5.0, 4.0, 1.5]), FILMS, NOTHING)
    assert list(asked) == [
        "score", "log_place", "log_ratings", "similarity", "genre_overlap", "log_years",
    ]  # fmt: skip
    assert asked["score"].tolist() == [5.0, 4.0, 1.5]
    assert asked["log_place"] == pytest.approx([0, math.log(2), math.log(3)])
    assert asked["log_ratings"] == pytest.approx([math.log(10), math.log(100), math.log(4)])
    for name in ("similarity", "genre_overlap", "log_years"):
        assert asked[name].tolist() == [0, 0, 0]


def test_films_are_compared_with_the_clicks() -> None:
    asked = reranking.features(np.zeros(3), FILMS, some(0, 1))
    # the mean of the clicks is (1, 1.5)
    length = math.hypot(1, 1.5)
    assert asked["similarity"] == pytest.approx(
        [1 / length, 1.5 / length, 2.5 / (math.sqrt(2) * length)]
    )
    # both clicks have the first genre, one has the second
    assert asked["genre_overlap"] == pytest.approx([1, 0.75, 0.5])
    assert asked["log_years"] == pytest.approx([0, 0, math.log(6)])


def test_a_film_without_a_direction_is_like_nothing() -> None:
    empty = FILMS._replace(embeddings=np.zeros((3, 2)))
    assert reranking.features(np.zeros(3), empty, some(0))["similarity"].tolist() == [0, 0, 0]
    still = some(0)._replace(embeddings=np.zeros((1, 2)))
    assert reranking.features(np.zeros(3), FILMS, still)["similarity"].tolist() == [0, 0, 0]


def test_the_most_probable_comes_first_and_of_equal_ones_the_earlier() -> None:
    order = reranking.best_first(np.array([0.1, 0.3, 0.3, 0.2], np.float32))
    assert order.tolist() == [1, 2, 3, 0]


def test_recall_is_the_share_of_what_is_wanted() -> None:
    assert reranking.recall([1, 2, 3, 4, 5], [4, 9, 1, 8]) == 0.5
    assert reranking.recall([1, 2], [3]) == 0


@pytest.mark.parametrize(
    ("place", "expected"),
    [(1, 1.0), (2, 0.6309297535714575), (3, 0.5), (7, 1 / 3), (10, 0.2890648263178879), (11, 0.0)],
)
def test_ndcg_of_one_wanted_film(place: int, expected: float) -> None:
    ranking = [100 + other for other in range(20)]
    ranking.insert(place - 1, 7)
    assert reranking.ndcg(ranking, 7) == pytest.approx(expected)


def test_ndcg_of_a_film_that_is_not_there_is_0() -> None:
    assert reranking.ndcg([1, 2, 3], 7) == 0


def test_an_interval_is_that_of_the_mean() -> None:
    # 400 values, half zeros and half ones: the standard deviation of the mean is 0.025
    low, high = reranking.interval(np.array([0.0, 1.0] * 200))
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)
    assert reranking.interval(np.full(10, 0.25)) == (0.25, 0.25)
