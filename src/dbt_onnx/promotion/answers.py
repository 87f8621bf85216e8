"""Score given rows with a version, without writing anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from dbt_onnx.artifacts.artifact import Artifact, load_artifact
from dbt_onnx.kernel.row_search import RowSearch
from dbt_onnx.kernel.scoring import count_reasons, score_batches

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dbt_onnx.artifacts.registry import RegistryEntry
    from dbt_onnx.kernel.session import Scorer


class Candidate(NamedTuple):
    """A version with an intact file, ready to score in a child process."""

    artifact: Artifact
    session: Scorer

    @classmethod
    def load(cls, artifacts: Path, entry: RegistryEntry) -> Candidate:
        """Load a version. Raises ArtifactError or ContractError, like `load_artifact` and `ChildSession`."""
        artifact = load_artifact(artifacts, entry)
        return cls(artifact, artifact.open(in_child_process=True))


class Answers(NamedTuple):
    """The outputs of a version for sampled rows. A row that it rejects is NULL in all `columns`.

    `rejected_reasons` counts the rejected rows by reason. It and `rows` include rows that every version
    rejects, which `columns` do not contain.
    """

    columns: Mapping[str, pa.Array]
    rows: int
    rejected_reasons: Counter[str]

    @classmethod
    def of(
        cls, candidate: Candidate, batches: Sequence[pa.RecordBatch], rejected: Counter[str]
    ) -> Answers:
        """Score the rows. A row on which the model fails is rejected, as in a run.

        `rejected` counts, by reason, further rows that are not in `batches` because every version rejects
        them. Raises ScoringError if the model fails on all rows of `batches`.
        """
        contract = candidate.artifact.contract
        rows = sum(batch.num_rows for batch in batches)
        search = RowSearch(rows=rows, max_rows=rows - 1)
        scored = list(score_batches(batches, candidate.session, contract=contract, search=search))
        columns = {
            field.name: pa.concat_arrays(
                [pa.array([], field.type), *(batch.column(field.name) for batch in scored)]
            )
            for field in contract.output_fields()
        }
        return cls(columns, rows + rejected.total(), count_reasons(scored) + rejected)

    @property
    def rows_scored(self) -> int:
        return self.rows - self.rejected_reasons.total()

    @property
    def rejected(self) -> float:
        """The share of `rows` that is rejected, between 0 and 1."""
        return self.rejected_reasons.total() / self.rows if self.rows else 0.0
