"""What the HTTP service says when it does not do what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http import HTTPStatus


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
