"""The text of an alert, and the shapes in which Slack, Teams and other receivers take it.

Names and error messages may have any content. No shape reads them as markup: Slack gets plain text,
Teams text runs, which have no markdown.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dbt_onnx.alerts.changes import Changes, Problems, is_broken
from dbt_onnx.errors import shortened

if TYPE_CHECKING:
    from datetime import datetime

MAX_CHARACTERS = 2_800
"""Maximum length of the text. Slack takes 3,000 characters in a block, and refuses more."""

_MAX_LINE = 300
_SUMMARY_CHARACTERS = 140


@dataclass(frozen=True, kw_only=True)
class Message:
    """An alert: one line, and a text of at most MAX_CHARACTERS. `document` is the same for programs."""

    summary: str
    text: str
    document: dict[str, Any]


def message_of(changes: Changes, *, project: str, at: datetime) -> Message:
    """Return the message about these changes. `at` is the time of the check, UTC."""
    summary = _summary(changes, project)
    lines = [
        *_lines("new", changes.new),
        *_lines("recovered", changes.gone),
        *_lines("as before", changes.remain),
    ]
    return Message(
        summary=summary,
        text=_bounded(lines),
        document={
            "project": project,
            "checked_at": f"{at.isoformat(timespec='seconds')}Z",
            "summary": summary,
            "new": _documents(changes.new),
            "recovered": _documents(changes.gone),
            "remaining": _documents(changes.remain),
        },
    )


def for_slack(message: Message) -> dict[str, Any]:
    """Return the body of an incoming webhook of Slack (api.slack.com/messaging/webhooks)."""
    blocks = [
        {"type": "header", "text": _slack_text(message.summary)},
        {"type": "section", "text": _slack_text(message.text)},
    ]
    # `text` is what a notification shows; Slack reads markup in it
    escaped = message.summary.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": escaped, "blocks": blocks}


def for_teams(message: Message) -> dict[str, Any]:
    """Return the body for a workflow of Teams that posts a card when a webhook request arrives."""
    body = [
        _teams_text(message.summary, weight="bolder"),
        *(_teams_text(line) for line in message.text.splitlines()),
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
    }
    kind = "application/vnd.microsoft.card.adaptive"
    attachment = {"contentType": kind, "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _summary(changes: Changes, project: str) -> str:
    if changes.is_recovery:
        return _one_line(f"{project}: recovered, all predictions are healthy")
    open_problems = {**changes.new, **changes.remain}
    broken = {i.scoring_model for i in open_problems if is_broken(i)}
    degraded = {i.scoring_model for i in open_problems} - broken
    states = [
        f"{', '.join(sorted(names))} {state}"
        for state, names in (("broken", broken), ("degraded", degraded))
        if names
    ]
    return _one_line(f"{project}: {'; '.join(states)}")


def _one_line(text: str) -> str:
    return shortened(" ".join(text.split()), _SUMMARY_CHARACTERS)


def _lines(title: str, problems: Problems) -> list[str]:
    """Return the problems grouped by scoring model, those of broken models first."""
    ordered = sorted(problems.items(), key=lambda item: (not is_broken(item[0]), item[0][0]))
    lines = []
    for model, items in groupby(ordered, key=lambda item: item[0].scoring_model):
        said = "; ".join(" ".join(message.split()) for _, message in items)
        lines.append(shortened(f"{title}: {model}: {said}", _MAX_LINE))
    return lines


def _bounded(lines: list[str]) -> str:
    kept: list[str] = []
    for number, line in enumerate(lines):
        rest = f"and {len(lines) - number} more; `dbt-onnx status` has all"
        if sum(len(item) + 1 for item in kept) + len(line) + 1 + len(rest) > MAX_CHARACTERS:
            return "\n".join([*kept, rest])
        kept.append(line)
    return "\n".join(kept)


def _documents(problems: Problems) -> list[dict[str, str]]:
    return [
        {
            **identity._asdict(),
            "status": "broken" if is_broken(identity) else "degraded",
            "message": message,
        }
        for identity, message in problems.items()
    ]


def _slack_text(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _teams_text(text: str, **style: str) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}
