"""Models that read text, from scikit-learn and with a tokenizer in the graph, scored in a dbt build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pandas as pd
import pytest
import text_models
from click.testing import CliRunner
from scoring_project import ScoringProject, expect
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from dbt_onnx import export
from dbt_onnx.cli import main
from dbt_onnx.errors import ArtifactError, ContractError

if TYPE_CHECKING:
    from pathlib import Path

# (review, whether the customer complains)
REVIEWS = (
    ("the delivery was late and the box was broken", 1),
    ("great service, will order again!", 0),
    ("late again. i want my money back 😡", 1),
    ("very friendly staff, great price 👍🏽", 0),
    ("the price is ok, it's fine", 0),
    ("broken on arrival, no refund...", 1),
    ("good-quality product, 5 stars 🎉🎉", 0),
    ("refund took 3 weeks", 1),
    ("die lieferung war spät und das paket beschädigt", 1),
    ("super service, gerne wieder!", 0),
    ("schon wieder zu spät. ich möchte mein geld zurück", 1),
    ("sehr freundlich, großartiger preis", 0),
    ("größe passt nicht, rückgabe läuft", 1),
    ("schöne grüße, 5 sterne ❤️", 0),
    ("👍", 0),
    ("", 0),
)
LETTERS = "[a-z0-9äöüß]{2,}"
TRAINING = pd.DataFrame(REVIEWS * 4, columns=["review", "complains"])
UNSEEN = ("zu spät und zu großartig 🎉", "the refund was great", "naïve café", "ÄRGER")


def fitted(**options: Any) -> Any:
    vectorizer = TfidfVectorizer(lowercase=False, **options)
    pipeline = make_pipeline(
        ColumnTransformer([("words", vectorizer, "review")]), LogisticRegression()
    )
    return pipeline.fit(TRAINING[["review"]], TRAINING["complains"])


def exported(model: Any, folder: Path) -> None:
    (folder / "seeds").mkdir(exist_ok=True)
    export(
        model,
        TRAINING[["review"]],
        name="complaint",
        version="1",
        alias="champion",
        artifacts=folder / "artifacts",
        registry=folder / "seeds/model_registry.csv",
        output_columns={"label": "complains"},
    )


@pytest.mark.parametrize(
    "options",
    [
        {"token_pattern": LETTERS, "ngram_range": (1, 2)},
        {"token_pattern": r"[^ .,!?]+", "stop_words": ["the", "die"]},
    ],
    ids=str,
)
def test_options_that_onnxruntime_reads_as_scikit_learn_does(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    exported(fitted(**options), tmp_path)


@pytest.mark.parametrize(
    "options",
    [{}, {"token_pattern": r"\w+"}, {"token_pattern": LETTERS, "sublinear_tf": True}],
    ids=str,
)
def test_options_that_it_reads_otherwise_are_refused(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ArtifactError, match="does not reproduce scikit-learn") as caught:
        exported(fitted(**options), tmp_path)
    assert "all letters by name" in caught.value.hint
    assert not (tmp_path / "artifacts").exists()


def test_a_vectorizer_without_a_column_is_refused_with_advice(tmp_path: Path) -> None:
    model = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression())
    with pytest.raises(ContractError) as caught:
        exported(model.fit(TRAINING["review"], TRAINING["complains"]), tmp_path)
    assert "a vectorizer in a ColumnTransformer" in caught.value.hint


def test_upper_case_is_left_to_sql(tmp_path: Path) -> None:
    """With `lowercase=True`, scoring depends on the locales of the machine: here it works, or says so."""
    model = fitted(token_pattern=LETTERS)
    model.steps[0][1].named_transformers_["words"].lowercase = True
    try:
        exported(model, tmp_path)
    except ArtifactError as error:
        assert "lowercase=False" in error.hint or "all letters by name" in error.hint


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    """Both models score all reviews: `complaint` in SQL's lowercase, `tone` as they are."""
    project = ScoringProject(tmp_path_factory.mktemp("text"))
    exported(fitted(token_pattern=LETTERS), project.root)
    onnx.save(text_models.bert(), project.root / "bert.onnx")
    names = ["register", project.root / "bert.onnx", "--name", "tone", "--version", "1"]
    options = ["--alias", "champion", "--project-dir", project.root]
    result = CliRunner().invoke(main, list(map(str, names + options)))
    assert "registered tone/1 as champion" in result.stdout, result.output
    texts = [*(review for review, _ in REVIEWS), *UNSEEN]
    for name, reviews, column in (
        ("complaint", texts, "lower(review)"),
        ("tone", list(text_models.TOKENS), "review"),
    ):
        rows = ", ".join(
            f"({i}, '{text.replace(chr(39), chr(39) * 2)}')" for i, text in enumerate(reviews)
        )
        project.write(
            f"models/{name}_reviews.sql",
            "{{ config(materialized='table') }} "
            f"select id, {column} as review from (values {rows}) as reviews (id, review)",
        )
        project.scoring_model(f"{name}s", features=f"{name}_reviews", arguments=f"model='{name}'")
    project.dbt("build", "--select", "model_registry", "+complaints", "+tones")
    return project


def test_a_tf_idf_pipeline_scores_as_scikit_learn_does(project: ScoringProject) -> None:
    expect(project.outcome, complaints="success")
    rows = project.sql("select complains, probability from complaints order by id asc")
    texts = pd.DataFrame({"review": [text.lower() for text, *_ in (*REVIEWS, *zip(UNSEEN))]})
    model = fitted(token_pattern=LETTERS)
    assert [label for label, _ in rows] == model.predict(texts).tolist()
    np.testing.assert_allclose(
        [probability for _, probability in rows], model.predict_proba(texts)[:, 1], atol=1e-6
    )


def test_a_tokenizer_in_the_graph_scores_as_computed_by_hand(project: ScoringProject) -> None:
    expect(project.outcome, tones="success")
    rows = project.sql("select prediction from tones order by id asc")
    assert [score for (score,) in rows] == [text_models.score(text) for text in text_models.TOKENS]
