"""Requests answered later, over HTTP: submitted, polled, sent to webhooks, and not lost by a kill."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import graphs
import httpx
import killers
import pytest
from served_folder import CLOCK, publish
from test_http import HASH, NOW, TOKEN, Service, answer_of, command, head, is_error, live, opened
from test_http_score import QUESTION, kept, scoring_folder
from test_scoring_on_request import LINEAR, served

from dbt_onnx.errors import ConfigError
from dbt_onnx.kernel import native
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.serving import submissions, webhooks, workers
from dbt_onnx.serving.http import application
from dbt_onnx.serving.limits import Limits
from dbt_onnx.serving.lookup import utc_now
from dbt_onnx.serving.real_time import RealTime
from dbt_onnx.serving.submissions import KEPT, Submissions
from dbt_onnx.serving.tokens import Tokens
from dbt_onnx.serving.webhooks import Webhook, read_webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SUBMIT = "/v1/predictions/churn:submit"
KEY = b"a secret of thirty-two bytes: 32"
LONG = 120.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return scoring_folder(tmp_path)


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    with opened(folder) as service:
        yield service


def until(found: Callable[[], Any]) -> Any:
    """Poll until `found` returns something true. Returns it."""
    end = time.monotonic() + LONG
    while not (it := found()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return it


def ended(get: Callable[[str], Any], place: str) -> dict[str, Any]:
    """Return the document of a request, once the request has ended."""

    def document() -> Any:
        answered = get(place)
        assert answered.status_code == 200, answered.text
        found = answered.json()
        return found if found["ended_at"] else None

    return until(document)


def test_what_is_submitted_is_answered_later_as_it_would_be_at_once(
    service: Service, folder: Path
) -> None:
    accepted = service.ask("POST", SUBMIT, json=QUESTION)
    assert accepted.status_code == 202
    first = accepted.json()
    place = accepted.headers["location"]
    assert place == f"/v1/submissions/churn/{first['request_id']}"
    assert (first["state"], first["answer"], first["error"]) == ("queued", None, None)
    assert first["submitted_at"] == f"{NOW.isoformat()}Z"
    document = ended(service.get, place)
    assert (document["state"], document["error"], document["webhook"]) == ("scored", None, None)
    at_once = service.ask("POST", "/v1/predictions/churn:score", json=QUESTION).json()
    assert document["answer"]["outputs"] == {"y": 2.5}
    assert {**document["answer"], "run_id": None} == {**at_once, "run_id": None}
    # the log has the answer once, with the request's id as its run id
    assert document["answer"]["run_id"] == first["request_id"]
    rows = {row["request_id"]: row for row in kept(folder)}
    assert len(rows) == 2
    row, other = rows[first["request_id"]], rows[at_once["run_id"]]
    assert {**row, "request_id": None} == {**other, "request_id": None}


def test_a_row_that_a_run_would_reject_is_rejected(service: Service) -> None:
    body = {"key": "1", "features": {"a": None, "b": 1}}
    place = service.ask("POST", SUBMIT, json=body).headers["location"]
    document = ended(service.get, place)
    assert document["state"] == document["answer"]["status"] == "rejected"
    assert document["answer"]["rejected_reason"] == "null:a"


def test_the_age_of_an_answer_is_counted_when_it_is_polled(folder: Path) -> None:
    moments = [NOW]
    with opened(folder, now=lambda: moments[0]) as service:
        place = service.ask("POST", SUBMIT, json=QUESTION).headers["location"]
        ended(service.get, place)
        moments[0] = NOW + timedelta(days=2)
        answer = service.get(place).json()["answer"]
        assert (answer["age_seconds"], answer["is_stale"]) == (172800.0, False)
        moments[0] += timedelta(seconds=1)
        assert service.get(place).json()["answer"]["is_stale"] is True
        # after a week it is deleted
        moments[0] = NOW + KEPT + timedelta(seconds=1)
        until(lambda: service.get(place).status_code == 404)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"key": "1", "features": {"a": 1}}, 422, "features"),
        ({"key": "1", "features": {"a": "x", "b": 1}}, 422, "features"),
        ({"key": "1", "features": {"a": 1, "b": 1, "c'; drop table requests": 1}}, 422, "features"),
        ({"key": "1", "features": []}, 400, "score"),
        ({"key": "1"}, 400, "score"),
        ({"key": None, "features": {"a": 1, "b": 1}}, 400, "key"),
        ({"key": ["1", "2"], "features": {"a": 1, "b": 1}}, 400, "key"),
        ({"key": 1, "features": {"a": 1, "b": 1}}, 400, "key"),
        ({**QUESTION, "webhook": 1}, 400, "webhook"),
        ({**QUESTION, "webhook": "crm"}, 422, "webhook"),
        ({**QUESTION, "webhook": "http://169.254.169.254/"}, 422, "webhook"),
        ({**QUESTION, "webhook": "\ud800"}, 422, "webhook"),
        ({**QUESTION, "more": 1}, 400, "score"),
        ([], 400, "score"),
    ],
)
def test_what_is_no_row_is_refused_at_once_and_nothing_is_queued(
    service: Service, folder: Path, body: Any, status: int, kind: str
) -> None:
    answered = service.ask("POST", SUBMIT, content=json.dumps(body))
    assert (answered.status_code, answered.json()["error"]["kind"]) == (status, kind)
    assert is_error(answered.json())
    assert not (folder / "churn/submitted").exists()


def test_a_webhook_is_no_part_of_what_is_scored_at_once(service: Service) -> None:
    body = {**QUESTION, "webhook": None}
    assert service.ask("POST", SUBMIT, json=body).status_code == 202
    assert service.ask("POST", "/v1/predictions/churn:score", json=body).status_code == 400


def test_a_name_without_a_model_or_without_anything_says_so(service: Service) -> None:
    plain = service.ask("POST", "/v1/predictions/plain:submit", json=QUESTION)
    assert (plain.status_code, plain.json()["error"]["kind"]) == (404, "no_model")
    unknown = service.ask("POST", "/v1/predictions/nothing:submit", json=QUESTION)
    assert (unknown.status_code, unknown.json()["status"]) == (404, "unknown_model")


@pytest.mark.parametrize(
    "path",
    [
        "churn/0b0d1f0e-0000-4000-8000-000000000000", "churn/", "churn", "churn/a/b", "plain/x", "nothing/x",
        "../secret/x", "..%2f..%2fetc/passwd", "churn/%27%20or%201=1%20--", "churn/%00", "churn:submit/x",
    ],
)  # fmt: skip
def test_what_was_not_submitted_is_not_found(service: Service, folder: Path, path: str) -> None:
    before = {str(found) for found in folder.parent.rglob("*")}
    answered = service.get(f"/v1/submissions/{path}")
    assert (answered.status_code, answered.json()["error"]["kind"]) == (404, "not_found")
    assert {str(found) for found in folder.parent.rglob("*")} == before
    place = service.ask("POST", SUBMIT, json=QUESTION).headers["location"]
    assert service.get(f"/v1/submissions/{path}").status_code == 404
    assert service.ask("POST", place).status_code == 405


def test_a_queue_outside_of_the_folder_is_not_reached(service: Service, folder: Path) -> None:
    outside = Submissions(folder.parent / "secret")
    made = outside.submit(b"{}", webhook=None, now=NOW, limit=1)
    outside.close()
    assert made is not None
    for name in (
        "..%2fsecret",
        "%2e%2e%2fsecret",
        str(folder.parent / "secret").replace("/", "%2f"),
    ):
        answered = service.get(f"/v1/submissions/{name}/{made.request_id}")
        assert (answered.status_code, answered.json()["error"]["kind"]) == (404, "not_found")


def test_a_key_of_two_columns_may_say_submissions(folder: Path) -> None:
    rows = {("submissions", "1"): {"churn_probability": 0.75}}
    publish(folder / "orders", rows, key={"shop": "text", "number": "text"})
    with opened(folder) as service:
        answered = service.get("/v1/predictions/orders/submissions/1")
        assert answered.json()["outputs"] == {"churn_probability": 0.75}


def test_only_who_has_a_token_may_submit_and_poll(folder: Path) -> None:
    with opened(folder, tokens=Tokens([HASH])) as service:
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert service.ask("POST", SUBMIT, json=QUESTION).status_code == 401
        accepted = service.ask("POST", SUBMIT, json=QUESTION, headers=headers)
        assert accepted.status_code == 202
        place = accepted.headers["location"]
        assert service.get(place).status_code == 401
        assert service.get(place, headers=headers).status_code == 200


def test_a_row_that_kills_the_model_fails_and_the_next_is_scored(tmp_path: Path) -> None:
    contract = Contract(
        features=(Feature(name="dividend"), Feature(name="divisor")),
        inputs=tuple(
            Input(name=name, dtype="int64", features=(name,)) for name in ("dividend", "divisor")
        ),
        outputs=(Output(name="quotient", kind="value", dtype="float64", columns=("quotient",)),),
    )
    folder = tmp_path / "serving/churn"
    model = served(folder, killers.division(), contract, dividend="int64", divisor="int64")
    publish(folder, {"1": {"churn_probability": 0.25}}, model=model)
    with opened(tmp_path / "serving") as service:
        places = []
        for features in (
            {"dividend": killers.SMALLEST, "divisor": -1},
            {"dividend": 6, "divisor": 2},
        ):
            body = {"key": "1", "features": features}
            places.append(service.ask("POST", SUBMIT, json=body).headers["location"])
        first, second = (ended(service.get, place) for place in places)
    assert (first["state"], first["answer"]) == ("failed", None)
    assert is_error({"error": first["error"]})
    assert first["error"]["kind"] == "scoring"
    assert (second["state"], second["answer"]["outputs"]) == ("scored", {"quotient": 3.0})
    assert len(kept(tmp_path / "serving")) == 1


def test_a_model_that_does_not_end_fails_and_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "MAX_SECONDS", 5)
    contract = Contract(
        features=(Feature(name="x"),),
        inputs=(Input(name="x", dtype="float32", features=("x",)),),
        outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    )
    folder = tmp_path / "serving/churn"
    model = served(folder, killers.endless(), contract)
    publish(folder, {"1": {"churn_probability": 0.25}}, model=model)
    with opened(tmp_path / "serving") as service:
        body = {"key": "1", "features": {"x": 1}}
        place = service.ask("POST", SUBMIT, json=body).headers["location"]
        until(lambda: service.get(place).json()["state"] == "running")
        assert service.get("/v1/predictions/churn/1").status_code == 200
        document = ended(service.get, place)
    assert (document["state"], document["error"]["kind"]) == ("failed", "scoring")
    assert kept(tmp_path / "serving") == []


@contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Queue requests without working on them, until the event is set."""
    goes_on, answer_next = threading.Event(), workers.answer_next

    def waits(*arguments: Any, **named: Any) -> bool:
        return goes_on.is_set() and answer_next(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(workers, "answer_next", waits)
        yield goes_on


def test_only_so_many_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        held_up(monkeypatch) as goes_on,
        opened(folder, limits=Limits(waiting=2)) as service,
    ):
        answers = [service.ask("POST", SUBMIT, json=QUESTION) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 503]
        assert answers[2].json()["error"]["kind"] == "busy"
        assert int(answers[2].headers["retry-after"]) > 0
        goes_on.set()
        ended(service.get, answers[1].headers["location"])
        assert service.ask("POST", SUBMIT, json=QUESTION).status_code == 202


