"""The version of the adapter. dbt reads it from this module."""

from dbt_onnx.version import __version__ as version

__all__ = ["version"]
