"""The errors that users see: what is wrong, where, what was got, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_CHARACTERS = 10_000
"""Of a message: a card may name a million classes, and a log has lines."""


class DbtOnnxError(Exception):
    """Base of every error that dbt_onnx raises on purpose.

    `message` says what is wrong, where and what was got; `hint` says what to do.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str) -> None:
        if len(message) > MAX_CHARACTERS:
            message = f"{message[:MAX_CHARACTERS]}... ({len(message) - MAX_CHARACTERS:,} more)"
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\nHint: {hint}")


def listed(items: Collection[object], *, most: int = 20) -> str:
    """`[1, 2, 3]`; of many items the first `most`, and how many more there are."""
    shown = [f"{item!r:.60}" for item in list(items)[:most]]
    return f"[{', '.join(shown)}{f', ... {len(items) - most:,} more' if len(items) > most else ''}]"


class ConfigError(DbtOnnxError):
    """An argument of `score()`, of a command or of a model's configuration is wrong."""

    kind = "configuration"


class RegistryError(DbtOnnxError):
    """The model registry is not valid, or does not have what was asked for."""

    kind = "registry"


class ArtifactError(DbtOnnxError):
    """A model file or its card is missing, altered, hostile or unreadable."""

    kind = "artifact"


class ContractError(DbtOnnxError):
    """Model, card and feature relation disagree about names, types or shapes."""

    kind = "contract"


class DataError(DbtOnnxError):
    """The rows of the feature relation cannot be scored: duplicate keys, too many rejected, ..."""

    kind = "data"


class WarehouseError(DbtOnnxError):
    """A table of dbt_onnx was altered or its name is taken, or DuckDB stopped the run."""

    kind = "warehouse"


class ServingError(DbtOnnxError):
    """A publication is missing or damaged, or cannot be asked so."""

    kind = "serving"


class InvalidKeyError(ServingError):
    """What was asked for cannot be a key of the publication: a text where whole numbers are, say."""


class FeaturesError(ServingError):
    """The features of a request are not those that the model reads."""


class NoModelError(ServingError):
    """A publication has no model with it."""


class ScoringError(DbtOnnxError):
    """The model failed on valid input, or gave back something other than it promised."""

    kind = "scoring"


class ModelError(ScoringError):
    """onnxruntime failed on a call, because of some of its rows or all. `said` is its message."""

    def __init__(self, message: str, *, hint: str, said: str) -> None:
        self.said = said
        super().__init__(message, hint=hint)


class ModelCrashError(ModelError):
    """A call killed the process in which the model ran. `row` is the row that did it, if known."""

    def __init__(self, message: str, *, hint: str, said: str, row: int | None = None) -> None:
        self.row = row
        super().__init__(message, hint=hint, said=said)
