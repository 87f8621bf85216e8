"""Everything that imports dbt: the entry point of scoring models, and the project for commands."""
