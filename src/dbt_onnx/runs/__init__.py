"""Scoring runs without SQL: their arguments, plan, progress, replay and health."""
