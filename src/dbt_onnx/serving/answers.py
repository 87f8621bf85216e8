"""Answers as JSON documents, the same for every status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.serving.kinds import as_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbt_onnx.serving.lookup import Answer

UNKNOWN_MODEL = "unknown_model"


def answer_document(name: str, answer: Answer) -> dict[str, Any]:
    """What is known of one key, as JSON: moments are UTC in ISO 8601, the age is in seconds."""
    age = answer.age
    return {
        "name": name,
        "key": [as_json(value) for value in answer.key],
        "status": answer.status,
        "outputs": {column: as_json(value) for column, value in answer.outputs.items()},
        "as_of": as_json(answer.as_of),
        "scored_at": as_json(answer.scored_at),
        "fresh_as_of": as_json(answer.fresh_as_of),
        "age_seconds": None if age is None else age.total_seconds(),
        "is_stale": answer.is_stale,
        "served_from": answer.served_from,
        "model_name": answer.model_name,
        "model_version": answer.model_version,
        "run_id": answer.run_id,
        "rejected_reason": answer.rejected_reason,
        "publication": answer.publication,
    }


def unknown_document(name: str, key: Sequence[Any]) -> dict[str, Any]:
    """The same document where nothing is published under the name."""
    return {
        "name": name,
        "key": [as_json(value) for value in key],
        "status": UNKNOWN_MODEL,
        "outputs": {},
        "as_of": None,
        "scored_at": None,
        "fresh_as_of": None,
        "age_seconds": None,
        "is_stale": True,
        "served_from": None,
        "model_name": None,
        "model_version": None,
        "run_id": None,
        "rejected_reason": None,
        "publication": None,
    }
