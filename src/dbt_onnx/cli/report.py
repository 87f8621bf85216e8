"""`dbt-onnx report`: one HTML page about the predictions."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dbt_onnx.cli import options
from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    with _replaced(out) as part:
        facts = gather(project, model, stale_after=stale_after)
        content = page_of(facts).encode()
        part.write_bytes(content)
    print_text(
        f"{out}: {facts.health.status}, {len(facts.models)} scoring model(s), {len(content):,} bytes"
    )


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` that replaces it at the end. Raises ConfigError at once if it cannot be written."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.touch()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}",
            hint="create its folder, or name another file with --out",
        ) from error
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
