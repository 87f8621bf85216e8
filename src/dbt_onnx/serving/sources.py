"""Opens the place of publications for reading: a folder, Postgres or Redis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dbt_onnx.errors import ConfigError
from dbt_onnx.serving.file_source import FileSource
from dbt_onnx.serving.manifest import is_publication_name
from dbt_onnx.serving.places import POSTGRES, not_installed, shown, system_of

if TYPE_CHECKING:
    from dbt_onnx.serving.places import Source


def open_source(place: str | Path, name: str | None) -> Source:
    """Open the publications called `name` in a folder or at a URL. Without a name, `place` must be the folder of
    one name. Raises ConfigError if the place or the name is not valid, or if a package is not installed.
    """
    system = system_of(str(place))
    if name is not None and not is_publication_name(name):
        raise ConfigError(
            f"a publication cannot be called {name!r:.80}: a name has letters, digits, '-' and '_' only",
            hint="give the `name` argument of publish()",
        )
    if system is None:
        return FileSource(Path(place) if name is None else Path(place) / name)
    if name is None:
        raise ConfigError(
            f"{shown(str(place))} can have publications of several names",
            hint='give the name: Predictions.open(url, name="churn")',
        )
    try:
        if system == POSTGRES:
            from dbt_onnx.serving.postgres_source import PostgresSource

            return PostgresSource(str(place), name)
        from dbt_onnx.serving.redis_source import RedisSource

        return RedisSource(str(place), name)
    except ImportError as error:
        raise not_installed(system) from error
