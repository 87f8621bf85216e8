"""Who may ask the HTTP service: whoever has a token of which the service knows the sha256."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Self

from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MOST_BYTES = 2**20


class Tokens:
    """The tokens that are accepted, known by their sha256."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes = tuple(hashes)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """One sha256 in hexadecimal a line; `#` begins a comment. Raises ConfigError."""
        try:
            with path.open("rb") as stream:
                lines = stream.read(_MOST_BYTES).decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}", hint="write one sha256 a line into it"
            ) from error
        hashes = []
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip().lower()
            # what stands there may be a token: it is not shown
            if text and not re.fullmatch(r"[0-9a-f]{64}", text):
                raise ConfigError(
                    f"line {number} of {path} is no sha256",
                    hint="write the sha256 of the token, 64 hexadecimal digits",
                )
            hashes += [text] if text else []
        if not hashes:
            raise ConfigError(
                f"{path} has no token: nobody could ask",
                hint="write the sha256 of a token into it, 64 hexadecimal digits",
            )
        return cls(hashes)

    def owner(self, authorization: bytes) -> str | None:
        """The hash of the token in an `Authorization` header; none when it is not accepted."""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        given = hashlib.sha256(token.strip()).hexdigest()
        found = None
        # all of them, so that the time says nothing about which was close
        for known in self._hashes:
            if hmac.compare_digest(known, given):
                found = known
        return found
