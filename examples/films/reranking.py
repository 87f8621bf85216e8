"""What the reranker reads of a candidate, and the numbers that judge a ranking. Numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

SESSION_FILMS = 3
"""How many of a session's last clicks count."""


class Films(NamedTuple):
    """Some films, a row each: (films, width), (films, genres), (films,), (films,)."""

    embeddings: np.ndarray
    genres: np.ndarray
    years: np.ndarray
    ratings: np.ndarray


def features(scores: np.ndarray, films: Films, session: Films) -> dict[str, np.ndarray]:
    """One value for each candidate, by feature; float64.

    `scores` (films,) are the dot products of the night, largest first. What compares a film with the
    session is 0 where the session is empty, as it is in `candidate_features.sql`.

    similarity       cosine of the film's embedding and the mean of the session's
    genre_overlap    how much of the film's genres the session has: 1 if every click has all of them
    log_years        ln(1 + years between the film and the click that is nearest in time)
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
    """Places of the candidates, the most probable first; of equal ones the earlier candidate."""
    return np.argsort(-probabilities, kind="stable")


def recall(candidates: Sequence[int], wanted: Sequence[int]) -> float:
    """The share of the wanted films that are among the candidates."""
    return len(set(candidates) & set(wanted)) / len(wanted)


def ndcg(ranking: Sequence[int], wanted: int, *, length: int = 10) -> float:
    """NDCG of a ranking in which one film is wanted: 1 if it comes first, 1 / log2(3) as the second,
    0 if it is not among the first `length`.
    """
    shown = list(ranking[:length])
    return 1 / np.log2(shown.index(wanted) + 2) if wanted in shown else 0.0


def interval(values: np.ndarray, *, draws: int = 2_000) -> tuple[float, float]:
    """Where the mean of (people,) values lies in 95 of 100 samples of as many people."""
    chance = np.random.default_rng(0)
    means = values[chance.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
