"""The only module that runs onnxruntime: loads a model from bytes and computes its outputs, on the CPU."""

from __future__ import annotations

import os
import re
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import onnxruntime as ort

from dbt_onnx.errors import ArtifactError, ModelError, ScoringError, shortened
from dbt_onnx.kernel.native import MAX_SECONDS, Memory, OverdueError, Threads
from dbt_onnx.kernel.tensors import joined, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dbt_onnx.kernel.tensors import Feeds

PROVIDER = "CPUExecutionProvider"
DEFAULT_BATCH_ROWS = 8_192
_SIZES = (1_024, DEFAULT_BATCH_ROWS, 32_768)
_MAX_RATIO = 0.8
_LONG_CALL_SECONDS = 0.005
_LOG_FATAL_ONLY = 4
_MEMORY_HINT = (
    "the model needs more memory than this machine has left: look at it with `dbt-onnx inspect FILE`; "
    "calls with fewer rows need less memory: lower batch_rows in score()"
)
# the field `domain` of a node whose operator is from onnxruntime-extensions
_TEXT_NODE = b"\x3a\x0fai.onnx.contrib"
# matches the source location in onnxruntime's messages: path:line and the signature of the function
_SOURCE = re.compile(r"\S*/onnxruntime/\S+:\d+ .*?\) (?=[A-Z])")


class Scorer(Protocol):
    """An object that turns input tensors into output tensors, each row independently of the others."""

    def run(self, feeds: Feeds) -> list[Any]:
        """Return the outputs in the order of `contract.outputs`: arrays (rows, ...), or lists of one map per row."""
        ...