def test_a_queue_that_cannot_be_written_accepts_nothing(service: Service, folder: Path) -> None:
    place = folder / "churn/submitted"
    place.write_text("in the way")
    answered = service.ask("POST", SUBMIT, json=QUESTION)
    assert (answered.status_code, answered.json()["error"]["kind"]) == (503, "unavailable")
    assert str(folder) not in answered.text
    place.unlink()
    accepted = service.ask("POST", SUBMIT, json=QUESTION)
    assert accepted.status_code == 202
    ended(service.get, accepted.headers["location"])


def test_a_queue_that_is_damaged_does_not_hold_up_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_up(monkeypatch), opened(folder) as service:
        place = service.ask("POST", SUBMIT, json=QUESTION).headers["location"]
    # publications whose names sort before and after it
    for name in ("a", "z"):
        publish(folder / name, {"00042": {"churn_probability": 0.25}})
        (folder / name / "submitted").mkdir()
        (folder / name / "submitted/queue.sqlite").write_bytes(b"no SQLite" * 500)
    with opened(folder) as service:
        queue = Submissions(folder / "churn")
        until(lambda: queue.counts()["state"]["scored"])
        queue.close()
        threads = threading.active_count()
        assert service.get(place).json()["state"] == "scored"
        damaged = service.get(place.replace("churn", "a"))
        assert (damaged.status_code, damaged.json()["error"]["kind"]) == (503, "unavailable")
        assert "dbt_onnx_submitted_requests" in service.get("/metrics").text
        # no attempt to open it has left a thread behind
        assert threading.active_count() <= threads


