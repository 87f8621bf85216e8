"""dbt-spark, able to run Python models where dbt runs: `type: sparkonnx` in profiles.yml.

dbt-spark has submission methods for Databricks only. This adapter is dbt-spark with one more, `session`. See
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
