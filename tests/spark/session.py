"""A Spark session with Iceberg tables and views in a metastore, from PyPI alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import snowpark_connect_deps_iceberg
from metastore import JAVA_HOME

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_JARS = Path(snowpark_connect_deps_iceberg.__file__).parent / "jars"
_SCALA = "2.12"


def settings(metastore: str, folder: Path, *, master: str = "local[2,4]") -> dict[str, str]:
    """What a profile has under `server_side_parameters`."""
    return {
        "spark.master": master,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "2g",
        # few rows: Java would spend most of the time on making code faster that runs once
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.catalogImplementation": "hive",
        "spark.sql.warehouse.dir": f"file:{folder}/warehouse",
        "spark.hadoop.hive.metastore.uris": metastore,
        "spark.jars": ",".join(str(jar) for jar in sorted(_JARS.glob(f"iceberg-*_{_SCALA}-*.jar"))),
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.spark_catalog": "org.apache.iceberg.spark.SparkSessionCatalog",
        "spark.sql.catalog.spark_catalog.type": "hive",
        "spark.sql.catalog.spark_catalog.cache-enabled": "false",
    }


def open_session(parameters: dict[str, str]) -> SparkSession:
    from pyspark.sql import SparkSession

    os.environ |= {"JAVA_HOME": JAVA_HOME, "PYSPARK_PYTHON": sys.executable}
    builder = SparkSession.builder
    for name, value in parameters.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()
