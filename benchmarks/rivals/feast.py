"""Feast's feature server on its SQLite online store, with the rows of a publication.

Feast stores and returns only the output, without age, version, run and status, which a publication has.
It runs with its fastest settings: no access log, a registry that is read once, workers that are not replaced
after a thousand requests, and the feature by name, which needs no lookup in the registry.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.load import KEY, RequestTemplate
from benchmarks.rivals import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "0.67.0"
_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "feast_requirements.txt"
_MAX_SECONDS_TO_BEGIN = 120.0


def fill(folder: Path, publication: Path) -> None:
    """Make a feature store in a folder with the key and the output of each row of a publication."""
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(f"{publication.absolute().as_uri()}?mode=ro", uri=True)) as rows:
        ids, scores = zip(*rows.execute("select id, score from predictions"), strict=True)
    moments = pa.array([datetime.now(UTC)] * len(ids), pa.timestamp("us", "UTC"))
    columns = [pa.array(ids, pa.int64()), pa.array(scores, pa.float32()), moments]
    table = pa.Table.from_arrays(columns, names=["id", "score", "event_timestamp"])
    pq.write_table(table, folder / "rows.parquet")
    # -P: otherwise `import feast` would find this folder's feast.py instead of the package
    script = [str(_python()), "-P", str(_HERE / "feast_store.py")]
    environment.run(*script, str(folder), str(folder / "rows.parquet"))


@contextmanager
def serving(folder: Path, *, workers: int) -> Iterator[str]:
    """Serve a feature store and yield its address. Raises RuntimeError if the server does not start."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        str(_python().with_name("feast")), "--chdir", str(folder), "serve",
        "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), "--no-access-log",
        "--max-requests", "0", "--registry_ttl_sec", "86400",
    ]  # fmt: skip
    settings = {**os.environ, "FEAST_USAGE": "False"}
    settings.pop("PYTHONPATH", None)
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=settings, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(address, process, log=Path(log.name))
            yield address
        finally:
            process.terminate()
            process.wait()


def request_template(keys: int) -> RequestTemplate:
    """Return the request for the output of one entity."""
    body = f'{{"features":["scores:score"],"entities":{{"id":[{KEY}]}}}}'
    return RequestTemplate(path="/get-online-features", body=body, keys=keys)


def _wait_for(address: str, process: subprocess.Popen[bytes], *, log: Path) -> None:
    until = time.monotonic() + _MAX_SECONDS_TO_BEGIN
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"Feast's server did not start:\n{log.read_text()[-4000:]}")


def _python() -> Path:
    return environment.python_with(_REQUIREMENTS)
