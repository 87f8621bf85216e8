"""The engine for DuckDB: planning, streaming and writing there, and reading what was written."""
