"""Registered model versions: reads and checks their files, cards and registry rows."""
