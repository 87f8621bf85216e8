"""Hypothesis settings and strategies for the fuzz tests: names, features, contracts."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, get_args

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dbt_onnx.kernel.contract import (
    CARRIED_PREFIX,
    RESERVED_COLUMNS,
    Contract,
    Feature,
    Input,
    Output,
    TensorType,
    TimeUnit,
)

_DEFAULT = 100
EXAMPLES = int(os.environ.get("DBT_ONNX_EXAMPLES", _DEFAULT))
"""Number of examples for each property. They are the same each time unless the variable asks for more."""

DTYPES: tuple[TensorType, ...] = get_args(TensorType)


def fuzz(share: float = 1.0) -> settings:
    """Return settings for a property that runs with this share of the examples."""
    return settings(
        max_examples=max(1, int(share * EXAMPLES)),
        deadline=None,
        derandomize=EXAMPLES <= _DEFAULT,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def _is_free(name: str) -> bool:
    """Whether a column may have this name. Hypothesis also tries constants from the tested code."""
    return (
        name != ""
        and "\x00" not in name
        and name.casefold() not in RESERVED_COLUMNS
        and not name.casefold().startswith(CARRIED_PREFIX)
    )


NAMES = st.sampled_from(
    ["a", "b", "A", "客户 id", 'x"; drop table y; --', "'", "select", "a\nb", "\u202eb", "é", "e\u0301"]
) | TEXT.filter(_is_free)  # fmt: skip


@st.composite
def features(draw: st.DrawFn, name: str, dtypes: list[TensorType]) -> Feature:
    """Draw a feature that usually fits tensors of these types."""
    is_text, is_float = "string" in dtypes, all(dtype.startswith("float") for dtype in dtypes)
    policy = draw(st.sampled_from(["reject", "fill", "nan" if is_float else "reject"]))
    fills = ["", "none"] if is_text else [0, 1, True]
    if is_float:
        fills += [-3, 0.5, 300, 2**40, 1e39]
    has_time = not is_text and "bool" not in dtypes and draw(st.integers(0, 2)) == 0
    return Feature(
        name=name,
        null_policy=policy,  # type: ignore[arg-type]
        fill=draw(st.sampled_from(fills)) if policy == "fill" else None,
        width=draw(st.none() | st.integers(1, 3)),
        time_unit=draw(st.sampled_from(get_args(TimeUnit))) if has_time else None,
        tolerance=draw(st.none() | st.none() | st.sampled_from([0.0, 0.25])),
    )


OUTPUT = Output(name="y", kind="value", dtype="float32", columns=("y",))


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """Draw a consistent contract: one to four features, read by one to four inputs."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=str.casefold))
    groups = draw(
        st.lists(st.lists(st.sampled_from(names), min_size=1, max_size=3), min_size=1, max_size=3)
    )
    rest = [name for name in names if not any(name in group for group in groups)]
    is_text = draw(st.integers(0, 5)) == 0
    numbers = [dtype for dtype in DTYPES if dtype != "string"]
    kinds = st.just("string") if is_text else st.sampled_from([*numbers, "float32", "float64"])
    inputs: list[Any] = [
        Input(name=f"x{number}", dtype=draw(kinds), features=tuple(group))
        for number, group in enumerate([*groups, *([rest] if rest else [])])
    ]
    chosen = {
        name: draw(features(name, [i.dtype for i in inputs if name in i.features]))
        for name in names
    }
    for number, tensor in enumerate(inputs):
        if len(tensor.features) == 1 and chosen[tensor.features[0]].width is None:
            inputs[number] = replace(tensor, rank=draw(st.sampled_from([1, 2])))
    return Contract(features=tuple(chosen.values()), inputs=tuple(inputs), outputs=(OUTPUT,))
