"""The error responses of the HTTP service."""

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
_IN_THE_LOG = "the service's log has the reason"


class Refusal(Exception):  # noqa: N818, a response, not a fault of the service
    """An error response of the HTTP service.

    `kind` is for programs, `message` and `hint` for people. `headers` are added to the response. With `close`,
    the connection is closed after the response, and the rest of the request is not read.
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
        """Return the JSON document of the response."""
        return {"error": {"kind": self.kind, "message": self.message, "hint": self.hint}}


def bad_request(kind: str, message: str, *, hint: str) -> Refusal:
    """Return the response to a request that is not valid."""
    return Refusal(HTTPStatus.BAD_REQUEST, kind, message, hint=hint)


def unavailable(message: str) -> Refusal:
    """Return the response for a fault of the service. The reason must be in the log already."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", message, hint=_IN_THE_LOG)


def failed() -> Refusal:
    """Return the response for an unexpected failure of the service."""
    return Refusal(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal",
        "the request could not be answered",
        hint=_IN_THE_LOG,
    )


def not_scored(name: str, error: DbtOnnxError) -> Refusal:
    """Return the response for a row that could not be scored. Details that the client should not see are logged."""
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
            "the model failed on this row",
            hint=_IN_THE_LOG,
        )
    return unavailable(f"{name!r} cannot score now")
