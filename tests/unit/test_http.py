"""The HTTP service: its answers, its limits, and how it handles hostile requests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from click.testing import CliRunner
from served_folder import CLOCK, publish
from uvicorn.server import ServerState

from dbt_onnx.cli import main
from dbt_onnx.errors import ConfigError, InvalidKeyError
from dbt_onnx.serving.http import Application, application
from dbt_onnx.serving.http_server import is_loopback, listening, server_for
from dbt_onnx.serving.limits import Limits, Rates
from dbt_onnx.serving.lookup import CHECK_SECONDS, Predictions
from dbt_onnx.serving.manifest import POINTER
from dbt_onnx.serving.refusal import Refusal
from dbt_onnx.serving.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = CLOCK + timedelta(hours=6)
ROWS = {"00042": {"churn_probability": 0.25}, "00043": {"churn_probability": 0.5}, "00044": None}
GET = "/v1/predictions/churn/00042"
BATCH = "/v1/predictions/churn:batch"
ORDERS = {"shop": "text", "day": "date", "number": "integer"}


class Service:
    """The application, called without a port."""

    def __init__(self, app: Application) -> None:
        self.app = app

    def ask(self, method: str, path: str, *, client: str = "10.0.0.1", **request: Any) -> Any:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, client=(client, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
                return await http.request(method, path, **request)

        return asyncio.run(asked())

    def get(self, path: str, **request: Any) -> Any:
        return self.ask("GET", path, **request)

    def batch(self, *keys: Any, path: str = BATCH, **request: Any) -> Any:
        return self.ask("POST", path, json={"keys": list(keys)}, **request)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish(tmp_path / "serving/churn", ROWS)
    return tmp_path / "serving"


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    with opened(folder) as service:
        yield service


@contextmanager
def opened(folder: Path, *, now: Any = lambda: NOW, **settings: Any) -> Iterator[Service]:
    app = application(folder, clock=now, **settings)
    try:
        yield Service(app)
    finally:
        app.close()


class Live:
    """The service, listening at a port."""

    def __init__(self, port: int, server: Any) -> None:
        self.port = port
        self.server = server

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, request: bytes) -> tuple[int, Any]:
        """Send bytes. Returns status and document of the only answer before the connection ends."""
        with self.connect() as client:
            with suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(request)
            return answer_of(read_all(client))


@contextmanager
def live(folder: Path, **settings: Any) -> Iterator[Live]:
    with opened(folder, **settings) as service:
        listener = listening("127.0.0.1", 0)
        port = listener.getsockname()[1]
        server = server_for(service.app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield Live(port, server)
        finally:
            server.should_exit = True
            thread.join()


def wait_until(holds: Any, *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def read_all(client: socket.socket) -> bytes:
    got = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            got += chunk
    return got


def answer_of(got: bytes) -> tuple[int, Any]:
    head, _, body = got.partition(b"\r\n\r\n")
    found = re.fullmatch(rb"HTTP/1\.1 (\d{3}) .*", head.splitlines()[0])
    assert found, got
    return int(found[1]), json.loads(body)


def head(method: str, path: str, *headers: str, close: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: service", *headers]
    if close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def is_error(document: Any) -> bool:
    return (
        list(document) == ["error"]
        and list(document["error"]) == ["kind", "message", "hint"]
        and all(isinstance(text, str) and text for text in document["error"].values())
        and "Traceback" not in str(document)
    )


# --- answers


def test_a_prediction_comes_with_its_age_and_where_it_comes_from(service: Service) -> None:
    answer = service.get(GET)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert re.fullmatch(r"20240601T120000000000Z-[0-9a-f]{8}", document.pop("publication"))
    assert document == {
        "name": "churn",
        "key": ["00042"],
        "status": "predicted",
        "outputs": {"churn_probability": 0.25},
        "as_of": None,
        "scored_at": "2024-06-01T12:00:00Z",
        "fresh_as_of": "2024-06-01T12:00:00Z",
        "age_seconds": 21600.0,
        "is_stale": False,
        "served_from": "serving_version",
        "model_name": "churn",
        "model_version": "1",
        "run_id": "run-1",
        "rejected_reason": None,
    }


def test_each_of_the_four_answers_is_the_same_document(service: Service) -> None:
    names = ["00042", "00044", "00099"]
    answers = [service.get(f"/v1/predictions/churn/{name}") for name in names]
    answers.append(service.get("/v1/predictions/spend/00042"))
    assert [(a.status_code, a.json()["status"]) for a in answers] == [
        (200, "predicted"),
        (200, "rejected"),
        (404, "missing"),
        (404, "unknown_model"),
    ]
    assert len({tuple(a.json()) for a in answers}) == 1
    rejected, missing, unknown = (a.json() for a in answers[1:])
    assert (rejected["rejected_reason"], rejected["outputs"]) == ("'orders' is NULL", {})
    assert (missing["key"], missing["age_seconds"], missing["is_stale"]) == (["00099"], None, True)
    assert (unknown["name"], unknown["publication"]) == ("spend", None)


def test_ages_are_counted_by_the_clock_of_the_service(folder: Path) -> None:
    moments = [CLOCK + timedelta(days=2), CLOCK + timedelta(days=2, seconds=1)]
    with opened(folder, now=lambda: moments[0]) as service:
        first = service.get(GET).json()
        moments.pop(0)
        second = service.get(GET).json()
    assert (first["age_seconds"], first["is_stale"]) == (172800.0, False)
    assert (second["age_seconds"], second["is_stale"]) == (172801.0, True)


def test_a_key_of_several_columns_is_a_segment_for_each(folder: Path) -> None:
    rows = {
        ("a/b", "2024-05-01", 7): {"churn_probability": 0.75},
        ("", "2024-05-01", -1): {"churn_probability": 0.125},
        ("..", "2024-05-01", 2**53 + 1): {"churn_probability": 0.5},
        ("Zoë 100%", "2024-05-01", 0): {"churn_probability": 1.0},
    }
    publish(folder / "orders", rows, key=ORDERS)
    paths = [
        "a%2Fb/2024-05-01/7",
        "/2024-05-01/-1",
        f"%2e%2E/2024-05-01/{2**53 + 1}",
        "Zo%C3%AB%20100%25/2024%2D05%2D01/0",
    ]
    with live(folder) as running:
        # sent raw, since a client would resolve `..` as a folder, even percent-encoded
        found = [running.send(head("GET", f"/v1/predictions/orders/{path}")) for path in paths]
        by_name = running.send(head("GET", f"/v1/predictions/%6frders/{paths[0]}"))
    assert [status for status, _ in found] == [200] * 4
    assert [tuple(document["key"]) for _, document in found] == list(rows)
    assert [document["outputs"] for _, document in found] == list(rows.values())
    assert by_name == found[0]


def test_a_batch_is_answered_in_its_order_by_one_publication(service: Service) -> None:
    answer = service.batch("00043", ["00042"], "00099", "00044", "00042")
    assert answer.status_code == 200
    document = answer.json()
    assert list(document) == ["name", "publication", "answers"]
    answers = document["answers"]
    assert [a["key"] for a in answers] == [["00043"], ["00042"], ["00099"], ["00044"], ["00042"]]
    kinds = ["predicted", "predicted", "missing", "rejected", "predicted"]
    assert [a["status"] for a in answers] == kinds
    assert {a["publication"] for a in answers} == {document["publication"]}
    assert answers[1] == service.get(GET).json()
    assert service.batch().json() == {"name": "churn", "publication": None, "answers": []}


def test_a_batch_of_a_name_that_is_not_published_says_so(service: Service) -> None:
    answer = service.batch("a", ["b", 2], path="/v1/predictions/spend:batch")
    assert answer.status_code == 404
    found = [(a["key"], a["status"]) for a in answer.json()["answers"]]
    assert found == [(["a"], "unknown_model"), (["b", 2], "unknown_model")]


def test_a_key_in_json_is_a_value_or_the_text_of_one(folder: Path) -> None:
    day = date(2024, 5, 1).isoformat()
    publish(folder / "orders", {("a", day, 7): {"churn_probability": 1.0}}, key=ORDERS)
    with opened(folder) as service:
        asked = [["a", day, 7], ["a", day, "7"]]
        found = service.batch(*asked, path="/v1/predictions/orders:batch").json()["answers"]
        assert [a["status"] for a in found] == ["predicted"] * 2
        for wrong in (["a", day, 7.0], ["a", day, True], [1, day, 7], ["a", "May", 7], ["a", day]):
            answer = service.batch(wrong, path="/v1/predictions/orders:batch")
            assert (answer.status_code, is_error(answer.json())) == (400, True), wrong


def test_numbers_that_json_does_not_have_are_texts(folder: Path) -> None:
    publish(folder / "odd", {1: {"p": float("nan"), "q": float("-inf")}}, key={"id": "integer"},
            outputs={"p": "float", "q": "float"})  # fmt: skip
    with opened(folder) as service:
        outputs = service.get("/v1/predictions/odd/1").json()["outputs"]
    assert outputs == {"p": "NaN", "q": "-Infinity"}


# --- publications that come and go


def test_a_new_publication_is_served_and_no_request_is_lost(folder: Path) -> None:
    def rows(version: int) -> dict[str, Any]:
        return {f"{i:05d}": {"churn_probability": float(version)} for i in range(50)}

    seen: dict[str, set[float]] = {}
    failed = []
    stop = threading.Event()
    publish(folder / "churn", rows(1), version="1")

    def note(document: Any) -> None:
        told = {"outputs": document["outputs"], "version": document["model_version"]}
        if told["outputs"] != {"churn_probability": float(told["version"])}:
            failed.append(document)
        seen.setdefault(document["publication"], set()).add(float(told["version"]))

    def ask(port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            while not stop.is_set():
                one = http.get(GET)
                many = http.post(BATCH, json={"keys": [f"{i:05d}" for i in range(50)]})
                if (one.status_code, many.status_code) != (200, 200):
                    failed.append((one.text, many.text))
                    return
                note(one.json())
                for answer in many.json()["answers"]:
                    note(answer)
                if len({answer["publication"] for answer in many.json()["answers"]}) != 1:
                    failed.append(many.json())

    with live(folder) as running:
        threads = [threading.Thread(target=ask, args=(running.port,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for version in (2, 3, 4):
            made = publish(folder / "churn", rows(version), version=str(version))
            wait_until(lambda: made.id in seen)  # noqa: B023
        stop.set()
        for thread in threads:
            thread.join()
    assert failed == []
    assert [versions for _, versions in sorted(seen.items())][-3:] == [{2.0}, {3.0}, {4.0}]


def test_a_switch_in_the_middle_of_a_batch_changes_no_answer_of_it(folder: Path) -> None:
    with Predictions.open(folder / "churn", clock=lambda: NOW) as predictions:

        def keys() -> Iterator[list[Any]]:
            yield ["00042"]
            # "00042" is now the number 42, with another prediction
            publish(folder / "churn", {42: {"churn_probability": 1.0}}, key={"id": "integer"})
            assert predictions.refresh()
            yield ["00042"]

        answers = predictions.get_parsed(keys())
        assert [answer.outputs for answer in answers] == [{"churn_probability": 0.25}] * 2
        assert predictions.get_parsed([["00042"]])[0].key == (42,)


def test_a_new_folder_is_served(folder: Path) -> None:
    with opened(folder) as service:
        assert service.get("/v1/predictions/spend/1").json()["status"] == "unknown_model"
        publish(folder / "spend", {1: {"p": 2.0}}, key={"id": "integer"}, outputs={"p": "float"})
        time.sleep(CHECK_SECONDS + 0.1)
        assert service.get("/v1/predictions/spend/1").json()["outputs"] == {"p": 2.0}
        assert service.batch(1, path="/v1/predictions/spend:batch").status_code == 200


def test_names_that_do_not_exist_do_not_keep_the_service_busy(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    folder_class = type(service.app._folder.folder)
    monkeypatch.setattr(folder_class, "glob", lambda *a: looks.append(a) or [])
    time.sleep(CHECK_SECONDS + 0.1)
    begun = time.monotonic()
    for i in range(100):
        assert service.get(f"/v1/predictions/a{i}/1").status_code == 404
    assert 1 <= len(looks) <= 1 + (time.monotonic() - begun) / CHECK_SECONDS
    assert len(looks) < 100


def test_what_cannot_be_read_at_the_start_is_unavailable_until_it_is_mended(folder: Path) -> None:
    pointer = folder / "churn" / POINTER
    content = pointer.read_bytes()
    pointer.write_text("{")
    with opened(folder) as service:
        answer = service.get(GET)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "unavailable")
        assert str(folder) not in answer.text
        assert service.batch("00042").status_code == 503
        assert service.get("/readyz").json()["publications"][0]["problem"]
        pointer.write_bytes(content)
        time.sleep(CHECK_SECONDS + 0.1)
        assert service.get(GET).status_code == 200
        assert service.get("/readyz").status_code == 200


# --- probes and metrics


def test_readiness_ends_when_what_is_served_is_older_than_it_may_be(folder: Path) -> None:
    moments = [CLOCK + timedelta(days=2), CLOCK + timedelta(days=2, seconds=1)]
    publish(folder / "forever", {"a": {"churn_probability": 1.0}}, stale_after=None)
    with opened(folder, now=lambda: moments[0]) as service:
        assert service.get("/readyz").status_code == 200
        moments.pop(0)
        answer = service.get("/readyz")
        assert answer.status_code == 503
        assert [(p["name"], p["problem"]) for p in answer.json()["publications"]] == [
            ("churn", "it is 2 days, 0:00:01 old; the limit is 2 days, 0:00:00"),
            ("forever", None),
        ]
        # predictions are still served, and the process is healthy
        assert service.get(GET).status_code == 200
        assert service.get("/healthz").json() == {"status": "ok"}


def test_readiness_ends_when_the_newest_publication_is_damaged(folder: Path) -> None:
    with opened(folder) as service:
        made = publish(folder / "churn", ROWS, version="2")
        path = folder / "churn" / made.file_name
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1])
        time.sleep(CHECK_SECONDS + 0.1)
        answer = service.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
        assert "damaged" in answer.json()["publications"][0]["problem"]
        assert str(folder) not in answer.text
        assert service.get(GET).json()["model_version"] == "1"


def test_readiness_ends_when_a_publication_turns_out_to_be_damaged(folder: Path) -> None:
    made = publish(folder / "churn", {f"{i:05d}": {"churn_probability": 1.0} for i in range(5000)})
    with opened(folder) as service:
        path = folder / "churn" / made.file_name
        path.chmod(0o644)
        with path.open("rb+") as stream:
            stream.seek(8192)
            stream.write(b"\xff" * (path.stat().st_size - 8192))
        answer = service.get(GET)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "unavailable")
        assert service.get("/readyz").status_code == 503
        publish(folder / "churn", ROWS)
        time.sleep(CHECK_SECONDS + 0.1)
        assert service.get("/readyz").status_code == 200
        assert service.get(GET).status_code == 200


def test_a_folder_that_is_gone_is_no_longer_ready_and_still_answers(folder: Path) -> None:
    with opened(folder) as service:
        (folder / "churn").rename(folder.parent / "moved")
        time.sleep(CHECK_SECONDS + 0.1)
        assert service.get("/readyz").status_code == 503
        assert service.get(GET).status_code == 200


def test_a_service_of_nothing_is_not_ready(tmp_path: Path) -> None:
    with opened(tmp_path) as service:
        assert service.get("/readyz").status_code == 503
        assert service.get("/healthz").status_code == 200


def test_figures_count_requests_by_route_and_status(service: Service) -> None:
    for path in (GET, GET, "/v1/predictions/churn/00099", "/nowhere", "/healthz"):
        service.get(path)
    service.batch("00042")
    service.batch(1)
    answer = service.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    figures = dict(
        line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")
    )
    requests = {k: v for k, v in figures.items() if k.startswith("dbt_onnx_http_requests_total")}
    assert requests == {
        'dbt_onnx_http_requests_total{route="batch",status="200"}': "1",
        'dbt_onnx_http_requests_total{route="batch",status="400"}': "1",
        'dbt_onnx_http_requests_total{route="healthz",status="200"}': "1",
        'dbt_onnx_http_requests_total{route="other",status="404"}': "1",
        'dbt_onnx_http_requests_total{route="prediction",status="200"}': "2",
        'dbt_onnx_http_requests_total{route="prediction",status="404"}': "1",
    }
    seconds = "dbt_onnx_http_request_seconds"
    buckets = [v for k, v in figures.items() if k.startswith(f'{seconds}_bucket{{route="pred')]
    assert buckets == sorted(buckets, key=int)
    assert buckets[-1] == figures[f'{seconds}_count{{route="prediction"}}'] == "3"
    assert 0 < float(figures[f'{seconds}_sum{{route="prediction"}}']) < 3
    assert figures['dbt_onnx_publication_age_seconds{name="churn"}'] == "21600.000"
    assert figures['dbt_onnx_publication_rows{name="churn"}'] == "3"
    assert figures['dbt_onnx_publication_problem{name="churn"}'] == "0"
    served = service.get(GET).json()["publication"]
    assert figures[f'dbt_onnx_publication_info{{name="churn",publication="{served}"}}'] == "1"


def test_every_figure_says_what_it_is(service: Service) -> None:
    lines = service.get("/metrics").text.splitlines()
    described = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    named = {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert plain <= described
    assert len(described) == 8


def test_the_description_says_what_there_is(service: Service) -> None:
    document = service.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    paths = {path: list(methods) for path, methods in document["paths"].items()}
    assert paths == {
        "/v1/predictions/{name}/{key}": ["get"],
        "/v1/predictions/{name}:batch": ["post"],
        "/v1/predictions/{name}:score": ["post"],
        "/v1/predictions/{name}:submit": ["post"],
        "/v1/submissions/{name}/{request_id}": ["get"],
        "/healthz": ["get"],
        "/readyz": ["get"],
        "/metrics": ["get"],
        "/openapi.json": ["get"],
    }
    answer = document["components"]["schemas"]["Answer"]
    assert answer["required"] == list(service.get(GET).json())
    assert set(answer["properties"]) == set(answer["required"])
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert references == set(document["components"]["schemas"])


# --- who may ask, and how often


TOKEN = "correct-horse"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
OTHER = hashlib.sha256(b"battery-staple").hexdigest()


def test_only_who_has_a_token_is_answered(folder: Path) -> None:
    with opened(folder, tokens=Tokens([OTHER, HASH])) as service:
        for given in (None, "", "Bearer", "Bearer no", f"Basic {TOKEN}", HASH, f"Bearer {HASH}"):
            headers = {} if given is None else {"authorization": given}
            for path in (GET, "/metrics", "/openapi.json", "/nowhere", "/v1/predictions/spend/1"):
                answer = service.get(path, headers=headers)
                assert (answer.status_code, is_error(answer.json())) == (401, True), (given, path)
                assert answer.headers["www-authenticate"] == "Bearer"
            assert service.batch("00042", headers=headers).status_code == 401
        for scheme in ("Bearer", "bearer"):
            headers = {"authorization": f"{scheme} {TOKEN}"}
            assert service.get(GET, headers=headers).status_code == 200
            assert service.batch("00042", headers=headers).status_code == 200
        # probes need no token
        assert service.get("/healthz").status_code == 200
        assert service.get("/readyz").status_code == 200


def test_a_token_is_compared_with_all_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or compare(a, b))
    tokens = Tokens([HASH, OTHER])
    assert tokens.owner(f"Bearer {TOKEN}".encode()) == HASH
    assert compared == [HASH, OTHER]
    assert tokens.owner(b"Bearer no") is None
    assert compared == [HASH, OTHER] * 2


def test_tokens_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# who may ask\n\n  {HASH.upper()}  # the shop\n{OTHER}\n")
    tokens = Tokens.from_file(path)
    assert tokens.owner(f"Bearer {TOKEN}".encode()) == HASH
    assert tokens.owner(b"Bearer battery-staple") == OTHER


@pytest.mark.parametrize("content", [b"", b"# nobody\n", TOKEN.encode(), b"\xff\xfe", b"a" * 63])
def test_a_file_without_hashes_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Tokens.from_file(path)
    assert TOKEN not in str(caught.value)


def test_a_client_that_comes_too_often_waits(folder: Path) -> None:
    with opened(folder, limits=Limits(requests_per_second=0.1)) as service:
        assert service.get(GET).status_code == 200
        answer = service.get(GET)
        assert (answer.status_code, is_error(answer.json())) == (429, True)
        assert 1 <= int(answer.headers["retry-after"]) <= 10
        assert service.get(GET, client="10.0.0.2").status_code == 200
        # probes do not count against the limit
        assert [service.get("/healthz").status_code for _ in range(3)] == [200] * 3


def test_a_rate_is_that_of_a_token_and_guesses_are_counted_by_client(folder: Path) -> None:
    limits = Limits(requests_per_second=0.1)
    with opened(folder, tokens=Tokens([HASH, OTHER]), limits=limits) as service:
        one, two, none = (
            {"authorization": f"Bearer {token}"} for token in (TOKEN, "battery-staple", "no")
        )
        asked = [(one, "10.0.0.1"), (one, "10.0.0.2"), (two, "10.0.0.1"), (none, "10.0.0.1"),
                 (none, "10.0.0.1"), (none, "10.0.0.2")]  # fmt: skip
        found = [service.get(GET, headers=h, client=c).status_code for h, c in asked]
    assert found == [200, 429, 200, 401, 429, 401]


def test_a_bucket_holds_one_second_and_fills_again() -> None:
    now = [100.0]
    rates = Rates(4, clock=lambda: now[0])

    def passed(client: str = "a") -> int:
        for count in range(100):
            try:
                rates.take(client)
            except Refusal as refusal:
                assert refusal.headers == ((b"retry-after", b"1"),)
                return count
        return 100

    assert passed() == 4
    assert passed("b") == 4
    now[0] += 0.5
    assert passed() == 2
    now[0] += 60
    assert passed() == 4


def test_only_the_clients_that_came_last_are_remembered() -> None:
    rates = Rates(1, clock=lambda: 0.0)
    for i in range(20_000):
        rates.take(f"client {i}")
    assert len(rates._full_at) == 10_000
    with pytest.raises(Refusal):
        rates.take("client 19999")


# --- how answers are sent


class Pieces(asyncio.Transport):
    """A transport that keeps each piece of written bytes."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.written: list[bytes] = []
        self.has_written = asyncio.Event()
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written.append(data)
        self.has_written.set()

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


