"""The errors that users see. Each states what is wrong, where, what was found, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

MAX_CHARACTERS = 10_000
"""Maximum length of a message, because a message may list the million classes of a card."""


class DbtOnnxError(Exception):
    """Base of every error that dbt_onnx raises on purpose.

    `message` states what is wrong, where, and what was found; `hint` states what to do.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str) -> None:
        if len(message) > MAX_CHARACTERS:
            message = (
                f"{message[:MAX_CHARACTERS]}... ({len(message) - MAX_CHARACTERS:,} more characters)"
            )
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\nHint: {hint}")


def document_of(error: DbtOnnxError) -> dict[str, Any]:
    """Return an error as JSON types, to send it to another process. `error_of` reads it."""
    return {"error": type(error).__name__, "arguments": vars(error)}


def error_of(document: Mapping[str, Any]) -> DbtOnnxError:
    """Return the error that `document_of` wrote."""
    kind: Callable[..., DbtOnnxError] = globals()[document["error"]]
    return kind(**document["arguments"])


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters: the text, or its beginning and three dots."""
    return text if len(text) <= most else text[: most - 3] + "..."


def format_items(items: Collection[object], *, most: int = 20) -> str:
    """Format items for a message: `[1, 2, 3]`, or the first `most` items and the number of the rest."""
    shown = [f"{item!r:.60}" for item in list(items)[:most]]
    return f"[{', '.join(shown)}{f', ... {len(items) - most:,} more' if len(items) > most else ''}]"


class ConfigError(DbtOnnxError):
    """An argument of `score()`, of a command or of a model's configuration is wrong."""

    kind = "configuration"


class RegistryError(DbtOnnxError):
    """The model registry is not valid, or lacks the requested model, version or alias."""

    kind = "registry"


class ArtifactError(DbtOnnxError):
    """A model file or its card is missing, altered, hostile or unreadable."""

    kind = "artifact"


class ContractError(DbtOnnxError):
    """The model, its card and the feature relation disagree about names, types or shapes."""

    kind = "contract"


class DataError(DbtOnnxError):
    """The rows of the feature relation cannot be scored: duplicate keys, too many rejected, ..."""

    kind = "data"


class WarehouseError(DbtOnnxError):
    """A table of dbt_onnx was altered, its name is taken, or DuckDB or Spark stopped the run."""

    kind = "warehouse"


class NoWarehouseError(WarehouseError):
    """There is no database file: dbt has built nothing yet, or the profile names another place."""


class ServingError(DbtOnnxError):
    """A publication is missing or damaged, cannot be written, or cannot answer the request."""

    kind = "serving"


class InvalidKeyError(ServingError):
    """A requested key does not fit the publication's key columns: text for an integer column, say."""


class FeaturesError(ServingError):
    """The features of a request are not the features that the model reads."""


class NoModelError(ServingError):
    """The publication was published without a model, so it cannot score a request."""


class ScoringError(DbtOnnxError):
    """The model failed on valid input, or its outputs are not what its contract promises."""

    kind = "scoring"


class ModelError(ScoringError):
    """onnxruntime failed on some or all rows of a call. `reason` is onnxruntime's message."""

    def __init__(self, message: str, *, hint: str, reason: str) -> None:
        self.reason = reason
        super().__init__(message, hint=hint)


class ModelCrashError(ModelError):
    """A call killed the process that ran the model. `row` is the row that caused it, None if unknown."""

    def __init__(self, message: str, *, hint: str, reason: str, row: int | None = None) -> None:
        self.row = row
        super().__init__(message, hint=hint, reason=reason)
