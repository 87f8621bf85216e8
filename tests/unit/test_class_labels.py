"""Which class each probability belongs to: the label output decides, and anything that contradicts it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_models as models
import pytest
from onnx import helper
from skl2onnx import to_onnx
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import dbt_onnx
from dbt_onnx.artifacts.agreement import check_contract
from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.graph import read_graph
from dbt_onnx.artifacts.sample import score_sample
from dbt_onnx.authoring.infer import ModelOptions, describe_model, sample_columns
from dbt_onnx.errors import ContractError

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

X = np.random.default_rng(3).normal(size=(300, 2)).astype(np.float32)
PLACES = np.digitize(X[:, 0], [-0.5, 0.5])
INNER = [
    ("tree", DecisionTreeClassifier(max_depth=3, random_state=0)),
    ("bayes", GaussianNB()),
]
ENSEMBLES = {
    "stacking": StackingClassifier(INNER, final_estimator=LogisticRegression(), cv=2),
    "stacking of a pipeline": StackingClassifier(
        INNER, final_estimator=make_pipeline(StandardScaler(), LogisticRegression()), cv=2
    ),
    "voting": VotingClassifier(INNER, voting="soft", flatten_transform=False),
    "rest": OneVsRestClassifier(LogisticRegression()),
    "calibrated": CalibratedClassifierCV(GaussianNB(), cv=2),
}


def described(model: ModelProto, **options: Any) -> tuple[Any, dict[str, list[Any]], np.ndarray]:
    content = model.SerializeToString()
    description = describe_model(
        content,
        read_graph(content, where="m"),
        ModelOptions(features=["a", "b"], **options),
        where="m",
    )
    features = sample_columns(description)
    rows = np.array([features["a"], features["b"]], dtype=np.float32).T
    return description.contract, score_sample(content, description.contract, features), rows


def converted(estimator: Any, *, zipmap: bool = False) -> ModelProto:
    options = {id(estimator): {"zipmap": zipmap}}
    return to_onnx(estimator, X[:1], target_opset={"": 18, "ai.onnx.ml": 3}, options=options)


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize("names", [[1, 2, 3], [7, 0, -4], ["no", "yes", "hm"]], ids=str)
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_each_probability_is_named_for_its_class(
    ensemble: str, names: list[Any], zipmap: bool
) -> None:
    estimator = ENSEMBLES[ensemble].fit(X, np.array(names)[PLACES])
    _, sample, rows = described(converted(estimator, zipmap=zipmap))
    shares = estimator.predict_proba(rows)
    for place, label in enumerate(estimator.classes_):
        np.testing.assert_allclose(sample[f"probability_{label}"], shares[:, place], atol=1e-4)
    assert sample["label"] == estimator.predict(rows).tolist()


@pytest.mark.parametrize("names", [[1, 2, 3], ["no", "yes", "hm"], [1, 2, 2]], ids=str)
def test_export_names_the_classes_of_a_stack(tmp_path: Path, names: list[Any]) -> None:
    import pyarrow as pa

    estimator = ENSEMBLES["stacking"].fit(X, np.array(names)[PLACES])
    table = pa.table({"a": X[:, 0], "b": X[:, 1]})
    entry = dbt_onnx.export(estimator, table, name="m", version="1", artifacts=tmp_path)
    contract = load_artifact(tmp_path, entry).contract
    assert contract.outputs[1].classes == tuple(estimator.classes_.tolist())


@pytest.mark.parametrize(
    ("given", "labels", "reason"),
    [
        (["no", "yes", "maybe"], [0, 1], r"names 3 classes .* gives 2 value"),
        (["0", "0"], [0, 1], r"names 2 classes"),
        (["1", "0"], [0, 1], r"\[1, 0\] for output 'probabilities'; the file says \[0, 1\]"),
        (["b", "a"], ["a", "b"], r"the file says \['a', 'b'\]"),
        (["2", "0", "1"], [0, 1, 2], r"the file says \[0, 1, 2\]"),
    ],
)
@pytest.mark.parametrize("zipmap", [False, True])
def test_classes_that_do_not_fit_are_refused(
    given: list[str], labels: list[Any], reason: str, zipmap: bool
) -> None:
    with pytest.raises(ContractError, match=reason):
        described(models.classifier(labels, zipmap=zipmap), classes={"probabilities": given})


def by_argmax(count: int, *, last: str = "Softmax") -> ModelProto:
    """A network without class names: the label is the index of the largest value."""
    model = models.classifier(list(range(count)))
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["x", "w"], ["scores"]),
            helper.make_node(last, ["scores"], ["probabilities"]),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ]
    )
    model.graph.initializer.append(models.constant("w", [list(range(count)), [-1.0] * count]))
    return model


@pytest.mark.parametrize("count", [2, 3, 5])
def test_classes_are_held_against_the_labels_that_the_model_gives(count: int) -> None:
    names = [str(place) for place in range(count)]
    contract, _, _ = described(by_argmax(count), classes={"probabilities": names})
    assert contract.outputs[1].classes == tuple(range(count))
    # names given by their position
    words = list("abcde"[:count])
    contract, _, _ = described(by_argmax(count), classes={"probabilities": words})
    assert contract.outputs[1].classes == tuple(words)
    for wrong in (names[::-1], [str(place + 1) for place in range(count)]):
        with pytest.raises(ContractError, match="labels contradict them") as caught:
            described(by_argmax(count), classes={"probabilities": wrong})
        assert "--classes 'probabilities=a,b" in caught.value.hint


def test_classes_of_what_are_no_probabilities_are_refused() -> None:
    with pytest.raises(ContractError, match="do not add up to 1"):
        described(by_argmax(3, last="Identity"), classes={"probabilities": ["0", "1", "2"]})
    options = {"classes": {"probabilities": ["0", "1", "2"]}}
    contract, _, _ = described(
        by_argmax(3, last="Identity"),
        outputs={"probabilities:probabilities": ["x", "y", "z"]},
        **options,
    )
    assert contract.outputs[1].columns == ("x", "y", "z")


def with_inner_list(inner: list[int], *, threshold: float | None = None) -> ModelProto:
    """Probabilities of a classifier whose classes are `inner`, and a separate label output of 0 or 1."""
    model = models.classifier(inner)
    nodes = model.graph.node
    nodes[0].output[0] = "inner"
    if threshold is None:
        nodes.append(helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0))
        return model
    model.graph.initializer.extend(
        [models.constant("t", threshold), models.constant("one", [1], np.int64)]
    )
    nodes.extend(
        [
            helper.make_node("Gather", ["probabilities", "one"], ["second"], axis=1),
            helper.make_node("Greater", ["second", "t"], ["above"]),
            helper.make_node("Cast", ["above"], ["label"], to=models.INT64),
        ]
    )
    return model


def test_an_inner_list_that_the_labels_contradict_is_refused() -> None:
    with pytest.raises(ContractError, match=r"\[1, 2\], but the model's labels contradict them"):
        described(with_inner_list([1, 2]))
    with pytest.raises(ContractError, match=r"\[1, 0\], but the model's labels contradict them"):
        described(with_inner_list([1, 0]))


def with_codes(codes: list[int], *, by_place: bool) -> ModelProto:
    """Probabilities of a classifier of 0, 1, 2, and a label from `codes`: at the place of the
    largest score, or without `by_place` of the smallest.
    """
    model = models.classifier([0, 1, 2])
    nodes = model.graph.node
    nodes[0].output[0] = "inner"
    if by_place:
        nodes.append(helper.make_node("ArgMax", ["scores"], ["place"], axis=1, keepdims=0))
    else:
        nodes.append(helper.make_node("ArgMax", ["backwards"], ["place"], axis=1, keepdims=0))
        nodes.insert(1, helper.make_node("Neg", ["scores"], ["backwards"]))
    nodes.append(
        helper.make_node("ArrayFeatureExtractor", ["codes", "place"], ["flat"], domain="ai.onnx.ml")
    )
    nodes.append(helper.make_node("Reshape", ["flat", "column"], ["label"]))
    model.graph.initializer.extend(
        [models.constant("codes", codes, np.int64), models.constant("column", [-1], np.int64)]
    )
    return model


def test_a_list_that_is_overruled_must_be_by_the_labels_given() -> None:
    contract, sample, _ = described(with_codes([10, 20, 30], by_place=True))
    assert contract.outputs[1].classes == (10, 20, 30)
    assert set(sample["label"]) <= {10, 20, 30}
    # labels from the list that do not match these probabilities
    other = with_codes([10, 20, 30], by_place=False)
    with pytest.raises(ContractError, match="labels contradict them") as caught:
        described(other)
    assert "--output 'probabilities:vector=probabilities'" in caught.value.hint
    contract, _, _ = described(other, outputs={"probabilities:vector": ["probabilities"]})
    assert contract.outputs[1].kind == "vector"


def test_a_card_with_the_list_of_an_inner_classifier_is_refused() -> None:
    model = with_codes([10, 20, 30], by_place=True)
    content = model.SerializeToString()
    contract, _, _ = described(model)
    signature = read_graph(content, where="m")
    check_contract(contract, signature, where="m")
    label, shares = contract.outputs
    wrong = replace(contract, outputs=(label, replace(shares, classes=(0, 1, 2))))
    with pytest.raises(
        ContractError, match=r"\[0, 1, 2\] in the card and \[10, 20, 30\] in the graph"
    ):
        check_contract(wrong, signature, where="m")


@pytest.mark.parametrize("threshold", [0.02, 0.3, 0.7, 0.98])
def test_a_label_over_a_threshold_contradicts_nothing(threshold: float) -> None:
    contract, sample, _ = described(with_inner_list([0, 1], threshold=threshold))
    assert contract.outputs[1].classes == (0, 1)
    assert sample["label"] == [int(share > threshold) for share in sample["probability"]]
