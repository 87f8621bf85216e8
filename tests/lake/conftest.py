"""One Postgres server for all tests, and a new lake for each test that needs one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalogs import EXTENSIONS, Lake, install_extensions, new_lake
from servers import postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the commands' cache out of the cache folder of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def extension_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        install_extensions(Path(folder), {name for names in EXTENSIONS.values() for name in names})
        yield Path(folder)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a Postgres server."""
    with postgres() as url:
        yield url


@pytest.fixture
def lake_in(tmp_path: Path, server: str, extension_directory: Path) -> Callable[[str], Lake]:
    """Return a function that creates a new lake with its catalog in `postgres`, `sqlite` or `duckdb`."""

    def make(kind: str) -> Lake:
        return new_lake(
            kind, tmp_path / "lake", server=server, extension_directory=extension_directory
        )

    return make
