"""Counted attacks on the product: `python -m tests.torture`, or `make torture`."""

import sys
from pathlib import Path

# modules that other tests share, importable in this process and in the processes it forks
sys.path[:0] = [
    str(Path(__file__).parents[1] / part) for part in ("support", "unit", "functional", "property")
]
