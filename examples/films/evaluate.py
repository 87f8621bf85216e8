"""The gain of each step, on the held-out ratings of people on whom the reranker was not trained.

Each held-out film is one question: does the ranking show it if the held-out films before it are the session?
Films of the session are left out of every ranking. The first held-out film of each person has no session, and is
not used as a question for rankings.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
from project import SERVING, held_out, is_judged, rows
from reranking import best_first, interval, ndcg, recall
from service import Ranking

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main() -> None:
    held = {user_id: films for user_id, films in held_out().items() if is_judged(user_id)}
    popular = [
        row[0] for row in rows("select film_id from rated_films order by ratings desc, film_id")
    ]
    print(f"{len(held)} people, {sum(map(len, held.values())):,} films held out")
    with closing(Ranking(SERVING)) as ranking:
        judge(ranking, held, popular)


def judge(ranking: Ranking, held: Mapping[int, Sequence[int]], popular: Sequence[int]) -> None:
    """Print the means over the people, and the interval for the mean of as many other people."""
    seen = known_films()
    found: dict[str, list[float]] = {}
    gained: dict[str, list[float]] = {}
    for user_id, films in held.items():
        ranked = [ranking.rank(str(user_id), films[:place]) for place in range(1, len(films))]
        night = ranked[0].candidates.outputs
        most_rated = [film_id for film_id in popular if film_id not in seen[user_id]][:200]
        found.setdefault("the 200 most rated", []).append(recall(most_rated, films))
        found.setdefault("the 200 candidates", []).append(recall(night["films"], films))
        without = np.array(night["films"])[best_first(np.array(night["next_probabilities"]))]
        orders: dict[str, list[float]] = {}
        for place, wanted in enumerate(films[1:]):
            session = films[: place + 1]
            for name, order in {
                "by number of ratings": most_rated,
                "by dot product": night["films"],
                "reranked, without the session": without.tolist(),
                "reranked, with the session": ranked[place].films,
            }.items():
                shown = [film_id for film_id in order if film_id not in session]
                orders.setdefault(name, []).append(ndcg(shown, wanted))
        for name, values in orders.items():
            gained.setdefault(name, []).append(float(np.mean(values)))
    print("\nrecall: the share of the held-out films that are among")
    print_figures(found)
    print("\nNDCG@10 of the next film")
    print_figures(gained)
    *_, without_session, with_session = map(np.array, gained.values())
    low, high = interval(with_session - without_session)
    print(
        f"\nthe session gains {np.mean(with_session - without_session):+.4f} ({low:+.4f} to {high:+.4f})"
    )


def known_films() -> dict[int, set[int]]:
    return {
        user_id: set(films)
        for user_id, films in rows(
            "select user_id, list(film_id) from known_ratings group by user_id"
        )
    }


def print_figures(figures: Mapping[str, Sequence[float]]) -> None:
    for name, values in figures.items():
        low, high = interval(np.array(values))
        print(f"  {name:30} {np.mean(values):.4f}   ({low:.4f} to {high:.4f})")


if __name__ == "__main__":
    main()
