"""`dbt-onnx import mlflow`: a version of an MLflow registry becomes a registered version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import mlflow_store
import numpy as np
import onnx
import onnx_models as models
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from onnx import external_data_helper, helper

from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.graph import read_graph
from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.artifacts.verification import verify_entry
from dbt_onnx.authoring.infer import ModelOptions
from dbt_onnx.authoring.mlflow_models import Column, as_one_file, with_signature
from dbt_onnx.cli import main
from dbt_onnx.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.artifacts.artifact import Artifact

CHAMPION = "models:/line@champion"
SIGNATURE = 'signature: {inputs: \'[{"name": "b", "type": "double", "required": true}, {"name": "a", "type": "double", "required": false}]\'}'


def imported(folder: Path, *arguments: object) -> Result:
    command = ["import", "mlflow", *arguments, "--project-dir", folder]
    environment = {"COLUMNS": "200", **mlflow_store.variables(folder)}
    result = CliRunner(env=environment).invoke(main, list(map(str, command)))
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def artifact_of(folder: Path, model: str) -> Artifact:
    entry = Registry.from_csv(folder / "seeds/model_registry.csv").resolve(model)
    assert verify_entry(folder / "artifacts", entry).fault is None
    return load_artifact(folder / "artifacts", entry)


def put_line(folder: Path, **tags: Any) -> str | None:
    files = {
        "MLmodel": f"{mlflow_store.ONNX}\n{SIGNATURE}",
        "model.onnx": models.linear().SerializeToString(),
    }
    return mlflow_store.put(folder, "line", files, **tags)


def test_a_model_that_mlflow_has_logged(tmp_path: Path) -> None:
    """With 1,200 weights, mlflow stores them in a file beside the model: y = 1a + 2b + 3c + 0d + ..."""
    names = [f"f{number}" for number in range(1_200)]
    weights = np.arange(1_200, dtype=np.float32).reshape(-1, 1) % 7
    model = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [models.tensor("x", ["n", 1_200])],
        [models.tensor("y", ["n", 1])],
        initializers=[models.constant("w", weights)],
    )
    rows = pd.DataFrame(np.eye(3, 1_200), columns=names)
    rows.loc[1, "f5"] = None
    with patch.dict(os.environ, mlflow_store.variables(tmp_path)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.onnx
        from mlflow.models import infer_signature

        with mlflow.start_run(tags={"team": "crm"}) as run:
            mlflow.onnx.log_model(
                model,
                name="model",
                signature=infer_signature(rows, weights[:3]),
                registered_model_name="churn",
                pip_requirements=["onnx"],
            )
        mlflow.MlflowClient().set_registered_model_alias("churn", "champion", "1")
    assert len(list(tmp_path.rglob("artifacts/*-*"))) == 1, "no external data"

    result = imported(tmp_path, "models:/churn@champion")

    assert "registered churn/1 as champion" in result.stdout
    assert result.stderr == ""
    artifact = artifact_of(tmp_path, "churn@champion")
    assert list(artifact.contract.inputs[0].features) == names
    policies = {item.name: item.null_policy for item in artifact.contract.features}
    assert {name for name in names if policies[name] == "nan"} == {"f5"}
    (scores,) = artifact.open().run({"x": np.eye(1_200, dtype=np.float32)})
    assert scores.tolist() == weights.tolist()
    facts = artifact.card["training"]["mlflow"]
    assert facts["run_id"] == run.info.run_id
    assert facts["run_tags"]["team"] == "crm"


def test_the_card_says_where_the_model_comes_from(tmp_path: Path) -> None:
    long = {"long": "x" * 501, "x" * 251: "long"}
    run = put_line(tmp_path, tags={"approved_by": "ada"}, run_tags={"commit": "52ab1f", **long})

    result = imported(tmp_path, CHAMPION)

    assert result.exit_code == 0
    training = artifact_of(tmp_path, "line").card["training"]
    assert training["registered_from"] == "models:/line/1"
    facts = training["mlflow"]
    assert {key: facts[key] for key in ("model", "version", "alias", "run_id")} == {
        "model": "line",
        "version": "1",
        "alias": "champion",
        "run_id": run,
    }
    assert facts["version_tags"] == {"approved_by": "ada"}
    assert facts["run_tags"]["commit"] == "52ab1f"
    assert "long" not in facts["run_tags"]


def test_options_override_what_mlflow_says(tmp_path: Path) -> None:
    put_line(tmp_path)
    names = ("--name", "score", "--version", "2024.1", "--alias", "challenger")
    imported(tmp_path, CHAMPION, *names, "--features", "u,a", "--null-policy", "a=reject")

    artifact = artifact_of(tmp_path, "score@challenger")
    assert artifact.model_version == "2024.1"
    assert artifact.contract.inputs[0].features == ("u", "a")
    assert {item.null_policy for item in artifact.contract.features} == {"reject"}


def test_a_version_by_its_number_has_no_alias(tmp_path: Path) -> None:
    put_line(tmp_path)
    assert "registered line/1 without an alias" in imported(tmp_path, "models:/line/1").stdout


def test_a_second_import_of_the_same_version_is_refused(tmp_path: Path) -> None:
    put_line(tmp_path)
    assert imported(tmp_path, CHAMPION).exit_code == 0
    assert (
        "version '1' of model 'line' is already registered" in imported(tmp_path, CHAMPION).stderr
    )


def test_messages_name_the_version_and_not_a_temporary_file(tmp_path: Path) -> None:
    content = models.linear().SerializeToString()
    mlflow_store.put(tmp_path, "line", {"MLmodel": mlflow_store.ONNX, "model.onnx": content})
    assert imported(tmp_path, CHAMPION).stderr.startswith(
        "Error: models:/line/1 does not name its features"
    )


def test_without_the_package_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = imported(tmp_path, CHAMPION)
    assert (result.exit_code, "pip install 'dbt-onnx[mlflow]'" in result.stderr) == (2, True)


def test_mlflow_sends_no_telemetry() -> None:
    """Without the variables that switch it off, and without those by which mlflow knows a test."""
    program = (
        "from dbt_onnx.authoring.mlflow_models import _mlflow\n"
        "with _mlflow('x'):\n"
        "    from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "    print(is_telemetry_disabled())"
    )
    environment = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "True"


# the signature


def graph(model: Any) -> Any:
    return read_graph(model.SerializeToString(), where="m")


def test_a_file_that_names_its_features_is_believed() -> None:
    model = models.linear(metadata={"feature_names": json.dumps(["a", "b"])})
    columns = [Column("b", "double", False), Column("a", "double", True)]
    wanted = with_signature(ModelOptions(), columns, graph(model))
    assert wanted.features == ["a", "b"]
    assert wanted.null_policies == {"a": "nan"}


def test_inputs_by_column_keep_their_names() -> None:
    columns = [Column("z", "double", True), Column("a", "double", True)]
    wanted = with_signature(ModelOptions(), columns, graph(models.columns()))
    assert wanted.features == ["a", "b"]
    assert wanted.null_policies == {"a": "nan"}


@pytest.mark.parametrize("said", [{"null_policies": {"*": "reject"}}, {"fills": {"a": "0"}}])
def test_the_owner_decides_about_missing_values(said: dict[str, Any]) -> None:
    wanted = with_signature(
        ModelOptions(features=["a", "b"], **said),
        [Column("a", "double", True), Column("b", "long", True)],
        graph(models.linear()),
    )
    assert wanted.null_policies == said.get("null_policies", {})


# external data of an untrusted file


def external(location: str, **where: int) -> bytes:
    model = models.linear()
    external_data_helper.set_external_data(model.graph.initializer[0], location, **where)
    model.graph.initializer[0].ClearField("raw_data")
    return model.SerializeToString()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"12345678")
    (tmp_path / "stored/data").mkdir(parents=True)
    (tmp_path / "stored/data/w.bin").write_bytes(b"skip" + np.float32([3, 4]).tobytes())
    return tmp_path / "stored"


def test_external_data_beside_the_file_is_put_into_it(folder: Path) -> None:
    (folder / "data/m.onnx").write_bytes(external("w.bin", offset=4, length=8))
    model = onnx.load_from_string(as_one_file(folder, "data/m.onnx", where="m"))
    assert onnx.numpy_helper.to_array(model.graph.initializer[0]).ravel().tolist() == [3, 4]
    assert not model.graph.initializer[0].external_data


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hostname", "link", "data/../../secret", ""]
)
def test_external_data_elsewhere_is_refused(folder: Path, location: str) -> None:
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "m.onnx").write_bytes(external(location, length=8))
    with pytest.raises(
        ArtifactError, match=r"not safe|symbolic link|does not exist|is a directory"
    ):
        as_one_file(folder, "m.onnx", where="m")


@pytest.mark.parametrize("where", [{"offset": 8, "length": 8}, {"offset": -4, "length": 4}])
def test_external_data_outside_its_file_is_refused(folder: Path, where: dict[str, int]) -> None:
    (folder / "m.onnx").write_bytes(external("data/w.bin", **where))
    with pytest.raises(ArtifactError, match=r"is not in 'data/w\.bin', a file of 12 bytes"):
        as_one_file(folder, "m.onnx", where="m")


def test_one_file_that_many_tensors_repeat_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load_from_string(external("data/w.bin"))
    model.graph.initializer.extend([model.graph.initializer[0]] * 30)
    content = model.SerializeToString()
    (folder / "m.onnx").write_bytes(content)
    limit = len(content) + 100
    monkeypatch.setattr("dbt_onnx.authoring.mlflow_models.MAX_MODEL_BYTES", limit)
    with pytest.raises(ArtifactError, match=f"more than {limit:,} bytes with its external data"):
        as_one_file(folder, "m.onnx", where="m")
