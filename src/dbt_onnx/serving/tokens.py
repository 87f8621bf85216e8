"""Authentication of the HTTP service: clients send a token, and the service knows the sha256 of each token."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Self

from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MAX_BYTES = 2**20


class Tokens:
    """The accepted tokens, as sha256 hashes."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes = tuple(hashes)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a file with one hexadecimal sha256 per line; `#` begins a comment.

        Raises ConfigError if the file cannot be read, has another line, or has no hash.
        """
        try:
            with path.open("rb") as stream:
                lines = stream.read(_MAX_BYTES).decode().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}", hint="write one sha256 per line into it"
            ) from error
        hashes = []
        for number, line in enumerate(lines, start=1):
            text = line.partition("#")[0].strip().lower()
            # the line is not shown, because it may be a token
            if text and not re.fullmatch(r"[0-9a-f]{64}", text):
                raise ConfigError(
                    f"line {number} of {path} is not a sha256",
                    hint="write the sha256 of the token, 64 hexadecimal digits",
                )
            hashes += [text] if text else []
        if not hashes:
            raise ConfigError(
                f"{path} has no token, so all requests would be rejected",
                hint="write the sha256 of a token into it, 64 hexadecimal digits",
            )
        return cls(hashes)

    def owner(self, authorization: bytes) -> str | None:
        """Return the hash of the token in an `Authorization` header; None if the token is not accepted."""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        given = hashlib.sha256(token.strip()).hexdigest()
        found = None
        # compares with all hashes, so that the time does not reveal which one matches
        for known in self._hashes:
            if hmac.compare_digest(known, given):
                found = known
        return found