def test_the_version_is_that_which_is_served_when_it_is_scored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_up(monkeypatch) as goes_on, opened(folder) as service:
        place = service.ask("POST", SUBMIT, json=QUESTION).headers["location"]
        model = served(folder / "churn", graphs.linear(), LINEAR, version="2")
        publish(folder / "churn", {"00042": {"churn_probability": 0.5}}, model=model, version="2")
        publication = until(
            lambda: (
                (
                    service.get("/readyz").json()["publications"][0]["publication"],
                    service.app._folder.get("churn").manifest.model.model_version == "2",
                )[1]
                and service.app._folder.get("churn").manifest.id
            )
        )
        goes_on.set()
        answer = ended(service.get, place)["answer"]
    assert (answer["model_version"], answer["publication"]) == ("2", publication)


def test_figures_count_what_was_submitted(folder: Path) -> None:
    with opened(folder, webhooks={"crm": Webhook("http://127.0.0.1:1/", KEY)}) as service:
        for body in (QUESTION, {**QUESTION, "webhook": "crm"}):
            ended(service.get, service.ask("POST", SUBMIT, json=body).headers["location"])
        lines = service.get("/metrics").text.splitlines()
        assert 'dbt_onnx_submitted_requests{name="churn",state="scored"} 2' in lines
        for state in ("queued", "running", "rejected", "failed"):
            assert f'dbt_onnx_submitted_requests{{name="churn",state="{state}"}} 0' in lines
        assert 'dbt_onnx_webhook_deliveries{name="churn",state="waiting"} 1' in lines
        assert 'dbt_onnx_http_requests_total{route="submit",status="202"} 2' in lines


