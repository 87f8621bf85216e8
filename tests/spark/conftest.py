"""One Spark session for all tests, because a session takes longer to start than most tests to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from local_spark import metastore, open_session, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the commands' cache out of the cache folder of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def parameters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The `server_side_parameters` of a profile."""
    folder = tmp_path_factory.mktemp("hive") / "metastore"
    with metastore(folder) as address:
        yield settings(address, folder)


@pytest.fixture(scope="session")
def spark(parameters: dict[str, str]) -> Iterator[SparkSession]:
    session = open_session(parameters)
    yield session
    session.stop()
