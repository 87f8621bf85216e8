"""The HTTP service, as an ASGI application.

    GET  /v1/predictions/NAME/KEY           one answer; KEY is one path segment per key column
    POST /v1/predictions/NAME:batch         {"keys": [KEY, ...]}
    POST /v1/predictions/NAME:score         {"key": KEY, "features": {...}}
    POST /v1/predictions/NAME:submit        the body of :score, answered later; optionally "webhook": NAME
    GET  /v1/submissions/NAME/ID            the state of a submitted request
    GET  /healthz  /readyz  /metrics  /openapi.json
    POST PREFIX/SEGMENT                     routes that your own program adds, see `application`

A key is only ever compared with stored values. It never becomes part of a file path or of SQL text.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from dbt_onnx.errors import DbtOnnxError, InvalidKeyError, ServingError
from dbt_onnx.serving.answers import answer_document, unknown_document
from dbt_onnx.serving.folder import ServingFolder
from dbt_onnx.serving.limits import Limits, Rates, too_large, too_many_waiting, too_slow
from dbt_onnx.serving.lookup import MISSING, utc_now
from dbt_onnx.serving.metrics import CONTENT_TYPE, Metrics
from dbt_onnx.serving.openapi import openapi_document
from dbt_onnx.serving.questions import read_question, reject_constant
from dbt_onnx.serving.refusal import Refusal, bad_request, failed, not_scored, unavailable
from dbt_onnx.serving.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
    from concurrent.futures import Future
    from datetime import datetime
    from pathlib import Path

    from dbt_onnx.serving.lookup import Answer, Predictions
    from dbt_onnx.serving.questions import Question
    from dbt_onnx.serving.tokens import Tokens
    from dbt_onnx.serving.webhooks import Webhook

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    Post = Callable[[str, bytes], Any]

_LOG = logging.getLogger("dbt_onnx")
_PREDICTIONS = b"/v1/predictions/"
# not under /v1/predictions/NAME/: there, "submissions/ID" could also be a key of two columns
_SUBMISSIONS = b"/v1/submissions/"
_JSON = b"application/json"
# A body over the limit is still read, up to this many times the limit: a client that is still sending
# does not see the response
_DRAIN_FACTOR = 16
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Response(NamedTuple):
    """An HTTP response, ready to send."""

    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _Route(NamedTuple):
    """The handler of a path. `method` None accepts any method; an `is_open` route needs no token."""

    name: str
    method: str | None
    answer: Callable[[Scope, Receive], Awaitable[Response]]
    is_open: bool = False


async def _not_found(_: Scope, __: Receive) -> Response:
    raise Refusal(
        HTTPStatus.NOT_FOUND,
        "not_found",
        "there is nothing at this path",
        hint="/openapi.json lists all paths",
    )


_NOT_FOUND = _Route("other", None, _not_found)


def application(
    folder: Path,
    *,
    clock: Callable[[], datetime] = utc_now,
    limits: Limits | None = None,
    tokens: Tokens | None = None,
    webhooks: Mapping[str, Webhook] | None = None,
    posts: Mapping[str, Post] | None = None,
) -> Application:
    """Return the application that serves a folder with one subfolder per publication.

    `clock` returns the current time in UTC, without a zone; ages are computed from it. Without `tokens`, anybody
    may send requests. A request to :submit may name one of the `webhooks`. `posts` adds routes of your own: with
    {"/v1/rankings/films/": rank}, a POST to /v1/rankings/films/17 is answered with the return value of
    `rank("17", body)`, as JSON; the segment is text, the body is bytes. `rank` runs in a thread, and rejects a
    request by raising InvalidKeyError (400) or Refusal. Tokens, limits and metrics apply to these routes, too.
    Raises ConfigError if the folder is itself a publication.
    """
    return Application(
        ServingFolder(folder, clock=clock),
        limits=limits or Limits(),
        tokens=tokens,
        webhooks=webhooks or {},
        posts=posts or {},
    )


class Application:
    """The ASGI application that serves one folder.

    The constructor opens the files and starts the threads. `close` stops the threads and closes the files.
    """

    def __init__(
        self,
        folder: ServingFolder,
        *,
        limits: Limits,
        tokens: Tokens | None,
        webhooks: Mapping[str, Webhook],
        posts: Mapping[str, Post],
    ) -> None:
        self.limits = limits
        self._folder = folder
        self._tokens = tokens
        self._webhooks = webhooks
        self._workers = Workers(folder, webhooks=webhooks)
        per_second = limits.requests_per_second
        self._rates = None if per_second is None else Rates(per_second)
        self._metrics = Metrics()
        self._openapi = Response(HTTPStatus.OK, _encode(openapi_document(limits)).encode())
        self._routes = {
            b"/healthz": _Route("healthz", "GET", self._healthz, is_open=True),
            b"/readyz": _Route("readyz", "GET", self._readyz, is_open=True),
            b"/metrics": _Route("metrics", "GET", self._metrics_text),
            b"/openapi.json": _Route("openapi", "GET", self._openapi_json),
        }
        self._actions = {"batch": self._batch, "score": self._score, "submit": self._submit}
        self._posts = {prefix.encode(): (prefix, post) for prefix, post in posts.items()}

    def close(self) -> None:
        """Wait for the scoring in progress, stop all threads, and close all files."""
        self._workers.close()
        self._folder.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # ASGI servers take this error to mean that the application does not support the scope
            raise ValueError(f"{scope['type']!r} is not supported, only 'http'")
        begun = perf_counter()
        route = _NOT_FOUND
        try:
            route = self._route(scope)
            if not route.is_open:
                self._admit(scope)
            _check_method(scope, route.method)
            response = await route.answer(scope, receive)
        except Refusal as refusal:
            response = _error_response(refusal)
        except InvalidKeyError as error:
            response = _error_response(bad_request("key", error.message, hint=error.hint))
        except Exception:  # noqa: BLE001, logged; the client gets no traceback
            _LOG.exception("a request could not be answered")
            response = _error_response(failed())
        await _send(response, send)
        self._metrics.count(route.name, response.status, perf_counter() - begun)

    def _route(self, scope: Scope) -> _Route:
        """Return the route of the request's path. Raises Refusal if the path is too long."""
        # a key may contain slashes as %2F; in the decoded path they look like separators
        path = scope["raw_path"]
        if len(path) > self.limits.path_bytes:
            raise too_large(HTTPStatus.REQUEST_URI_TOO_LONG, "path", self.limits.path_bytes)
        if path.startswith(_SUBMISSIONS):
            return self._route_of_submission(*path[len(_SUBMISSIONS) :].split(b"/"))
        if not path.startswith(_PREDICTIONS):
            return self._routes.get(path) or self._post_at(path)
        name, *key = path[len(_PREDICTIONS) :].split(b"/")
        if key:
            return _Route("prediction", "GET", partial(self._prediction, name, key))
        name, _, verb = _decoded(name).partition(":")
        if verb in self._actions:
            return _Route(verb, "POST", partial(self._actions[verb], name))
        return _NOT_FOUND

    def _route_of_submission(self, name: bytes, *rest: bytes) -> _Route:
        if len(rest) != 1:
            return _NOT_FOUND
        return _Route("submission", "GET", partial(self._submission, name, *rest))

    def _post_at(self, path: bytes) -> _Route:
        folder, slash, segment = path.rpartition(b"/")
        if segment and (found := self._posts.get(folder + slash)):
            prefix, post = found
            return _Route(prefix, "POST", partial(self._call_post, post, segment))
        return _NOT_FOUND

    def _admit(self, scope: Scope) -> None:
        """Check the token and the request rate.

        Raises Refusal if the token is missing or not accepted, or if the client exceeds its rate.
        """
        client = scope["client"][0] if scope.get("client") else ""
        if self._tokens is not None:
            owner = self._tokens.owner(_header(scope, b"authorization"))
            if owner is None:
                self._take_from_bucket(client)
                raise Refusal(
                    HTTPStatus.UNAUTHORIZED,
                    "unauthorized",
                    "the request has no token, or one that is not accepted",
                    hint="send the header Authorization: Bearer TOKEN",
                    headers=((b"www-authenticate", b"Bearer"),),
                )
            client = owner
        self._take_from_bucket(client)

    def _take_from_bucket(self, client: str) -> None:
        if self._rates is not None:
            self._rates.take(client)

    async def _prediction(
        self, raw_name: bytes, raw_key: Sequence[bytes], _: Scope, __: Receive
    ) -> Response:
        name, key = _decoded(raw_name), [_decoded(segment) for segment in raw_key]
        predictions = self._folder.get(name) or await self._find(name)
        if predictions is None:
            return _json(HTTPStatus.NOT_FOUND, unknown_document(name, key))
        (answer,) = self._answers(name, predictions, [key])
        status = HTTPStatus.NOT_FOUND if answer.status == MISSING else HTTPStatus.OK
        return _json(status, answer_document(name, answer))

    async def _batch(self, name: str, scope: Scope, receive: Receive) -> Response:
        body = await self._body(scope, receive)
        predictions = self._folder.get(name) or await self._find(name)
        # in a thread, so that other requests do not wait while up to a thousand keys are looked up
        return await asyncio.to_thread(self._answer_batch, name, predictions, body)

    def _answer_batch(self, name: str, predictions: Predictions | None, body: bytes) -> Response:
        keys = self._keys(body)
        if predictions is None:
            unknown = [unknown_document(name, key) for key in keys]
            return _json(
                HTTPStatus.NOT_FOUND, {"name": name, "publication": None, "answers": unknown}
            )
        answers = self._answers(name, predictions, keys)
        document = {
            "name": name,
            "publication": answers[0].publication if answers else None,
            "answers": [answer_document(name, answer) for answer in answers],
        }
        return _json(HTTPStatus.OK, document)

    def _answers(
        self, name: str, predictions: Predictions, keys: Sequence[Sequence[Any]]
    ) -> list[Answer]:
        """Look keys up. Raises InvalidKeyError, and Refusal if the publication cannot be read."""
        try:
            return predictions.get_parsed(keys)
        except InvalidKeyError:
            raise
        except ServingError as error:
            _LOG.error("%s", error.message)
            self._folder.note_damage(name)
            raise _unreadable(name) from error

    def _keys(self, body: bytes) -> list[list[Any]]:
        """Parse the keys of a batch request. Raises Refusal if the body is not valid."""
        hint = 'send {"keys": [KEY, ...]}; a key is a value, or a list with one value for each key column'
        try:
            document = json.loads(body, parse_constant=reject_constant)
        except (ValueError, RecursionError) as error:
            raise bad_request("json", "the body is not valid JSON", hint=hint) from error
        if not isinstance(document, dict) or set(document) != {"keys"}:
            raise bad_request(
                "keys", 'the body must be an object with the single field "keys"', hint=hint
            )
        if not isinstance(document["keys"], list):
            raise bad_request("keys", '"keys" must be a list', hint=hint)
        if len(document["keys"]) > self.limits.batch_keys:
            raise Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                "too_large",
                f"the request has {len(document['keys']):,} keys; the limit is {self.limits.batch_keys:,}",
                hint="send the keys in several requests",
            )
        keys = [key if isinstance(key, list) else [key] for key in document["keys"]]
        for position, key in enumerate(keys):
            if not all(isinstance(value, str | int | float) for value in key):
                raise bad_request(
                    "key",
                    f"keys[{position}] must contain only strings, numbers and booleans",
                    hint=hint,
                )
        return keys

    async def _score(self, name: str, scope: Scope, receive: Receive) -> Response:
        body = await self._body(scope, receive)
        predictions = self._folder.get(name) or await self._find(name)
        question = read_question(body, may_name_webhook=False)
        if predictions is None:
            return _json(HTTPStatus.NOT_FOUND, unknown_document(name, question.key))
        answer, kept = await asyncio.to_thread(self._score_row, name, predictions, question)
        try:
            await asyncio.wrap_future(kept)
        except ServingError as error:
            _LOG.error("%s", error.message)
            raise unavailable(
                "the answer could not be written to the request log, so it is not returned"
            ) from error
        return _json(HTTPStatus.OK, answer_document(name, answer))

    def _score_row(
        self, name: str, predictions: Predictions, question: Question
    ) -> tuple[Answer, Future[None]]:
        """Score one row, and return the answer and the future of its log entry.

        Raises InvalidKeyError, and Refusal if the row cannot be scored.
        """
        manifest, now = predictions.manifest, self._folder.now()
        # the lookup validates the key, and converts it to the types of the key columns
        [known] = self._answers(name, predictions, [question.key])
        try:
            return self._folder.real_time(name).score(
                manifest, known.key, question.features, now=now
            )
        except DbtOnnxError as error:
            raise not_scored(name, error) from error

    async def _submit(self, name: str, scope: Scope, receive: Receive) -> Response:
        body = await self._body(scope, receive)
        predictions = self._folder.get(name) or await self._find(name)
        question = read_question(body, may_name_webhook=True)
        if question.webhook is not None and question.webhook not in self._webhooks:
            raise Refusal(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "webhook",
                f"there is no webhook {question.webhook!r:.80}",
                hint="use a name from the service's --webhooks file",
            )
        if predictions is None:
            return _json(HTTPStatus.NOT_FOUND, unknown_document(name, question.key))
        return await asyncio.to_thread(self._queue_request, name, predictions, question, body)

    def _queue_request(
        self, name: str, predictions: Predictions, question: Question, body: bytes
    ) -> Response:
        """Queue one request. Raises Refusal if its row cannot be scored, or if the queue is full."""
        from dbt_onnx.serving.real_time import check_features

        self._answers(name, predictions, [question.key])
        try:
            check_features(predictions.manifest, question.features)
        except DbtOnnxError as error:
            raise not_scored(name, error) from error
        try:
            submission = self._workers.submit(
                name, body, webhook=question.webhook, limit=self.limits.waiting
            )
        except ServingError as error:
            _LOG.error("%s", error.message)
            raise unavailable("the request could not be written to the queue") from error
        if submission is None:
            raise too_many_waiting(self.limits.waiting)
        location = _SUBMISSIONS + f"{name}/{submission.request_id}".encode()
        return _json(
            HTTPStatus.ACCEPTED,
            self._workers.document(name, submission),
            ((b"location", location),),
        )

    async def _submission(
        self, raw_name: bytes, raw_id: bytes, scope: Scope, receive: Receive
    ) -> Response:
        name, request_id = _decoded(raw_name), _decoded(raw_id)
        # open only folders that the service has found itself: the name comes from the client
        if self._folder.get(name) is None and await self._find(name) is None:
            return await _not_found(scope, receive)
        return await asyncio.to_thread(self._state_of, name, request_id)

    def _state_of(self, name: str, request_id: str) -> Response:
        try:
            submission = self._workers.get(name, request_id)
        except ServingError as error:
            _LOG.error("%s", error.message)
            raise unavailable(f"the queue of {name!r} cannot be read") from error
        if submission is None:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                "not_found",
                "there is no request with this id",
                hint="a request is kept for 7 days after it has ended",
            )
        return _json(HTTPStatus.OK, self._workers.document(name, submission))

    async def _call_post(
        self, post: Post, segment: bytes, scope: Scope, receive: Receive
    ) -> Response:
        body = await self._body(scope, receive)
        return _json(HTTPStatus.OK, await asyncio.to_thread(post, _decoded(segment), body))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the body of a request. Raises Refusal if it is too large or does not arrive in time."""
        limit = self.limits.body_bytes
        chunks, size, has_more = [], 0, True
        refusal = too_large(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body", limit)
        declared = _header(scope, b"content-length")
        if declared.isdigit() and int(declared[:20]) > limit * _DRAIN_FACTOR:
            raise refusal
        try:
            async with asyncio.timeout(self.limits.seconds):
                while has_more and size <= limit * _DRAIN_FACTOR:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise bad_request(
                            "disconnected",
                            "the client has disconnected",
                            hint="send the request again",
                        )
                    size += len(message.get("body", b""))
                    chunks += [message["body"]] if "body" in message and size <= limit else []
                    has_more = message.get("more_body", False)
        except TimeoutError as error:
            raise too_slow(self.limits.seconds) from error
        if size > limit:
            raise refusal
        return b"".join(chunks)

    async def _find(self, name: str) -> Predictions | None:
        """Look in the folder for a publication that is not open yet.

        Return None if there is none. Raises Refusal if it is damaged.
        """
        await asyncio.to_thread(self._folder.scan)
        if self._folder.is_unreadable(name):
            raise _unreadable(name)
        return self._folder.get(name)

    async def _healthz(self, _: Scope, __: Receive) -> Response:
        return _json(HTTPStatus.OK, {"status": "ok"})

    async def _readyz(self, _: Scope, __: Receive) -> Response:
        await asyncio.to_thread(self._folder.scan)
        served = self._folder.served()
        is_ready = bool(served) and all(each.problem is None for each in served)
        document = {
            "status": "ready" if is_ready else "not ready",
            "publications": [
                {
                    "name": each.name,
                    "publication": each.manifest and each.manifest.id,
                    "age_seconds": None if each.age is None else each.age.total_seconds(),
                    "problem": each.problem,
                }
                for each in served
            ],
        }
        return _json(HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE, document)

    async def _metrics_text(self, _: Scope, __: Receive) -> Response:
        await asyncio.to_thread(self._folder.scan)
        counts = await asyncio.to_thread(self._workers.counts)
        text = self._metrics.text(self._folder.served(), counts)
        return Response(HTTPStatus.OK, text, CONTENT_TYPE)

    async def _openapi_json(self, _: Scope, __: Receive) -> Response:
        return self._openapi


def _json(status: int, document: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    return Response(status, _encode(document).encode(), _JSON, headers)


async def _send(response: Response, send: Send) -> None:
    length = str(len(response.body)).encode()
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [
                (b"content-type", response.content_type),
                (b"content-length", length),
                # the age in the response is only correct at the moment it is sent
                (b"cache-control", b"no-store"),
                *response.headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": response.body})


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _decoded(segment: bytes) -> str:
    """Decode a path segment to text: `%2F` becomes a slash. Raises Refusal if it is not UTF-8."""
    try:
        if b"%" in segment:
            segment = _ESCAPE.sub(_unescaped, segment)
        return segment.decode()
    except ValueError as error:
        raise bad_request(
            "path",
            "a part of the path is not valid UTF-8",
            hint="percent-encode UTF-8, such as %C3%A9 for é, and write % itself as %25",
        ) from error


def _unescaped(found: re.Match[bytes]) -> bytes:
    if found[1] is None:
        raise ValueError(found.string)
    return bytes.fromhex(found[1].decode())


def _check_method(scope: Scope, method: str | None) -> None:
    if method is not None and scope["method"] != method:
        raise Refusal(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path does not support the method",
            hint=f"use {method}",
            headers=((b"allow", method.encode()),),
        )


def _unreadable(name: str) -> Refusal:
    return unavailable(f"the publication {name!r} cannot be read")


def _error_response(refusal: Refusal) -> Response:
    return _json(refusal.status, refusal.document(), refusal.headers)
