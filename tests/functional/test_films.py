"""The films example on generated ratings, run by its own scripts: the service answers what the raw
ratings give, and refuses questions that cannot be answered.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from consumer import PACKAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLE = PACKAGE / "examples" / "films"
PEOPLE, FILMS, RATED, HELD_OUT = 49, 60, 20, 5
SESSIONS: list[list[int]] = [[], [103], [120, 7, 101, 102]]
BUILD = """
import json, evaluate, from_raw, pandas, prepare, project, train
from pathlib import Path
prepare.prepare(pandas.read_csv("movielens.csv"), Path("data"))
project.install()
train.main()
project.dbt("build")
evaluate.main()
raw = from_raw.FromRaw()
answers = [[user, session, raw.rank(user, session)] for user in (1, 2, 30) for session in %s]
Path("answers.json").write_text(json.dumps(answers))
"""


def movielens() -> pd.DataFrame:
    """People with even and odd numbers like different halves of the films; each film has many ratings."""
    chance = np.random.default_rng(5)
    rows = []
    for user in range(1, PEOPLE + 1):
        liked = np.where(np.arange(FILMS) % 2 == user % 2, 4.0, 1.0)
        films = chance.choice(FILMS, RATED, replace=False, p=liked / liked.sum())
        for moment, film in enumerate(films):
            rating = chance.choice([1, 2, 3, 4, 5])
            genres = "Comedy|War" if film % 3 else "Drama"
            year = np.nan if film == 7 else 1950 + film
            rows.append((100 + film, f"Film {film}", year, genres, user, rating, 10**9 + moment))
    columns = ["movieId", "title", "year", "genres", "userId", "rating", "timestamp"]
    # shuffled: the order of rows in the file must not matter
    return pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films") / "films"
    made = (
        line.strip().strip("/")
        for line in (EXAMPLE / ".gitignore").read_text().splitlines()
        if line and not line.startswith("#")
    )
    kept = shutil.ignore_patterns("__pycache__", *(Path(each).name for each in made))
    shutil.copytree(EXAMPLE, folder, ignore=kept)
    (folder / "packages.yml").write_text(f"packages: [{{local: {PACKAGE}}}]\n")
    movielens().to_csv(folder / "movielens.csv", index=False)
    done = subprocess.run(
        [sys.executable, "-c", BUILD % SESSIONS],
        check=False, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "figures.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def ask(folder: Path) -> Iterator[Callable[..., Any]]:
    command = [sys.executable, "service.py", "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        address = urlsplit(process.stdout.readline().split()[-1]).netloc

        def asked(user: object, question: object = None) -> Any:
            body = question if isinstance(question, bytes) else json.dumps(question or {}).encode()
            with closing(http.client.HTTPConnection(address, timeout=60)) as connection:
                connection.request("POST", f"/v1/rankings/films/{user}", body)
                with connection.getresponse() as answer:
                    return answer.status, json.loads(answer.read())

        try:
            yield asked
        finally:
            process.terminate()


def known_films() -> dict[int, set[int]]:
    ratings = movielens().sort_values(["timestamp", "movieId"])
    known = ratings[ratings.groupby("userId").cumcount(ascending=False) >= HELD_OUT]
    return {user: set(films) for user, films in known.groupby("userId")["movieId"]}


def placed_films() -> set[int]:
    """Return the films that at least three people are known to have rated."""
    counts = Counter(film for films in known_films().values() for film in films)
    return {film for film, count in counts.items() if count >= 3}


def films_of(document: Any) -> list[int]:
    return [film["film"] for film in document["films"]]


def test_the_service_says_what_the_raw_ratings_say(folder: Path, ask: Callable[..., Any]) -> None:
    answers = json.loads((folder / "answers.json").read_text())
    assert len(answers) == 9
    for user, session, expected in answers:
        status, document = ask(user, {"session": session, "limit": 200})
        assert status == 200
        assert films_of(document) == expected
        assert not set(expected) & set(session)


def test_nobody_is_shown_what_he_has_rated_before(ask: Callable[..., Any]) -> None:
    known, placed = known_films(), placed_films()
    for user in (1, 2, 30):
        _, document = ask(user, {"limit": 200})
        assert set(films_of(document)) == placed - known[user]
        assert document["is_known"]


def test_a_session_changes_the_order_and_not_the_films(ask: Callable[..., Any]) -> None:
    _, without = ask(2, {"limit": 200})
    _, after = ask(2, {"session": [103, 105], "limit": 200})
    assert after["session"] == [103, 105]
    assert set(films_of(after)) == set(films_of(without)) - {103, 105}
    assert films_of(after) != [film for film in films_of(without) if film not in {103, 105}]
    probabilities = [film["probability"] for film in after["films"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_the_last_three_clicks_count(ask: Callable[..., Any]) -> None:
    _, document = ask(2, {"session": [101, 102, 103, 999_999, 104]})
    assert document["session"] == [102, 103, 104]
    assert len(document["films"]) == 10


def test_who_is_not_known_gets_what_the_average_person_gets(ask: Callable[..., Any]) -> None:
    status, document = ask(99_999, {"session": [103], "limit": 200})
    assert (status, document["is_known"]) == (200, False)
    assert films_of(document) == films_of(ask(0, {"session": [103], "limit": 200})[1])
    # an unknown person has rated nothing
    assert set(films_of(document)) == placed_films() - {103}


@pytest.mark.parametrize(
    ("user", "question", "kind"),
    [
        ("x", {}, "key"),
        ("1%27%20or%20%271", {}, "key"),
        ("1" * 30, {}, "key"),
        (1, b"{", "json"),
        (1, b"[" * 100_000, "json"),
        (1, [1], "ranking"),
        (1, {"sessions": []}, "ranking"),
        (1, {"session": "103"}, "session"),
        (1, {"session": ["103"]}, "session"),
        (1, {"session": [True]}, "session"),
        (1, {"session": [1.5]}, "session"),
        (1, {"session": [[103]]}, "session"),
        (1, {"session": [2**70]}, "key"),
        (1, {"session": [103] * 101}, "session"),
        (1, {"limit": 0}, "limit"),
        (1, {"limit": 201}, "limit"),
        (1, {"limit": "10"}, "limit"),
    ],
)
def test_what_cannot_be_asked_is_told(
    ask: Callable[..., Any], user: object, question: object, kind: str
) -> None:
    status, document = ask(user, question)
    assert (status, document["error"]["kind"]) == (400, kind)
    assert document["error"]["hint"]


def test_each_step_is_judged_by_the_even_people(folder: Path) -> None:
    figures = (folder / "figures.txt").read_text()
    assert f"{PEOPLE // 2} people, {PEOPLE // 2 * HELD_OUT} films held out" in figures
    # 15 of 60 films are known, so 200 candidates contain every other film that can be placed at all
    assert "the 200 candidates             1.0000" in figures
    assert "the session gains" in figures
