"""`dbt-onnx status`: can the predictions be relied on?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dbt_onnx.cli import options

if TYPE_CHECKING:
    from datetime import timedelta


@options.main.command()
@click.argument("model", required=False)
@options.stale_after
@options.as_json
@options.project
def status(model: str | None, stale_after: timedelta, as_json: bool, project: Any) -> None:  # noqa: FBT001
    """Print whether the predictions of the scoring model MODEL, or of all, can be relied on.

    \b
    Exit code 0, healthy:
      every entity of the features has a fresh prediction; the last run and the last
      outcome of every recorded test are good.
    Exit code 1, degraded:
      predictions are stale or missing, more than 10 % of the entities are rejected, or
      a test fails, warns or finds drift.
    Exit code 2, broken:
      the last run failed or was interrupted, or none ever succeeded; ledger, features,
      registry or the serving version's artifact are missing or altered; project or
      warehouse cannot be read; the call itself is wrong.

    \b
    Test results count only if dbt_project.yml records them:
      on-run-end: "{{ dbt_onnx.record_test_results(results) }}"
    """  # noqa: D301, \b tells click to keep these lines as they are
    from dbt_onnx.cli.show.documents import print_document
    from dbt_onnx.cli.show.status import health_document, show_health
    from dbt_onnx.project.health_check import check_health

    health = check_health(project, model, stale_after=stale_after)
    if as_json:
        print_document(health_document(health))
    else:
        show_health(health)
    raise SystemExit(health.exit_code)
