"""Computes the contributions of the features to a model's predictions, and checks that they add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from dbt_onnx.artifacts.sample import as_batch
from dbt_onnx.errors import ArtifactError
from dbt_onnx.explaining.feature_columns import features_of_columns
from dbt_onnx.explaining.splitting import NODE_INPUT, RAW_SCORE, refused, split_model
from dbt_onnx.explaining.trees import TreeContributions
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.encode import encode
from dbt_onnx.kernel.scoring import score_batches
from dbt_onnx.kernel.session import OnnxSession
from dbt_onnx.kernel.tensors import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.kernel.tensors import Array, Feeds

SAMPLE_ROWS = 64
PART_ROWS = 1_024
"""A number of rows for one call of `Explainer.explain` that keeps its matrices small."""
TOLERANCE = 1e-4
"""The largest difference between a score and the sum of its parts, as a share of the parts' sizes."""
_NUMBERS = ("probabilities", "value", "values")


class _Target(NamedTuple):
    column: str
    output: str
    kind: str
    position: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """The contributions to the predictions of some rows.

    rows       int64: the places of the explained rows in the batch; a row that the model cannot read is left out
    by_column  {output column: float64 (rows, features)}, with the features in the contract's order
    """

    rows: Array
    by_column: Mapping[str, Array]


class Explainer:
    """Explains predictions of a verified model by comparison with the sample rows of its card.

    features  the names of the features, in the contract's order
    base    {output column: the mean score of the sample}. Base and contributions add up to the score
    scales  {output column: the unit of score, base and contributions}: `prediction`, `log-odds`, `log`, or
            `raw score` if the graph turns the score into the prediction in another way

    For trees, the contributions are interventional Shapley values of the score. For a linear model, a
    contribution is the weight times the difference from the sample's mean. All columns that an encoder makes
    of a feature count for the feature.

    Raises ConfigError if the model cannot be explained, ArtifactError if its file is malformed.
    """

    def __init__(self, artifact: Artifact, *, in_child_process: bool = False) -> None:
        self._artifact = artifact
        self.features = artifact.contract.feature_names
        self._targets = _targets_of(artifact)
        split = split_model(artifact, {target.output for target in self._targets})
        self._operator = split.operator
        opened = ChildSession if in_child_process else OnnxSession
        rows = artifact.signature.batch_rows
        self._before = opened(split.before_bytes, output_names=[NODE_INPUT], batch_rows=rows)
        self._raw = opened(split.raw_bytes, output_names=[RAW_SCORE], batch_rows=rows)
        self._sample, predictions = _sample_of(artifact, in_child_process=in_child_process)
        matrix = self._matrix(self._sample)
        self._contributions: Callable[[Array], Array]
        if split.weights is None:
            self._contributions = TreeContributions(split, matrix, artifact)
        elif len(split.weights) == matrix.shape[1]:
            self._contributions = _LinearContributions(split.weights, matrix)
        else:
            wanted = f"{len(split.weights)} weights for {matrix.shape[1]} columns"
            raise refused(artifact, f"its {split.operator} has {wanted}")
        scores = self._scores(self._sample)
        self._base = scores.mean(axis=0)
        self.base: dict[str, float] = {}
        self.scales: dict[str, str] = {}
        for target in self._targets:
            self.base[target.column] = float(self._base[target.position])
            known = predictions[target.column]
            self.scales[target.column] = _scale(scores, target.position, known)

    def explain(self, batch: pa.RecordBatch) -> Contributions:
        """Explain the rows of a batch, at most PART_ROWS at a time. It has the contract's features, and may have
        further columns.

        Raises ConfigError if the operator reads a column that depends on several features, ArtifactError if
        a score is not the sum of its parts.
        """
        contract = self._artifact.contract
        encoded = encode(batch, contract)
        rows = np.flatnonzero(encoded.valid)
        if not len(rows):
            empty = np.empty((0, len(contract.features)))
            return Contributions(rows=rows, by_column=dict.fromkeys(self.base, empty))
        both = {n: np.concatenate([self._sample[n], x]) for n, x in encoded.feeds.items()}
        owners = features_of_columns(self._artifact, both, self._matrix, operator=self._operator)
        of_columns = self._contributions(self._matrix(encoded.feeds))
        of_features = np.zeros((len(rows), len(contract.features), of_columns.shape[2]))
        for column, owner in enumerate(owners):
            # a column without an owner is the same in all rows, and contributes nothing
            if owner >= 0:
                of_features[:, owner] += of_columns[:, column]
        scores = self._scores(encoded.feeds)
        if of_features.shape[2] == 1 and scores.shape[1] == 2:
            # of two classes, the graph scores only the second one
            of_features = np.concatenate([-of_features, of_features], axis=2)
        if of_features.shape[2] != scores.shape[1]:
            numbers = f"{of_features.shape[2]} and computes {scores.shape[1]} score(s)"
            raise refused(self._artifact, f"its {self._operator} has values for {numbers}")
        self._check_sums(of_features, scores)
        return Contributions(
            rows=rows,
            by_column={t.column: of_features[:, :, t.position] for t in self._targets},
        )

    def _check_sums(self, contributions: Array, scores: Array) -> None:
        sums = self._base + contributions.sum(axis=1)
        sizes = np.abs(self._base) + np.abs(contributions).sum(axis=1)
        # written so that a NaN fails, too
        wrong = ~(np.abs(sums - scores) <= TOLERANCE * sizes)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ArtifactError(
                f"the contributions to a prediction of {self._artifact.model} add up to "
                f"{sums[row, column]:.9g}, but its score is {scores[row, column]:.9g}; at most "
                f"{TOLERANCE:g} of the parts' sizes is allowed",
                hint="onnxruntime computes this model in another way than explanations do: please report it",
            )

    def _matrix(self, feeds: Feeds) -> Array:
        """Return what the operator reads: float32 or float64 (rows, columns)."""
        [found] = self._before.run(feeds)
        if not isinstance(found, np.ndarray) or found.shape[:1] != (rows_of(feeds),):
            raise refused(
                self._artifact, f"its {self._operator} does not read one row for each row"
            )
        if found.ndim != 2 or found.dtype.kind not in "fiub":
            shape = f"{found.dtype}{list(found.shape)}"
            raise refused(
                self._artifact, f"its {self._operator} reads {shape}, not a matrix of numbers"
            )
        return np.asarray(found, np.float64 if found.dtype == np.float64 else np.float32)

    def _scores(self, feeds: Feeds) -> Array:
        """Return the scores, float64 (rows, columns of the output)."""
        [found] = self._raw.run(feeds)
        scores = np.asarray(found, np.float64).reshape(rows_of(feeds), -1)
        for target in self._targets:
            if scores.shape[1] == 1 and target.width == 2 and target.kind == "probabilities":
                scores = np.concatenate([-scores, scores], axis=1)
            if scores.shape[1] != target.width:
                raise refused(
                    self._artifact,
                    f"its {self._operator} computes {scores.shape[1]} score(s), and output {target.output!r} "
                    f"has {target.width} column(s)",
                )
        return np.asarray(scores)


