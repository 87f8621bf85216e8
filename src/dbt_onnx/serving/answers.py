"""Answers as JSON documents, with the same fields for every status."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dbt_onnx.serving.kinds import as_json
from dbt_onnx.serving.lookup import PREDICTED, REJECTED, Answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.serving.submissions import Submission

UNKNOWN_MODEL = "unknown_model"
REAL_TIME = "real_time"


def answer_document(name: str, answer: Answer) -> dict[str, Any]:
    """Return an answer as a JSON document: times are UTC in ISO 8601, the age is in seconds."""
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


def logged_answer(
    kept: Mapping[str, Any], *, now: datetime, stale_after: float | None = None
) -> Answer:
    """Return an answer that was given on request, from its document in the request log."""
    scored_at = datetime.fromisoformat(kept["scored_at"])
    age = max(now - scored_at, timedelta())
    return Answer(
        key=tuple(kept["key"]),
        status=REJECTED if kept["rejected_reason"] else PREDICTED,
        outputs=kept["outputs"],
        as_of=scored_at,
        scored_at=scored_at,
        fresh_as_of=scored_at,
        age=age,
        is_stale=stale_after is not None and age.total_seconds() > stale_after,
        served_from=REAL_TIME,
        model_name=kept["model_name"],
        model_version=kept["model_version"],
        run_id=kept["request_id"],
        rejected_reason=kept["rejected_reason"],
        publication=kept["publication"],
    )


def submission_document(
    name: str, submission: Submission, *, now: datetime, stale_after: float | None
) -> dict[str, Any]:
    """Return the state of a submitted request as JSON. It contains the answer as `:score` gives it, with its age at
    `now`.
    """
    answer = None
    if submission.ended_at is not None and submission.answer is not None:
        kept = logged_answer(submission.answer, now=now, stale_after=stale_after)
        answer = answer_document(name, kept)
    return {
        "request_id": submission.request_id,
        "name": name,
        "state": submission.state,
        "submitted_at": as_json(submission.submitted_at),
        "ended_at": as_json(submission.ended_at),
        "answer": answer,
        "error": submission.error,
        "webhook": None
        if submission.webhook is None
        else {
            "name": submission.webhook,
            "state": submission.delivery,
            "attempts": submission.attempts,
            "next_attempt_at": as_json(submission.next_attempt_at),
        },
    }


def unknown_document(name: str, key: Sequence[Any]) -> dict[str, Any]:
    """Return the document for a name under which nothing is published."""
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