def test_the_description_has_what_is_said(service: Service) -> None:
    accepted = service.ask("POST", SUBMIT, json=QUESTION)
    ended(service.get, accepted.headers["location"])
    schema = service.get("/openapi.json").json()["components"]["schemas"]["Submission"]
    assert schema["required"] == list(accepted.json())


# --- webhooks


class Receiver:
    """A webhook receiver that answers as the test says: with a status, or with a function that handles the request."""

    def __init__(self, *answers: int | Callable[[Any], None]) -> None:
        self.answers = list(answers)
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                answer = receiver.answers.pop(0) if receiver.answers else 200
                if callable(answer):
                    answer(self)
                    return
                self.send_response(answer)
                self.end_headers()

            def do_GET(self) -> None:
                receiver.got.append(({"followed": self.path}, b""))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/told?of=it"

    @property
    def webhook(self) -> Webhook:
        return Webhook(self.url, KEY)


@contextmanager
def receiving(*answers: int | Callable[[Any], None]) -> Iterator[Receiver]:
    receiver = Receiver(*answers)
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses and limits for tests."""
    monkeypatch.setattr(submissions, "LONGEST_PAUSE", timedelta(seconds=0.02))
    monkeypatch.setattr(workers, "_PAUSE_SECONDS", 0.02)


def told(service: Service, *, webhook: str = "crm") -> dict[str, Any]:
    """Submit, and wait until the webhook is delivered. Returns the request's document at that time."""
    accepted = service.ask("POST", SUBMIT, json={**QUESTION, "webhook": webhook})
    place = accepted.headers["location"]
    assert accepted.json()["webhook"]["state"] is None

    def document() -> Any:
        found = service.get(place).json()
        return found if found["webhook"]["state"] == "delivered" else None

    return until(document)


