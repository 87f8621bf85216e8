"""The rows that a run feeds to its model, set aside as they are read: what is kept is what was scored.

Reading the features once more for the kept inputs would give what they are then, not what they were: a
view with now() in it, or over a file that another process replaces, has changed meanwhile.
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


class FedRows:
    """Record batches in a file without a name: in memory while they are few, else beside the warehouse,
    whose disk has to hold them anyway. Nothing is left of it when the process ends, however it does.

    `schema` is none before the first batch.
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
        """The same batches; of each one that goes by, these columns are set aside."""
        for batch in batches:
            part = batch.select(columns)
            if self._writer is None:
                self.schema = part.schema
                self._writer = pa.ipc.new_stream(self._file, part.schema)
            self._writer.write_batch(part)
            yield batch

    def read(self) -> pa.RecordBatchReader:
        """What was set aside, once, after all has gone by."""
        self._writer.close()
        self._file.seek(0)
        return pa.ipc.open_stream(self._file)


def folder_of(reader: Cursor, database: str) -> Path | None:
    """The folder of a database's file; none for one in memory, or elsewhere."""
    found = reader.rows(
        f"select path from duckdb_databases() where database_name = {literal(database)}"
    )
    folder = Path(found[0][0]).parent if found and found[0][0] else None
    return folder if folder is not None and folder.is_dir() else None
