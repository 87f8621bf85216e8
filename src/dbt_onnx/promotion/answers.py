"""What a version answers for given rows. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.row_search import RowSearch
from dbt_onnx.kernel.scoring import score_batches
from dbt_onnx.kernel.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.artifacts.registry import RegistryEntry


@dataclass(frozen=True)
class Candidate:
    """A version whose file is intact, ready to score in a child process."""

    artifact: Artifact
    session: ChildSession

    @property
    def name(self) -> str:
        return f"{self.artifact.model_name}/{self.artifact.model_version}"

    @classmethod
    def load(cls, artifacts: Path, entry: RegistryEntry) -> Candidate:
        """Load a version. Raises ArtifactError or ContractError, as `load_artifact` and `ChildSession`."""
        artifact = load_artifact(artifacts, entry)
        session = ChildSession(
            artifact.scoring_bytes,
            output_names=[output.name for output in artifact.contract.outputs],
            batch_rows=artifact.signature.batch_rows,
        )
        return cls(artifact, session)


@dataclass(frozen=True)
class Answers:
    """What a version answers for the sampled rows; NULL for a row that it rejects."""

    columns: Mapping[str, pa.Array]
    tally: Tally

    @classmethod
    def of(cls, candidate: Candidate, batches: Sequence[pa.RecordBatch]) -> Answers:
        """Score the rows. A row on which the model fails is rejected, as in a run.

        Raises ScoringError when it fails on all of them.
        """
        contract, tally = candidate.artifact.contract, Tally()
        rows = sum(batch.num_rows for batch in batches)
        scored = list(
            score_batches(
                batches, candidate.session, contract=contract, tally=tally,
                search=RowSearch(rows=rows, max_rows=rows - 1),
            )
        )  # fmt: skip
        columns = {
            field.name: pa.concat_arrays(
                [pa.array([], field.type), *(batch.column(field.name) for batch in scored)]
            )
            for field in contract.output_fields()
        }
        return cls(columns, tally)

    @property
    def rows(self) -> int:
        return self.tally.scored + self.tally.rejected

    @property
    def rejected(self) -> float:
        return self.tally.rejected / self.rows if self.rows else 0.0
