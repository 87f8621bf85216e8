"""Spark with Iceberg tables as an engine."""
