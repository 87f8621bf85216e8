"""`python -m benchmarks.task MODULE FUNCTION JSON`: run one task and print one line of JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
from importlib import import_module
from pathlib import Path


def main(module: str, function: str, arguments: str) -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # dbt's output must not mix with the answer
    result = getattr(import_module(module), function)(**json.loads(arguments)) or {}
    with os.fdopen(answer, "w") as stream:
        stream.write(json.dumps({**result, "peak_mb": peak_mb()}) + "\n")


def peak_mb() -> float:
    """Return the peak resident memory of this process, in 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # not ru_maxrss: it starts at the value of the parent process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
