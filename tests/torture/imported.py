"""Imports that all attacks need, preloaded once so that each forked process starts with them."""

import onnxruntime  # noqa: F401
import pandas  # noqa: F401, ICN001, duckdb looks for it
import pytz  # noqa: F401

import dbt_onnx.engines.duckdb.engine
import dbt_onnx.runs.scorer  # noqa: F401
