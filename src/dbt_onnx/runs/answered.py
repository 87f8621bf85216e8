"""What a service has answered in real time, as a run finds it in the service's logs. No SQL.

A log is a folder of segments, which only grow. A line is one answer, a JSON document, and complete in
itself: it says by which bytes, from which features and of which types.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from dbt_onnx.artifacts.registry import ModelVersion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REAL_TIME = "real_time"
"""The reason of such a row in the ledger, and the scope of its run."""

NO_ANSWER = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a document that is no answer raises when it is read."""


class AnswerLogs(Protocol):
    """The logs of a project's publications, by the name of the publication. Both raise OSError, and
    ConfigError when nothing says where they are.
    """

    def segments(self, publication: str) -> Mapping[str, int]:
        """The names of the segments, the oldest first, and how many bytes each has by now."""

    def read(
        self, publication: str, segment: str, *, start: int
    ) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        """The whole lines from a byte on, each with the byte at which the next one begins; none for a line
        that is damaged.
        """


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """What has answered: a version, by its bytes, which read columns of these types, in such a session."""

    model: ModelVersion
    sha256: str
    card_sha256: str
    feature_types: tuple[tuple[str, str], ...]
    onnxruntime_version: str
    provider: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer. Values are those of JSON, see `dbt_onnx.kernel.json_values`; those of the key, by column,
    are texts, with the kinds of the columns.
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
        """Raises one of NO_ANSWER for a document that is none."""
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
