"""`register --sample --expected --replace`: a bare ONNX file gets what `export` gives an estimator."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_models as models
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.reference import references_of
from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.artifacts.verification import verify_entry
from dbt_onnx.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.artifacts.artifact import Artifact

ROWS = 200


@pytest.fixture
def rows() -> dict[str, np.ndarray]:
    source = np.random.default_rng(3)
    # multiples of a quarter: float32 holds 2a - b + 0.5 exactly
    return {name: source.integers(-40, 41, ROWS) / 4 for name in ("a", "b")}


class Shop:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, columns: Any) -> Path:
        path = self.folder / name
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
        return path

    def register(self, model: Any, *options: object) -> Result:
        path = self.folder / "line.onnx"
        onnx.save(model, path)
        names = ("--name", "m", "--version", "1", "--project-dir", self.folder)
        arguments = ["register", path, *names, *options]
        result = CliRunner().invoke(main, list(map(str, arguments)), env={"COLUMNS": "200"})
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def artifact(self) -> Artifact:
        entry = Registry.from_csv(self.folder / "seeds/model_registry.csv").resolve("m/1")
        assert verify_entry(self.folder / "artifacts", entry).fault is None
        return load_artifact(self.folder / "artifacts", entry)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def line(rows: dict[str, np.ndarray]) -> np.ndarray:
    return 2 * rows["a"] - rows["b"] + 0.5


def test_a_sample_gives_the_card_its_rows_and_its_distributions(
    shop: Shop, rows: dict[str, np.ndarray]
) -> None:
    result = shop.register(models.linear(), "--sample", shop.write("rows.parquet", rows))
    assert result.exit_code == 0, result.output
    assert "compared" not in result.stdout
    artifact = shop.artifact()
    # neither options nor file name the features: they are the columns of the sample
    assert artifact.contract.feature_names == ("a", "b")
    parity = artifact.card["parity"]
    places = [rows["a"].tolist().index(value) for value in parity["features"]["a"][:1]]
    assert places == [0]
    assert len(parity["features"]["a"]) == 64
    assert "rows_compared" not in parity
    np.testing.assert_array_equal(
        parity["outputs"]["prediction"],
        line({name: np.array(values) for name, values in parity["features"].items()}),
    )
    assert artifact.card["reference"]["a"]["rows"] == ROWS
    assert artifact.card["reference"]["a"]["quantiles"][0] == rows["a"].min()
    assert artifact.card["reference_outputs"]["prediction"]["quantiles"][-1] == line(rows).max()
    assert [row[:2] for row in references_of(artifact)] == [
        ("feature", "a"), ("feature", "b"), ("output", "prediction"),
    ]  # fmt: skip
    assert artifact.card["training"]["sample"] == "rows.parquet"


def test_a_file_with_an_input_for_each_column_finds_them_by_name(
    shop: Shop, rows: dict[str, np.ndarray]
) -> None:
    turned = shop.write("rows.parquet", {"b": rows["b"], "a": rows["a"]})
    answers = shop.write("answers.parquet", {"prediction": 2 * rows["a"] - rows["b"]})
    result = shop.register(models.columns(), "--sample", turned, "--expected", answers)
    assert result.exit_code == 0, result.output
    assert shop.artifact().contract.feature_names == ("a", "b")


def test_answers_of_the_original_are_compared_in_all_rows_and_kept_in_the_card(
    shop: Shop, rows: dict[str, np.ndarray]
) -> None:
    answers = line(rows) + 1e-6
    result = shop.register(
        models.linear(),
        *("--sample", shop.write("rows.parquet", rows)),
        *("--expected", shop.write("answers.parquet", {"prediction": answers})),
    )
    assert result.exit_code == 0, result.output
    assert f"compared {ROWS} rows with the original model's outputs" in result.stdout
    card = shop.artifact().card
    assert card["parity"]["rows_compared"] == ROWS
    assert card["parity"]["max_abs_difference"] == pytest.approx(1e-6, rel=1e-3)
    assert card["parity"]["outputs"]["prediction"][0] == answers[0]
    assert card["training"]["sample"] == "rows.parquet, compared with answers.parquet"


def test_a_file_that_says_otherwise_in_one_row_is_refused_with_the_row(
    shop: Shop, rows: dict[str, np.ndarray]
) -> None:
    answers = line(rows)
    answers[117] += 0.25
    options = (
        *("--sample", shop.write("rows.parquet", rows)),
        *("--expected", shop.write("answers.parquet", {"prediction": answers})),
    )
    result = shop.register(models.linear(), *options)
    assert result.exit_code == 1
    assert (
        "Error: the ONNX model does not reproduce answers.parquet within 1e-05: 'prediction' differs in 1 of "
        f"200 values, first in row 117 of rows.parquet: ONNX {answers[117] - 0.25}, answers.parquet "
        f"{answers[117]}"
    ) in result.stderr
    assert not (shop.folder / "artifacts").exists()
    assert shop.register(models.linear(), *options, "--tolerance", "1").exit_code == 0


def classifier() -> Any:
    """label = (p > 0.5) and probabilities (1 - p, p) for p = sigmoid(x)."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["p"]),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2]),
    ]
    one = models.constant("one", [1.0])
    return models.model(nodes, [models.tensor("x", ["n", 1])], outputs, initializers=[one])