async def sent(service: Service, *requests: bytes) -> Pieces:
    """Send requests on one connection, each after the one before had an effect. Returns what was written."""
    transport = Pieces()
    config = server_for(service.app).config
    config.load()
    connection: Any = config.http_protocol_class(
        config=config, server_state=ServerState(), app_state={}
    )
    connection.connection_made(transport)
    for request in requests:
        transport.has_written.clear()
        connection.data_received(request)
        await asyncio.wait_for(transport.has_written.wait(), 20)
    connection.connection_lost(None)
    return transport


def test_an_answer_is_sent_in_one_piece(service: Service) -> None:
    asked = head("GET", GET, close=False)
    transport = asyncio.run(sent(service, asked, asked))
    assert [answer_of(piece)[0] for piece in transport.written] == [200, 200]


def test_the_last_answer_of_a_connection_is_sent_before_it_is_closed(service: Service) -> None:
    transport = asyncio.run(sent(service, head("GET", GET)))
    assert [answer_of(piece)[0] for piece in transport.written] == [200]
    assert transport.is_closed


def test_who_waits_to_be_told_to_send_a_body_is_told_so(service: Service) -> None:
    body = b'{"keys": ["00042"]}'
    length = f"Content-Length: {len(body)}"
    asked = head("POST", BATCH, length, "Expect: 100-continue", close=False)
    transport = asyncio.run(sent(service, asked, body))
    assert transport.written[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert [answer_of(piece)[0] for piece in transport.written[1:]] == [200]


# --- hostile requests


def post(body: bytes, *headers: str, path: str = BATCH) -> bytes:
    return head("POST", path, f"Content-Length: {len(body)}", *headers) + body


DEEP = b'{"keys": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HOSTILE: dict[str, tuple[bytes, int]] = {
    "sql": (head("GET", "/v1/predictions/churn/'%20or%201=1;%20drop%20table%20rows;--"), 404),
    "a path": (head("GET", "/v1/predictions/churn/..%2F..%2Fetc%2Fpasswd"), 404),
    "a path as a name": (head("GET", "/v1/predictions/..%2Fchurn/00042"), 404),
    "folders in the path": (head("GET", "/v1/predictions/../../etc/passwd"), 404),
    "a NUL": (head("GET", "/v1/predictions/churn/00042%00"), 404),
    "a NUL as a name": (head("GET", "/v1/predictions/%00/00042"), 404),
    "no UTF-8": (head("GET", "/v1/predictions/churn/%ff"), 400),
    "half an escape": (head("GET", "/v1/predictions/churn/100%"), 400),
    "no escape": (head("GET", "/v1/predictions/churn/%zz"), 400),
    "no escape, but a number": (head("GET", "/v1/predictions/churn/%+1"), 400),
    "bytes in the path": (b"GET /v1/predictions/churn/\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "too many segments": (head("GET", f"{GET}/00043"), 400),
    "a long path": (head("GET", "/v1/predictions/churn/" + "a" * 10_000), 414),
    "1 MB in the path": (head("GET", "/v1/predictions/churn/" + "a" * 2**20), 431),
    "1 MB in a header": (head("GET", GET, "X-A: " + "a" * 2**20), 431),
    "1 MB as a name": (head("GET", f"/v1/predictions/{'a' * 2**20}/1"), 431),
    "another method": (head("DELETE", GET), 405),
    "a post to a key": (post(b"{}", path=GET), 405),
    "a get of a batch": (head("GET", BATCH), 405),
    "an action that is not there": (post(b"{}", path="/v1/predictions/churn:drop"), 404),
    "nowhere": (head("GET", "/admin"), 404),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "an end of line in the path": (head("GET", "/a\r\nb"), 400),
    "a proxy's method": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an upgrade": (head("GET", "/a", "Upgrade: websocket", "Connection: Upgrade, close", close=False), 404),
    "two lengths": (post(b"{}", "Content-Length: 9"), 400),
    "no JSON": (post(b"{keys: 1}"), 400),
    "no body": (post(b""), 400),
    "no text": (post(b"\xff\xfe\xff"), 400),
    "no object": (post(b'["00042"]'), 400),
    "no keys": (post(b'{"key": ["00042"]}'), 400),
    "more than keys": (post(b'{"keys": [], "model": "x"}'), 400),
    "one key": (post(b'{"keys": "00042"}'), 400),
    "a number for a text": (post(b'{"keys": [42]}'), 400),
    "an object for a key": (post(b'{"keys": [{"$ne": null}]}'), 400),
    "null for a key": (post(b'{"keys": [null]}'), 400),
    "no value for a key": (post(b'{"keys": [[]]}'), 400),
    "a list in a key": (post(b'{"keys": [[["00042"]]]}'), 400),
    "half a surrogate": (post(rb'{"keys": ["\ud800"]}'), 400),
    "NaN": (post(b'{"keys": [NaN]}'), 400),
    "infinity": (post(b'{"keys": [1e999]}'), 400),
    "a number of 10,000 digits": (post(b'{"keys": [' + b"9" * 10_000 + b"]}"), 400),
    "deep JSON": (post(DEEP), 400),
    # at various depths, also just below the deepest that can be parsed
    **{
        f"JSON {depth} deep": (post(b'{"keys": [' + b"[" * depth + b"]" * depth + b"]}"), 400)
        for depth in (900, 970, 980, 985, 990, 995)
    },
    "SQL in a body": (post(b"""{"keys": ["' or 1=1; --"], "x": 1}"""), 400),
    "a batch that is too large": (post(json.dumps({"keys": ["a"] * 1001}).encode()), 413),
    "a body that is too large": (post(b'{"keys": ["' + b"a" * 2**20 + b'"]}'), 413),
    "a body that says it is too large": (head("POST", BATCH, f"Content-Length: {2**40}"), 413),
    "a body in too many chunks": (
        head("POST", BATCH, "Transfer-Encoding: chunked") + (b"8000\r\n" + b"a" * 2**15 + b"\r\n") * 40
        + b"0\r\n\r\n",
        413,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("hostile")
    publish(folder / "churn", ROWS)
    with live(folder, limits=Limits(seconds=5)) as running:
        yield running


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_is_one_answer_and_no_more(
    hostile: Live, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    request, wanted = HOSTILE[name]
    with caplog.at_level(logging.DEBUG, logger="dbt_onnx"):
        status, document = hostile.send(request)
    assert status == wanted, document
    assert is_error(document) or document["status"] in {"missing", "unknown_model"}
    assert caplog.records == []
    # the service still works as before
    assert hostile.send(head("GET", GET))[1]["outputs"] == {"churn_probability": 0.25}


def test_an_error_says_what_is_wrong_and_where(service: Service) -> None:
    def error(content: bytes) -> tuple[str, str]:
        document = service.ask("POST", BATCH, content=content).json()["error"]
        return document["kind"], document["message"]

    assert error(b'{"keys": ["00042", ["00043", null]]}') == (
        "key",
        "keys[1] must contain only strings, numbers and booleans",
    )
    assert error(b'{"keys": [42]}') == (
        "key",
        "the key of 'churn' is customer_id (text); 42 is not of type str",
    )
    assert error(b'{"keys": [NaN]}') == ("json", "the body is not valid JSON")
    assert error(b'{"keys": [], "model": 1}') == (
        "keys",
        'the body must be an object with the single field "keys"',
    )


def test_a_fault_of_the_service_is_logged_and_not_shown(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service.app._folder, "get", lambda name: 1 / 0)
    answer = service.get(GET)
    assert (answer.status_code, is_error(answer.json())) == (500, True)
    assert "ZeroDivisionError" not in answer.text
    assert "ZeroDivisionError" in caplog.text


# --- connections


def test_a_connection_is_used_again(folder: Path) -> None:
    with live(folder) as running, running.connect() as client:
        reader = client.makefile("rb")
        for path in (GET, "/v1/predictions/churn/00043", "/nowhere", GET):
            client.sendall(head("GET", path, close=False))
            status = reader.readline()
            length = 0
            while (line := reader.readline()) != b"\r\n":
                name, _, value = line.partition(b": ")
                length = int(value) if name == b"content-length" else length
            document = json.loads(reader.read(length))
            assert (b"404" in status) == ("error" in document)
        assert document["outputs"] == {"churn_probability": 0.25}
        reader.close()


SLOW = {
    "no request": (b"", None),
    "half a head": (b"GET /v1/predictions/churn/00042 HTTP/1.1\r\nHost:", 408),
    "empty lines": (b"\r\n", None),
    "half a body": (head("POST", BATCH, "Content-Length: 100") + b'{"keys"', 408),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_sender_is_cut_off(folder: Path, name: str) -> None:
    begin, wanted = SLOW[name]
    with live(folder, limits=Limits(seconds=0.5)) as running, running.connect() as client:
        client.sendall(begin)
        begun = time.monotonic()
        # sending a byte now and then does not extend the limit
        got = b""
        client.settimeout(0.1)
        while time.monotonic() < begun + 20:
            try:
                chunk = client.recv(65536)
            except TimeoutError:
                if begin:
                    client.sendall(b"\n" if name == "empty lines" else b" ")
                continue
            except (ConnectionResetError, BrokenPipeError):
                break
            got += chunk
            if not chunk:
                break
        took = time.monotonic() - begun
        assert 0.4 < took < 10
        assert (answer_of(got)[0] if got else None) == wanted
        wait_until(lambda: running.connections == 0)


def test_a_body_that_goes_on_after_the_answer_is_cut_off(folder: Path) -> None:
    with live(folder, limits=Limits(seconds=0.5)) as running, running.connect() as client:
        client.sendall(head("GET", GET, "Content-Length: 1000000", close=False))
        with suppress(ConnectionError):
            for _ in range(200):
                client.sendall(b"a")
                time.sleep(0.02)
                if running.connections == 0:
                    break
        assert running.connections == 0
        # one complete answer was sent before the connection closed
        assert answer_of(read_all(client))[0] == 200


def test_a_body_that_nobody_reads_does_not_end_the_connection(folder: Path) -> None:
    body = json.dumps({"keys": ["00042"] * 50_000}).encode()
    with live(folder, tokens=Tokens([HASH])) as running, running.connect() as client:
        client.sendall(head("POST", BATCH, f"Content-Length: {len(body)}", close=False) + body)
        client.sendall(head("GET", "/healthz"))
        refused, _, rest = read_all(client).partition(b'"}}')
        assert refused.startswith(b"HTTP/1.1 401 ")
        assert answer_of(rest) == (200, {"status": "ok"})


def test_who_does_not_take_the_answer_is_cut_off(folder: Path) -> None:
    limits = Limits(seconds=0.5, batch_keys=20_000)
    body = json.dumps({"keys": ["a"] * 20_000}).encode()
    with live(folder, limits=limits) as running, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", running.port))
        client.sendall(head("POST", BATCH, f"Content-Length: {len(body)}", close=False) + body)
        wait_until(lambda: running.server.server_state.total_requests == 1)
        assert running.connections == 1
        wait_until(lambda: running.connections == 0, seconds=10)


def test_there_are_only_so_many_connections(folder: Path) -> None:
    with live(folder, limits=Limits(connections=2)) as running:
        kept = [running.connect() for _ in range(2)]
        wait_until(lambda: running.connections == 2)
        assert running.send(b"")[0] == 503
        kept.pop().close()
        wait_until(lambda: running.connections == 1)
        assert running.send(head("GET", GET))[0] == 200
        kept.pop().close()


# --- the command


def call(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["serve", *map(str, arguments)])


@contextmanager
def command(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start the command in a separate process. Yields the process and its port."""
    program = "from dbt_onnx.cli import main; main()"
    arguments = [sys.executable, "-c", program, "serve", str(folder), "--port", "0", *options]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline()
            found = re.search(r" is served at http://127\.0\.0\.1:(\d+)$", address)
            assert found, address
            yield process, int(found[1])
        finally:
            process.kill()


def test_a_request_in_work_is_answered_before_the_service_ends(folder: Path) -> None:
    clock = (CLOCK + timedelta(hours=1)).isoformat()
    with command(folder, "--clock", clock) as (process, port):
        address = ("127.0.0.1", port)
        with socket.create_connection(address, timeout=20) as client:
            body = json.dumps({"keys": ["00042"]}).encode()
            client.sendall(head("POST", BATCH, f"Content-Length: {len(body)}") + body[:5])
            time.sleep(0.5)
            with socket.create_connection(address, timeout=20) as idle:
                time.sleep(0.2)
                process.send_signal(signal.SIGTERM)
                assert read_all(idle) == b""
            client.sendall(body[5:])
            status, document = answer_of(read_all(client))
        assert process.wait(timeout=20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert status == 200
        # the clock started at the given time, and advanced
        assert 3600 < document["answers"][0]["age_seconds"] < 3660
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_every_request_is_logged_only_when_asked_for(folder: Path) -> None:
    for options, wanted in ((), ""), (("--access-log",), '"GET /v1/predictions/churn/00042'):
        with command(folder, *options) as (process, port):
            assert httpx.get(f"http://127.0.0.1:{port}{GET}").status_code == 200
            process.send_signal(signal.SIGTERM)
            said = "".join(process.communicate(timeout=20))
        assert (wanted in said) and ("00042" in said) == bool(wanted)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_others_are_not_answered_unless_it_is_said_that_they_may(folder: Path, host: str) -> None:
    result = call(folder, "--host", host)
    assert result.exit_code == 2
    assert "--no-auth" in result.stderr


def test_addresses_of_this_machine_need_no_token() -> None:
    assert [is_loopback(h) for h in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4


def test_a_call_that_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(HASH)
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        calls = {
            "contradict": (folder, "--tokens", tokens, "--no-auth"),
            "is the folder of one publication": (folder / "churn",),
            "cannot listen at": (folder, "--port", port),
            "not a sha256": (folder, "--tokens", folder / "churn" / POINTER),
        }
        for said, arguments in calls.items():
            result = call(*arguments)
            assert (result.exit_code, said in result.stderr) == (2, True), result.output
            assert "Hint: " in result.stderr


def test_without_its_packages_the_command_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "uvicorn" or name == "dbt_onnx.serving.http_server":
            monkeypatch.delitem(sys.modules, name)
    import dbt_onnx.serving

    monkeypatch.delattr(dbt_onnx.serving, "http_server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = call(folder)
    assert result.exit_code == 2
    assert "pip install 'dbt-onnx[serve]'" in result.stderr


# --- additional routes


def doubled(segment: str, body: bytes) -> dict[str, Any]:
    if segment == "refused":
        raise Refusal(HTTPStatus.BAD_REQUEST, "no_number", "it is refused", hint="send a number")
    if segment == "key":
        raise InvalidKeyError("it is no key", hint="send a key")
    return {"segment": segment, "doubled": 2 * int(body)}


DOUBLES = {"/v1/doubles/": doubled}


def test_a_route_of_ones_own_answers_beside_the_others(folder: Path) -> None:
    with opened(folder, posts=DOUBLES) as service:
        answer = service.ask("POST", "/v1/doubles/a%2Fb%20%C3%A4", content=b"21")
        assert (answer.status_code, answer.json()) == (200, {"segment": "a/b ä", "doubled": 42})
        assert service.get(GET).status_code == 200
        figures = service.get("/metrics").text
        assert 'requests_total{route="/v1/doubles/",status="200"} 1' in figures


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("POST", "/v1/doubles/refused", b"1", 400, "no_number"),
        ("POST", "/v1/doubles/key", b"1", 400, "key"),
        ("POST", "/v1/doubles/1", b"x", 500, "internal"),
        ("POST", "/v1/doubles/1", b"1" * 2_000, 413, "too_large"),
        ("POST", "/v1/doubles/%ff", b"1", 400, "path"),
        ("GET", "/v1/doubles/1", b"", 405, "method_not_allowed"),
        ("POST", "/v1/doubles/", b"1", 404, "not_found"),
        ("POST", "/v1/doubles", b"1", 404, "not_found"),
        ("POST", "/v1/doubles/1/2", b"1", 404, "not_found"),
        ("POST", "/v1/double/1", b"1", 404, "not_found"),
    ],
)
def test_a_route_of_ones_own_refuses_as_the_others(
    folder: Path, method: str, path: str, body: bytes, status: int, kind: str
) -> None:
    with opened(folder, posts=DOUBLES, limits=Limits(body_bytes=1_000)) as service:
        answer = service.ask(method, path, content=body)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (status, kind)
        assert is_error(answer.json())


def test_a_route_of_ones_own_wants_a_token(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens.txt"
    file.write_text(hashlib.sha256(b"secret").hexdigest() + "\n")
    with opened(folder, posts=DOUBLES, tokens=Tokens.from_file(file)) as service:
        assert service.ask("POST", "/v1/doubles/1", content=b"1").status_code == 401
        known = {"Authorization": "Bearer secret"}
        answer = service.ask("POST", "/v1/doubles/1", content=b"1", headers=known)
        assert answer.status_code == 200
