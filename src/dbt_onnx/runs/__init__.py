"""Scoring runs without SQL: what is asked of them, their progress, their replay, their health."""
