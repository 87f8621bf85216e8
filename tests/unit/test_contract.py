"""A contract read from a card is consistent, or every fault in it is named."""

from __future__ import annotations

from typing import Any

import pytest

from dbt_onnx.errors import ContractError
from dbt_onnx.kernel.contract import Contract


def card(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return a contract as a card has it, with changes to its only feature, input and output."""
    parts: dict[str, dict[str, Any]] = {
        "features": {"name": "a"},
        "inputs": {"name": "x", "dtype": "float32", "features": ["a"]},
        "outputs": {
            "name": "p", "kind": "probabilities", "dtype": "float32", "columns": ["p0", "p1"],
            "classes": [0, 1],
        },
    }  # fmt: skip
    return {name: [part | changes.get(name, {})] for name, part in parts.items()}


def test_a_contract_is_the_same_after_to_dict() -> None:
    contract = Contract.from_dict(card(features={"tolerance": 0.5, "width": 1_000_000}))
    assert Contract.from_dict(contract.to_dict()) == contract


@pytest.mark.parametrize("classes", [[[], 1], [1, 1], [0, True], [0, 1.5], [{}, {}]])
def test_classes_that_cannot_be_told_apart_are_refused(classes: list[Any]) -> None:
    with pytest.raises(ContractError, match="output 'p' has invalid classes"):
        Contract.from_dict(card(outputs={"classes": classes}))


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, 10**400, True, "0.1", [0.1]])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: Any) -> None:
    with pytest.raises(ContractError, match="feature 'a' has invalid tolerance"):
        Contract.from_dict(card(features={"tolerance": tolerance}))


@pytest.mark.parametrize("width", [0, -1, 1.5, True, 1_000_001, 10**30])
def test_a_width_that_no_row_has_is_refused(width: Any) -> None:
    with pytest.raises(ContractError, match="feature 'a' has invalid width"):
        Contract.from_dict(card(features={"width": width}))
    vector = {"kind": "vector", "columns": ["e"], "classes": None, "width": width}
    with pytest.raises(ContractError, match="is a vector with invalid width"):
        Contract.from_dict(card(outputs=vector))


def test_half_a_character_is_no_name() -> None:
    changes = {"features": {"name": "\ud800"}, "inputs": {"features": ["\ud800"]}}
    with pytest.raises(ContractError, match="must be non-empty text"):
        Contract.from_dict(card(**changes))
    with pytest.raises(ContractError, match="must be non-empty text"):
        Contract.from_dict(card(outputs={"columns": ["\ud800", None]}))
