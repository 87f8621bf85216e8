"""The OpenAPI 3.1 description of the HTTP service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbt_onnx.serving.answers import UNKNOWN_MODEL, unknown_document
from dbt_onnx.serving.lookup import MISSING, PREDICTED, REJECTED
from dbt_onnx.serving.submissions import DELIVERIES, STATES
from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.serving.limits import Limits

_VALUE = {"type": ["string", "number", "boolean"]}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_MOMENT = {"type": ["string", "null"], "format": "date-time"}
_KINDS = {
    "name": {"type": "string", "description": "the name of the publication"},
    "key": {"type": "array", "items": _VALUE, "description": "one value for each key column"},
    "status": {
        "enum": [PREDICTED, REJECTED, MISSING, UNKNOWN_MODEL],
        "description": "rejected: the entity could not be scored; missing: there is no prediction for it; "
        "unknown_model: nothing is published under this name",
    },
    "outputs": {"type": "object", "description": "output column -> value; empty unless predicted"},
    "as_of": _MOMENT,
    "scored_at": _MOMENT,
    "fresh_as_of": _MOMENT,
    "age_seconds": {
        "type": ["number", "null"],
        "description": "seconds since the prediction was last confirmed, by the clock of the service",
    },
    "is_stale": {
        "type": "boolean",
        "description": "whether the age is above the limit of the publication; true if there is no prediction",
    },
}
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["kind", "message", "hint"],
            "properties": {part: {"type": "string"} for part in ("kind", "message", "hint")},
        }
    },
}


def openapi_document(limits: Limits) -> dict[str, Any]:
    """Return the OpenAPI document, with the limits of this service."""
    answer = {"$ref": "#/components/schemas/Answer"}
    submission = {"$ref": "#/components/schemas/Submission"}
    batch = {
        "type": "object",
        "required": ["name", "publication", "answers"],
        "properties": {
            "name": {"type": "string"},
            "publication": _TEXT_OR_NULL,
            "answers": {"type": "array", "items": answer},
        },
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    key = {
        **name,
        "name": "key",
        "description": "the key; for a key of several columns, one path segment per column. "
        "Percent-encoded: a slash within a value is %2F",
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "dbt_onnx", "version": __version__},
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/predictions/{name}/{key}": {
                "get": _operation(
                    "The prediction of one entity",
                    {"200": answer, "404": answer},
                    parameters=[name, key],
                )
            },
            "/v1/predictions/{name}:batch": {
                "post": _operation(
                    "The predictions of several entities, in the order of the keys, all from one publication",
                    {"200": batch, "404": batch},
                    parameters=[name],
                    requestBody={"required": True, "content": _content(_keys(limits))},
                )
            },
            "/v1/predictions/{name}:score": {
                "post": _operation(
                    "Score one entity from the features in the request, with the served version; the answer "
                    "is logged for the ledger before it is returned",
                    {"200": answer, "404": answer},
                    parameters=[name],
                    requestBody={"required": True, "content": _content(_QUESTION)},
                )
            },
            "/v1/predictions/{name}:submit": {
                "post": _operation(
                    "Submit one entity to be scored later from the features in the request; the header "
                    "`Location` has the URL of the answer",
                    {"202": submission, "404": answer},
                    parameters=[name],
                    requestBody={"required": True, "content": _content(_LATER)},
                )
            },
            "/v1/submissions/{name}/{request_id}": {
                "get": _operation(
                    "The state of a submitted request",
                    {"200": submission},
                    parameters=[name, {**name, "name": "request_id"}],
                )
            },
            "/healthz": {"get": _operation("Whether the process is alive", {"200": {}})},
            "/readyz": {
                "get": _operation(
                    "Whether the publications are usable; 503 if one is damaged or too old, or if there "
                    "are none",
                    {"200": {}, "503": {}},
                )
            },
            "/metrics": {"get": _operation("Metrics for Prometheus", {"200": None})},
            "/openapi.json": {"get": _operation("This OpenAPI description", {"200": {}})},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Answer": _answer(), "Submission": _submission(), "Error": _ERROR},
        },
    }


_QUESTION: dict[str, Any] = {
    "type": "object",
    "required": ["key", "features"],
    "properties": {
        "key": {"oneOf": [_VALUE, {"type": "array", "items": _VALUE}]},
        "features": {
            "type": "object",
            "description": "a value for each feature of the model; null for NULL",
        },
    },
    "additionalProperties": False,
}
_WEBHOOK = {
    **_TEXT_OR_NULL,
    "description": "the name of the webhook to call when the request has ended",
}
_LATER = {**_QUESTION, "properties": {**_QUESTION["properties"], "webhook": _WEBHOOK}}


def _answer() -> dict[str, Any]:
    names = list(unknown_document("", []))
    return {
        "type": "object",
        "required": names,
        "properties": {name: _KINDS.get(name, _TEXT_OR_NULL) for name in names},
    }


def _submission() -> dict[str, Any]:
    told = {
        "name": {"type": "string"},
        "state": {"enum": [*DELIVERIES, None]},
        "attempts": {"type": "integer"},
        "next_attempt_at": _MOMENT,
    }
    parts = {
        "request_id": {"type": "string"},
        "name": _KINDS["name"],
        "state": {"enum": list(STATES)},
        "submitted_at": {"type": "string", "format": "date-time"},
        "ended_at": _MOMENT,
        "answer": {
            "oneOf": [{"$ref": "#/components/schemas/Answer"}, {"type": "null"}],
            "description": "as `:score` returns it; null unless the request was scored or rejected",
        },
        "error": {
            "oneOf": [_ERROR["properties"]["error"], {"type": "null"}],
            "description": "why the request failed",
        },
        "webhook": {"type": ["object", "null"], "properties": told},
    }
    return {"type": "object", "required": list(parts), "properties": parts}


def _keys(limits: Limits) -> dict[str, Any]:
    one = {"oneOf": [_VALUE, {"type": "array", "items": _VALUE}]}
    keys = {"type": "array", "items": one, "maxItems": limits.batch_keys}
    return {
        "type": "object",
        "required": ["keys"],
        "properties": {"keys": keys},
        "additionalProperties": False,
    }


def _operation(
    summary: str, answers: Mapping[str, dict[str, Any] | None], **parts: Any
) -> dict[str, Any]:
    """Return an operation. `answers` is {status: schema}; the schema is None for a response that is not JSON."""
    found = {
        status: {
            "description": summary,
            "content": {"text/plain": {}} if schema is None else _content(schema),
        }
        for status, schema in answers.items()
    }
    refused = {
        "description": "what is wrong, and what to do",
        "content": _content({"$ref": "#/components/schemas/Error"}),
    }
    return {"summary": summary, **parts, "responses": {**found, "default": refused}}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
