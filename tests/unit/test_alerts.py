"""`dbt-onnx alert`: what changed, told once, to receivers that run on this machine."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller
from click.testing import CliRunner, Result

from dbt_onnx.alerts import receivers as sending
from dbt_onnx.alerts.changes import Identity, State, changes_between, problems_of
from dbt_onnx.alerts.messages import MAX_CHARACTERS, for_slack, for_teams, message_of
from dbt_onnx.alerts.receivers import UndeliveredError, deliver, receivers_in
from dbt_onnx.cli import main
from dbt_onnx.errors import ConfigError, WarehouseError
from dbt_onnx.runs.health import Health, ModelHealth, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AT = datetime(2026, 11, 30, 6, 0)
STALE = Problem(kind="stale", message="3 of 10 entities stale, the oldest 4 days")
FAILED = Problem(
    kind="run_failed", message="the last run (a1, 2026-11-30 05:00 UTC) failed: no file"
)


def health(**problems: tuple[Problem, ...]) -> Health:
    models = tuple(
        ModelHealth(scoring_model=name, figures={}, problems=found)
        for name, found in problems.items()
    )
    return Health(clock=AT, stale_after=timedelta(days=2), models=models)


def told(before: Health, now: Health) -> Any:
    changes = changes_between(problems_of(before), problems_of(now))
    return message_of(changes, project="shop", at=AT) if changes else None


def test_a_problem_is_told_when_it_appears_and_when_it_is_gone() -> None:
    well, ill = health(churn=()), health(churn=(STALE,))
    assert told(well, well) is None
    assert told(ill, ill) is None
    begun, ended = told(well, ill), told(ill, well)
    assert begun.summary == "shop: churn degraded"
    assert begun.text == f"new: churn: {STALE.message}"
    assert ended.summary == "shop: recovered, all predictions are healthy"
    assert ended.text == f"recovered: churn: {STALE.message}"


def test_other_numbers_of_the_same_problem_are_no_change() -> None:
    more = Problem(kind="stale", message="9 of 10 entities stale, the oldest 5 days")
    assert told(health(churn=(STALE,)), health(churn=(more,))) is None


def test_tests_are_told_one_by_one_and_grouped_by_model() -> None:
    one, two = (
        Problem(kind="test_failed", message=f"the test {name} failed", subject=name)
        for name in ("fresh", "complete")
    )
    message = told(health(churn=(one,), spend=()), health(churn=(one, two), spend=(FAILED,)))
    assert message.summary == "shop: spend broken; churn degraded"
    assert message.text.splitlines() == [
        f"new: spend: {FAILED.message}",
        "new: churn: the test complete failed",
        "as before: churn: the test fresh failed",
    ]
    assert message.document["new"][0] == {
        "scoring_model": "churn", "kind": "test_failed", "subject": "complete",
        "status": "degraded", "message": "the test complete failed",
    }  # fmt: skip


def test_while_the_warehouse_cannot_be_read_nothing_counts_as_recovered() -> None:
    error = WarehouseError("the warehouse is held by another process", hint="wait")
    blind = Health(clock=None, stale_after=timedelta(days=2), error=error)
    message = told(health(churn=(STALE,)), blind)
    assert message.summary == "shop: project broken; churn degraded"
    assert "recovered" not in message.text
    changes = changes_between(problems_of(health(churn=(STALE,))), problems_of(blind))
    after = {**changes.remain, **changes.new}
    seen = changes_between(after, problems_of(health(churn=(STALE,))))
    assert list(seen.gone) == [Identity("project", "unreadable", "")]
    assert not seen.new


def test_no_text_is_too_long_and_nothing_in_it_is_markup() -> None:
    hostile = Problem(kind="registry", message="<!channel> [pay](http://x) *now*\n" * 50)
    now = health(**{f"model_{number}": (hostile, STALE) for number in range(60)})
    message = told(health(), now)
    assert len(message.text) <= MAX_CHARACTERS
    assert message.text.splitlines()[-1].endswith("more; `dbt-onnx status` has all")
    slack, teams = for_slack(message), for_teams(message)
    assert {block["text"]["type"] for block in slack["blocks"]} == {"plain_text"}
    assert len(slack["blocks"][0]["text"]["text"]) <= 150
    named = message_of(changes_between({}, problems_of(now)), project="<!channel>", at=AT)
    assert "<" not in for_slack(named)["text"]
    (attachment,) = teams["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert {item["type"] for item in attachment["content"]["body"]} == {"RichTextBlock"}


def test_the_state_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "state" / "alerts.json"
    identity = Identity("churn", "stale", "")
    State(path).keep("slack", [(identity, STALE.message)])
    assert State(path).told("slack") == {identity: STALE.message}
    assert State(path).told("mail") == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2, "receivers": {}}', "\xff"])
def test_a_state_that_cannot_be_read_is_one_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "alerts.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match="not a state that `dbt-onnx alert` has written"):
        State(path)


class Received(BaseHTTPRequestHandler):
    """Answers with the next status of `server.statuses`, and keeps the body."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(json.loads(body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def receiver(*statuses: int) -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Received)
    server.statuses, server.bodies = list(statuses), []
    server.url = f"http://127.0.0.1:{server.server_port}/hook/secret"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def message() -> Any:
    return told(health(), health(churn=(STALE,)))


