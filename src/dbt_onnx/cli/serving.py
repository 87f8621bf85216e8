"""`dbt-onnx serve`, `published`, `unpublish`: predictions that are served outside the warehouse."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dbt_onnx.cli import options
from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


def _ticking(moment: datetime) -> Callable[[], datetime]:
    begun = time.monotonic()
    return lambda: moment + timedelta(seconds=time.monotonic() - begun)


@options.main.command()
@click.argument("folder", type=options.FOLDER)
@click.option("--host", default="127.0.0.1", help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    help="The port to listen at; 0 chooses a free one.",
)
@click.option(
    "--tokens",
    "tokens_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Clients that may send requests: a file with the sha256 of a token in each line.",
)
@click.option("--no-auth", is_flag=True, help="Anyone who reaches the address may send requests.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0.01),
    metavar="N",
    help="Most requests per second of one client, or of one token.  [default: no limit]",
)
@click.option(
    "--webhooks",
    "webhooks_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Where to report that a submitted request has ended: a TOML file with addresses and secrets.",
)
@click.option(
    "--max-batch", type=click.IntRange(1), default=1_000, help="Most keys in a batch request."
)
@click.option(
    "--max-body", type=click.IntRange(1), default=2**20, help="Largest request body, in bytes."
)
@click.option(
    "--max-waiting",
    type=click.IntRange(1),
    default=1_000,
    help="Most submitted requests of one publication that have not ended.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=10,
    metavar="SECONDS",
    help="Longest time to receive a request or to send its response.",
)
@click.option(
    "--clock",
    type=options.MOMENT,
    help="Count ages from this moment on, UTC, as if the service had started then.",
)
@click.option("--access-log", is_flag=True, help="Print a line for each request, keys included.")
def serve(
    folder: Path,
    host: str,
    port: int,
    tokens_file: Path | None,
    no_auth: bool,  # noqa: FBT001
    rate: float | None,
    webhooks_file: Path | None,
    max_batch: int,
    max_body: int,
    max_waiting: int,
    timeout: float,
    clock: datetime | None,
    access_log: bool,  # noqa: FBT001
) -> None:
    """Serve the predictions in FOLDER over HTTP, until SIGTERM or Ctrl-C.

    FOLDER has a folder for each publication, as `dbt build` makes it: serving/ with serving/churn/. A
    later publication is served as soon as it is there.

    \b
      GET  /v1/predictions/churn/00042          one entity
      POST /v1/predictions/churn:batch          {"keys": ["00042", "00043"]}
      POST /v1/predictions/churn:score          {"key": "00099", "features": {...}}
      POST /v1/predictions/churn:submit         the same, answered later
      GET  /v1/submissions/churn/ID             its state
      GET  /healthz /readyz /metrics /openapi.json
    """  # noqa: D301, \b tells click to keep these lines as they are
    from dbt_onnx.cli.show.console import print_text
    from dbt_onnx.serving import http_server
    from dbt_onnx.serving.http import application
    from dbt_onnx.serving.limits import Limits
    from dbt_onnx.serving.lookup import utc_now
    from dbt_onnx.serving.tokens import Tokens
    from dbt_onnx.serving.webhooks import read_webhooks

    if tokens_file is not None and no_auth:
        raise ConfigError(
            "--tokens and --no-auth contradict each other", hint="leave one of them out"
        )
    if tokens_file is None and not no_auth and not http_server.is_loopback(host):
        raise ConfigError(
            f"{host} is reachable from other machines, but no token is required",
            hint="name the tokens with --tokens; --no-auth if something else authenticates clients",
        )
    app = application(
        folder,
        clock=utc_now if clock is None else _ticking(clock),
        tokens=None if tokens_file is None else Tokens.from_file(tokens_file),
        webhooks=None if webhooks_file is None else read_webhooks(webhooks_file),
        limits=Limits(
            batch_keys=max_batch,
            body_bytes=max_body,
            requests_per_second=rate,
            seconds=timeout,
            waiting=max_waiting,
        ),
    )
    http_server.serve(
        app,
        host=host,
        port=port,
        access_log=access_log,
        on_listening=lambda address: print_text(f"{folder} is served at {address}"),
    )


_target = click.option(
    "--target",
    "-t",
    default="files",
    help="A target of publish(); DBT_ONNX_SERVING_<NAME> says where it is.",
)


@options.main.command()
@click.argument("name", required=False)
@_target
@options.project_dir
def published(name: str | None, target: str, project_dir: Path) -> None:
    """Print the publications of NAME, or of all names, and which of them is served."""
    from dbt_onnx.cli.show.publications import show_publications
    from dbt_onnx.serving.targets import names_at, publications_of

    names = [name] if name else names_at(target, project=project_dir)
    show_publications([publications_of(target, each, project=project_dir) for each in names])


@options.main.command()
@click.argument("name")
@_target
@options.project_dir
def unpublish(name: str, target: str, project_dir: Path) -> None:
    """Serve the previous publication of NAME again. Nothing is scored or built.

    The next `dbt build` publishes again: before it, fix the predictions or roll the model back.
    """
    from dbt_onnx.cli.show.console import print_text
    from dbt_onnx.serving.targets import unpublish as return_to_before

    before, now = return_to_before(target, name, project=project_dir)
    print_text(f"{now.name}: {now.current} is served again, in place of {before.current}")
