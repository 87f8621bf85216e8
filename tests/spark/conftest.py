"""One session for all tests: to start it takes longer than most of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from metastore import metastore
from session import open_session, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    folder = tmp_path_factory.mktemp("hive") / "metastore"
    with metastore(folder) as address:
        session = open_session(settings(address, folder))
        yield session
        session.stop()
