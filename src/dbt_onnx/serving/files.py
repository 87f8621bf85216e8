"""Publications as files. A folder has one SQLite file per publication, and publications.json, which records the
served one. Each SQLite file has two tables and a view:

rows           the key, the outputs, `as_of`, and the number of the row's origin
origins        the columns that many rows have in common: run, version, times
predictions    a view that joins both tables: one row per key
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.card import CARD_NAME, replace_file
from dbt_onnx.errors import DataError, ServingError
from dbt_onnx.serving.disk import sync_folder
from dbt_onnx.serving.file_source import ORIGIN, check_file, quote
from dbt_onnx.serving.manifest import (
    MODELS,
    POINTER,
    Publications,
    file_name,
    read_publications,
)
from dbt_onnx.serving.stored import stored_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dbt_onnx.engines.base import RowsToPublish
    from dbt_onnx.serving.manifest import Manifest

_PARTIAL = ".partial"


class Files:
    """The `Target` for the publications of one name in a folder, such as "serving/churn"."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def publications(self) -> Publications | None:
        """Read publications.json; None before the first publication. Raises ServingError if it cannot be read."""
        return read_publications(self.folder) if (self.folder / POINTER).exists() else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder, so that no other process publishes into it or unpublishes. Raises ServingError if another
        process has the lock.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise ServingError(
                f"another process is publishing into {self.folder}",
                hint="wait until it ends, and publish again",
            ) from error
        finally:
            os.close(descriptor)

    def can_build_on(self, manifest: Manifest) -> bool:
        """Return whether the file of an earlier publication is undamaged."""
        with suppress(OSError, ValueError):
            check_file(self.folder / manifest.file_name, manifest)
            return True
        return False

    def copy_model(self, model_bytes: bytes, card: bytes) -> str:
        """Copy a model and its card into the folder. Return the model's path below the folder `models`."""
        name = hashlib.sha256(model_bytes + card).hexdigest()[:32]
        folder = self.folder / MODELS / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / CARD_NAME, card)
            replace_file(folder / "model.onnx", model_bytes)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return f"{name}/model.onnx"

    def write(
        self, publication: str, rows: RowsToPublish, *, base: Manifest | None
    ) -> tuple[int, str]:
        """Write the file of a publication: a copy of `base` with the changed rows, or all rows without `base`.

        Return its size in bytes and its sha256. Nobody reads the file before `switch`.
        """
        name = file_name(publication)
        partial = self.folder / (name + _PARTIAL)
        try:
            if base is not None:
                shutil.copyfile(self.folder / base.file_name, partial)
            with closing(sqlite3.connect(partial, isolation_level=None)) as connection:
                _fill(connection, rows, is_new=base is None)
            with partial.open("rb+") as stream:
                os.fsync(stream.fileno())
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            partial.chmod(0o444)
            size = partial.stat().st_size
            partial.replace(self.folder / name)
        except sqlite3.IntegrityError as error:
            raise not_unique(rows) from error
        except (OSError, sqlite3.Error) as error:
            raise _unwritable(self.folder, error) from error
        finally:
            # a half-written file would waste space, and the disk may be full
            with suppress(OSError):
                partial.unlink()
        return size, digest

    def switch(self, publications: Publications) -> None:
        """Switch readers to these publications atomically, and remove the files of all others."""
        try:
            sync_folder(self.folder)
            replace_file(self.folder / POINTER, publications.content())
            sync_folder(self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._clear()

    def _clear(self) -> None:
        """Remove the files of publications that are no longer kept, and of publishers that died."""
        found = self.publications()
        kept = {manifest.file_name for manifest in found.publications} if found else set()
        for path in (*self.folder.glob("*.sqlite*"), *self.folder.glob(f".{POINTER}.*")):
            if path.name not in kept:
                with suppress(OSError):
                    path.unlink()
        models = {
            manifest.model.artifact.partition("/")[0]
            for manifest in (found.publications if found else ())
            if manifest.model
        }
        for path in (self.folder / MODELS).glob("*"):
            if path.name not in models:
                shutil.rmtree(path, ignore_errors=True)


def _fill(connection: sqlite3.Connection, rows: RowsToPublish, *, is_new: bool) -> None:
    # no journal and no syncs: nobody reads the file yet, and an unfinished one is deleted
    connection.execute("pragma journal_mode = off")
    connection.execute("pragma synchronous = off")
    connection.execute("pragma locking_mode = exclusive")
    connection.execute("pragma cache_size = -65536")
    if is_new:
        connection.execute("pragma page_size = 8192")
        _create(connection, rows)
    connection.execute("begin")
    kinds = {**rows.key, **rows.outputs, **rows.stamps}
    columns = [*rows.key, *rows.outputs, *(n for n in rows.stamps if n not in rows.of_origin)]
    where = " and ".join(f"{quote(name)} = ?" for name in rows.key)
    if rows.rows_removed:
        for batch in rows.removed():
            connection.executemany(
                f"delete from rows where {where}", stored_rows(batch, [kinds[n] for n in rows.key])
            )
    verb = "insert" if is_new else "insert or replace"
    places = ", ".join("?" * (len(columns) + 1))
    for batch in rows.changed():
        connection.executemany(
            f"{verb} into rows values ({places})",
            stored_rows(batch, [*(kinds[n] for n in columns), "integer"]),
        )
    connection.execute("delete from origins")
    connection.executemany(
        f"insert into origins values ({', '.join('?' * (len(rows.of_origin) + 1))})", rows.origins()
    )
    connection.execute("commit")
    [(written,)] = connection.execute("select count(*) from rows").fetchall()
    if written != rows.rows:
        raise not_unique(rows, written=written)


def _create(connection: sqlite3.Connection, rows: RowsToPublish) -> None:
    of_row = [*rows.outputs, *(name for name in rows.stamps if name not in rows.of_origin)]
    if list(rows.key.values()) == ["integer"]:
        # the fastest lookup in SQLite: the key is the rowid
        [name] = rows.key
        key, layout = f"{quote(name)} integer primary key", ""
    else:
        names = [quote(name) for name in rows.key]
        key = f"{', '.join(f'{name} not null' for name in names)}"
        layout = "without rowid"
        of_row_and_key = f", primary key ({', '.join(names)})"
    columns = "".join(f", {quote(name)}" for name in of_row)
    primary = of_row_and_key if layout else ""
    connection.execute(f"create table rows ({key}{columns}, {ORIGIN} integer{primary}) {layout}")
    stamps = "".join(f", {quote(name)}" for name in rows.of_origin)
    connection.execute(f"create table origins ({ORIGIN} integer primary key{stamps})")
    listed = [*(f"r.{quote(name)}" for name in (*rows.key, *of_row))]
    listed += [f"o.{quote(name)}" for name in rows.of_origin]
    connection.execute(
        f"create view predictions as select {', '.join(listed)} "
        f"from rows as r left join origins as o using ({ORIGIN})"
    )


def not_unique(rows: RowsToPublish, *, written: int | None = None) -> DataError:
    """Return the error for a key that several rows share. `written` is the number of distinct keys, if known."""
    found = "" if written is None else f": {rows.rows:,} rows have {written:,} keys"
    return DataError(
        f"the key {list(rows.key)} is not unique in {rows.relation}{found}; nothing is published",
        hint="publish a relation with one row per key, such as a view of `current_predictions`",
    )


def _unwritable(folder: Path, error: Any) -> ServingError:
    reason = getattr(error, "strerror", None) or error
    return ServingError(
        f"{folder} cannot be written: {reason}; the previous publication is still served",
        hint="check that the user who runs dbt may write there, and that the disk has free space",
    )
