"""POST /v2/models/N[/versions/V]/infer, and the way to pages.py for every other address."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edgeward_runtime import protocol
from edgeward_runtime.call import Call
from edgeward_runtime.engine import Engine
from edgeward_runtime.errors import ProtocolError, not_allowed
from edgeward_runtime.messages import Answer, Reply, Request, error
from edgeward_runtime.metrics import ServerStats
from edgeward_runtime.model import Model
from edgeward_runtime.pages import Pages
from edgeward_runtime.preprocess.chain import RECORD, RECORDS
from edgeward_runtime.protocol import InferRequest
from edgeward_runtime.registry import Registry
from edgeward_runtime.tensors import TensorSpec

log = logging.getLogger(__name__)

_MAX_ROUTES = 1024
_BINARY = b"application/octet-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    registry: Registry
    engine: Engine
    stats: ServerStats
    pages: Pages
    max_json_bytes: int = 8 * 2**20
    # Answers feedback, perhaps later; False for any other request.
    feedback: Callable[[Request, Reply], bool] | None = None


class App:
    """`handle` is the front's handler. Everything here runs in the event loop's thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._registry = parts.registry
        self._engine = parts.engine
        self._feedback = parts.feedback
        self._max_json_bytes = parts.max_json_bytes
        self._routes: dict[str, list[str]] = {}  # infer paths taken apart

    def handle(self, request: Request, reply: Reply) -> None:
        path = request.path
        try:
            parts = self._routes.get(path) or self._route(path)
            if parts is None:
                if not path.endswith("/feedback") or self._feedback is None or not self._feedback(request, reply):
                    reply(self._parts.pages.answer(request))
                return
            if request.method != b"POST":
                raise not_allowed("infer takes POST", b"POST")
            model = self._registry.find(parts)
        except ProtocolError as failure:
            unrouted = self._parts.stats.unrouted
            unrouted[failure.status] = unrouted.get(failure.status, 0) + 1
            reply(error(failure.status, failure.text, failure.extra))
            return
        except Exception:
            log.exception("request failed")
            reply(error(500, "internal error"))
            return
        self._infer(model, len(parts) == 3, request, reply)

    def _route(self, path: str) -> list[str] | None:
        """The parts of an infer path that name the model, None for other paths."""
        if not path.endswith("/infer") or not path.startswith("/v2/models/"):
            return None
        parts = path.split("/")[3:-1]
        if len(self._routes) < _MAX_ROUTES:
            self._routes[path] = parts
        return parts

    # -- infer ----------------------------------------------------------------------------------------------------

    def _infer(self, model: Model, pinned: bool, request: Request, reply: Reply) -> None:
        engine = self._engine
        call = engine.begin(model)
        call.pinned = pinned
        timed = request.transfer is not None
        if request.transfer is not None:
            model.stats.transferred(request.transfer)
        try:
            if request.refused is not None:
                raise request.refused
            body = request.body
            length = request.length
            plan = model.plans.get(body[:length]) if length else None
            if plan is not None and length is not None and plan.tail == len(body) - length:
                # What was parsed before: the checks below passed then.
                parsed = protocol.planned(body, length, plan)
            else:
                parsed = self._parsed(call, request)
            waits = 0 if request.timeout is None else timeout_us(request.timeout)
            engine.asked(call, parsed, client=request, timeout_us=waits)
            engine.run(call, partial(self._done, parsed, reply, timed))
        except Exception as failure:
            reply(self._failure(call, failure))

    def _parsed(self, call: Call, request: Request) -> InferRequest:
        """From the bytes. `call` is told where a record comes from."""
        model, body = call.model, request.body
        json_length = protocol.header_length(request.json_length, len(body))
        if (len(body) if json_length is None and not request.record else json_length or 0) > self._max_json_bytes:
            text = f"the JSON is over the limit of {self._max_json_bytes} bytes, send large tensors as binary data"
            raise ProtocolError(413, text)
        if request.record and json_length is None:
            call.source = request.source
            return protocol.parse_record(body, self._record(model), model.outputs)
        record = None if model.chain is None else RECORDS
        return protocol.parse(body, json_length, model.inputs, model.outputs, model.plans, record)

    def _done(self, parsed: InferRequest, reply: Reply, timed: bool, call: Call) -> None:
        try:
            if call.error is not None:
                raise call.error
            answer = self._encoded(parsed, call)
            duration = self._engine.finish(call)
        except Exception as failure:
            reply(self._failure(call, failure))
            return
        if timed:
            # The client tells with its next request how long this one was on the way. Server-Timing is the W3C's, ms.
            answer.extra += b"server-timing: total;dur=%.3f\r\n" % (duration / 1e6)
        reply(answer)
        self._engine.tell(call)

    @staticmethod
    def _encoded(parsed: InferRequest, call: Call) -> Answer:
        model = call.model
        body, json_length = protocol.respond(
            model=model.name,
            version=model.version,
            request=parsed,
            specs=model.outputs,
            tensors=call.tensors,
            notes=call.notes,
        )
        if json_length is None:
            return Answer(200, body, packable=True)
        return Answer(200, body, _BINARY, b"inference-header-content-length: %d\r\n" % json_length, True)

    @staticmethod
    def _record(model: Model) -> TensorSpec:
        if model.chain is None:
            text = f"model '{model.name}' has no preprocessing: send its inputs as tensors, not a picture or a table"
            raise ProtocolError(415, text)
        return RECORD

    def _failure(self, call: Call, failure: Exception) -> Answer:
        refused = self._engine.failed(call, failure)
        return error(refused.status, refused.text, refused.extra)


def timeout_us(milliseconds: bytes) -> int:
    """Of x-envoy-expected-rq-timeout-ms, which Envoy, and so Istio and most gateways, send along, and which any client may.
    What is no time is none."""
    try:
        value = float(milliseconds)
    except ValueError:
        return 0
    return max(1, int(value * 1000)) if 0 < value < 1e12 else 0
