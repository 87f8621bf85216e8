"""DuckDB: how to plan, stream and write there, and how to read what was written."""
