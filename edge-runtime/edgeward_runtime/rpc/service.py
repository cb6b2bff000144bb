"""The gRPC port: the protocol's calls and grpc.health.v1, answered by the same registry and engine as REST.

grpcio's own threads receive, unpack and send; the model is looked up, run and counted in the event loop's thread, as
for every front. A call occupies one of `_THREADS` from its first byte to its answer, which bounds both the messages in
memory and how many gRPC calls a batch can hold; what comes beyond them waits unread on its connection, and a call too
many for that is refused with RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgeward_runtime import repository
from edgeward_runtime.call import Call
from edgeward_runtime.engine import Engine
from edgeward_runtime.errors import ProtocolError, bad_request
from edgeward_runtime.guard import Guard
from edgeward_runtime.metrics import ServerStats
from edgeward_runtime.pages import Pages
from edgeward_runtime.preprocess.chain import RECORDS
from edgeward_runtime.protocol import InferRequest
from edgeward_runtime.registry import Registry
from edgeward_runtime.rpc import convert
from edgeward_runtime.rpc.messages import NOT_SERVING, SERVING, health, inference

# Its native part writes to standard error past our log, one line for each connection that goes wrong; and it would
# take care of forks, which this process does not do.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
import grpc
from google.protobuf.message import DecodeError

if TYPE_CHECKING:
    from edgeward_runtime.tls import Tls

log = logging.getLogger(__name__)

_THREADS = 8
# Of connections that do nothing: grpcio counts none, so they have to go by themselves. Clients open another unasked.
_HANDSHAKE_MS, _IDLE_MS = 20_000, 300_000
_SMALLEST_LIMIT = 4 * 2**20  # bytes of a message that are always taken: grpcio's own default
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Why a call never ran, where that says more than its status.
_DROPPED = {
    "full": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "refused": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "expired": grpc.StatusCode.DEADLINE_EXCEEDED,
    "gone": grpc.StatusCode.CANCELLED,
}
_NO_DEADLINE = 1e6  # seconds; a call without one has an endless one
Result = Any  # a message, or Refused
Reply = Callable[[Result], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    waiting: int  # calls that may wait for a thread
    body_bytes: int
    in_flight_bytes: int | None = None  # of all messages together; None = no limit on the process's memory


@dataclass(frozen=True, slots=True)
class Refused:
    code: grpc.StatusCode
    text: str


class Caller:
    """What a call says of itself beside its message."""

    __slots__ = ("gone", "timeout_us")

    def __init__(self, context: grpc.ServicerContext) -> None:
        remaining = context.time_remaining()
        endless = remaining is None or remaining > _NO_DEADLINE
        self.timeout_us = 0 if endless else max(1, int(remaining * 1e6))  # 0 = none
        self.gone = not context.add_callback(self._leave)

    def _leave(self) -> None:
        self.gone = True


class RpcFront:
    """Made and stopped in the event loop's thread."""

    def __init__(
        self,
        *,
        registry: Registry,
        engine: Engine,
        stats: ServerStats,
        pages: Pages,
        limits: Limits,
        guard: Guard | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._guard = guard
        self._tls = tls
        self._registry = registry
        self._engine = engine
        self._stats = stats
        self._pages = pages
        self._limits = limits
        self._waiting: set[Reply] = set()  # calls that have a thread and no answer yet
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop
        self._server: grpc.Server
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="edgeward-grpc")

    def start(self, host: str, port: int) -> int:
        """Listens; answers the port. OSError if it is taken."""
        self._loop = asyncio.get_running_loop()
        self._server = grpc.server(
            self._threads,
            handlers=[_Handlers(self._table(), self._guard)],
            options=[
                ("grpc.max_receive_message_length", receive_limit(self._limits)),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else a second server on the port would share its connections silently
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
            ],
            maximum_concurrent_rpcs=_THREADS + self._limits.waiting,
        )
        try:
            bound = self._bind(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as failure:
            raise OSError(str(failure)) from None
        self._server.start()
        return int(bound)

    def _bind(self, address: str) -> int:
        if self._tls is None:
            return int(self._server.add_insecure_port(address))
        from edgeward_runtime.rpc.credentials import credentials

        return int(self._server.add_secure_port(address, credentials(self._tls)))

    async def stop(self, grace_seconds: float) -> int:
        """Accepts no more, waits for the calls in flight, answers how many were cut off after the grace."""
        stopped: threading.Event = self._server.stop(grace_seconds)
        deadline = self._loop.time() + grace_seconds + 1.0
        while not stopped.is_set() and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        self._stopped = True
        # Their clients got an error at the end of the grace; their threads would wait for ever.
        cut = list(self._waiting)
        for reply in cut:
            reply(_STOPPING)
        self._threads.shutdown(wait=False)
        return len(cut)

    # -- from grpcio's threads to the loop and back -------------------------------------------------------------------

    def _table(self) -> dict[str, grpc.RpcMethodHandler]:
        calls: dict[str, Handle] = {
            "ServerLive": self._page(lambda _request: {"live": self._pages.alive()}, "ServerLiveResponse"),
            "ServerReady": self._page(lambda _request: {"ready": self._registry.ready()}, "ServerReadyResponse"),
            "ModelReady": self._page(self._model_ready, "ModelReadyResponse"),
            "ServerMetadata": self._page(lambda _request: self._pages.server(), "ServerMetadataResponse"),
            "ModelMetadata": self._page(self._model_metadata, "ModelMetadataResponse"),
            "ModelStatistics": self._page(
                lambda request: self._pages.statistics(_parts(request.name, request.version) if request.name else []),
                "ModelStatisticsResponse",
            ),
            "RepositoryIndex": self._page(
                lambda request: {"models": self._pages.index({"ready": request.ready})}, "RepositoryIndexResponse"
            ),
            "RepositoryModelLoad": self._page(self._load, "RepositoryModelLoadResponse"),
            "RepositoryModelUnload": self._page(self._unload, "RepositoryModelUnloadResponse"),
            "ModelInfer": self._infer,
        }
        table = {
            f"/inference.GRPCInferenceService/{name}": self._handler(call, inference[f"{name}Request"])
            for name, call in calls.items()
        }
        table["/grpc.health.v1.Health/Check"] = self._handler(self._health, health["HealthCheckRequest"])
        return table

    def _handler(self, call: Handle, kind: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            partial(self._call, call, kind.FromString),
            # Messages are unpacked in _call, where one that is none gets a fitting answer. (grpcio's is INTERNAL.)
            request_deserializer=None,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _call(
        self,
        call: Handle,
        unpack: Callable[[bytes], Any],
        body: bytes,
        context: grpc.ServicerContext,
    ) -> Any:
        """In one of grpcio's threads, which waits here for the answer."""
        answers: queue.SimpleQueue[Result] = queue.SimpleQueue()
        try:
            request = unpack(body)
        except DecodeError:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message does not parse")
        del body
        try:
            self._loop.call_soon_threadsafe(self._begin, call, request, Caller(context), answers)
        except RuntimeError:  # the loop has ended
            answers.put(_STOPPING)
        result = answers.get()
        if isinstance(result, Refused):
            context.abort(result.code, result.text)
        return result

    def _begin(self, call: Handle, request: Any, caller: Caller, answers: queue.SimpleQueue[Result]) -> None:
        """In the event loop's thread, as all that follows."""

        def reply(result: Result) -> None:
            self._waiting.discard(reply)
            answers.put(result)

        self._waiting.add(reply)
        if self._stopped:
            reply(_STOPPING)
            return
        try:
            call(request, caller, reply)
        except ProtocolError as failure:
            unrouted = self._stats.unrouted
            unrouted[failure.status] = unrouted.get(failure.status, 0) + 1
            reply(_refused(failure))
        except Exception:
            log.exception("request failed")
            reply(Refused(grpc.StatusCode.INTERNAL, "internal error"))

    # -- all but infer ------------------------------------------------------------------------------------------------

    @staticmethod
    def _page(document: Callable[[Any], Mapping[str, Any]], kind: str) -> Handle:
        """A call that is answered at once from plain data, as REST has it in JSON."""
        answer = inference[kind]
        return lambda request, _caller, reply: reply(answer(**document(request)))

    def _model_ready(self, request: Any) -> dict[str, Any]:
        """False for what is not here: Triton's clients ask this way."""
        try:
            return {"ready": self._registry.takes(self._registry.find(_parts(request.name, request.version)))}
        except ProtocolError:
            return {"ready": False}

    def _model_metadata(self, request: Any) -> dict[str, Any]:
        document = self._registry.metadata(_parts(request.name, request.version))
        return {name: document[name] for name in ("name", "versions", "platform", "inputs", "outputs")}

    def _load(self, request: Any) -> dict[str, Any]:
        self._pages.load(request.model_name, {"parameters": dict.fromkeys(request.parameters)})
        return {}

    def _unload(self, request: Any) -> dict[str, Any]:
        repository.unload(request.model_name)
        return {}

    def _health(self, request: Any, _caller: Caller, reply: Reply) -> None:
        """The server's own health under no name and the service's, a model's under its name (grpc.health.v1)."""
        name = request.service
        if name in ("", "inference.GRPCInferenceService"):
            ready = self._registry.ready()
        elif name in self._registry.wanted or name in self._registry.live:
            ready = self._registry.answers(name)
        else:
            raise ProtocolError(404, f"unknown service {name!r:.200}")
        reply(health["HealthCheckResponse"](status=SERVING if ready else NOT_SERVING))

    # -- infer --------------------------------------------------------------------------------------------------------

    def _infer(self, request: Any, caller: Caller, reply: Reply) -> None:
        engine = self._engine
        if not request.model_name:
            raise bad_request("model_name is empty")
        call = engine.begin(self._registry.find(_parts(request.model_name, request.model_version)))
        model = call.model
        call.pinned = bool(request.model_version)
        try:
            parsed = convert.parse(request, model.inputs, model.outputs, None if model.chain is None else RECORDS)
            engine.asked(call, parsed, client=caller, timeout_us=caller.timeout_us)
            engine.run(call, partial(self._done, parsed, reply))
        except Exception as failure:
            reply(_refused(engine.failed(call, failure), call.dropped))

    def _done(self, parsed: InferRequest, reply: Reply, call: Call) -> None:
        model = call.model
        try:
            if call.error is not None:
                raise call.error
            answer = convert.respond(
                model=model.name,
                version=model.version,
                request=parsed,
                specs=model.outputs,
                tensors=call.tensors,
                notes=call.notes,
            )
            self._engine.finish(call)
        except Exception as failure:
            reply(_refused(self._engine.failed(call, failure), call.dropped))
            return
        reply(answer)
        self._engine.tell(call)


Handle = Callable[[Any, Caller, Reply], None]
_STOPPING = Refused(grpc.StatusCode.UNAVAILABLE, "the server is stopping")


def _refused(failure: ProtocolError, dropped: str = "") -> Refused:
    code = _DROPPED.get(dropped) or _CODES.get(failure.status, grpc.StatusCode.UNKNOWN)
    return Refused(code, failure.text)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, table: Mapping[str, grpc.RpcMethodHandler], guard: Guard | None) -> None:
        self._table = table
        self._guard = guard

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if self._guard is not None and not self._allowed(self._guard, handler_call_details):
            return _STRANGER
        return self._table.get(handler_call_details.method)

    @staticmethod
    def _allowed(guard: Guard, details: grpc.HandlerCallDetails) -> bool:
        said = next((value for key, value in details.invocation_metadata or () if key == "authorization"), "")
        token = said.encode("latin-1", "replace") if isinstance(said, str) else said
        # Without the certificate that is asked for no call gets as far as here.
        return guard.allows(details.method, authorization=token, certified=True)


def _stranger(_message: bytes, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "a token is needed here")


_STRANGER = grpc.unary_unary_rpc_method_handler(_stranger)


def _parts(name: str, version: str) -> list[str]:
    """As they stand in REST's paths; no version means the one that serves."""
    return [name, "versions", version] if version else [name]


def receive_limit(limits: Limits) -> int:
    """Bytes of one message. grpcio receives a message before anybody can refuse it, in as many threads as there are, so
    in little memory it has to be less than what REST takes."""
    if limits.in_flight_bytes is None:
        return limits.body_bytes
    return min(limits.body_bytes, max(_SMALLEST_LIMIT, limits.in_flight_bytes // _THREADS))
