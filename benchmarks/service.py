"""`dbt-onnx serve` in a separate process."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Service:
    """A running service with its address and process id."""

    address: str
    pid: int

    def resident_mb(self) -> float:
        """Return the resident memory of the process, in 10^6 bytes."""
        status = Path(f"/proc/{self.pid}/status")
        if status.exists():
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            return int(lines["VmRSS"].split()[0]) * 1024 / 1e6
        command = ["ps", "-o", "rss=", "-p", str(self.pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout) * 1024 / 1e6


@contextmanager
def serving(folder: Path) -> Iterator[Service]:
    """Serve the publications below a folder, until SIGTERM at the end. Raises RuntimeError if it does not start."""
    command = [str(Path(sys.executable).with_name("dbt-onnx")), "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            _, _, address = process.stdout.readline().rstrip().rpartition(" ")
            if not address:
                raise RuntimeError(f"{command} did not start")
            yield Service(address, process.pid)
        finally:
            process.terminate()
