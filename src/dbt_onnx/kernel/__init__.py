"""Arrow in, Arrow out: from feature batches to prediction batches. Knows no file, no warehouse, no dbt."""
