"""Parses the body of `:score` and `:submit`: the row that a client asks to be scored."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, NamedTuple

from dbt_onnx.serving.refusal import bad_request


class Question(NamedTuple):
    """The key and the features of one row. Features are JSON values with Decimal instead of float, so that numbers
    keep their digits. `webhook` is the name of the webhook to call with the answer.
    """

    key: list[Any]
    features: dict[str, Any]
    webhook: str | None = None


def read_question(body: bytes, *, may_name_webhook: bool) -> Question:
    """Parse the body of a request. Raises Refusal if it is not valid."""
    hint = 'send {"key": KEY, "features": {NAME: VALUE, ...}}'
    wanted = {"key", "features"}
    try:
        document = json.loads(body, parse_constant=reject_constant, parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise bad_request("json", "the body is not valid JSON", hint=hint) from error
    if may_name_webhook and isinstance(document, dict):
        wanted |= {"webhook"} & set(document)
    if not isinstance(document, dict) or set(document) != wanted:
        raise bad_request(
            "score", 'the body must be an object with "key" and "features"', hint=hint
        )
    if not isinstance(document["features"], dict):
        raise bad_request("score", '"features" must be an object', hint=hint)
    webhook = document.get("webhook")
    if webhook is not None and not isinstance(webhook, str):
        raise bad_request(
            "webhook", '"webhook" must be the name of a webhook', hint="give a name, or omit it"
        )
    key = document["key"] if isinstance(document["key"], list) else [document["key"]]
    key = [float(value) if isinstance(value, Decimal) else value for value in key]
    if not all(isinstance(value, str | int | float) for value in key):
        raise bad_request(
            "key", "the key must contain only strings, numbers and booleans", hint=hint
        )
    return Question(key, document["features"], webhook)


def reject_constant(text: str) -> float:
    """Reject NaN and infinities, which Python's parser accepts but JSON does not have. Raises ValueError."""
    raise ValueError(text)
