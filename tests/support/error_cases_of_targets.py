"""Errors of publications and their targets. test_targets.py provokes them, most of them with a server."""

from __future__ import annotations

TARGETS = (
    "url-scheme",
    "url-unreadable",
    "publication-unnamed",
    "publication-name-malformed",
    "package-not-installed",
    "publication-not-in-folder",
    "publication-not-in-database",
    "publication-gone",
    "publication-key-twice",
    "files-locked",
    "postgres-locked",
    "redis-locked",
    "postgres-unreachable",
    "postgres-refused",
    "postgres-unwritable",
    "postgres-view-in-use",
    "postgres-value",
    "postgres-column-name",
    "postgres-pointer",
    "redis-unreachable",
    "redis-unwritable",
    "redis-lock-lost",
    "redis-pointer",
)
