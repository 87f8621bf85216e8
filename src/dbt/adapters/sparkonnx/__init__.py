"""The adapter `type: sparkonnx`: dbt-spark that can also run Python models in dbt's own process.

dbt-spark can submit Python models to Databricks only. This adapter adds the submission method `session`. See
docs/decisions/spark.md.
"""

from dbt.adapters.base import AdapterPlugin

from dbt.adapters.sparkonnx.impl import SparkOnnxAdapter, SparkOnnxCredentials
from dbt.include import sparkonnx

Plugin = AdapterPlugin(
    adapter=SparkOnnxAdapter,
    credentials=SparkOnnxCredentials,
    include_path=sparkonnx.PACKAGE_PATH,
    dependencies=["spark"],
)
