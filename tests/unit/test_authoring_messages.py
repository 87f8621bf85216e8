"""The messages for authors of a version: what is wrong, and how to go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_models as models
import pandas as pd
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dbt_onnx
from dbt_onnx.artifacts.agreement import check_contract
from dbt_onnx.artifacts.graph import read_graph
from dbt_onnx.cli import main
from dbt_onnx.errors import MAX_CHARACTERS, ConfigError, ContractError, DbtOnnxError, format_items
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from pathlib import Path


def register(folder: Path, model: Any, *options: str) -> tuple[int, str]:
    onnx.save(model, folder / "m.onnx")
    call = ["register", str(folder / "m.onnx"), "--name", "m", "--version", "1"]
    result = CliRunner().invoke(
        main, [*call, "--project-dir", str(folder), *options], env={"COLUMNS": "200"}
    )
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--output", "y=as_of"], "output column 'as_of' collides with a column of the ledger"),
        (["--time-unit", "a=day"], ""),
        (["--features", "__dbt_onnx_a,b"], "begins with the reserved prefix"),
    ],
)
def test_register_says_what_to_say_otherwise(
    tmp_path: Path, options: list[str], reason: str
) -> None:
    code, said = register(tmp_path, models.linear(), "--features", "a,b", *options)
    if not reason:
        assert code == 0
        return
    assert code == 1
    assert reason in said
    assert "columns are named by --features and --output" in said
    assert "write the card again" not in said


@pytest.mark.parametrize(
    ("options", "way"),
    [
        (["--alias", "champion"], "score(..., model='m') scores with it in the next `dbt build`"),
        (["--alias", "challenger"], "score(..., model='m@challenger') scores with it"),
        (
            [],
            "no scoring model uses it yet: write score(..., model='m/1'), or make it champion with",
        ),
    ],
)
def test_register_prints_the_contract_and_the_next_step(
    tmp_path: Path, options: list[str], way: str
) -> None:
    code, said = register(
        tmp_path, models.linear(), "--features", "a,b", "--null-policy", "a=nan", *options
    )
    assert code == 0
    for part in ("│ a ", "nan", "reject", "│ prediction │ float32 │ value", way):
        assert part in said
    assert "tried    calls of up to 32,768 rows" in said
    assert "commit the folder and the registry" in said


def test_rows_that_give_nan_are_described(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Log", ["x"], ["y"])],
        [models.tensor("x", ["n", 1])],
        [models.tensor("y", ["n", 1])],
    )
    code, said = register(tmp_path, model, "--features", "a")
    assert code == 0
    assert "of the 16 rows that it was tried with (numbers from -3 to 3 in steps of 0.25" in said
    assert "a run rejects such a row" in said


def test_a_model_that_inherits_from_another_library_is_refused_before_its_rows_are_read(
    tmp_path: Path,
) -> None:
    class Own(foreign("keras", "Model")):  # type: ignore[misc]
        """As a user writes a subclass of keras.Model."""

    with pytest.raises(ContractError, match="does not take a Own of keras") as caught:
        dbt_onnx.export(Own(), object(), name="m", version="1", artifacts=tmp_path)
    assert "tf2onnx" in caught.value.hint


def test_classes_are_for_torch_modules(tmp_path: Path) -> None:
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["a", "b"])
    fitted = LogisticRegression().fit(rows, rows.a > 0)
    with pytest.raises(ConfigError, match="classes is for torch modules"):
        dbt_onnx.export(fitted, rows, name="m", version="1", artifacts=tmp_path, classes=[0, 1])


def with_bfloat16(*, inside: bool, out: bool) -> Any:
    kinds = (
        TensorProto.FLOAT if inside else TensorProto.BFLOAT16,
        TensorProto.BFLOAT16 if out else TensorProto.FLOAT,
    )
    return models.model(
        [helper.make_node("Cast", ["x"], ["y"], to=kinds[1])],
        [models.tensor("x", ["n", 2], kinds[0])],
        [models.tensor("y", ["n", 2], kinds[1])],
    )


@pytest.mark.parametrize(
    ("model", "reason", "hint"),
    [
        (with_bfloat16(inside=True, out=True), "output 'y' has elements of type bfloat16", "Cast"),
        (with_bfloat16(inside=False, out=False), "input 'x' has elements of type bfloat16", "float16 to float64"),
    ],
    ids=["output", "input"],
)  # fmt: skip
def test_a_type_that_no_column_holds_is_named(
    tmp_path: Path, model: Any, reason: str, hint: str
) -> None:
    code, said = register(tmp_path, model, "--features", "a,b")
    assert code == 1
    assert reason in said
    assert hint in said


def foreign(library: str, name: str, *, like: type = object) -> Any:
    """Return an estimator that looks like one of another library; none of these libraries is installed here."""
    return type(name, (like,), {"__module__": f"{library}.sklearn"})


@pytest.mark.parametrize(
    ("library", "name", "way"),
    [
        ("lightgbm", "LGBMClassifier", "onnxmltools.convert_lightgbm"),
        ("xgboost", "XGBClassifier", "onnxmltools.convert_xgboost"),
        ("catboost", "CatBoostClassifier", "save_model(path, format='onnx')"),
        ("torch", "Linear", "torch.onnx.export"),
        ("keras", "Sequential", "tf2onnx"),
        ("jax", "Model", "jax2onnx.to_onnx"),
        ("h2o", "H2OEstimator", "onnxmltools.convert_h2o"),
        ("pyspark", "PipelineModel", "onnxmltools.convert_sparkml"),
    ],
)
def test_export_names_the_way_of_other_libraries(
    tmp_path: Path, library: str, name: str, way: str
) -> None:
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["a", "b"])
    like = foreign(library, name, like=LogisticRegression)
    fitted = like().fit(rows, rows.a > 0)
    inside = make_pipeline(StandardScaler(), like()).fit(rows, rows.a > 0)
    # a module of torch itself is exported: tests/torch_modules
    alone = () if library == "torch" else (fitted, foreign(library, name)())
    for estimator in (inside, *alone):
        with pytest.raises(DbtOnnxError) as caught:
            dbt_onnx.export(estimator, rows, name="m", version="1", artifacts=tmp_path)
        assert way in caught.value.hint
        assert "`dbt-onnx register FILE" in caught.value.hint


def test_an_estimator_that_fails_says_why(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": [1.0, 2.0]})
    with pytest.raises(ContractError, match="LogisticRegression fails on `features`: NotFitted"):
        dbt_onnx.export(LogisticRegression(), rows, name="m", version="1", artifacts=tmp_path)


def test_export_says_what_to_name_otherwise(tmp_path: Path) -> None:
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), columns=["a", "b"])
    estimator = LogisticRegression().fit(rows, rows.a > 0)
    with pytest.raises(ContractError, match="'as_of' collides") as caught:
        dbt_onnx.export(
            estimator, rows, name="m", version="1", artifacts=tmp_path,
            output_columns={"label": "as_of"},
        )  # fmt: skip
    assert "output_columns" in caught.value.hint
    assert "card" not in caught.value.hint


def test_a_message_ends() -> None:
    classes = tuple(range(1_000_000))
    assert format_items(classes) == f"[{', '.join(map(str, range(20)))}, ... 999,980 more]"
    assert format_items([1, "a"]) == "[1, 'a']"
    contract = Contract(
        features=(Feature(name="a"), Feature(name="b")),
        inputs=(Input(name="x", dtype="float32", features=("a", "b")),),
        outputs=(
            Output(
                name="probabilities", kind="probabilities", dtype="float32",
                columns=("y", *[None] * 999_999), classes=classes,
            ),
        ),
    )  # fmt: skip
    content = models.classifier([0, 1]).SerializeToString()
    with pytest.raises(ContractError, match=r"\[0, 1, .* 999,980 more\] in the card") as caught:
        check_contract(contract, read_graph(content, where="m"), where="m")
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize("length", [MAX_CHARACTERS, MAX_CHARACTERS + 1, 10_000_000])
def test_no_error_is_longer_than_a_screen_or_two(length: int) -> None:
    error = ConfigError("x" * length, hint="h")
    assert len(error.message) < MAX_CHARACTERS + 40
    assert error.message.endswith("more characters)") is (length > MAX_CHARACTERS)
    assert SimpleNamespace(**vars(error)).hint == "h"