class OnnxSession:
    """An onnxruntime session over `model_bytes`, which the caller has verified.

    Several threads may run it at once.

    output_names   the graph's outputs to compute, in this order
    threads        the number of threads that one call uses
    batch_rows     the rows of one call, 1 for a model with a fixed batch of one. If it is None, the
                   session measures on the first rows which number is the fastest, and uses that
    max_seconds    the longest time for one call, and for loading
    on_call        called before each call with its first row and its number of rows

    `workers` is the number of concurrent calls that keeps the cores of this process busy. Neither a
    call nor the loading may take more memory than the machine has left. Raises ArtifactError if
    onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model_bytes: bytes,
        *,
        output_names: Sequence[str],
        threads: int = 1,
        batch_rows: int | None = None,
        max_seconds: float = MAX_SECONDS,
        on_call: Callable[[int, int], None] | None = None,
    ) -> None:
        self._on_call = on_call
        self.onnxruntime_version: str = ort.__version__
        self.provider = PROVIDER
        self.threads = threads
        has_affinity = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        self.workers = max(1, cores // threads)
        self.batch_rows = batch_rows or DEFAULT_BATCH_ROWS
        self.max_seconds = max_seconds
        self._memory = Memory()
        self._native = Threads()
        self._calls_ended = 0
        self._is_calibrated = batch_rows is not None
        self._calibration = threading.Lock()
        self._output_names = list(output_names)
        options = ort.SessionOptions()
        # onnxruntime need not log a failure: it raises an error with the same message
        options.log_severity_level = _LOG_FATAL_ONLY
        # set explicitly, so that the run row can record the number and a replay can use the same
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # a file in onnxruntime's own format would evade the checks of `read_graph`
        options.add_session_config_entry("session.load_model_format", "ONNX")
        if _TEXT_NODE in model_bytes:
            _add_text_operators(options)
        load = partial(ort.InferenceSession, model_bytes, options, providers=[PROVIDER])
        try:
            with self._memory.bounded():
                self._session = self._native.run(
                    load, max_seconds=max_seconds, cancel=lambda: _cancel_loading(options)
                )
        except OverdueError as error:
            raise ArtifactError(
                f"onnxruntime {ort.__version__} did not load the model within {max_seconds:g} s",
                hint="`dbt-onnx inspect FILE` shows what the model needs; a normal model loads "
                "within seconds",
            ) from error
        except Exception as error:  # onnxruntime's errors have no common base class
            raise ArtifactError(
                f"onnxruntime {ort.__version__} cannot load the model: {_one_line(error)}",
                hint=_load_hint(error),
            ) from error

    def run(self, feeds: Feeds, *, rows_per_call: int | None = None) -> list[Any]:
        """Return the outputs for the rows of `feeds`, in calls of `rows_per_call` rows (default: `batch_rows`).

        Raises ModelError with onnxruntime's message if the model fails on these rows, ScoringError
        if a call takes too long or too much memory.
        """
        options = ort.RunOptions()
        options.log_severity_level = _LOG_FATAL_ONLY
        try:
            with self._memory.bounded():
                calls = self._native.run(
                    partial(self._calls, feeds, rows_per_call, options),
                    max_seconds=self.max_seconds,
                    cancel=lambda: setattr(options, "terminate", True),
                    steps=lambda: self._calls_ended,
                )
        except OverdueError as error:
            raise ScoringError(
                f"the model failed on {shapes(feeds)}: a call of at most "
                f"{rows_per_call or self.batch_rows:,} rows did not end within {self.max_seconds:g} s",
                hint="look for an endless loop with `dbt-onnx inspect FILE`; if the model is only slow, "
                "lower batch_rows in score()",
            ) from error
        except Exception as error:  # onnxruntime's errors have no common base class
            reason = _one_line(error)
            message = f"the model failed on {shapes(feeds)}: {reason}"
            if _is_out_of_memory(error):
                raise ScoringError(message, hint=_MEMORY_HINT) from error
            raise ModelError(
                message,
                hint="`dbt-onnx inspect FILE` shows the shapes that the model expects; if the shapes are "
                "right, the model cannot process some of the values",
                reason=reason,
            ) from error
        return [joined([call[i] for call in calls]) for i in range(len(self._output_names))]

    def _calls(self, feeds: Feeds, rows: int | None, options: ort.RunOptions) -> list[list[Any]]:
        if rows is None:
            self._calibrate(feeds, options)
            rows = self.batch_rows
        starts = range(0, rows_of(feeds) or 1, rows)
        return [self._call(feeds, start, rows, options) for start in starts]

    def _call(self, feeds: Feeds, start: int, rows: int, options: ort.RunOptions) -> list[Any]:
        if self._on_call is not None:
            self._on_call(start, rows)
        part = {name: x[start : start + rows] for name, x in feeds.items()}
        outputs = self._session.run(self._output_names, part, options)
        self._calls_ended += 1
        return list(outputs)

    def _calibrate(self, feeds: Feeds, options: ort.RunOptions) -> None:
        """Measure once, as soon as there are enough rows, which number of rows per call is the fastest.

        Small calls stay in the processor's caches; large calls have less overhead per row. The
        default stays unless another size is clearly faster, so that noise does not decide.
        """
        # the other workers wait, so that they do not disturb the measurement
        with self._calibration:
            if self._is_calibrated or rows_of(feeds) < max(_SIZES):
                return
            seconds_per_row = {}
            for size in _SIZES:
                began = time.perf_counter()
                self._call(feeds, 0, size, options)
                taken = time.perf_counter() - began
                seconds_per_row[size] = taken / size
                # larger calls only save overhead, which is negligible for a call this long
                if size >= DEFAULT_BATCH_ROWS and taken > _LONG_CALL_SECONDS:
                    break
            best = min(seconds_per_row, key=seconds_per_row.__getitem__)
            if seconds_per_row[best] < _MAX_RATIO * seconds_per_row[DEFAULT_BATCH_ROWS]:
                self.batch_rows = best
            self._is_calibrated = True


def shapes(feeds: Feeds) -> str:
    """Format the names, types and shapes of tensors for messages, such as `features float32[1000, 3]`."""
    return ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in feeds.items())


def _add_text_operators(options: ort.SessionOptions) -> None:
    """Register the operators of onnxruntime-extensions. Which of them a model may use, `hostile` has checked."""
    try:
        from onnxruntime_extensions import get_library_path
    except ImportError as error:
        raise ArtifactError(
            "the model reads text with operators of onnxruntime-extensions, which is not installed",
            hint="pip install 'dbt-onnx[text]'",
        ) from error
    # always the library of the installed package: neither a model nor its card can name another
    options.register_custom_ops_library(get_library_path())


def _cancel_loading(options: ort.SessionOptions) -> None:
    # onnxruntime 1.21 and later
    if hasattr(options, "set_load_cancellation_flag"):
        options.set_load_cancellation_flag(True)


def _load_hint(error: Exception) -> str:
    if _is_out_of_memory(error):
        return _MEMORY_HINT
    if "Failed to construct locale" in str(error):
        return (
            "the model changes the case of text, which needs the locale en_US on every machine that scores: "
            "train with lowercase=False on text that SQL has made lowercase"
        )
    return (
        "`dbt-onnx inspect FILE` shows what the model needs; export it for an opset that this onnxruntime "
        "knows, or upgrade onnxruntime"
    )


def _is_out_of_memory(error: Exception) -> bool:
    words = ("bad_alloc", "Failed to allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _one_line(error: Exception) -> str:
    text = _SOURCE.sub("", " ".join(str(error).split())) or type(error).__name__
    return shortened(text, 500)
