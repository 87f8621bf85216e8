"""New entities are scored over HTTP with models computed by hand, and the answers are kept."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import graphs
import killers
import pytest
from served_folder import publish
from test_http import NOW, Service, opened
from test_scoring_on_request import LINEAR, served

from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.serving.lookup import CHECK_SECONDS
from dbt_onnx.serving.request_log import read_segment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCORE = "/v1/predictions/churn:score"
QUESTION = {"key": "00099", "features": {"a": 1.5, "b": 1}}


def scoring_folder(tmp_path: Path) -> Path:
    """A serving folder: `churn` with a model, `plain` without one."""
    model = served(tmp_path / "serving/churn", graphs.linear(), LINEAR)
    publish(tmp_path / "serving/churn", {"00042": {"churn_probability": 0.25}}, model=model)
    publish(tmp_path / "serving/plain", {"00042": {"churn_probability": 0.25}})
    return tmp_path / "serving"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return scoring_folder(tmp_path)


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    with opened(folder) as service:
        yield service


def kept(folder: Path) -> list[dict[str, Any]]:
    segments = sorted((folder / "churn/requests").glob("*.log"))
    return [document for segment in segments for _, document in read_segment(segment)]


def test_who_is_new_is_scored_and_the_answer_is_kept_first(service: Service, folder: Path) -> None:
    answered = service.ask("POST", SCORE, json=QUESTION)
    assert answered.status_code == 200
    document = answered.json()
    moment = NOW.isoformat()
    assert document["outputs"] == {"y": 2.5}
    assert (document["status"], document["served_from"]) == ("predicted", "real_time")
    assert (document["model_name"], document["model_version"]) == ("line", "1")
    assert document["as_of"] == document["scored_at"] == f"{moment}Z"
    assert (document["age_seconds"], document["is_stale"]) == (0, False)
    [row] = kept(folder)
    assert row["request_id"] == document["run_id"]
    assert {name: row[name] for name in ("key", "features", "outputs", "scored_at")} == {
        "key": ["00099"],
        "features": {"a": 1.5, "b": 1.0},
        "outputs": {"y": 2.5},
        "scored_at": moment,
    }
    # a known key is scored, too: the request has newer features than the nightly run had
    assert service.ask("POST", SCORE, json={**QUESTION, "key": ["00042"]}).status_code == 200
    assert service.get("/v1/predictions/churn/00042").json()["outputs"] == {
        "churn_probability": 0.25
    }


def test_a_row_that_a_run_would_reject_is_rejected_and_kept(service: Service, folder: Path) -> None:
    answered = service.ask("POST", SCORE, json={"key": "1", "features": {"a": None, "b": 1}})
    assert answered.status_code == 200
    assert answered.json()["status"] == "rejected"
    assert answered.json()["rejected_reason"] == "null:a"
    assert [row["rejected_reason"] for row in kept(folder)] == ["null:a"]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"key": "1", "features": {"a": 1}}, 422, "features"),
        ({"key": "1", "features": {"a": "x", "b": 1}}, 422, "features"),
        ({"key": "1", "features": {"a": 1, "b": 1, "c'; drop table rows": 1}}, 422, "features"),
        ({"key": "1", "features": []}, 400, "score"),
        ({"key": "1"}, 400, "score"),
        ({"key": None, "features": {"a": 1, "b": 1}}, 400, "key"),
        ({"key": ["1", "2"], "features": {"a": 1, "b": 1}}, 400, "key"),
        ({"key": 1, "features": {"a": 1, "b": 1}}, 400, "key"),
        ([], 400, "score"),
    ],
)
def test_what_is_no_row_is_refused_and_nothing_is_kept(
    service: Service, folder: Path, body: Any, status: int, kind: str
) -> None:
    answered = service.ask("POST", SCORE, json=body)
    assert (answered.status_code, answered.json()["error"]["kind"]) == (status, kind)
    assert kept(folder) == []


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, '{"key": "1", "features": {"a": NaN, "b": 1}}']
)
def test_what_is_no_json_is_refused(service: Service, text: str) -> None:
    answered = service.ask("POST", SCORE, content=text)
    assert (answered.status_code, answered.json()["error"]["kind"]) == (400, "json")


def test_a_name_without_a_model_or_without_anything_says_so(service: Service) -> None:
    plain = service.ask("POST", "/v1/predictions/plain:score", json=QUESTION)
    assert (plain.status_code, plain.json()["error"]["kind"]) == (404, "no_model")
    unknown = service.ask("POST", "/v1/predictions/nothing:score", json=QUESTION)
    assert (unknown.status_code, unknown.json()["status"]) == (404, "unknown_model")


def test_an_answer_that_cannot_be_kept_is_not_given(
    service: Service, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        answered = service.ask("POST", SCORE, json=QUESTION)
    assert (answered.status_code, answered.json()["error"]["kind"]) == (503, "unavailable")
    assert str(folder) not in answered.text
    assert service.ask("POST", SCORE, json=QUESTION).status_code == 200
    assert len(kept(folder)) == 1


def test_a_row_that_kills_the_model_is_refused_and_the_next_is_scored(tmp_path: Path) -> None:
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
        deadly = {"dividend": killers.SMALLEST, "divisor": -1}
        answered = service.ask("POST", SCORE, json={"key": "1", "features": deadly})
        assert (answered.status_code, answered.json()["error"]["kind"]) == (422, "scoring")
        harmless = {"dividend": 6, "divisor": 2}
        answered = service.ask("POST", SCORE, json={"key": "1", "features": harmless})
        assert answered.json()["outputs"] == {"quotient": 3.0}
    assert len(kept(tmp_path / "serving")) == 1


def test_a_model_that_was_altered_scores_nothing(folder: Path) -> None:
    [model] = folder.glob("churn/models/**/model.onnx")
    model.write_bytes(model.read_bytes() + b" ")
    with opened(folder) as service:
        answered = service.ask("POST", SCORE, json=QUESTION)
        assert (answered.status_code, answered.json()["error"]["kind"]) == (503, "unavailable")
        assert service.get("/v1/predictions/churn/00042").status_code == 200


def test_many_at_once_are_each_kept_once(service: Service, folder: Path) -> None:
    answers: list[Any] = []

    def ask(number: int) -> None:
        body = {"key": str(number), "features": {"a": number, "b": 0}}
        answers.append(service.ask("POST", SCORE, json=body).json())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer["outputs"]["y"] for answer in answers) == [2 * n + 0.5 for n in range(40)]
    assert sorted(row["request_id"] for row in kept(folder)) == sorted(a["run_id"] for a in answers)
    for answer in answers:
        assert answer["outputs"]["y"] == 2 * int(answer["key"][0]) + 0.5


def test_the_new_version_scores_after_the_next_publication(folder: Path) -> None:
    question = {"key": "1", "features": {"a": 1.5, "b": None}}
    with opened(folder) as service:
        first = service.ask("POST", SCORE, json=question).json()
        assert (first["model_version"], first["outputs"]) == ("1", {"y": 0.5})
        filled = replace(LINEAR.features[1], fill=5)
        contract = replace(LINEAR, features=(LINEAR.features[0], filled))
        model = served(folder / "churn", graphs.linear(), contract, version="2")
        publish(folder / "churn", {"00042": {"churn_probability": 0.5}}, model=model, version="2")
        service.get("/readyz")  # makes the service look for new publications
        time.sleep(CHECK_SECONDS)
        service.get("/readyz")
        second = service.ask("POST", SCORE, json=question).json()
        assert (second["model_version"], second["outputs"]) == ("2", {"y": -1.5})


def test_a_decimal_is_read_as_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "serving/churn"
    model = served(folder, graphs.linear(), LINEAR, a="decimal128(18, 2)")
    publish(folder, {"1": {"churn_probability": 0.25}}, model=model)
    with opened(tmp_path / "serving") as service:
        text = '{"key": "1", "features": {"a": 1234567890123456.78, "b": 0}}'
        assert service.ask("POST", SCORE, content=text).status_code == 200
        text = '{"key": "1", "features": {"a": 0.125, "b": 0}}'
        assert service.ask("POST", SCORE, content=text).status_code == 422
    assert [row["features"]["a"] for row in kept(tmp_path / "serving")] == ["1234567890123456.78"]
