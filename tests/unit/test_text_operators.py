"""Operators of onnxruntime-extensions: those for text are run, all others are refused before they are loaded."""

from __future__ import annotations

import hashlib
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_models as models
import pytest
import text_models
from onnx import helper

from dbt_onnx.artifacts.graph import read_graph
from dbt_onnx.engines.spark.worker import Work
from dbt_onnx.errors import ArtifactError
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.kernel.session import OnnxSession

KINDS = pytest.mark.parametrize("kind", [OnnxSession, ChildSession])
FORBIDDEN = [
    "PyOp",
    "ImageReader",
    "HfJsonTokenizer",
    "AudioDecoder",
    "StringECMARegexReplace",
    "New",
]


def feed(*texts: str) -> dict[str, Any]:
    return {"review": np.array(texts, dtype=object)}


@pytest.mark.parametrize("text", text_models.TOKENS)
def test_a_tokenizer_in_the_graph_gives_the_tokens_that_bert_gives(text: str) -> None:
    model = text_models.bert(output="ids").SerializeToString()
    (ids,) = OnnxSession(model, output_names=["ids"], batch_rows=1).run(feed(text))
    assert tuple(ids) == text_models.TOKENS[text]


@KINDS
def test_a_score_is_the_same_in_this_process_and_in_a_child(kind: Any) -> None:
    session = kind(text_models.bert().SerializeToString(), output_names=["score"], batch_rows=1)
    (scores,) = session.run(feed(*text_models.TOKENS))
    assert scores.tolist() == [text_models.score(text) for text in text_models.TOKENS]


@KINDS
def test_operators_of_many_rows(kind: Any) -> None:
    session = kind(text_models.length().SerializeToString(), output_names=["length"])
    assert session.run(feed("ÄPFEL 🎉", "", "ab"))[0].tolist() == [7, 0, 2]


@pytest.mark.parametrize("in_child_process", [False, True])
def test_a_task_of_spark_scores_the_same(in_child_process: bool) -> None:
    model = text_models.bert().SerializeToString()
    contract = Contract(
        features=(Feature(name="review"),),
        inputs=(Input(name="review", dtype="string", features=("review",), rank=1),),
        outputs=(Output(name="score", kind="value", dtype="float32", columns=("score",)),),
    )
    work = Work(
        contract=contract,
        model=SimpleNamespace(value=model),
        sha256=hashlib.sha256(model).hexdigest(),
        batch_rows=1,
        threads=1,
        rows=None,
        max_rows=None,
        features=(),
    )
    (scores,) = work._session(in_child_process=in_child_process).run(feed(*text_models.TOKENS))
    assert scores.tolist() == [text_models.score(text) for text in text_models.TOKENS]


def without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_the_package(monkeypatch)
    with pytest.raises(ArtifactError) as caught:
        OnnxSession(text_models.length().SerializeToString(), output_names=["length"])
    assert caught.value.hint == "pip install 'dbt-onnx[text]'"


def test_a_model_that_only_mentions_the_domain_does_not_load_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_the_package(monkeypatch)
    model = models.linear(metadata={"made_with": text_models.DOMAIN})
    model.doc_string = model.graph.node[0].doc_string = text_models.DOMAIN
    model.opset_import.append(helper.make_opsetid(text_models.DOMAIN, 1))
    OnnxSession(model.SerializeToString(), output_names=["y"])


# hostile files


def refusal(model: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_graph(model.SerializeToString(), where="m")
    return caught.value.message


def forbidden(name: str, domain: str = text_models.DOMAIN) -> Any:
    return helper.make_node(name, ["x"], ["u"], domain=domain)


def test_the_text_operators_pass() -> None:
    for model in (text_models.bert(), text_models.length()):
        assert read_graph(model.SerializeToString(), where="m").inputs[0].dtype == "string"


@pytest.mark.parametrize("name", FORBIDDEN)
def test_any_other_operator_is_refused(name: str) -> None:
    model = models.linear()
    model.graph.node.insert(0, forbidden(name))
    assert f"uses operator {name} of ai.onnx.contrib" in refusal(model)


def test_an_operator_in_a_branch_is_refused() -> None:
    model = models.linear()
    branch = helper.make_graph([forbidden("PyOp")], "b", [], [models.tensor("u", None)])
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    assert "uses operator PyOp of ai.onnx.contrib" in refusal(model)


def in_a_function(node: Any, domain: str, name: str = "own") -> Any:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(node.domain, 1)]
    function = helper.make_function(domain, name, ["x"], ["u"], [node], opsets)
    called = helper.make_node(name, ["x"], ["z"], domain=domain)
    base = models.linear()
    base.functions.append(function)
    base.graph.node.append(called)
    return base


def test_an_operator_in_a_function_is_refused() -> None:
    model = in_a_function(forbidden("PyOp"), "shop")
    assert "uses operator PyOp of ai.onnx.contrib" in refusal(model)


def test_a_function_cannot_make_the_domain_its_own() -> None:
    identity = helper.make_node("Identity", ["x"], ["u"])
    model = in_a_function(identity, text_models.DOMAIN, "StringLower")
    assert "defines function 'StringLower' in the domain 'ai.onnx.contrib'" in refusal(model)


def test_a_function_does_not_open_its_domain_for_other_operators() -> None:
    """The library also has operators in this domain, which only a function of the same name may replace."""
    domain = "com.microsoft.extensions"
    model = in_a_function(helper.make_node("Identity", ["x"], ["u"]), domain)
    assert read_graph(model.SerializeToString(), where="m").inputs
    model.graph.node.append(forbidden("DecodeImage", domain))
    assert f"unknown domain '{domain}'" in refusal(model)
