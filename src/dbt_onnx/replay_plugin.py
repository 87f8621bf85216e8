"""A dbt-duckdb plugin with the SQL function that the generic test `predictions_replay` calls.

The test needs a plugin because SQL alone cannot run a model. In profiles.yml, under the target:

    plugins:
      - module: dbt_onnx.replay_plugin
"""

from __future__ import annotations

import json
import weakref
from typing import TYPE_CHECKING

from dbt.adapters.duckdb.plugins import BasePlugin

from dbt_onnx.engines.duckdb.warehouse import DuckDBWarehouse
from dbt_onnx.project.dbt_model import project_folder
from dbt_onnx.project.replay_check import replay_sample

if TYPE_CHECKING:
    import duckdb


class Plugin(BasePlugin):
    """Registers `dbt_onnx_replay(VARCHAR) -> VARCHAR`; dbt-duckdb looks for this name."""

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Register the SQL function, once for the database."""
        # a weak reference: the connection owns the function, and a reference cycle would keep both alive
        reference = weakref.ref(conn)

        def dbt_onnx_replay(request: str) -> str:
            connection = reference()
            assert connection is not None
            found = replay_sample(
                DuckDBWarehouse(connection),
                json.loads(request),
                artifacts=project_folder() / "artifacts",
            )
            return json.dumps(found)

        # declared with side effects, so that DuckDB calls it every time and never reuses a result
        conn.create_function("dbt_onnx_replay", dbt_onnx_replay, side_effects=True)
