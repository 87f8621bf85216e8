"""DuckLakes with the catalog in a Postgres server, an SQLite file or a DuckDB file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
from duckdb_extensions import import_extension

if TYPE_CHECKING:
    from pathlib import Path

EXTENSIONS = {
    "duckdb": ["ducklake"],
    "sqlite": ["ducklake", "sqlite_scanner"],
    "postgres": ["ducklake", "postgres_scanner"],
}


def install_extensions(folder: Path, names: set[str]) -> None:
    """Install the extensions from their Python packages into this folder, where `load` finds them."""
    with duckdb.connect(config={"extension_directory": str(folder)}) as connection:
        for name in sorted(names):
            import_extension(name, con=connection)


@dataclass(frozen=True)
class Lake:
    """A lake that a target of profiles.yml can attach. `path` is the path of its catalog."""

    kind: str
    path: str
    folder: Path
    extension_directory: Path

    @property
    def profile(self) -> dict[str, Any]:
        """The settings of a target, except `type`."""
        attached = {
            "path": self.path,
            "alias": "lake",
            "options": {"data_path": str(self.folder / "files")},
        }
        return {
            "path": ":memory:",
            "database": "lake",
            # a writer locks the SQLite file, and dbt does not retry its own models
            "threads": 1 if self.kind == "sqlite" else 2,
            "extensions": EXTENSIONS[self.kind],
            "attach": [attached],
            "config_options": {"extension_directory": str(self.extension_directory)},
        }

    def connect(self) -> duckdb.DuckDBPyConnection:
        # up to eight processes share few cores
        config = {"extension_directory": str(self.extension_directory), "threads": "1"}
        connection = duckdb.connect(config=config)
        for name in EXTENSIONS[self.kind]:
            connection.load_extension(name)
        connection.execute(f"attach '{self.path}' as lake (data_path '{self.folder / 'files'}')")
        connection.execute("use lake")
        return connection


def new_lake(kind: str, folder: Path, *, server: str, extension_directory: Path) -> Lake:
    """Create a lake without tables. `server` is the URL of a Postgres server, for a catalog in a new database there."""
    folder.mkdir(parents=True)
    path = f"ducklake:{folder / 'catalog.ducklake'}"
    if kind == "sqlite":
        path = f"ducklake:sqlite:{folder / 'catalog.sqlite'}"
    if kind == "postgres":
        name = f"lake_{abs(hash(folder))}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"create database {name}")
        path = f"ducklake:postgres:{server.replace('/postgres?', f'/{name}?')}"
    lake = Lake(kind, path, folder, extension_directory)
    # create the lake now: if several processes attach a new lake at the same time, all but one fail
    lake.connect().close()
    return lake
