"""The rows that a run feeds to its model, set aside while they are read, to be kept afterwards.

A second reading of the features could give other values than the scored ones: for example from a view that
uses now(), or a view of a file that another process replaces.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from dbt_onnx.engines.duckdb.identifiers import literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbt_onnx.engines.duckdb.cursor import Cursor

_BYTES_IN_MEMORY = 16 * 2**20


class InputSpool:
    """Record batches in a temporary file: in memory while it is small, then in the warehouse's folder.

    The warehouse's disk needs room for these rows anyway. The file has no name, so nothing is left of it
    however the process ends. `schema` is None before the first batch.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file: Any = tempfile.SpooledTemporaryFile(  # noqa: SIM115, closed by __exit__
            max_size=_BYTES_IN_MEMORY, dir=None if folder is None else str(folder)
        )
        self._writer: Any = None
        self.schema: pa.Schema | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def passing(self, batches: Any, *, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield the batches unchanged, and set the `columns` of each batch aside."""
        for batch in batches:
            part = batch.select(columns)
            if self._writer is None:
                self.schema = part.schema
                self._writer = pa.ipc.new_stream(self._file, part.schema)
            self._writer.write_batch(part)
            yield batch

    def read(self) -> pa.RecordBatchReader:
        """Return the batches that were set aside. Call it once, after the last batch."""
        self._writer.close()
        self._file.seek(0)
        return pa.ipc.open_stream(self._file)


def folder_of(reader: Cursor, database: str) -> Path | None:
    """Return the folder of a database's file; None if the database is not a local file."""
    found = reader.rows(
        f"select path from duckdb_databases() where database_name = {literal(database)}"
    )
    folder = Path(found[0][0]).parent if found and found[0][0] else None
    return folder if folder is not None and folder.is_dir() else None
