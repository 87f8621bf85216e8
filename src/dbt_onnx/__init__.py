"""Score a warehouse table with an ONNX model on every dbt run.

Three names are public: `score` and `publish`, for dbt Python models, and `export`, for models trained
with scikit-learn. Each is loaded on first use: dbt imports every installed `dbt_*` module when it
starts, so importing this one must be fast.
"""

import os
from typing import TYPE_CHECKING, Any

from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from dbt_onnx.authoring.export import export
    from dbt_onnx.project.dbt_model import score
    from dbt_onnx.serving.publish import publish

# onnxruntime 1.29 and later sends names of model files and graphs, hashes and counts to Microsoft,
# unless this variable is set before onnxruntime is imported; set it to 0 to allow the telemetry
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["__version__", "export", "publish", "score"]


def __getattr__(name: str) -> Any:
    if name == "score":
        from dbt_onnx.project.dbt_model import score

        return score
    if name == "export":
        from dbt_onnx.authoring.export import export

        return export
    if name == "publish":
        from dbt_onnx.serving.publish import publish

        return publish
    raise AttributeError(f"module 'dbt_onnx' has no attribute {name!r}")