P = ("--features", "x", "--classes", "probabilities=0,1", "--output", "label=is_churn")
P += ("--output", "probabilities=-,churn")  # type: ignore[assignment]


def test_a_label_may_differ_only_where_single_precision_cannot_decide(shop: Shop) -> None:
    # in single precision the third row is a tie, which the graph gives to its first class
    shares = np.array([0.1, 0.9, 0.5 + 2e-8, 0.7])
    sample = ("--sample", shop.write("rows.parquet", {"x": np.log(shares / (1 - shares))}))
    answers = {"is_churn": (shares > 0.5).astype(int), "churn": shares}
    near = ("--expected", shop.write("near.parquet", answers))
    assert shop.register(classifier(), *P, *sample, *near).exit_code == 0
    answers["is_churn"][0] = 1
    far = ("--expected", shop.write("far.parquet", answers))
    result = shop.register(classifier(), *P, *sample, "--replace", *far)
    assert result.exit_code == 1
    assert "'is_churn' differs in 2 of 4 values, first in row 0" in result.stderr


def test_missing_values_are_nan_for_the_model_only_if_that_is_said(
    shop: Shop, rows: dict[str, np.ndarray]
) -> None:
    rows["a"][3] = np.nan
    sample = ("--sample", shop.write("rows.parquet", rows))
    result = shop.register(models.linear(), *sample)
    assert result.exit_code == 1
    assert "1 of 200 rows of rows.parquet would be rejected: null:a 1 times" in result.stderr
    assert "Hint: name what the model reads for NULL with --null-policy COLUMN=nan" in result.stderr
    result = shop.register(models.linear(), *sample, "--fill", "a=1")
    assert result.exit_code == 0, result.output
    assert shop.artifact().card["reference"]["a"]["nulls"] == 1 / ROWS


def test_dates_are_described_in_the_units_that_the_model_reads(shop: Shop) -> None:
    days = [dt.date(2026, 1, 1) + dt.timedelta(days=number) for number in range(40)]
    moments = pa.array(days).cast(pa.timestamp("us"))
    stamps = moments.cast(pa.timestamp("us", tz="America/New_York"))
    table = pa.table({"a": pa.array(days), "b": stamps})
    units = ("--time-unit", "a=day", "--time-unit", "b=hour")
    result = shop.register(models.linear(), *units, "--sample", shop.write("rows.parquet", table))
    assert result.exit_code == 0, result.output
    card = shop.artifact().card
    first = (dt.date(2026, 1, 1) - dt.date(1970, 1, 1)).days
    assert card["reference"]["a"]["quantiles"][0] == first
    assert card["reference"]["b"]["quantiles"][0] == first * 24
    assert card["parity"]["features"]["a"][0] == "2026-01-01T00:00:00"
    assert card["parity"]["features"]["b"][0] == "2026-01-01T00:00:00"
    assert card["parity"]["outputs"]["prediction"][0] == 2 * first - first * 24 + 0.5


@pytest.mark.parametrize(
    ("sample", "answers", "message"),
    [
        ({"a": [1.0]}, None, "rows.parquet has no column 'b'; it has ['a']"),
        ({"a": [], "b": []}, None, "rows.parquet has no rows"),
        (b"not parquet", None, "rows.parquet cannot be read as a Parquet file"),
        (None, None, "rows.parquet cannot be read as a Parquet file"),
        ({"a": [1.0], "b": [1.0]}, {"score": [1.0]}, "has the columns 'score'; the predictions have"),
        ({"a": [1.0], "b": [1.0]}, {"prediction": [1.0] * 2}, "1 columns and 2 rows; the sample has 1"),
        ({"a": [1.0], "b": [1.0]}, {"prediction": [None]}, "no answer in 1 rows of 'prediction'"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_one_error(
    shop: Shop, sample: Any, answers: Any, message: str
) -> None:
    path = shop.folder / "rows.parquet"
    if isinstance(sample, bytes):
        path.write_bytes(sample)
    elif sample is not None:
        shop.write("rows.parquet", sample)
    options: list[object] = ["--features", "a,b", "--sample", path]
    if answers is not None:
        options += ["--expected", shop.write("answers.parquet", answers)]
    result = shop.register(models.linear(), *options)
    assert result.exit_code in {1, 2}
    assert message in result.stderr
    assert "Hint:" in result.stderr
    assert not (shop.folder / "artifacts").exists()


def test_answers_need_the_sample_that_they_answer(shop: Shop) -> None:
    result = shop.register(models.linear(), "--expected", "answers.parquet")
    assert result.exit_code == 2
    assert "--expected has the outputs for the rows of --sample, which is missing" in result.stderr


def test_a_version_is_replaced_where_nothing_can_have_been_scored(shop: Shop) -> None:
    assert shop.register(models.linear(), "--features", "a,b", "--alias", "champion").exit_code == 0
    refused = shop.register(models.vector(), "--features", "a,b")
    assert refused.exit_code == 2
    assert "add --replace if nothing was" in refused.stderr
    result = shop.register(models.vector(), "--features", "a,b", "--replace")
    assert result.exit_code == 0, result.output
    # the version keeps its alias
    assert "registered m/1 as champion" in result.stdout
    assert shop.artifact().model_bytes == models.vector().SerializeToString()
