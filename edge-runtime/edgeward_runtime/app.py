"""The HTTP face: a raw ASGI application, because a framework costs more per request than a small model does.

GET  /v2, /v2/health/live, /v2/health/ready, /v2/models, /v2/models/N[/versions/V][/ready]
POST /v2/models/N[/versions/V]/infer
GET  /metrics, /edgeward/v1/status
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import orjson

from edgeward_runtime import __version__, protocol
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.metrics import MetricsPage, ServerStats
from edgeward_runtime.model import Model
from edgeward_runtime.registry import Registry
from edgeward_runtime.worker import Worker

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Answer = tuple[int, Headers, bytes]

EXTENSIONS = ("binary_tensor_data",)
# Exactly this: KServe's client reads an error's text only without a charset.
_JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_CLOSE = (b"connection", b"close")
_RETRY = (b"retry-after", b"1")
_BODY_SECONDS = 60.0  # for a body that comes in pieces


class _ClientGone(Exception):
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    registry: Registry
    worker: Worker
    stats: ServerStats
    page: MetricsPage
    status: Callable[[], dict[str, object]]
    server_name: str
    max_body_bytes: int


class App:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._worker = parts.worker
        self._max_body = parts.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, headers, body = await self._answer(scope, receive)
        except _ClientGone:
            return
        except ProtocolError as error:
            status, headers, body = _error(error)
        except Exception:
            log.exception("request failed")
            status, headers, body = _error(ProtocolError(500, "internal error"))
        headers.append((b"content-length", b"%d" % len(body)))
        if self._registry.draining:
            headers.append(_CLOSE)  # the client's next request goes to another pod
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path: str = scope["path"]
        if path.endswith("/infer") and path.startswith("/v2/models/"):
            _method(scope, "POST")
            return await self._infer(path, scope, receive)
        _method(scope, "GET")
        try:
            return self._get(path)
        except ProtocolError as error:
            self._count(error.status)
            raise

    def _count(self, status: int) -> None:
        unrouted = self._parts.stats.unrouted
        unrouted[status] = unrouted.get(status, 0) + 1

    # -- infer ----------------------------------------------------------------------------------------------------

    async def _infer(self, path: str, scope: Scope, receive: Receive) -> Answer:
        try:
            json_header = _json_length(scope["headers"])
            body = await _read(receive, self._max_body)
            # After the body: a client that sends slowly must not hold an old version.
            model = self._model(path.split("/")[3:-1])
        except ProtocolError as error:
            self._count(error.status)
            raise
        start = perf_counter_ns()
        model.inflight += 1
        try:
            request = protocol.parse(body, protocol.header_length(json_header, len(body)), model.inputs, model.outputs)
            job = self._worker.submit(
                model=model, feeds=request.feeds, names=[name for name, _binary in request.outputs]
            )
            await job.done
            if job.error is not None:
                raise job.error
            answer, json_length = protocol.respond(
                model=model.name, version=model.version, request=request, specs=model.outputs, tensors=job.tensors
            )
        except ProtocolError as error:
            model.stats.failure(error.status)
            raise
        except Exception:
            model.stats.failure(500)
            raise
        finally:
            model.inflight -= 1
        end = perf_counter_ns()
        model.stats.success(
            rows=request.rows,
            duration=end - start,
            parse=job.queued_ns - start,
            queue=job.started_ns - job.queued_ns,
            infer=job.finished_ns - job.started_ns,
            output=end - job.finished_ns,
        )
        if json_length is None:
            return 200, [_JSON], answer
        return 200, [_BINARY, (b"inference-header-content-length", b"%d" % json_length)], answer

    def _model(self, parts: list[str]) -> Model:
        """The live model for the path's parts after /v2/models: [N] or [N, "versions", V]."""
        name = parts[0] if parts else ""
        if len(parts) not in (1, 3) or (len(parts) == 3 and parts[1] != "versions"):
            raise ProtocolError(404, "no such path")
        model = self._registry.live.get(name)
        if model is None:
            if name in self._registry.wanted:
                raise ProtocolError(503, f"model '{name}' is not ready")
            raise ProtocolError(404, f"Request for unknown model: '{name}' is not found")
        if len(parts) == 3 and parts[2] != model.version:
            raise ProtocolError(404, f"Request for unknown model: '{name}' version {parts[2]} is not found")
        return model

    # -- everything else ------------------------------------------------------------------------------------------

    def _get(self, path: str) -> Answer:
        if path == "/v2/health/live":
            return _json({"live": True})
        if path == "/v2/health/ready":
            return self._server_ready()
        if path == "/metrics":
            return 200, [_TEXT], self._parts.page.render()
        if path == "/edgeward/v1/status":
            return _json(self._parts.status())
        if path in ("/v2", "/v2/"):
            return _json({"name": self._parts.server_name, "version": __version__, "extensions": EXTENSIONS})
        if path == "/v2/models":
            return _json({"models": sorted(self._registry.live)})
        if path.startswith("/v2/models/"):
            parts = path.split("/")[3:]
            if parts[-1] == "ready" and len(parts) > 1:
                return _json({"name": self._model(parts[:-1]).name, "ready": True})
            return _json(self._model(parts).metadata())
        raise ProtocolError(404, "no such path")

    def _server_ready(self) -> Answer:
        registry = self._registry
        if registry.ready():
            # "live" too: the protocol's text names the body's key so, its clients read either.
            return _json({"ready": True, "live": True})
        if registry.draining:
            text = "the server is stopping"
        elif not registry.wanted:
            text = "no model is configured yet"
        else:
            text = f"no version serves yet of {sorted(registry.wanted - registry.live.keys())}"
        return 503, [_JSON], orjson.dumps({"error": text, "ready": False, "live": True})


