"""Every SQL type that a model can read, through a dbt build: the view serves it, and no drift is reported."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest
from every_type import MOMENTS, TYPES, oracle, tensor_types, values_of
from onnx import TensorProto, helper
from scoring_project import ScoringProject, expect

from dbt_onnx.authoring.distributions import describe
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

ROWS = 12
NUMBERS = [kind for kind in TYPES if "float64" in tensor_types(kind)]
WORDS = [kind for kind in TYPES if "string" in tensor_types(kind)]


def given(kind: str, dtype: str) -> list[str]:
    """Return one value per row, of the values that reach the model."""
    values = [value for value in values_of(kind) if oracle(kind, value, dtype) is not None]
    return [values[row % len(values)] for row in range(ROWS)]


def register(project: ScoringProject, name: str, kinds: list[str], dtype: Any) -> None:
    """Register a model that returns its input; its card has the distribution of that input."""
    proto = TensorProto.DOUBLE if dtype == "float64" else TensorProto.STRING
    shape = ["N", len(kinds)]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["X"], ["y"])],
        name,
        [helper.make_tensor_value_info("X", proto, shape)],
        [helper.make_tensor_value_info("y", proto, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    features = [f"f{TYPES.index(kind)}" for kind in kinds]
    contract = Contract(
        features=tuple(
            Feature(name=feature, time_unit="day" if kind in MOMENTS else None)
            for feature, kind in zip(features, kinds, strict=True)
        ),
        inputs=(Input(name="X", dtype=dtype, features=tuple(features)),),
        outputs=(
            Output(name="y", kind="values", dtype=dtype, columns=tuple(f"y_{f}" for f in features)),
        ),
    )
    project.register("1", model.SerializeToString(), contract, name=name)
    card_path = project.root / "artifacts" / name / "1" / "card.json"
    card = json.loads(card_path.read_text())
    card["reference"] = {
        feature: describe(pa.array([oracle(kind, text, dtype) for text in given(kind, dtype)]))
        for feature, kind in zip(features, kinds, strict=True)
    }
    card_path.write_text(json.dumps(card))
    assert hashlib.sha256(model.SerializeToString()).hexdigest() == card["sha256"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    project = ScoringProject(tmp_path_factory.mktemp("types"))
    columns = {
        f"f{TYPES.index(kind)}": (kind, given(kind, dtype))
        for kinds, dtype in ((NUMBERS, "float64"), (WORDS, "string"))
        for kind in kinds
    }
    rows = [
        ", ".join(
            [f"{row} as id"]
            + [
                f"cast('{values[row].replace(chr(39), chr(39) * 2)}' as {kind}) as {name}"
                for name, (kind, values) in columns.items()
            ]
        )
        for row in range(ROWS)
    ]
    project.sql(
        "create or replace table facts as " + " union all ".join(f"select {r}" for r in rows)
    )
    tests = [{"dbt_onnx.features_match_training": {"arguments": {
        "features": "ref('features')", "warn_psi": 1e-9, "error_psi": None, "max_null_increase": 1e-9,
        "max_unseen_fraction": 0, "min_rows": 1,
    }}}]  # fmt: skip
    for name, kinds, dtype in (("numbers", NUMBERS, "float64"), ("words", WORDS, "string")):
        register(project, name, kinds, dtype)
        project.scoring_model(name, arguments=f"model='{name}'")
        project.write_yaml(
            f"python_models/{name}.yml", {"models": [{"name": name, "data_tests": tests}]}
        )
        project.write(
            f"models/{name}_current.sql",
            f"{{{{ dbt_onnx.current_predictions(ref('{name}'), registry=ref('model_registry'), key=['id']) }}}}",
        )
    project.dbt("build")
    return project


@pytest.mark.parametrize(
    ("name", "kinds", "dtype"), [("numbers", NUMBERS, "float64"), ("words", WORDS, "string")]
)
def test_the_view_serves_what_python_says(
    project: ScoringProject, name: str, kinds: list[str], dtype: str
) -> None:
    expect(project.outcome, **{name: "success", f"{name}_current": "success"})
    listed = ", ".join(f"y_f{TYPES.index(kind)}" for kind in kinds)
    rows = project.sql(f"select {listed} from {name}_current order by id asc")
    assert [list(row) for row in rows] == [
        [oracle(kind, given(kind, dtype)[row], dtype) for kind in kinds] for row in range(ROWS)
    ]


def test_no_type_drifts_from_itself(project: ScoringProject) -> None:
    drift = [node for name, node in project.outcome.nodes.items() if "match_training" in name]
    assert [node.status for node in drift] == ["pass", "pass"], [node.message for node in drift]
