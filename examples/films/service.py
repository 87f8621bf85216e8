"""The service of dbt_onnx with one more route:

    POST /v1/rankings/films/17   {"session": [318, 50], "limit": 10}

The nightly build selects 200 films for each person. A request compares them with the last clicks, scores all
of them in one call of the published reranker, and sorts them. Run it: python service.py [--port 8000]
"""

from __future__ import annotations

import argparse
import json
import threading
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from project import EVERYBODY, SERVING
from reranking import SESSION_FILMS, Films, best_first, features

from dbt_onnx.serving import Answer, Predictions
from dbt_onnx.serving.http import application
from dbt_onnx.serving.http_server import serve
from dbt_onnx.serving.lookup import PREDICTED
from dbt_onnx.serving.refusal import Refusal
from dbt_onnx.serving.scoring import ModelScorer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MOST_CLICKS = 100
ROUTE = "/v1/rankings/films/"
HINT = 'send {"session": [FILM, ...], "limit": 10}: film numbers, the last click at the end; both are optional'


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """All candidates of a person except the films of the session, best first.

    `candidates` is the published answer for the person, or for `EVERYBODY` if the person is unknown.
    `session` has the clicks that the reranker used.
    """

    films: list[int]
    titles: list[str | None]
    probabilities: list[float]
    candidates: Answer
    is_known: bool
    session: list[int]


class Known(NamedTuple):
    """Published films that requests have used so far, all from one publication. `films` has a row for each."""

    publication: str
    places: dict[int, int]
    titles: list[str | None]
    films: Films

    def with_more(self, found: Mapping[int, Mapping[str, Any]]) -> Known:
        new = Films(
            *(
                np.array([outputs[column] for outputs in found.values()], dtype=np.float64)
                for column in ("embedding", "genres", "year", "ratings")
            )
        )
        places = dict(
            zip(found, range(len(self.titles), len(self.titles) + len(found)), strict=True)
        )
        return Known(
            self.publication,
            {**self.places, **places},
            [*self.titles, *(outputs["title"] for outputs in found.values())],
            Films(*map(np.concatenate, zip(self.films, new, strict=True))) if self.titles else new,
        )

    def some(self, ids: Sequence[int]) -> Films:
        places = [self.places[film_id] for film_id in ids]
        return Films(*(part[places] for part in self.films))


class FilmIndex:
    """A cache of published films, filled as requests use them and cleared at the next publication."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions
        self._kept = _nothing_of("")

    def known(self, ids: Sequence[int]) -> Known:
        """Return a cache that contains all of these films that are published."""
        # always look up one film: only a lookup notices a new publication
        publication = self._predictions.get(ids[0]).publication
        kept = self._kept
        if kept.publication != publication:
            kept = _nothing_of(publication)
        absent = [film_id for film_id in dict.fromkeys(ids) if film_id not in kept.places]
        answers = self._predictions.get_many(absent)
        if any(answer.publication != publication for answer in answers):
            return self.known(ids)
        found = {a.key[0]: a.outputs for a in answers if a.status == PREDICTED}
        if found:
            # replace the whole object: other threads may still read the previous one
            kept = self._kept = kept.with_more(found)
        return kept

    def close(self) -> None:
        self._predictions.close()


def _nothing_of(publication: str) -> Known:
    return Known(publication, {}, [], Films(*(np.empty(0) for _ in Films._fields)))


class Ranking:
    """Ranks a person's published candidates. Safe to use from several threads."""

    def __init__(self, serving: Path) -> None:
        self._folder = serving / "candidates"
        self._candidates = Predictions.open(self._folder)
        self._films = FilmIndex(Predictions.open(serving / "films"))
        self._lock = threading.Lock()
        self._scorer: ModelScorer | None = None

    def rank(self, user: str, clicks: Sequence[int]) -> Ranked:
        """Rank the candidates of a person. Raises InvalidKeyError if `user` or a film is not a valid number."""
        [answer] = self._candidates.get_parsed([[user]])
        is_known = answer.status == PREDICTED and answer.key != (EVERYBODY,)
        if not is_known:
            answer = self._candidates.get(EVERYBODY)
        published = answer.outputs["films"]
        known = self._films.known([*published, *clicks])
        # a film that is no longer published can be neither compared nor shown
        is_there = np.array([film_id in known.places for film_id in published])
        ids = np.array(published)[is_there]
        session = [film_id for film_id in clicks if film_id in known.places][-SESSION_FILMS:]
        batch = features(
            np.array(answer.outputs["scores"])[is_there],
            known.some(ids.tolist()),
            known.some(session),
        )
        scored = self._current_scorer().score_batch(pa.RecordBatch.from_pydict(batch))
        probabilities = scored.column("next_probability").to_numpy()
        order = best_first(probabilities)
        order = order[~np.isin(ids[order], clicks)]
        shown = ids[order].tolist()
        return Ranked(
            films=shown,
            titles=[known.titles[known.places[film_id]] for film_id in shown],
            probabilities=probabilities[order].tolist(),
            candidates=answer,
            is_known=is_known,
            session=session,
        )

    def answer(self, user: str, body: bytes) -> dict[str, Any]:
        """Return the response document for a request. Raises Refusal and InvalidKeyError."""
        clicks, limit = _clicks_and_limit(body)
        ranked = self.rank(user, clicks)
        shown = zip(ranked.films, ranked.titles, ranked.probabilities, strict=True)
        return {
            "user": user,
            "is_known": ranked.is_known,
            "session": ranked.session,
            "films": [
                {"film": film_id, "title": title, "probability": probability}
                for film_id, title, probability in islice(shown, limit)
            ],
            "age_seconds": ranked.candidates.age and ranked.candidates.age.total_seconds(),
            "is_stale": ranked.candidates.is_stale,
            "publication": ranked.candidates.publication,
        }

    def close(self) -> None:
        self._candidates.close()
        self._films.close()

    def _current_scorer(self) -> ModelScorer:
        """Return the reranker that was published with the candidates. Its sha256 is checked."""
        model = self._candidates.manifest.model
        assert model is not None
        with self._lock:
            if self._scorer is None or self._scorer.model != model:
                self._scorer = ModelScorer(self._folder, model, max_seconds=1)
            return self._scorer


def _clicks_and_limit(body: bytes) -> tuple[list[int], int]:
    """Return the clicks and the limit of a request. Raises Refusal if the body is invalid."""
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise _bad("json", "the request body is not valid JSON") from error
    if not isinstance(document, dict) or not set(document) <= {"session", "limit"}:
        raise _bad("ranking", 'the request body must be an object with only "session" and "limit"')
    clicks, limit = document.get("session", []), document.get("limit", 10)
    if not isinstance(clicks, list) or not all(_is_integer(film_id) for film_id in clicks):
        raise _bad("session", '"session" must be a list of whole numbers')
    if len(clicks) > MOST_CLICKS:
        raise _bad(
            "session", f"the session has {len(clicks):,} films; the maximum is {MOST_CLICKS}"
        )
    if not _is_integer(limit) or not 1 <= limit <= 200:
        raise _bad("limit", '"limit" must be a whole number from 1 to 200')
    return clicks, limit


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bad(kind: str, message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, kind, message, hint=HINT)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000)
    with closing(Ranking(SERVING)) as ranking:
        serve(
            # without `tokens` every client that can connect may ask, so it listens on this machine only
            application(SERVING, posts={ROUTE: ranking.answer}),
            host="127.0.0.1",
            port=parser.parse_args().port,
            on_listening=lambda address: print(f"serving films at {address}", flush=True),
        )


if __name__ == "__main__":
    main()
