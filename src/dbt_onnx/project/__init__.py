"""What knows dbt: the scoring model's entry, and the project as commands see it."""