class _LinearContributions:
    def __init__(self, weights: Array, sample: Array) -> None:
        self._weights = weights
        self._mean = sample.astype(np.float64).mean(axis=0)

    def __call__(self, matrix: Array) -> Array:
        difference = matrix.astype(np.float64) - self._mean
        return np.asarray(difference[:, :, None] * self._weights)


def _targets_of(artifact: Artifact) -> list[_Target]:
    """Return the output columns to explain. Raises ConfigError if there is none."""
    targets = [
        _Target(column, output.name, output.kind, position, len(output.columns))
        for output in artifact.contract.outputs
        if output.kind in _NUMBERS
        for position, column in enumerate(output.columns)
        if column is not None
    ]
    if not targets:
        kinds = ", ".join(f"{n} ({kind})" for n, kind in artifact.contract.column_kinds.items())
        raise refused(artifact, f"it predicts no probability and no number, only {kinds}")
    return targets


def _sample_of(artifact: Artifact, *, in_child_process: bool) -> tuple[Feeds, dict[str, Array]]:
    """Return the tensors of the card's sample rows, and their predictions by column.

    Raises ConfigError if the card has no rows of real data that the model can score.
    """
    card, contract = artifact.card, artifact.contract
    if "parity" not in card or "reference" not in card:
        raise refused(
            artifact,
            "its card has no rows of real data to compare with (register it with --sample rows.parquet)",
        )
    batch = as_batch(card["parity"]["features"], contract)
    kept = np.linspace(0, batch.num_rows - 1, num=min(SAMPLE_ROWS, batch.num_rows), dtype=np.int64)
    batch = batch.take(pa.array(np.unique(kept)))
    session = artifact.open(in_child_process=in_child_process)
    scored = pa.Table.from_batches(score_batches([batch], session, contract=contract))
    is_scored = scored.column("rejected_reason").is_null().combine_chunks()
    batch, scored = batch.filter(is_scored), scored.filter(is_scored)
    if not batch.num_rows:
        raise refused(artifact, "it rejects all sample rows of its card")
    predictions = {
        name: scored.column(name).to_numpy().astype(np.float64)
        for name, kind in contract.column_kinds.items()
        if kind in _NUMBERS
    }
    return encode(batch, contract).feeds, predictions


def _scale(scores: Array, position: int, predictions: Array) -> str:
    """Return the unit of a score, found by comparing scores with predictions."""
    score = scores[:, position]
    with np.errstate(over="ignore", invalid="ignore"):
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        candidates = {
            "prediction": [score],
            "log-odds": [1 / (1 + np.exp(-score))],
            "log": [np.exp(score)],
        }
        if scores.shape[1] > 2:
            shares = exponents / exponents.sum(axis=1, keepdims=True)
            candidates["log-odds"].append(shares[:, position])
    for name, found in candidates.items():
        if any(np.allclose(values, predictions, rtol=TOLERANCE, atol=1e-6) for values in found):
            return name
    return "raw score"
