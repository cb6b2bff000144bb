"""What each address answers.

GET  /v2, /v2/health/live, /v2/health/ready, /v2/models, /v2/models/N[/versions/V][/ready]
POST /v2/models/N[/versions/V]/infer
GET  /metrics, /edgeward/v1/status
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any

import orjson

from edgeward_runtime import __version__, protocol
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.messages import Answer, Reply, Request, error
from edgeward_runtime.metrics import MetricsPage, ServerStats
from edgeward_runtime.model import Model
from edgeward_runtime.protocol import InferRequest
from edgeward_runtime.registry import Registry
from edgeward_runtime.tensors import Array
from edgeward_runtime.worker import Job, Worker, run_error

log = logging.getLogger(__name__)

_MAX_ROUTES = 1024
EXTENSIONS = ("binary_tensor_data",)
_BINARY = b"application/octet-stream"
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    registry: Registry
    worker: Worker
    stats: ServerStats
    page: MetricsPage
    status: Callable[[], dict[str, object]]
    server_name: str
    max_json_bytes: int = 8 * 2**20


class App:
    """`handle` is the front's handler. Everything here runs in the event loop's thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._worker = parts.worker
        self._max_json_bytes = parts.max_json_bytes
        self._routes: dict[str, list[str]] = {}  # infer paths taken apart

    def handle(self, request: Request, reply: Reply) -> None:
        path = request.path
        try:
            if path.endswith("/infer") and path.startswith("/v2/models/"):
                if request.method != b"POST":
                    raise ProtocolError(405, "infer takes POST")
                parts = self._routes.get(path)
                if parts is None:
                    parts = path.split("/")[3:-1]
                    if len(self._routes) < _MAX_ROUTES:
                        self._routes[path] = parts
                model = self._model(parts)
            else:
                if request.method not in (b"GET", b"HEAD"):
                    raise ProtocolError(405, f"{request.method.decode('latin-1')} is not possible here, use GET")
                reply(self._get(path))
                return
        except ProtocolError as failure:
            unrouted = self._parts.stats.unrouted
            unrouted[failure.status] = unrouted.get(failure.status, 0) + 1
            reply(error(failure.status, failure.text))
            return
        except Exception:
            log.exception("request failed")
            reply(error(500, "internal error"))
            return
        self._infer(model, request, reply)

    # -- infer ----------------------------------------------------------------------------------------------------

    def _infer(self, model: Model, request: Request, reply: Reply) -> None:
        start = perf_counter_ns()
        model.inflight += 1
        timed = request.transfer is not None
        if request.transfer is not None:
            model.stats.transferred(request.transfer)
        try:
            if request.refused is not None:
                raise request.refused
            body = request.body
            json_length = protocol.header_length(request.json_length, len(body))
            if (len(body) if json_length is None else json_length) > self._max_json_bytes:
                text = f"the JSON is over the limit of {self._max_json_bytes} bytes, send large tensors as binary data"
                raise ProtocolError(413, text)
            parsed = protocol.parse(body, json_length, model.inputs, model.outputs, model.plans)
            if parsed.rows > model.inline_rows or self._worker.pending:
                job = Job(model=model, feeds=parsed.feeds, names=parsed.names)
                self._worker.submit(job, partial(self._done, model, parsed, reply, start, timed))
                return
            # Shorter than two thread switches: nobody is held up longer by running it here.
            started = perf_counter_ns()
            try:
                tensors = model.run(parsed.names, parsed.feeds)
            except Exception as failure:
                raise run_error(failure) from None
            finished = perf_counter_ns()
            answer = self._answer(model, parsed, tensors, start, started, started, finished, timed)
        except Exception as failure:
            answer = self._failure(model, failure)
        model.inflight -= 1
        reply(answer)

    def _done(self, model: Model, parsed: InferRequest, reply: Reply, start: int, timed: bool, job: Job) -> None:
        try:
            if job.error is not None:
                raise job.error
            times = (start, job.queued_ns, job.started_ns, job.finished_ns)
            answer = self._answer(model, parsed, job.tensors, *times, timed)
        except Exception as failure:
            answer = self._failure(model, failure)
        model.inflight -= 1
        reply(answer)

    def _answer(
        self,
        model: Model,
        parsed: InferRequest,
        tensors: list[Array],
        start: int,
        queued: int,
        started: int,
        finished: int,
        timed: bool,
    ) -> Answer:
        """Encodes and counts; the times are perf_counter_ns. timed: the client wants to know what was spent here, to
        tell with its next request how long this one was on the way (Server-Timing is a header of the W3C, in ms)."""
        body, json_length = protocol.respond(
            model=model.name, version=model.version, request=parsed, specs=model.outputs, tensors=tensors
        )
        if json_length is None:
            answer = Answer(200, body)
        else:
            answer = Answer(200, body, _BINARY, b"inference-header-content-length: %d\r\n" % json_length)
        end = perf_counter_ns()
        model.stats.success(
            parsed.rows, end - start, queued - start, started - queued, finished - started, end - finished
        )
        if timed:
            answer.extra += b"server-timing: total;dur=%.3f\r\n" % ((end - start) / 1e6)
        return answer

    @staticmethod
    def _failure(model: Model, failure: Exception) -> Answer:
        if not isinstance(failure, ProtocolError):
            log.error("request failed", exc_info=failure)
            failure = ProtocolError(500, "internal error")
        model.stats.failure(failure.status)
        return error(failure.status, failure.text)

    def _model(self, parts: list[str]) -> Model:
        """The live model for the path's parts after /v2/models: [N] or [N, "versions", V]."""
        name = parts[0] if parts else ""
        if len(parts) not in (1, 3) or (len(parts) == 3 and parts[1] != "versions"):
            raise ProtocolError(404, "no such path")
        model = self._registry.live.get(name)
        if model is None:
            if name in self._registry.wanted:
                raise ProtocolError(503, f"model '{name}' is not ready")
            raise ProtocolError(404, f"Request for unknown model: '{name:.300}' is not found")
        if len(parts) == 3 and parts[2] != model.version:
            raise ProtocolError(404, f"Request for unknown model: '{name}' version {parts[2]:.300} is not found")
        return model

    # -- everything else ------------------------------------------------------------------------------------------

    def _get(self, path: str) -> Answer:
        if path == "/v2/health/live":
            return _json({"live": True})
        if path == "/v2/health/ready":
            return self._server_ready()
        if path == "/metrics":
            return Answer(200, self._parts.page.render(), _TEXT)
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
        return Answer(503, orjson.dumps({"error": text, "ready": False, "live": True}), extra=b"retry-after: 1\r\n")


def _json(document: dict[str, Any]) -> Answer:
    return Answer(200, orjson.dumps(document))
