"""Models that read text with operators of onnxruntime-extensions, small enough to compute by hand."""

from __future__ import annotations

from typing import Any

import onnx_models as models
from onnx import TensorProto, helper

DOMAIN = "ai.onnx.contrib"
# a token and its weight in the score; its place is its id
VOCABULARY = {
    "[PAD]": 0,
    "[UNK]": -0.125,
    "[CLS]": 16,
    "[SEP]": 32,
    "[MASK]": 0,
    "good": 1,
    "bad": -1,
    "film": 0.5,
    "##s": 0.25,
    "ü": 2,
    "##ber": 4,
    ".": 8,
}
# split by hand, as BERT does: lowercase, punctuation alone, then the longest tokens that the vocabulary has
TOKENS = {
    "Good films, über bad.": (2, 5, 7, 8, 1, 9, 10, 6, 11, 3),
    "": (2, 3),
    "🎉 GOOD": (2, 1, 5, 3),
    "filmss goods": (2, 7, 8, 8, 5, 8, 3),
    "a film.": (2, 1, 7, 11, 3),
}


def score(text: str) -> float:
    """Return the score of `bert` by hand: the sum of the weights of the text's tokens."""
    weights = list(VOCABULARY.values())
    return float(sum(weights[token] for token in TOKENS[text]))


def bert(*, output: str = "score") -> Any:
    """Return a model of one row: BertTokenizer, a weight for each token, and their sum. `output` may be `ids`."""
    tokenizer = helper.make_node(
        "BertTokenizer",
        ["review"],
        ["ids", "types", "mask"],
        domain=DOMAIN,
        vocab_file="\n".join(VOCABULARY),
        do_lower_case=1,
        strip_accents=0,
    )
    nodes = [
        tokenizer,
        helper.make_node("Gather", ["weights", "ids"], ["chosen"]),
        helper.make_node("ReduceSum", ["chosen", "axes"], ["score"], keepdims=1),
    ]
    kind = TensorProto.FLOAT if output == "score" else TensorProto.INT64
    return models.model(
        nodes,
        [models.tensor("review", [1], models.STRING)],
        [models.tensor(output, [1] if output == "score" else [None], kind)],
        initializers=[
            models.constant("weights", list(VOCABULARY.values())),
            models.constant("axes", [0], "int64"),
        ],
        domains=[DOMAIN],
    )


def length() -> Any:
    """Return a model of many rows: the number of characters of the text in lowercase."""
    nodes = [
        helper.make_node("StringLower", ["review"], ["lower"], domain=DOMAIN),
        helper.make_node("StringLength", ["lower"], ["count"], domain=DOMAIN),
        helper.make_node("Cast", ["count"], ["length"], to=TensorProto.FLOAT),
    ]
    return models.model(
        nodes,
        [models.tensor("review", ["n"], models.STRING)],
        [models.tensor("length", ["n"])],
        domains=[DOMAIN],
    )
