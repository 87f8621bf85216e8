"""Turns Arrow batches of features into Arrow batches of predictions. Knows no file, no warehouse, no dbt."""
