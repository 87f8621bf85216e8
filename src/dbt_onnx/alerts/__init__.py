"""Alerts: what changed in the health of the scoring models since a receiver was last told."""
