"""Whether these tests run on a hardened warehouse: `DBT_ONNX_TEST_HARDENED=1`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "DBT_ONNX_TEST_HARDENED"
HARDENED = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "lock_configuration": "true",
}
CONFIG: dict[str, Any] = HARDENED if os.environ.get(VARIABLE) else {}
"""What a connection is opened with. DuckDB refuses two of a file that differ in it."""


def config_of(profile: Mapping[str, Any]) -> dict[str, Any]:
    """The same, for a target of profiles.yml. Its `settings` are statements of each connection, which
    a locked configuration refuses.
    """
    return {name: value for name, value in CONFIG.items()
            if name != "lock_configuration" or "settings" not in profile}  # fmt: skip
