"""Attacks on the product, counted: `python -m tests.torture`, or `make torture`."""

import sys
from pathlib import Path

# what the tests share, in this process and in those that it forks
sys.path[:0] = [
    str(Path(__file__).parents[1] / part) for part in ("support", "unit", "functional", "property")
]
