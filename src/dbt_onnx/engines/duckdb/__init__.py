"""DuckDB: how to plan, stream and write there, and how to ask what was written."""
