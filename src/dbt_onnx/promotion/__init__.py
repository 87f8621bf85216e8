"""Promotion and rollback of versions: the gate, and the change of the registry."""
