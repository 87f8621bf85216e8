"""Answers that a service gave on request, as a run finds them in the service's logs. No SQL.

A log is a folder of segments: files that only grow. Each line is one answer, a JSON document that also
contains the hashes of the model's files, the features and their types.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from dbt_onnx.artifacts.registry import ModelVersion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REAL_TIME = "real_time"
"""The `score_reason` of an answer's row in the ledger, and the `scope` of its run."""

NOT_AN_ANSWER = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The errors that `Answered.from_document` raises for a document that is not an answer."""


class AnswerLogs(Protocol):
    """The logs of a project's publications, by the name of the publication. Both methods raise OSError, and
    ConfigError if the place of the logs is not configured.
    """

    def segments(self, publication: str) -> Mapping[str, int]:
        """Return the names of the segments, oldest first, with their current sizes in bytes."""

    def read(
        self, publication: str, segment: str, *, start: int
    ) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        """Yield the complete lines from the byte `start` on, as (byte at which the next line begins, document).
        The document of a damaged line is None.
        """


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """What gave an answer: a model version and its hashes, the types of the columns that it read, and the
    settings of its session.
    """

    model: ModelVersion
    sha256: str
    card_sha256: str
    feature_types: tuple[tuple[str, str], ...]
    onnxruntime_version: str
    provider: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer. Features and outputs are JSON values, see `dbt_onnx.kernel.json_values`. Key values are
    text, and `key_kinds` has the kinds of the key columns.
    """

    by: Answerer
    at: datetime
    key: Mapping[str, str]
    key_kinds: Mapping[str, str]
    features: Mapping[str, Any]
    outputs: Mapping[str, Any]
    rejected_reason: str | None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Answered:
        """Build from a line of a log. Raises one of NOT_AN_ANSWER if the document is not an answer."""
        kinds = {str(name): str(kind) for name, kind in document["key_kinds"].items()}
        rejected_reason = document["rejected_reason"]
        return cls(
            by=Answerer(
                model=ModelVersion(str(document["model_name"]), str(document["model_version"])),
                sha256=str(document["sha256"]),
                card_sha256=str(document["card_sha256"]),
                feature_types=tuple(
                    (str(name), str(kind)) for name, kind in document["feature_types"].items()
                ),
                onnxruntime_version=str(document["onnxruntime_version"]),
                provider=str(document["provider"]),
                threads=int(document["threads"]),
            ),
            at=datetime.fromisoformat(document["scored_at"]).replace(tzinfo=None),
            key=dict(zip(kinds, map(_text, document["key"]), strict=True)),
            key_kinds=kinds,
            features=dict(document["features"]),
            outputs=dict(document["outputs"]),
            rejected_reason=None if rejected_reason is None else str(rejected_reason),
        )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise TypeError("a key is a text, a number, true or false")
    return str(value)