@pytest.mark.parametrize(
    ("variable", "shape"),
    [
        ("DBT_ONNX_SLACK_URL", for_slack),
        ("DBT_ONNX_TEAMS_URL", for_teams),
        ("DBT_ONNX_WEBHOOK_URL", lambda message: message.document),
    ],
)
def test_a_webhook_gets_its_shape(message: Any, variable: str, shape: Any) -> None:
    with receiver() as server:
        (found,) = receivers_in({variable: server.url})
        assert deliver(found, message) is None
        assert server.bodies == [shape(message)]
        assert "secret" not in repr(found)


def test_a_busy_receiver_is_tried_three_times(message: Any) -> None:
    waits: list[float] = []
    with receiver(503, 429) as server:
        (found,) = receivers_in({"DBT_ONNX_WEBHOOK_URL": server.url})
        assert deliver(found, message, sleep=waits.append) is None
        assert len(server.bodies) == 3
    with receiver(500, 500, 500) as server:
        (found,) = receivers_in({"DBT_ONNX_WEBHOOK_URL": server.url})
        assert deliver(found, message, sleep=waits.append) == "it answered with status 500"
    assert waits == [*sending.WAITS, *sending.WAITS]


@pytest.mark.parametrize("status", [302, 400, 404, 410])
def test_a_refusal_or_a_redirect_is_not_tried_again(message: Any, status: int) -> None:
    with receiver(status) as server:
        (found,) = receivers_in({"DBT_ONNX_WEBHOOK_URL": server.url})
        assert deliver(found, message) == f"it answered with status {status}"
        assert len(server.bodies) == 1


class Mailbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.mails.append(envelope)
        return "250 OK"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, str]]:
    box = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield box, f"smtp://127.0.0.1:{port}"
    finally:
        controller.stop()


def test_a_mail_goes_to_all_recipients(message: Any, mailbox: tuple[Mailbox, str]) -> None:
    box, url = mailbox
    people = {
        "DBT_ONNX_MAIL_FROM": "dbt@shop.example",
        "DBT_ONNX_MAIL_TO": "a@x.example, b@x.example",
    }
    (found,) = receivers_in({"DBT_ONNX_SMTP_URL": url, **people})
    assert deliver(found, message) is None
    (mail,) = box.mails
    assert mail.rcpt_tos == ["a@x.example", "b@x.example"]
    assert b"Subject: shop: churn degraded" in mail.content
    assert STALE.message.encode() in mail.content


def test_a_password_is_not_sent_without_encryption(
    message: Any, mailbox: tuple[Mailbox, str]
) -> None:
    box, url = mailbox
    people = {"DBT_ONNX_MAIL_FROM": "dbt@shop.example", "DBT_ONNX_MAIL_TO": "a@x.example"}
    address = url.replace("//", "//ann:pass%40word@")
    (found,) = receivers_in({"DBT_ONNX_SMTP_URL": address, **people})
    assert "a password is not sent without" in str(deliver(found, message))
    assert "pass" not in repr(found)
    assert box.mails == []


