"""`dbt-onnx report`: one HTML page about the predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dbt_onnx.cli import options
from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path


@options.main.command()
@click.argument("model", required=False)
@click.option(
    "--out", type=options.FILE, default="report.html", help="The file to write; replaced if there."
)
@options.stale_after
@options.project
def report(model: str | None, out: Path, stale_after: timedelta, project: Any) -> None:
    """Write a page about the scoring model MODEL, or about all: health, runs, scores, drift, outcomes.

    The page is one HTML file without scripts. It loads nothing from the network, follows the light
    or dark setting of its reader, and can be printed. Every chart has its figures as a table. The
    warehouse is only read. The exit code is 0 if the page was written, whatever it says.
    """
    from dbt_onnx.cli.show.console import print_text
    from dbt_onnx.reporting.gather import gather
    from dbt_onnx.reporting.page import check_jinja, page_of

    check_jinja()
    if not out.parent.is_dir():
        raise ConfigError(f"the folder {out.parent} does not exist", hint="create it, or name another")
    facts = gather(project, model, stale_after=stale_after)
    content = page_of(facts).encode()
    _write(out, content)
    print_text(f"{out}: {facts.health.status}, {len(facts.models)} scoring model(s), {len(content):,} bytes")


def _write(path: Path, content: bytes) -> None:
    """Replace the file in one step. Raises ConfigError if it cannot be written."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error}", hint="name another file") from error
