"""Everything that imports dbt: the entry of a scoring model, and the project for commands."""
