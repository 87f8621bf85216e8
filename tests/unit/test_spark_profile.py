"""Settings that are added to a Spark profile if it leaves them out."""

from dbt_onnx.engines.spark.session import with_iceberg

ZONE = "spark.sql.session.timeZone"
CATALOG = "spark.sql.catalog.spark_catalog"


def test_a_catalog_in_a_hive_metastore_is_added() -> None:
    given = {"spark.master": "local[2,4]", "spark.hadoop.hive.metastore.uris": "thrift://hive:9083"}
    assert with_iceberg(given) == {
        **given,
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        ZONE: "UTC",
        "spark.log.level": "ERROR",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.catalogImplementation": "hive",
        CATALOG: "org.apache.iceberg.spark.SparkSessionCatalog",
        f"{CATALOG}.type": "hive",
        f"{CATALOG}.cache-enabled": "false",
    }


def test_catalogs_that_are_named_stay_as_they_are_and_keep_no_tables() -> None:
    lake, other = "spark.sql.catalog.lake", "spark.sql.catalog.other"
    given = {
        lake: "org.apache.iceberg.spark.SparkCatalog",
        f"{lake}.type": "rest",
        f"{lake}.uri": "https://lake:8181",
        other: "org.apache.iceberg.spark.SparkCatalog",
        f"{other}.cache-enabled": "true",
        "spark.sql.defaultCatalog": "lake",
        ZONE: "Etc/UTC",
        "spark.log.level": "WARN",
    }
    found = with_iceberg(given)
    assert given.items() <= found.items()
    assert found[f"{lake}.cache-enabled"] == "false"
    assert not any(name.startswith(CATALOG) for name in found)
    assert "spark.sql.catalogImplementation" not in found
