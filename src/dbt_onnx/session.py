"""The only place that runs onnxruntime: bytes in, outputs out, on the CPU."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnxruntime as ort

from dbt_onnx.errors import ArtifactError, ScoringError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROVIDER = "CPUExecutionProvider"
_NOTHING = 4
# where in onnxruntime's own source a check stands: path:line and the signature of the function
_SOURCE = re.compile(r"\S*/onnxruntime/\S+:\d+ .*?\) (?=[A-Z])")


class Scorer(Protocol):
    """Whatever turns input tensors into output tensors, row by row independent."""

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """Outputs in the order of `contract.outputs`: arrays (rows, ...) or one map per row."""
        ...


class OnnxSession:
    """An onnxruntime session over `model_bytes`, which the caller has verified.

    `output_names` are the graph's outputs to compute, in that order. `threads` is the number of
    threads that one call uses; none means all cores of this process. `row_by_row` runs a model
    whose batch is fixed at one.

    Raises ArtifactError when onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model_bytes: bytes,
        *,
        output_names: Sequence[str],
        threads: int | None = None,
        row_by_row: bool = False,
    ) -> None:
        self.onnxruntime_version: str = ort.__version__
        self.provider = PROVIDER
        self.threads = threads or _usable_cores()
        self.row_by_row = row_by_row
        self._output_names = list(output_names)
        options = ort.SessionOptions()
        # what fails is raised, with the same message
        options.log_severity_level = _NOTHING
        # stated, so that a run can stamp what it used and a replay can pin it
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # onnxruntime's own binary format would pass by the checks made on the ONNX file
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = ort.InferenceSession(model_bytes, options, providers=[PROVIDER])
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ArtifactError(
                f"onnxruntime {ort.__version__} cannot load the model: {_one_line(error)}",
                hint="`dbt-onnx inspect FILE` shows what the model asks for; export it for an "
                "opset that this onnxruntime knows, or upgrade onnxruntime",
            ) from error

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """Run one batch. Raises ScoringError with onnxruntime's message when the model fails."""
        try:
            if self.row_by_row:
                return self._run_row_by_row(feeds)
            return list(self._session.run(self._output_names, dict(feeds)))
        except Exception as error:  # onnxruntime's errors have no base of their own
            shapes = ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in feeds.items())
            raise ScoringError(
                f"the model failed on {shapes}: {_one_line(error)}",
                hint="if the shapes are what the model wants, the values are not; "
                "`dbt-onnx inspect FILE` shows its inputs",
            ) from error

    def _run_row_by_row(self, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        n_rows = len(next(iter(feeds.values())))
        rows = [
            self._session.run(
                self._output_names, {name: x[row : row + 1] for name, x in feeds.items()}
            )
            for row in range(n_rows)
        ]
        return [_joined([row[i] for row in rows]) for i in range(len(self._output_names))]


def _joined(pieces: list[Any]) -> Any:
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate([np.atleast_1d(piece) for piece in pieces])
    return [item for piece in pieces for item in piece]


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_line(error: Exception) -> str:
    text = _SOURCE.sub("", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 500 else text[:497] + "..."
