"""A torch module is exported as it predicts in evaluation mode, or refused with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from modules import (
    FEATURES,
    MISSING,
    ROWS,
    AttendsToOtherRows,
    Attentive,
    Counts,
    Embeds,
    Of,
    TwoHeads,
    fills_in_place,
    mlp,
    tensor_of,
)
from torch import nn

import dbt_onnx
from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.sample import score_sample
from dbt_onnx.artifacts.verification import verify_entry
from dbt_onnx.authoring import conversion, torch_module
from dbt_onnx.errors import ArtifactError, ConfigError, ContractError

UNSEEN = np.random.default_rng(1)


def exported(folder, module, features=FEATURES, **options):
    given = {"name": "m", "version": "1", "artifacts": folder, **options}
    entry = dbt_onnx.export(module, features, **given)
    assert verify_entry(folder, entry).fault is None
    return load_artifact(folder, entry)


def unseen(features):
    """Return rows that the export has not seen, with the missing values of `features`."""
    return pa.table(
        {
            name: column.take(pa.array(UNSEEN.integers(0, ROWS, 500)))
            if name == "visits" or column.null_count
            else pa.array(UNSEEN.normal(size=500) * 2)
            for name, column in zip(features.column_names, features.columns, strict=True)
        }
    )


def scored(artifact, table):
    columns = score_sample(artifact.model_bytes, artifact.contract, table.to_pydict())
    return {name: np.array(values) for name, values in columns.items()}


def answers(module, table, dtype=torch.float32):
    with torch.no_grad():
        return module.eval()(tensor_of(table, dtype))


SINGLE = {
    "a perceptron": (mlp, FEATURES),
    "attention between features": (Attentive, FEATURES),
    "an embedding": (Embeds, FEATURES),
    "missing values that it replaces": (lambda: Of(fills_in_place), MISSING),
    "a branch by torch.where": (
        lambda: Of(lambda rows, layer: torch.where(rows[:, :1] > 0, layer(rows), -layer(rows))),
        FEATURES,
    ),
    "a counter": (Counts, FEATURES),
    "its own input": (lambda: Of(lambda rows, layer: rows), FEATURES),
}


@pytest.mark.parametrize("case", SINGLE)
def test_new_rows_get_the_answers_of_torch(tmp_path, case):
    make, features = SINGLE[case]
    module = make()
    artifact = exported(tmp_path, module, features)
    (column,) = artifact.contract.column_kinds
    rows = unseen(features)
    truth = answers(module, rows).numpy()
    got = scored(artifact, rows)[column].reshape(truth.shape)
    np.testing.assert_allclose(got, truth, rtol=1e-4, atol=1e-5)
    assert column == ("vector" if truth.ndim == 2 and truth.shape[1] > 1 else "prediction")
    assert artifact.contract.feature_names == ("avg basket", "visits", "1st")
    assert artifact.card["parity"]["rows_compared"] == ROWS
    assert artifact.card["training"]["library_versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("text", [False, True])
def test_softmax_gives_the_columns_of_a_classifier(tmp_path, text):
    module = mlp(nn.Softmax(dim=1), width=3)
    classes = ["low", "mid", "high"] if text else [np.int64(3), np.int64(1), np.int64(2)]
    artifact = exported(tmp_path, module, classes=classes)
    rows = unseen(FEATURES)
    truth, got = answers(module, rows).numpy(), scored(artifact, rows)
    assert list(got) == ["label", *(f"probability_{name}" for name in classes)]
    for place, name in enumerate(classes):
        np.testing.assert_allclose(got[f"probability_{name}"], truth[:, place], atol=1e-5)
    assert list(got["label"]) == [classes[place] for place in truth.argmax(axis=1)]


@pytest.mark.parametrize("flat", [False, True])
def test_sigmoid_gives_the_probability_of_the_second_class(tmp_path, flat):
    module = mlp(nn.Sigmoid(), *([nn.Flatten(0)] if flat else []))
    artifact = exported(
        tmp_path, module, classes=["stays", "leaves"], output_columns={"probability": "churn"}
    )
    rows = unseen(FEATURES)
    truth, got = answers(module, rows).numpy().reshape(-1), scored(artifact, rows)
    assert list(got) == ["label", "churn"]
    np.testing.assert_allclose(got["churn"], truth, atol=1e-5)
    assert list(got["label"]) == ["leaves" if share > 0.5 else "stays" for share in truth]


def test_several_outputs_are_numbered_or_have_the_names_of_a_dict(tmp_path):
    module = TwoHeads(lambda *outputs: outputs)
    rows = unseen(FEATURES)
    truth = answers(module, rows)
    got = scored(exported(tmp_path, module), rows)
    assert list(got) == ["prediction_1", "vector_2", "label_3"]
    for column, values in zip(got.values(), truth, strict=True):
        np.testing.assert_allclose(column, values.numpy(), rtol=1e-4, atol=1e-5)

    names = ["spend", "features", "next best"]
    named = TwoHeads(lambda *outputs: dict(zip(names, outputs, strict=True)))
    artifact = exported(tmp_path, named, version="2")
    kinds = {"spend": "value", "features": "vector", "next best": "label"}
    assert artifact.contract.column_kinds == kinds


def test_a_module_in_double_precision_stays_so(tmp_path):
    module = mlp().double()
    artifact = exported(tmp_path, module)
    assert artifact.contract.inputs[0].dtype == artifact.contract.outputs[0].dtype == "float64"
    rows = unseen(FEATURES)
    truth = answers(module, rows, torch.float64).numpy().reshape(-1)
    np.testing.assert_allclose(scored(artifact, rows)["prediction"], truth, rtol=1e-12)


def test_the_module_of_the_caller_is_not_changed(tmp_path):
    module = mlp().train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    exported(tmp_path, module)
    assert module.training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(item.requires_grad for item in module.parameters())


def test_missing_values_are_allowed_where_the_sample_has_them(tmp_path):
    artifact = exported(tmp_path, Of(fills_in_place), MISSING)
    assert [item.null_policy for item in artifact.contract.features] == ["reject", "reject", "nan"]
    with pytest.raises(ContractError, match="`features` would be rejected: nan_output") as caught:
        exported(tmp_path, mlp(), MISSING, version="2")
    assert "torch.nan_to_num" in caught.value.hint
    module = mlp()
    filled = exported(tmp_path, module, MISSING, version="3", fills={"1st": 0.25})
    rows = unseen(MISSING)
    truth = answers(module, rows.set_column(2, "1st", rows["1st"].fill_null(0.25))).numpy()
    got = scored(filled, rows)["prediction"]
    np.testing.assert_allclose(got, truth.reshape(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # torch warns of its own torch.jit
def test_a_compiled_module_is_exported(tmp_path):
    artifact = exported(tmp_path, torch.compile(mlp()))
    assert artifact.card["training"]["estimator"] == "Sequential"


LINEAR = nn.Linear(3, 1)
REFUSED = {
    "a branch that depends on values": (
        lambda: Of(lambda rows, layer: layer(rows) if rows.sum() > 0 else -layer(rows)),
        {}, ArtifactError, "cannot convert Of: Could not guard on data-dependent", "torch.where"),
    "statistics of the batch": (
        lambda: nn.Sequential(LINEAR, nn.BatchNorm1d(1, track_running_stats=False)),
        {}, ContractError, "of a row changes with the rows", "running statistics"),
    "attention between rows": (
        AttendsToOtherRows, {}, ContractError, "of a row changes with the rows", "attend"),
    "dropout that is never off": (
        lambda: Of(lambda rows, layer: layer(nn.functional.dropout(rows, training=True))),
        {}, ContractError, "or from run to run", "nn.Dropout"),
    "one number for all rows": (
        lambda: Of(lambda rows, layer: layer(rows).sum()),
        {}, ContractError, r"shape \[\] for 400", "flatten"),
    "no tensor": (
        lambda: Of(lambda rows, layer: (layer(rows), 3)),
        {}, ContractError, "gives int instead of", "tuple"),
    "three axes": (
        lambda: Of(lambda rows, layer: rows.reshape(-1, 3, 1)),
        {}, ContractError, r"\[400, 3, 1\]", "flatten"),
    "half precision": (
        lambda: nn.Linear(3, 1).half(), {}, ContractError, "parameters of torch.float16", "float()"),
    "an output in half precision": (
        lambda: Of(lambda rows, layer: layer(rows).bfloat16()),
        {}, ContractError, "bfloat16", "float32"),
    "two inputs": (
        lambda: nn.Bilinear(3, 3, 1),
        {}, ContractError, "fails on a tensor .*missing 1 required", "wrap"),
    "another number of features": (
        lambda: nn.Linear(4, 1), {}, ContractError, "shapes cannot be multiplied", "their order"),
    "a script": (
        lambda: torch.jit.script(nn.Linear(3, 1)),
        {}, ArtifactError, "cannot convert", "torch.md"),
    "no module": (
        lambda: torch.zeros(3), {}, ContractError, "takes a torch.nn.Module, not a Tensor", "itself"),
    "another precision": (
        lambda: LINEAR, {"dtype": "float64"},
        ConfigError, "has parameters of float32", "leave dtype"),
    "scores instead of probabilities": (
        lambda: mlp(width=3), {"classes": [0, 1, 2]},
        ContractError, "row 0 of `features` has", "softmax"),
    "logarithms of probabilities": (
        lambda: mlp(nn.LogSoftmax(dim=1), width=2), {"classes": [0, 1]},
        ContractError, "row 0 of", "softmax"),
    "probabilities that do not add up": (
        lambda: mlp(nn.Sigmoid(), width=3), {"classes": [0, 1, 2]},
        ContractError, "row 0 of", "softmax"),
    "too many classes": (
        lambda: mlp(nn.Softmax(dim=1), width=3), {"classes": list("abcd")},
        ContractError, "`classes` has 4 classes; Sequential gives 3", "one class for each"),
    "one class": (lambda: LINEAR, {"classes": [0]}, ConfigError, "does not name two", "distinct"),
    "a class twice": (
        lambda: LINEAR, {"classes": [0, 0]}, ConfigError, "does not name two", "distinct"),
    "classes of two types": (
        lambda: LINEAR, {"classes": [0, "a"]}, ConfigError, "does not name two", "distinct"),
    "half a class": (
        lambda: LINEAR, {"classes": [0, 0.5]}, ConfigError, "does not name two", "distinct"),
    "text": (
        lambda: LINEAR, {"features": FEATURES.append_column("city", pa.array(["x"] * ROWS))},
        ContractError, "'city' of `features` is text", "numbers"),
    "an output with the name of a ledger column": (
        lambda: Of(lambda rows, layer: {"run_id": layer(rows), "b": rows}), {},
        ContractError, "collides with a column of the ledger", "output_columns"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torch warns of its own torch.jit
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_scored_row_by_row_is_refused(tmp_path, case):
    make, options, error, message, hint = REFUSED[case]
    with pytest.raises(error, match=message) as caught:
        exported(tmp_path, make(), **options)
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_what_the_converter_gets_wrong_is_refused_with_the_row(tmp_path, monkeypatch):
    module, other = mlp(), mlp().eval()
    with torch.no_grad():
        other[4].bias += 0.01
    graph = torch_module._Graph
    monkeypatch.setattr(torch_module, "_Graph", lambda _, *rest: graph(other, *rest))
    with pytest.raises(ArtifactError, match=r"does not reproduce PyTorch within 1e-05.* row 0 of"):
        exported(tmp_path, module)
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    def slow(rows, layer):
        while torch.compiler.is_exporting():
            time.sleep(0.01)
        return layer(rows)

    monkeypatch.setattr(conversion, "MAX_SECONDS", 1.0)
    with pytest.raises(ArtifactError, match="did not convert Of within 1 s"):
        exported(tmp_path, Of(slow))


def test_two_processes_write_the_same_bytes_without_paths(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from modules import FEATURES, TwoHeads; import dbt_onnx\n"
        "module = TwoHeads(lambda *outputs: outputs)\n"
        "print(dbt_onnx.export(module, FEATURES, name='m', version='1', artifacts=sys.argv[1]))\n"
    )
    here = str(Path(__file__).parent)
    said = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / seed), here],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    one, two = [path.read_bytes() for path in sorted(tmp_path.rglob("model.onnx"))]
    assert one == two
    for trace in (b"forward", b".py", b"namespace", b"TwoHeads", here.encode()):
        assert trace not in one
    assert {path.name for path in (tmp_path / "1/m/1").iterdir()} == {"model.onnx", "card.json"}


def test_without_onnxscript_it_says_which_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dbt_onnx.authoring.export.find_spec", lambda name: None if name == "onnxscript" else name
    )
    with pytest.raises(ConfigError, match="needs onnxscript") as caught:
        exported(tmp_path, LINEAR)
    assert caught.value.hint == "pip install 'dbt-onnx[torch]'"
