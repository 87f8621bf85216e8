"""The service's answer computed from the raw ratings at request time, to show what the nightly build saves.

It uses neither the tables nor the publications of the nightly build: numpy does the work that SQL does there.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from project import HERE
from reranking import SESSION_FILMS, Films, best_first, features

from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.kernel.scoring import score_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

HELD_OUT, CANDIDATES, LEAST_RATINGS = 5, 200, 3


class Model:
    """A registered model version, loaded once."""

    def __init__(self, name: str) -> None:
        registry = Registry.from_csv(HERE / "seeds" / "model_registry.csv")
        artifact = load_artifact(HERE / "artifacts", registry.resolve(name))
        self.contract, self.session = artifact.contract, artifact.open()

    def __call__(self, batch: pa.RecordBatch) -> pa.Array:
        """Score a batch and return the only output column."""
        [scored] = score_batches([batch], self.session, contract=self.contract)
        return scored.column(0)

    def embeddings(self, vectors: np.ndarray) -> np.ndarray:
        """Return embeddings (rows, width) as float64 for vectors of ratings (rows, positions)."""
        flat = pa.array(vectors.astype(np.float32).ravel())
        lists = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        found = self(pa.RecordBatch.from_arrays([lists], names=["ratings"]))
        return found.flatten().to_numpy().reshape(len(vectors), -1).astype(np.float64)


class FromRaw:
    """Answers from data/*.parquet. Only the models stay in memory between two requests."""

    @cached_property
    def models(self) -> tuple[Model, Model, Model]:
        return Model("person"), Model("film"), Model("reranker")

    def rank(self, user_id: int, clicks: Sequence[int]) -> list[int]:
        """Return the person's candidates except the films of the session, best first."""
        of_person, of_film, reranker = self.models
        people, films, matrix = known_ratings()
        embedding = of_person.embeddings(matrix[people.searchsorted([user_id])])[0]
        embeddings = of_film.embeddings(matrix.T)
        scores = embeddings @ embedding
        scores[matrix[people.searchsorted(user_id)] > 0] = -np.inf
        # largest score first; equal scores in the order of the film ids, since films are sorted
        best = np.argsort(-scores, kind="stable")[:CANDIDATES]
        best = best[np.isfinite(scores[best])]
        years, genres = descriptions(films)
        everything = Films(embeddings, genres, years, (matrix > 0).sum(axis=0))
        session = np.searchsorted(films, [f for f in clicks if f in films][-SESSION_FILMS:])
        batch = features(scores[best], _some(everything, best), _some(everything, session))
        probabilities = reranker(pa.RecordBatch.from_pydict(batch)).to_numpy()
        ranked = films[best][best_first(probabilities)]
        return [int(film_id) for film_id in ranked if film_id not in clicks]


def known_ratings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sorted people, sorted films, and their ratings (people, films), 0 where there is no rating."""
    table = pq.read_table(HERE / "data" / "ratings.parquet")
    user_ids, film_ids, ratings, moments = (column.to_numpy() for column in table.columns)
    order = np.lexsort((film_ids, moments, user_ids))
    user_ids, film_ids, ratings = user_ids[order], film_ids[order], ratings[order]
    people, counts = np.unique(user_ids, return_counts=True)
    ends = np.repeat(counts.cumsum(), counts)
    is_known = np.arange(len(user_ids)) < ends - HELD_OUT
    user_ids, film_ids, ratings = user_ids[is_known], film_ids[is_known], ratings[is_known]
    films, counts = np.unique(film_ids, return_counts=True)
    films = films[counts >= LEAST_RATINGS]
    matrix = np.zeros((len(people), len(films)))
    is_kept = np.isin(film_ids, films)
    places = films.searchsorted(film_ids[is_kept])
    matrix[people.searchsorted(user_ids[is_kept]), places] = ratings[is_kept]
    return people, films, matrix


def descriptions(films: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return years (films,) and genres (films, genres) of some films."""
    table = pq.read_table(HERE / "data" / "films.parquet").sort_by("film_id")
    places = table.column("film_id").to_numpy().searchsorted(films)
    years = table.column("year").to_numpy()
    years = np.where(np.isnan(years), np.nanmedian(years), years)
    listed = [text.split("|") for text in table.column("genres").to_pylist()]
    names = sorted({name for each in listed for name in each})
    genres = np.array([[name in listed[place] for name in names] for place in places], dtype=float)
    return years[places], genres


def _some(films: Films, places: np.ndarray) -> Films:
    return Films(*(part[places] for part in films))
