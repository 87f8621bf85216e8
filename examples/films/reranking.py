"""The features of a candidate that the reranker reads, and metrics of a ranking. Numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

SESSION_FILMS = 3
"""How many of the last clicks of a session are used."""


class Films(NamedTuple):
    """Arrays with one row for each film: (films, width), (films, genres), (films,), (films,)."""

    embeddings: np.ndarray
    genres: np.ndarray
    years: np.ndarray
    ratings: np.ndarray


def features(scores: np.ndarray, films: Films, session: Films) -> dict[str, np.ndarray]:
    """Return an array (films,) of float64 for each feature, with a value for each candidate.

    `scores` (films,) are the dot products of the nightly build, largest first. If the session is empty, features
    that compare a film with the session are 0, as in `candidate_features.sql`.

    similarity       cosine of the film's embedding and the mean embedding of the session
    genre_overlap    share of the film's genres that the clicks have: 1 if every click has all of them
    log_years        ln(1 + years between the film and the click with the nearest year)
    """
    count = len(scores)
    known = {
        "score": np.asarray(scores, dtype=np.float64),
        "log_place": np.log(np.arange(1, count + 1)),
        "log_ratings": np.log1p(films.ratings),
    }
    if not len(session.years):
        nothing = np.zeros(count)
        return {**known, "similarity": nothing, "genre_overlap": nothing, "log_years": nothing}
    taste = session.embeddings.mean(axis=0)
    lengths = np.linalg.norm(films.embeddings, axis=1) * np.linalg.norm(taste)
    shares = films.genres @ session.genres.mean(axis=0) / films.genres.sum(axis=1)
    years = np.abs(films.years[:, None] - session.years[None, :]).min(axis=1)
    return {
        **known,
        "similarity": films.embeddings @ taste / np.maximum(lengths, 1e-12),
        "genre_overlap": shares,
        "log_years": np.log1p(years),
    }


def best_first(probabilities: np.ndarray) -> np.ndarray:
    """Return indexes of the candidates, most probable first. Equal probabilities keep their order."""
    return np.argsort(-probabilities, kind="stable")


def recall(candidates: Sequence[int], wanted: Sequence[int]) -> float:
    """Return the share of the wanted films that are among the candidates."""
    return len(set(candidates) & set(wanted)) / len(wanted)


def ndcg(ranking: Sequence[int], wanted: int, *, length: int = 10) -> float:
    """Return the NDCG of a ranking with one wanted film: 1 if the film comes first, 1 / log2(3) if second,
    0 if it is not among the first `length`.
    """
    shown = list(ranking[:length])
    return 1 / np.log2(shown.index(wanted) + 2) if wanted in shown else 0.0


def interval(values: np.ndarray, *, draws: int = 2_000) -> tuple[float, float]:
    """Return the interval that contains the mean of (people,) values in 95 of 100 samples of as many people."""
    chance = np.random.default_rng(0)
    means = values[chance.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
