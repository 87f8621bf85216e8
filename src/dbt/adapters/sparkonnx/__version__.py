"""dbt looks here for the version of an adapter."""

from dbt_onnx.version import __version__ as version

__all__ = ["version"]
