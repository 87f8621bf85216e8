"""The DuckDB configuration of the tests: the defaults, a hardened warehouse with `DBT_ONNX_TEST_HARDENED=1`,
or with `DBT_ONNX_TEST_SETTINGS=1` a warehouse in which all listed settings differ from DuckDB's defaults.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import duckdb

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VARIABLE = "DBT_ONNX_TEST_HARDENED"
HARDENED = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "lock_configuration": "true",
}
SETTINGS_VARIABLE = "DBT_ONNX_TEST_SETTINGS"
SETTINGS = {
    "arrow_large_buffer_size": "true",
    "arrow_output_list_view": "true",
    "default_collation": "nocase.noaccent",
    "default_null_order": "nulls_first",
    "default_order": "desc",
    "ieee_floating_point_ops": "false",
    "immediate_transaction_mode": "true",
    "integer_division": "true",
    "order_by_non_integer_literal": "true",
    "preserve_identifier_case": "lowercase",
    "preserve_insertion_order": "false",
    "scalar_subquery_error_on_multiple_rows": "false",
    "threads": "1",
}
SESSION = {"TimeZone": "Pacific/Kiritimati"}
"""Settings that cannot be passed when a warehouse is opened. The calendar is not among them, because the tests' own
tables would be in other years; see `test_session_settings.py`."""

HAS_OTHER_SETTINGS = bool(os.environ.get(SETTINGS_VARIABLE))
IS_HARDENED = bool(os.environ.get(VARIABLE))
CONFIG: dict[str, Any] = {
    **(HARDENED if IS_HARDENED else {}),
    **(SETTINGS if HAS_OTHER_SETTINGS else {}),
}
"""The configuration of each connection. DuckDB refuses two connections to a file with different configurations."""

UNLOCKED = {name: value for name, value in CONFIG.items() if name != "lock_configuration"}
"""`CONFIG` without the lock, for a test that changes settings."""


def config_of(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration for a target of profiles.yml. If the target has `settings`, the configuration is
    unlocked: dbt executes them as statements on each connection, which a locked configuration refuses.
    """
    return UNLOCKED if "settings" in profile else CONFIG


def settings_of(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `settings` of a target. The target's own settings override those of the tests."""
    return {**(SESSION if HAS_OTHER_SETTINGS else {}), **profile.get("settings", {})}


def connect(path: Path, config: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
    """Open a connection as dbt would."""
    return with_settings(duckdb.connect(str(path), config=dict(config)))


def with_settings(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Set the tests' settings on a connection or a cursor. A cursor does not inherit them from its connection."""
    for name, value in settings_of({}).items():
        connection.execute(f"set {name} = '{value}'")
    return connection


def with_own_order(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Reset the default sort order, for a test's own queries, in which ORDER BY has no direction."""
    # a hardened warehouse refuses SET
    if HAS_OTHER_SETTINGS:
        connection.execute("set session default_order = 'asc'")
        connection.execute("set session default_null_order = 'nulls_last'")
    return connection