def _json(document: dict[str, Any]) -> Answer:
    return 200, [_JSON], orjson.dumps(document)


def _error(error: ProtocolError) -> Answer:
    headers = [_JSON]
    if error.status == 503:
        headers.append(_RETRY)
    if error.status in (408, 413):
        headers.append(_CLOSE)  # the rest of the body is not read
    return error.status, headers, orjson.dumps({"error": error.text})


def _method(scope: Scope, wanted: str) -> None:
    if scope["method"] != wanted:
        raise ProtocolError(405, f"{scope['method']} is not possible here, use {wanted}")


def _json_length(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The value of Inference-Header-Content-Length, after refusing what cannot be read anyway."""
    value = None
    for name, content in headers:
        if name == b"inference-header-content-length":
            value = content
        elif name == b"content-encoding" and content.lower() != b"identity":
            text = f"Content-Encoding {content.decode('latin-1')!r:.50} is not supported, send the body as it is"
            raise ProtocolError(415, text)
    return value


async def _read(receive: Receive, limit: int) -> bytes:
    """The whole body. 413 beyond `limit` bytes."""
    message = await receive()
    if message["type"] != "http.request":
        raise _ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise _too_large(limit)
        return body
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await _read_pieces(receive, limit, body)
    except TimeoutError:
        raise ProtocolError(408, f"the body was not there after {_BODY_SECONDS:g} s") from None


async def _read_pieces(receive: Receive, limit: int, first: bytes) -> bytes:
    pieces = [first]
    size = len(first)
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _ClientGone
        piece = message.get("body", b"")
        size += len(piece)
        if size <= limit:
            pieces.append(piece)
        else:
            # Read on for as much again, keeping nothing: closing at once would reset the connection while the client
            # still sends, and it would see that instead of the answer.
            pieces.clear()
        if size > 2 * limit or (size > limit and not message.get("more_body", False)):
            raise _too_large(limit)
        if not message.get("more_body", False):
            return b"".join(pieces)


def _too_large(limit: int) -> ProtocolError:
    return ProtocolError(
        413, f"the request body is over the limit of {limit} bytes; large tensors are smaller as binary data"
    )