@pytest.mark.parametrize(
    ("environment", "fault"),
    [
        ({}, "no receiver of alerts is set"),
        ({"DBT_ONNX_SLACK_URL": "hooks.slack.example/T1/secret"}, "DBT_ONNX_SLACK_URL is not an http"),
        ({"DBT_ONNX_TEAMS_URL": "ftp://x/secret"}, "DBT_ONNX_TEAMS_URL is not an http"),
        ({"DBT_ONNX_WEBHOOK_URL": "http://[secret"}, "DBT_ONNX_WEBHOOK_URL is not an http"),
        ({"DBT_ONNX_SMTP_URL": "smtp://u:secret@h:99999"}, "DBT_ONNX_SMTP_URL is not an smtp"),
        ({"DBT_ONNX_SMTP_URL": "smtp://u:secret@h"}, "e-mail needs DBT_ONNX_MAIL_FROM"),
    ],
)  # fmt: skip
def test_a_setting_that_is_wrong_is_named_and_not_shown(
    environment: dict[str, str], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault) as caught:
        receivers_in(environment)
    assert "secret" not in str(caught.value)


def test_a_receiver_that_is_not_there_fails_nothing(message: Any) -> None:
    with receiver() as server:
        url = server.url
    (found,) = receivers_in({"DBT_ONNX_WEBHOOK_URL": url})
    waits: list[float] = []
    fault = deliver(found, message, sleep=waits.append)
    assert fault == "it cannot be reached: Connection refused"
    assert len(waits) == 2


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `dbt-onnx alert` with the health of a night, in one project."""
    (tmp_path / "dbt_project.yml").write_text("name: shop")

    def run(found: Health, url: str, *options: str) -> Result:
        monkeypatch.setattr(
            "dbt_onnx.project.health_check.check_health", lambda *_args, **_options: found
        )
        arguments = ["alert", "--project-dir", str(tmp_path), *options]
        environment = {"DBT_ONNX_WEBHOOK_URL": url, "DBT_ONNX_SLACK_URL": ""}
        return CliRunner().invoke(main, arguments, env=environment, catch_exceptions=False)

    monkeypatch.setattr(sending, "WAITS", (0.0, 0.0))
    return run


def test_a_week_of_nights(nights: Any) -> None:
    ill = health(churn=(STALE,))
    with receiver() as server:
        for found in (health(churn=()), ill, ill, health(churn=()), health(churn=()), ill):
            assert nights(found, server.url).exit_code == 0
        kinds = [(len(body["new"]), len(body["recovered"])) for body in server.bodies]
        assert kinds == [(1, 0), (0, 1), (1, 0)]


def test_what_was_not_delivered_is_told_with_the_next_alert(nights: Any) -> None:
    with receiver(500, 500, 500) as server:
        result = nights(health(churn=(STALE,)), server.url)
        assert result.exit_code == 0
        assert "webhook: not delivered: it answered with status 500" in result.stderr
        assert nights(health(churn=(STALE,)), server.url).exit_code == 0
        assert len(server.bodies) == 4
        assert server.bodies[-1]["new"][0]["kind"] == "stale"


def test_a_dry_run_sends_and_keeps_nothing(nights: Any, tmp_path: Path) -> None:
    with receiver() as server:
        result = nights(health(churn=(STALE,)), server.url, "--dry-run")
        assert result.exit_code == 0
        assert "webhook: " in result.stdout
        assert STALE.message in result.stdout
        assert server.bodies == []
    assert not (tmp_path / ".dbt_onnx_alerts.json").exists()


def test_one_attempt_tells_whether_another_makes_sense(message: Any) -> None:
    with receiver(400) as server:
        (found,) = receivers_in({"DBT_ONNX_WEBHOOK_URL": server.url})
        with pytest.raises(UndeliveredError) as caught:
            found.send(message)
        assert caught.value.is_final