def verify(headers: dict[str, str], body: bytes) -> None:
    """Verify the signature as a receiver does, by the specification of Standard Webhooks."""
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < LONG
    signed = b".".join(
        [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
    )
    version, _, given = headers["webhook-signature"].partition(",")
    assert version == "v1"
    assert base64.b64decode(given, validate=True) == hmac.digest(KEY, signed, hashlib.sha256)


@pytest.mark.usefixtures("impatient")
def test_a_webhook_is_told_once_and_can_tell_who_it_was(folder: Path) -> None:
    with (
        receiving() as receiver,
        opened(folder, now=utc_now, webhooks={"crm": receiver.webhook}) as service,
    ):
        document = told(service)
        told(service)
    # all threads have ended: nothing came twice
    first, second = receiver.got
    for headers, body in (first, second):
        verify(headers, body)
        assert headers["content-type"] == "application/json"
    assert first[0]["webhook-id"] == document["request_id"] != second[0]["webhook-id"]
    sent = json.loads(first[1])
    assert sent["answer"]["outputs"] == {"y": 2.5}
    # equal to the polled document, except for the age and the state of the webhook
    for each in (sent, document):
        each["answer"]["age_seconds"] = each["webhook"] = None
    assert sent == document


def _hangs_up(handler: Any) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def _redirects(handler: Any) -> None:
    handler.send_response(307)
    handler.send_header("location", "/elsewhere")
    handler.end_headers()


def _babbles(handler: Any) -> None:
    handler.wfile.write(b"no HTTP\r\n\r\n")


@pytest.mark.usefixtures("impatient")
def test_a_webhook_that_fails_is_tried_until_it_takes_it(folder: Path) -> None:
    failures = (500, 404, 302, _redirects, _hangs_up, _babbles)
    with (
        receiving(*failures, 204) as receiver,
        opened(folder, now=utc_now, webhooks={"crm": receiver.webhook}) as service,
    ):
        document = told(service)
    assert document["webhook"] == {
        "name": "crm",
        "state": "delivered",
        "attempts": len(failures) + 1,
        "next_attempt_at": None,
    }
    # no redirect was followed, and all attempts carry the same id
    assert len(receiver.got) == len(failures) + 1
    for headers, body in receiver.got:
        verify(headers, body)
        assert headers["webhook-id"] == document["request_id"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("is_dripping", [False, True])
def test_a_receiver_that_is_slow_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_dripping: bool
) -> None:
    monkeypatch.setattr(webhooks, "SECONDS", 0.5)
    was_cut = threading.Event()
    if is_dripping:
        # on a busy machine a byte may come late; this tests the limit on the whole answer, not on each byte
        monkeypatch.setattr(
            webhooks,
            "_connection",
            lambda address: HTTPConnection(address.hostname, address.port, timeout=2 * LONG),
        )

    def is_slow(handler: Any) -> None:
        try:
            while is_dripping:
                # each byte comes in time, but the whole answer does not
                handler.wfile.write(b"H")
                time.sleep(0.1)
            handler.connection.settimeout(LONG)
            assert handler.connection.recv(1) == b""
        except OSError:
            pass
        was_cut.set()

    with (
        receiving(is_slow) as receiver,
        opened(folder, now=utc_now, webhooks={"crm": receiver.webhook}) as service,
    ):
        assert told(service)["webhook"]["attempts"] >= 2
        assert was_cut.wait(LONG)


@pytest.mark.usefixtures("impatient")
def test_a_receiver_that_is_away_does_not_hold_up_another(folder: Path) -> None:
    with receiving() as receiver:
        away = Webhook("http://127.0.0.1:1/", KEY)
        hooks = {"crm": receiver.webhook, "away": away}
        with opened(folder, now=utc_now, webhooks=hooks) as service:
            body = {**QUESTION, "webhook": "away"}
            place = service.ask("POST", SUBMIT, json=body).headers["location"]
            told(service)
            until(lambda: service.get(place).json()["webhook"]["attempts"] > 1)
            assert service.get(place).json()["webhook"]["state"] == "waiting"


@pytest.mark.usefixtures("impatient")
def test_what_a_webhook_was_not_told_it_is_told_by_the_next_service(folder: Path) -> None:
    away = {"crm": Webhook("http://127.0.0.1:1/", KEY)}
    with opened(folder, now=utc_now, webhooks=away) as service:
        body = {**QUESTION, "webhook": "crm"}
        place = service.ask("POST", SUBMIT, json=body).headers["location"]
        until(lambda: service.get(place).json()["webhook"]["attempts"])
    with (
        receiving() as receiver,
        opened(folder, now=utc_now, webhooks={"crm": receiver.webhook}) as service,
    ):
        until(lambda: service.get(place).json()["webhook"]["state"] == "delivered")
    assert [headers["webhook-id"] for headers, _ in receiver.got] == [place.rpartition("/")[2]]


def test_the_signature_is_that_of_the_specification() -> None:
    # the example from the specification's reference libraries
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = webhooks.signature(
        key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


SECRET = "whsec_" + base64.b64encode(KEY).decode()
GOOD = f'[crm]\nurl = "https://crm.example:8443/told"\nsecret = "{SECRET}"\n'


def file_of(tmp_path: Path, content: str, *, mode: int = 0o600) -> Path:
    path = tmp_path / "webhooks.toml"
    path.write_text(content)
    path.chmod(mode)
    return path


def test_webhooks_are_read_from_a_file(tmp_path: Path) -> None:
    found = read_webhooks(file_of(tmp_path, GOOD, mode=0o640))
    assert found == {"crm": Webhook("https://crm.example:8443/told", KEY)}
    assert "secret of" not in repr(found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file has no webhooks"),
        ("crm = 1", "it must have exactly `url` and `secret`"),
        (GOOD + "more = 1", "it must have exactly `url` and `secret`"),
        (GOOD.replace("https:", "ftp:"), "its url must be an http"),
        (GOOD.replace("crm.example", "user:password@crm.example"), "its url must be an http"),
        (GOOD.replace("https://crm.example:8443", "https://"), "its url must be an http"),
        (GOOD.replace("8443", "84430"), "its url must be an http"),
        (GOOD.replace("told", "told\\nx: y"), "its url must be an http"),
        (GOOD.replace("whsec_", ""), "does not begin with whsec_"),
        (GOOD.replace("whsec_", "whsec_!"), "is not base64"),
        (GOOD.replace(SECRET, "whsec_" + base64.b64encode(b"short").decode()), "has 5 bytes"),
        (GOOD.replace("[crm]", '["../crm"]'), "a name has letters"),
        (GOOD.replace("secret =", "secret"), "it is not valid TOML"),
        ("\udcff", "it is not valid TOML"),
    ],
)
def test_a_file_that_names_no_webhook_is_refused_and_not_shown(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "webhooks.toml"
    path.write_bytes(content.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        read_webhooks(path)
    for secret in (SECRET, "password", "crm.example"):
        assert secret not in str(caught.value)


def test_a_file_that_everybody_may_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its mode is 0604"):
        read_webhooks(file_of(tmp_path, GOOD, mode=0o604))


# --- the service in a separate process


def submit_to(port: int, key: str, **more: Any) -> str:
    body = {"key": key, "features": {"a": int(key), "b": 0}, **more}
    answered = httpx.post(f"http://127.0.0.1:{port}{SUBMIT}", json=body, timeout=LONG)
    assert answered.status_code == 202
    return answered.headers["location"]


def getter(port: int) -> Callable[[str], httpx.Response]:
    return lambda place: httpx.get(f"http://127.0.0.1:{port}{place}", timeout=LONG)


def test_what_a_killed_service_had_accepted_is_answered_once_by_the_next(
    folder: Path, tmp_path: Path
) -> None:
    with receiving() as receiver:
        url = receiver.url
        hooks = file_of(tmp_path, f'[crm]\nurl = "{url}"\nsecret = "{SECRET}"\n')
        options = ("--webhooks", str(hooks))
        with command(folder, *options) as (process, port):
            places = [submit_to(port, str(number), webhook="crm") for number in range(12)]
            # kill it when some requests have ended, perhaps one is being scored, and some are queued
            ended(getter(port), places[2])
            process.send_signal(signal.SIGKILL)
            process.wait()
        with command(folder, *options) as (process, port):
            documents = [ended(getter(port), place) for place in places]
            until(
                lambda: all(
                    getter(port)(place).json()["webhook"]["state"] == "delivered"
                    for place in places
                )
            )
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=LONG)
            assert process.returncode == 0
    ids = [place.rpartition("/")[2] for place in places]
    rows = kept(folder)
    assert sorted(row["request_id"] for row in rows) == sorted(ids)
    by_id = {row["request_id"]: row for row in rows}
    for number, document in enumerate(documents):
        assert document["state"] == "scored"
        assert document["answer"]["outputs"] == {"y": 2 * number + 0.5}
        assert by_id[document["request_id"]]["outputs"] == document["answer"]["outputs"]
    # each was delivered, and at most the one in delivery at the kill was delivered twice
    assert {headers["webhook-id"] for headers, _ in receiver.got} == set(ids)
    assert len(receiver.got) <= len(ids) + 1
    assert list((folder / "churn/submitted").glob("*.lock")) == []


def test_a_service_takes_over_from_one_that_is_killed_beside_it(folder: Path) -> None:
    with command(folder) as (process, port):
        places = [submit_to(port, "1")]
        with opened(folder) as beside:
            places.append(submit_to(port, "2"))
            process.send_signal(signal.SIGKILL)
            process.wait()
            # either may be the one in work at the kill
            answers = [ended(beside.get, place)["answer"]["outputs"] for place in places]
    assert answers == [{"y": 2.5}, {"y": 4.5}]
    assert len(kept(folder)) == 2


def test_the_end_of_a_service_leaves_what_waits_to_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_up(monkeypatch), opened(folder) as service:
        places = [service.ask("POST", SUBMIT, json=QUESTION).headers["location"] for _ in range(3)]
    queue = Submissions(folder / "churn")
    assert queue.counts()["state"]["queued"] == 3
    queue.close()
    with opened(folder) as service:
        states = [ended(service.get, place)["state"] for place in places]
    assert states == ["scored"] * 3


def test_the_end_of_a_service_waits_for_what_is_being_scored_and_no_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    scored = RealTime.score_to_document

    def slow(*arguments: Any, **named: Any) -> dict[str, Any]:
        begun.set()
        assert goes_on.wait(LONG)
        return scored(*arguments, **named)

    monkeypatch.setattr(RealTime, "score_to_document", slow)
    app = application(folder, clock=lambda: NOW)
    for _ in range(2):
        assert Service(app).ask("POST", SUBMIT, json=QUESTION).status_code == 202
    assert begun.wait(LONG)
    closing = threading.Thread(target=app.close)
    closing.start()
    until(app._workers._ending.is_set)
    goes_on.set()
    closing.join()
    assert list((folder / "churn/submitted").glob("*.lock")) == []
    queue = Submissions(folder / "churn")
    states = queue.counts()["state"]
    queue.close()
    assert (states["scored"], states["running"], states["queued"]) == (1, 0, 1)
    assert len(kept(folder)) == 1


def test_over_a_port_the_place_to_poll_is_in_the_head(folder: Path) -> None:
    body = json.dumps(QUESTION).encode()
    with live(folder) as service:
        with service.connect() as client:
            client.sendall(head("POST", SUBMIT, f"Content-Length: {len(body)}") + body)
            got = b""
            while chunk := client.recv(65536):
                got += chunk
        status, document = answer_of(got)
        assert status == 202
        place = f"/v1/submissions/churn/{document['request_id']}"
        assert f"\r\nlocation: {place}\r\n".encode() in got
        status, document = service.send(head("GET", place))
        assert (status, document["name"]) == (200, "churn")


def test_a_clock_that_was_played_is_that_of_the_answer(folder: Path) -> None:
    with command(folder, "--clock", CLOCK.isoformat()) as (_, port):
        document = ended(getter(port), submit_to(port, "1"))
    assert document["submitted_at"].startswith("2024-06-01T12:00:")
    assert document["answer"]["scored_at"].startswith("2024-06-01T12:0")
