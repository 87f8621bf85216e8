"""Turns Arrow batches of features into Arrow batches of predictions, without files, a warehouse or dbt."""
