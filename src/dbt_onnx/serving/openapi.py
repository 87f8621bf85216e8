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
    "name": {"type": "string", "description": "what it is published as"},
    "key": {"type": "array", "items": _VALUE, "description": "a value for each column of the key"},
    "status": {
        "enum": [PREDICTED, REJECTED, MISSING, UNKNOWN_MODEL],
        "description": "rejected: the entity could not be scored; missing: nothing is known of it; "
        "unknown_model: nothing is published under this name",
    },
    "outputs": {"type": "object", "description": "output column -> value; empty unless predicted"},
    "as_of": _MOMENT,
    "scored_at": _MOMENT,
    "fresh_as_of": _MOMENT,
    "age_seconds": {
        "type": ["number", "null"],
        "description": "since the prediction was known to hold, by the clock of the service",
    },
    "is_stale": {"type": "boolean", "description": "older than the publication allows"},
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
        "description": "the key; of several columns, a segment of the path for each. "
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
                    "The predictions of several entities, in their order, all of one publication",
                    {"200": batch, "404": batch},
                    parameters=[name],
                    requestBody={"required": True, "content": _content(_keys(limits))},
                )
            },
            "/v1/predictions/{name}:score": {
                "post": _operation(
                    "The prediction of one entity from the features that are sent, by the version that "
                    "is served; kept for the ledger before it is answered",
                    {"200": answer, "404": answer},
                    parameters=[name],
                    requestBody={"required": True, "content": _content(_QUESTION)},
                )
            },
            "/v1/predictions/{name}:submit": {
                "post": _operation(
                    "Ask for the prediction of one entity from the features that are sent, and have it "
                    "later: `Location` says where",
                    {"202": submission, "404": answer},
                    parameters=[name],
                    requestBody={"required": True, "content": _content(_LATER)},
                )
            },
            "/v1/submissions/{name}/{request_id}": {
                "get": _operation(
                    "How a request stands that is answered later",
                    {"200": submission},
                    parameters=[name, {**name, "name": "request_id"}],
                )
            },
            "/healthz": {"get": _operation("Whether the process is there", {"200": {}})},
            "/readyz": {
                "get": _operation(
                    "Whether what is served can be relied on; 503 when it is damaged, older than "
                    "it may be, or nothing",
                    {"200": {}, "503": {}},
                )
            },
            "/metrics": {"get": _operation("Figures for Prometheus", {"200": None})},
            "/openapi.json": {"get": _operation("This description", {"200": {}})},
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
            "description": "each column that the model reads; null for NULL",
        },
    },
    "additionalProperties": False,
}
_WEBHOOK = {
    **_TEXT_OR_NULL,
    "description": "who is told when the request has ended: a name that whoever runs the service has given",
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
            "description": "as `:score` gives it; null before the request is scored or rejected",
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
