"""Drift is measured on what the model reads: in its precision, and with its fills applied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from consumer import Project
from drift import reference_rows, stability_index, write_references
from hand_written import CLOCK, HandWritten, prediction, run, sources

from dbt_onnx.authoring.distributions import describe

ROWS = 4_000
TYPES = {"double": pa.float64(), "float": pa.float32(), "decimal(9, 3)": pa.decimal128(9, 3)}


def same_values(seed: int, scale: float) -> Any:
    """Return a few decimal values that are not exact in binary, each with a different share."""
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.ones(7))
    return np.round(random.choice([0.1, 0.3, 0.7, 1.1, 2.3, 4.9, 9.7], ROWS, p=weights) * scale, 3)


def as_type(values: Any, sql_type: str) -> pa.Array:
    return pa.array(values).cast(pa.float64()).cast(TYPES[sql_type], safe=False)


# name: training, present, SQL type of the present, fill, type in which the model reads the value
Case = tuple[pa.Array, pa.Array, str, Any, str]


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for seed, scale in enumerate((1, 0.01, 1000)):
        values = same_values(seed, scale)
        for trained, kind in TYPES.items():
            for present in TYPES:
                name = f"s{seed} {trained} {present}"
                if "decimal" not in trained:
                    found[name] = (
                        pa.array(values, kind),
                        as_type(values, present),
                        present,
                        None,
                        "float32",
                    )
        # a model in double precision, where either training or warehouse is in single precision
        for trained, present in (("double", "float"), ("float", "double")):
            found[f"d{seed} {trained} {present}"] = (
                pa.array(values, TYPES[trained]), as_type(values, present), present, None, "float64"
            )  # fmt: skip
        missing = np.random.default_rng(seed).random(ROWS) < 0.39
        numbers = [
            None if gone else value for value, gone in zip(values.tolist(), missing, strict=True)
        ]
        filled = [-1.0 if value is None else value for value in numbers]
        texts = [None if value is None else f"t{value}" for value in numbers]
        unknown = [text or "unknown" for text in texts]
        for form, given in (("filled", (filled, unknown)), ("raw", (numbers, texts))):
            found[f"n{seed} {form}"] = (
                pa.array(given[0]),
                pa.array(numbers),
                "double",
                -1.0,
                "float32",
            )
            found[f"t{seed} {form}"] = (
                pa.array(given[1]),
                pa.array(texts),
                "varchar",
                "unknown",
                "string",
            )
    flags = [None, True, False, True]
    found["b filled"] = (
        pa.array([flag is None or flag for flag in flags] * 1000), pa.array(flags * 1000), "boolean", 1, "float32",
    )  # fmt: skip
    # two values that differ in double precision, and are equal in single precision
    near = [16_777_216.0, 16_777_217.0] * (ROWS // 2)
    found["near"] = (pa.array(near), pa.array(near, pa.float32()), "float", None, "float32")
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("seen"))
    hand = HandWritten(project.warehouse)
    hand.scoring_model("scores", [prediction("c1")], [run("2")])
    rows, columns = [], []
    for name, (training, present, sql_type, fill, dtype) in cases().items():
        distribution = describe(training, categorical=pa.types.is_boolean(training.type))
        fills = {} if fill is None else {name: fill}
        rows += reference_rows("scores", features={name: distribution}, fills=fills, dtype=dtype)
        columns.append(f'cast("{name}" as {sql_type}) as "{name}"')
        hand.connection.register(f"given {name}", pa.table({name: present, "n": np.arange(ROWS)}))
    write_references(hand, rows)
    joined = " ".join(f'join "given {name}" using (n)' for name in cases())
    hand.connection.execute(
        f"create table present as select {', '.join(columns)} from range({ROWS}) as numbers (n) {joined}"
    )
    hand.connection.execute(
        'create table later as select * replace (case when rowid % 2 = 0 then null else "t0 raw" end as "t0 raw", '
        'case when rowid % 4 = 0 then 0.3 else "s0 double float" end as "s0 double float") from present'
    )
    hand.close()
    everything = {
        "warn_psi": 1e-9,
        "error_psi": None,
        "max_null_increase": 1e-9,
        "max_unseen_fraction": 0,
    }
    tests = [
        {"dbt_onnx.features_match_training": {
            "name": name, "arguments": {"features": f"source('hand', '{name}')", **everything},
            "config": {"store_failures": True},
        }}
        for name in ("present", "later")
    ]  # fmt: skip
    project.write_yaml("models/hand.yml", sources(scores=tests, present=None, later=None))
    project.dbt("test", vars={"dbt_onnx_clock": CLOCK})
    return project


def test_data_that_training_had_are_no_drift_in_any_type_or_with_any_fill(project: Project) -> None:
    assert project.outcome.nodes["present"].status == "pass", project.failures("present")


def test_what_moved_has_the_index_of_what_the_model_sees(project: Project) -> None:
    training, _, _, _, _ = cases()["t0 raw"]
    [present] = project.sql('select list("t0 raw" order by rowid asc) from later')[0]
    saw, sees = (
        ["unknown" if v is None else v for v in values]
        for values in (training.to_pylist(), present)
    )
    categories = sorted(set(saw))
    index = stability_index(*([np.mean(np.array(v) == c) for c in categories] for v in (saw, sees)))

    [numbers] = project.sql('select list("s0 double float" order by rowid asc) from later')[0]
    edges = np.unique(np.float32(describe(cases()["s0 double float"][0])["edges"]))
    bins = [
        np.bincount(np.searchsorted(edges, np.float32(values)), minlength=len(edges) + 1) / ROWS
        for values in (cases()["s0 double float"][0], numbers)
    ]  # fmt: skip
    found = {row["column_name"]: row["figure"] for row in project.failures("later")}
    assert found == {
        "t0 raw": pytest.approx(index, abs=1e-5),
        "s0 double float": pytest.approx(stability_index(*bins), abs=1e-5),
    }
