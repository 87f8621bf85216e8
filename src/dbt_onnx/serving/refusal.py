"""What the HTTP service says when it does not do what was asked."""

from __future__ import annotations

import logging
from http import HTTPStatus

from dbt_onnx.errors import (
    DbtOnnxError,
    FeaturesError,
    InvalidKeyError,
    NoModelError,
    ScoringError,
)

_LOG = logging.getLogger("dbt_onnx")
_IN_THE_LOG = "whoever runs the service finds the reason in its log"


class Refusal(Exception):  # noqa: N818, an answer, not a fault of the service
    """An answer of the HTTP service other than what was asked for.

    `kind` is for programs, `message` and `hint` for people. `headers` go out with the answer. With `close`
    the connection ends: the rest of what the client sends is of no use.
    """

    def __init__(
        self,
        status: HTTPStatus,
        kind: str,
        message: str,
        *,
        hint: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.hint = hint
        self.headers = (*headers, (b"connection", b"close")) if close else headers

    def document(self) -> dict[str, dict[str, str]]:
        """The JSON document that says so."""
        return {"error": {"kind": self.kind, "message": self.message, "hint": self.hint}}


def bad_request(kind: str, message: str, *, hint: str) -> Refusal:
    """The answer for a request that is not one."""
    return Refusal(HTTPStatus.BAD_REQUEST, kind, message, hint=hint)


def unavailable(message: str) -> Refusal:
    """The answer where the service cannot do what it should. The reason is logged by whoever knows it."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message, hint=_IN_THE_LOG)


def failed() -> Refusal:
    """The answer where nobody expected that the service fails."""
    return Refusal(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "the request could not be answered",
        hint=_IN_THE_LOG,
    )


def not_scored(name: str, error: DbtOnnxError) -> Refusal:
    """The answer where a row of a publication could not be scored. What is no business of the client's is
    logged.
    """
    if isinstance(error, InvalidKeyError):
        return bad_request("key", error.message, hint=error.hint)
    if isinstance(error, NoModelError):
        return Refusal(HTTPStatus.NOT_FOUND, "no_model", error.message, hint=error.hint)
    if isinstance(error, FeaturesError):
        return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "features", error.message, hint=error.hint)
    _LOG.error("%s", error.message)
    if isinstance(error, ScoringError):
        return Refusal(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "scoring",
            "the model fails on this row",
            hint=_IN_THE_LOG,
        )
    return unavailable(f"{name!r} cannot score now")
