"""Fixtures for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from warehouse import Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the commands' cache out of the cache folder of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(params=["duckdb"])
def new_warehouse(request: pytest.FixtureRequest) -> type[Warehouse]:
    """Return the class that makes a warehouse of the engine under test in a folder. Tests that use
    it touch the engine only through `Warehouse`, so that a second engine can run the same tests.
    """
    return {"duckdb": Warehouse}[request.param]
