"""Train and register the three models, from the ratings that are not held out.

    person 1     a person's ratings -> an embedding      a matrix factorization: ratings = people x films,
    film 1       a film's ratings -> an embedding        so the dot product is the expected rating
    reranker 1   a candidate and a session -> the probability that it is the next film

dbt builds the inputs of the models with the same SQL as in each night.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from project import HERE, dbt, held_out, is_judged, rows, run
from reranking import SESSION_FILMS, Films, features
from skl2onnx import to_onnx
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.extmath import randomized_svd

from dbt_onnx import export

WIDTH = 32
SEEDS = HERE / "seeds"
REGISTRY = SEEDS / "model_registry.csv"


def main() -> None:
    start_over()
    build("+rated_films")
    write_places("film", "select film_id from rated_films order by film_id")
    write_places("person", "select distinct user_id from known_ratings order by user_id")
    build("person_vectors", "film_vectors")
    train_embeddings()
    build("person_embeddings+1", "film_embeddings+1", "candidate_features", "film_index")
    train_reranker()


def build(*models: str) -> None:
    """Load the seeds as they are now, and build these models. The nightly build runs their tests."""
    dbt("seed")
    dbt("run", "--select", *models)


def start_over() -> None:
    """Delete the models, and write seeds that have only a header, because dbt requires each seed file."""
    shutil.rmtree(HERE / "artifacts", ignore_errors=True)
    REGISTRY.write_text("model_name,model_version,alias,artifact,sha256,card_sha256\n")
    for what, key in (("film", "film_id"), ("person", "user_id")):
        (SEEDS / f"{what}_positions.csv").write_text(f"{key},place\n")


def write_places(what: str, query: str) -> None:
    ids = [row[0] for row in rows(query)]
    with (SEEDS / f"{what}_positions.csv").open("a") as file:
        file.writelines(f"{known},{place}\n" for place, known in enumerate(ids))


def train_embeddings() -> None:
    people = [row[0] for row in rows(
        "select ratings from person_vectors where user_id <> 0 order by user_id"
    )]  # fmt: skip
    ratings = np.array(people, dtype=np.float64)
    left, sizes, right = randomized_svd(ratings, n_components=WIDTH, random_state=0)
    # ratings = left x sizes x right; both embeddings are scaled by the square root of the sizes
    roots = np.sqrt(sizes)[:, None]
    register("person", right / roots)
    register("film", left.T / roots)


def register(name: str, components: np.ndarray) -> None:
    """Register version 1 of a model that returns components x ratings, (WIDTH,)."""
    projection = TruncatedSVD(n_components=len(components))
    projection.components_ = components
    places = components.shape[1]
    graph = to_onnx(projection, np.zeros((1, places), np.float32))
    [output] = graph.graph.output
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.onnx"
        file.write_bytes(graph.SerializeToString())
        run(
            "dbt-onnx", "register", str(file), "--name", name, "--version", "1", "--alias", "champion",
            "--features", f"ratings[{places}]", "--output", f"{output.name}:vector=embedding",
        )  # fmt: skip


def train_reranker() -> None:
    table, is_next = questions()
    matrix = np.column_stack([column.to_numpy() for column in table.columns])
    # the features have different units; scaling makes the regularization equal for all
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(matrix, is_next)
    export(
        estimator,
        table,
        name="reranker",
        version="1",
        artifacts=HERE / "artifacts",
        registry=REGISTRY,
        alias="champion",
        output_columns={"label": None, "probability": "next_probability"},
        training={"people": "odd numbers", "weights": weights(estimator, table.column_names)},
    )


def questions() -> tuple[pa.Table, np.ndarray]:
    """Return a row for each candidate of each question, and whether the candidate is the next film.

    A question is a held-out film that is among the candidates. Its session are the held-out films before it.
    """
    index = {
        film_id: (embedding, genres, year, ratings)
        for film_id, embedding, genres, year, ratings in rows(
            "select film_id, embedding, genres, year, ratings from film_index"
        )
    }

    def films(ids: list[int]) -> Films:
        return Films(*(np.array(part, dtype=np.float64) for part in zip(*map(index.get, ids), strict=True)))  # fmt: skip

    empty = Films(*(np.empty(0) for _ in Films._fields))
    held, parts, answers = held_out(), [], []
    for user_id, listed, scores in rows(
        "select user_id, list(film_id order by place), list(score order by place) "
        "from candidate_features group by user_id order by user_id"
    ):
        if user_id not in held or is_judged(user_id):
            continue
        candidates, ids = films(listed), np.array(listed)
        for place, wanted in enumerate(held[user_id]):
            if wanted not in ids:
                continue
            seen = held[user_id][:place]
            session = [film_id for film_id in seen[-SESSION_FILMS:] if film_id in index]
            batch = features(np.array(scores), candidates, films(session) if session else empty)
            is_open = ~np.isin(ids, seen)
            parts.append({name: values[is_open] for name, values in batch.items()})
            answers.append(ids[is_open] == wanted)
    names = parts[0]
    table = pa.table({name: np.concatenate([part[name] for part in parts]) for name in names})
    return table, np.concatenate(answers).astype(np.int64)


def weights(estimator: object, names: list[str]) -> dict[str, float]:
    """Return the regression's weight of each feature, per standard deviation."""
    [found] = estimator[-1].coef_
    return dict(zip(names, np.round(found, 3).tolist(), strict=True))


if __name__ == "__main__":
    main()
