"""`dbt-onnx alert`: tell receivers what changed in the health of the predictions."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from dbt_onnx.cli import options

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path


@options.main.command()
@options.stale_after
@click.option(
    "--state",
    type=options.FILE,
    default=".dbt_onnx_alerts.json",
    help="What each receiver was told last: a file that lasts from run to run; a path in the project.",
)
@click.option("--dry-run", is_flag=True, help="Print the alerts; send nothing.")
@options.project
def alert(
    stale_after: timedelta,
    state: Path,
    dry_run: bool,  # noqa: FBT001
    project: Any,
) -> None:
    """Send what changed since the last alert in the health of the scoring models.

    \b
    Receivers are set in the environment:
      DBT_ONNX_SLACK_URL       incoming webhook of Slack
      DBT_ONNX_TEAMS_URL       webhook of a workflow of Teams
      DBT_ONNX_WEBHOOK_URL     any address that takes a JSON document
      DBT_ONNX_SMTP_URL        smtps://user:password@host:465, with
      DBT_ONNX_MAIL_FROM       the sender, and
      DBT_ONNX_MAIL_TO         the recipients, with commas

    Run it after each `dbt build`, also after a failed one. It checks what `status` checks. A receiver
    hears of a problem once, and once that it is gone. One that cannot be reached is told with the next
    alert; the exit code is 0 all the same.
    """  # noqa: D301, \b tells click to keep these lines as they are
    from dbt_onnx.alerts.changes import State, changes_between, problems_of
    from dbt_onnx.alerts.messages import message_of
    from dbt_onnx.alerts.receivers import deliver, receivers_in
    from dbt_onnx.cli.show.alert import show_alert, show_delivery
    from dbt_onnx.project.health_check import check_health

    receivers = receivers_in(os.environ)
    known = State(project.root / state)
    now = problems_of(check_health(project, None, stale_after=stale_after))
    at = datetime.now(UTC).replace(tzinfo=None)
    for receiver in receivers:
        changes = changes_between(known.told(receiver.name), now)
        if not changes:
            show_delivery(receiver.name, "nothing has changed")
            continue
        message = message_of(changes, project=project.root.name, at=at)
        if dry_run:
            show_alert(receiver.name, message)
            continue
        fault = deliver(receiver, message)
        if fault is None:
            known.keep(receiver.name, list({**changes.remain, **changes.new}.items()))
        show_delivery(receiver.name, message.summary, fault=fault)
