"""POST /v2/models/N[/versions/V]/infer, and the way to pages.py for every other address."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns

from edgeward_runtime import protocol
from edgeward_runtime.errors import ProtocolError, not_allowed
from edgeward_runtime.messages import Answer, Reply, Request, error
from edgeward_runtime.metrics import ServerStats
from edgeward_runtime.model import Model
from edgeward_runtime.pages import Pages
from edgeward_runtime.protocol import InferRequest
from edgeward_runtime.registry import Registry
from edgeward_runtime.tensors import Array
from edgeward_runtime.worker import Job, Worker, run_error

log = logging.getLogger(__name__)

_MAX_ROUTES = 1024
_BINARY = b"application/octet-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    registry: Registry
    worker: Worker
    stats: ServerStats
    pages: Pages
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
                    raise not_allowed("infer takes POST", b"POST")
                parts = self._routes.get(path)
                if parts is None:
                    parts = path.split("/")[3:-1]
                    if len(self._routes) < _MAX_ROUTES:
                        self._routes[path] = parts
                model = self._registry.find(parts)
            else:
                reply(self._parts.pages.answer(request))
                return
        except ProtocolError as failure:
            unrouted = self._parts.stats.unrouted
            unrouted[failure.status] = unrouted.get(failure.status, 0) + 1
            reply(error(failure.status, failure.text, failure.extra))
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
            answer = self._failure(model, failure, start)
        model.inflight -= 1
        reply(answer)

    def _done(self, model: Model, parsed: InferRequest, reply: Reply, start: int, timed: bool, job: Job) -> None:
        try:
            if job.error is not None:
                raise job.error
            times = (start, job.queued_ns, job.started_ns, job.finished_ns)
            answer = self._answer(model, parsed, job.tensors, *times, timed)
        except Exception as failure:
            answer = self._failure(model, failure, start)
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
            answer = Answer(200, body, packable=True)
        else:
            answer = Answer(200, body, _BINARY, b"inference-header-content-length: %d\r\n" % json_length, True)
        end = perf_counter_ns()
        model.stats.success(
            parsed.rows, end - start, queued - start, started - queued, finished - started, end - finished
        )
        model.stats.last_ns = end
        if timed:
            answer.extra += b"server-timing: total;dur=%.3f\r\n" % ((end - start) / 1e6)
        return answer

    @staticmethod
    def _failure(model: Model, failure: Exception, start: int) -> Answer:
        if not isinstance(failure, ProtocolError):
            log.error("request failed", exc_info=failure)
            failure = ProtocolError(500, "internal error")
        model.stats.failure(failure.status)
        model.stats.failed_ns += perf_counter_ns() - start
        return error(failure.status, failure.text)
