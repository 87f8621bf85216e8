"""What `published` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.cli.show.console import open_console, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.serving.manifest import Publications


def show_publications(found: Sequence[Publications]) -> None:
    """Print one row per publication that is still stored, newest first."""
    header = ("name", "served", "publication", "clock", "rows", "changed", "removed", "from", "run")
    rows = [
        (
            publications.name,
            "now" if manifest.id == publications.current else "",
            manifest.id,
            f"{manifest.clock:%Y-%m-%d %H:%M:%S}",
            f"{manifest.rows:,}",
            f"{manifest.rows_changed:,}",
            f"{manifest.rows_removed:,}",
            ", ".join(_share(row) for row in manifest.served),
            manifest.run_id[:8],
        )
        for publications in found
        for manifest in reversed(publications.publications)
    ]
    open_console().print(table("publications", header, rows))


def _share(row: Mapping[str, Any]) -> str:
    """Return a version, or another source, with its number of rows: `churn/2 23,570` or `missing 12`."""
    version = f"{row['model_name']}/{row['model_version']}" if row.get("model_name") else None
    return f"{version or row.get('served_from')} {row['rows']:,}"
