"""Puts the parts together in one process: the event loop with its HTTP front, the worker thread, the model manager's
thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import gc
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop
from prometheus_client.registry import Collector

from edgeward_runtime import __version__, cgroup, fetch, loading, memory, status
from edgeward_runtime import front as front_module
from edgeward_runtime.app import App, Parts
from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.attempt import Tools
from edgeward_runtime.capture.metrics import LearningCollector
from edgeward_runtime.config import Config, Entry
from edgeward_runtime.engine import Engine
from edgeward_runtime.fetch.signature import signatures
from edgeward_runtime.front import Front
from edgeward_runtime.guard import Guard, Tokens
from edgeward_runtime.learning import Learning
from edgeward_runtime.lifecycle import Progress, State
from edgeward_runtime.manager import Manager
from edgeward_runtime.metrics import MetricsPage, RuntimeCollector, ServerStats
from edgeward_runtime.mirror import Mirror
from edgeward_runtime.model import Model
from edgeward_runtime.offload.metrics import OffloadCollector
from edgeward_runtime.offload.switch import Switch
from edgeward_runtime.ort import onnxruntime
from edgeward_runtime.pages import Pages
from edgeward_runtime.registry import Registry
from edgeward_runtime.settings import Settings
from edgeward_runtime.store import Store
from edgeward_runtime.swap_metrics import SwapCollector
from edgeward_runtime.trust.check import Signatures
from edgeward_runtime.watch import ConfigWatch
from edgeward_runtime.worker import Worker

if TYPE_CHECKING:
    from edgeward_runtime.rpc.service import RpcFront
    from edgeward_runtime.tls import Tls

log = logging.getLogger(__name__)

_SIGNATURE_SECONDS = 5.0  # for one read from a source of signatures
_SIGNATURE_TOTAL_SECONDS = 20.0  # for one whole answer of it


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleFile:
    """`edgeward-serve model.onnx`, or the folder of an artifact: no agent, no store."""

    path: Path
    name: str
    version: str


def run(settings: Settings, single: SingleFile | None) -> int:
    """Serves until SIGTERM or SIGINT. Refusal if a single file does not load."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, single))


async def _serve(settings: Settings, single: SingleFile | None) -> int:
    loop = asyncio.get_running_loop()
    registry, stats = Registry(), ServerStats()
    in_flight_bytes = settings.max_bytes_in_flight or cgroup.bytes_in_flight(
        limit=cgroup.memory_limit(), max_body=settings.max_body_bytes
    )
    bound_memory = functools.partial(memory.bound, settings.max_memory_bytes or cgroup.memory_limit())
    worker = Worker(loop=loop, limit=settings.queue, limit_bytes=in_flight_bytes, out_of_memory=bound_memory)
    threads = settings.threads or cgroup.default_threads()
    mirror = Mirror()
    engine = Engine(worker=worker, observers=[mirror])
    registry.gap_answered = lambda: engine.gap is not None
    offload = Switch(
        engine=engine,
        loop=loop,
        token_file=settings.offload_token_file,
        hold_seconds=settings.offload_hold_seconds,
    )
    learning = Learning(engine=engine, loop=loop, models=registry.versions, root=settings.store / "capture")
    manager: Manager | None = None
    collectors: list[Collector] = [
        OffloadCollector(lambda: offload.forwarder),
        SwapCollector(registry),
        LearningCollector(learning),
    ]
    if single is not None:
        read_status = _load_single(single, registry, stats, threads, settings.batch_rows, learning)
    else:
        store, fetches = Store(settings.store, quota=settings.store_bytes), fetch.FetchStats()
        peers = fetch.peers_of(settings, store)

        def adopted(config: Config) -> None:
            _call_in(loop, lambda: offload.adopt(config.offload))
            _call_in(loop, functools.partial(learning.adopt, config))
            _call_in(loop, functools.partial(setattr, engine, "top_class", config.priority))
            peers.adopt(config.peers)

        manager = _manager(settings, loop, registry, stats, threads, store, fetches, peers, adopted, learning)
        read_status = manager.status
        collectors.append(fetch.StoreCollector(store=store, stats=fetches))
    collectors.append(
        RuntimeCollector(models=registry.versions, server=stats, pending=lambda: worker.pending, limit=settings.queue)
    )
    pages = Pages(
        registry=registry,
        metrics=MetricsPage(*collectors),
        status=read_status,
        server_name=settings.server_name,
        capture=learning.document,
        alive=lambda: worker.alive,
    )
    app = App(
        Parts(
            registry=registry,
            engine=engine,
            stats=stats,
            pages=pages,
            max_json_bytes=settings.max_json_bytes,
            feedback=learning.feedback,
        )
    )
    try:
        guard, tls = _protection(settings, stats)
    except (OSError, ValueError) as error:
        log.error("cannot protect the port", extra={"error": str(error)})
        return 1
    rpc = _rpc(settings, registry=registry, engine=engine, stats=stats, pages=pages, guard=guard, tls=tls)
    front = Front(
        handler=app.handle,
        guard=guard,
        tls=tls,
        limits=front_module.Limits(
            connections=settings.connections,
            body_bytes=settings.max_body_bytes,
            in_flight_bytes=in_flight_bytes,
        ),
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, functools.partial(_stop, stop, registry, front, settings, loop, number))
    try:
        port = await front.start(settings.host, settings.port)
    except OSError as error:
        log.error("cannot listen", extra={"host": settings.host, "port": settings.port, "error": str(error)})
        return 1
    worker.start()
    if rpc is not None:
        try:
            rpc.start(settings.host, settings.grpc_port)
        except OSError as error:
            log.error("cannot listen", extra={"host": settings.host, "port": settings.grpc_port, "error": str(error)})
            return 1
    bound_memory()
    if manager is not None:
        manager.start()
    # What start-up made lives for ever; the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    log.info(
        "serving",
        extra={
            "version": __version__,
            "onnxruntime": onnxruntime.__version__,
            "port": port,
            "grpc_port": settings.grpc_port,
            "threads": threads,
        },
    )
    await stop.wait()
    both = [front.stop(settings.grace_seconds), *([rpc.stop(settings.grace_seconds)] if rpc is not None else [])]
    cut = sum(await asyncio.gather(*both))
    if cut:
        log.warning("requests cut off at the end of the grace", extra={"connections": cut})
    ended = manager is None or manager.stop()
    ended = worker.stop() and ended
    ended = mirror.stop() and ended
    learning.stop()
    log.info("stopped")
    if not ended:
        # A library that is torn down while it loads or runs a model may crash; nothing is left that needs a tidy end.
        os._exit(0)
    return 0


def _protection(settings: Settings, stats: ServerStats) -> tuple[Guard | None, Tls | None]:
    """OSError or ValueError if a file is not what it should be."""
    guard = tls = None
    certificates = settings.tls_client_ca_file is not None
    if settings.token_file is not None or certificates:
        tokens = Tokens(settings.token_file) if settings.token_file is not None else None
        guard = Guard(tokens=tokens, certificates=certificates, refused=stats.unrouted, open_to=settings.open)
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        from edgeward_runtime.tls import Tls

        tls = Tls(
            certificate=settings.tls_cert_file,
            key=settings.tls_key_file,
            client_ca=settings.tls_client_ca_file,
            optional=bool(settings.open),
        )
    return guard, tls


def _rpc(
    settings: Settings,
    *,
    registry: Registry,
    engine: Engine,
    stats: ServerStats,
    pages: Pages,
    guard: Guard | None,
    tls: Tls | None,
) -> RpcFront | None:
    """The gRPC front, if it is wanted: its libraries take tens of megabytes that a REST server has no use for."""
    if not settings.grpc_port:
        return None
    from edgeward_runtime.rpc import service

    limit = cgroup.memory_limit()
    budget = settings.max_bytes_in_flight or (
        None if limit is None else cgroup.bytes_in_flight(limit=limit, max_body=settings.max_body_bytes)
    )
    limits = service.Limits(waiting=settings.queue, body_bytes=settings.max_body_bytes, in_flight_bytes=budget)
    return service.RpcFront(
        registry=registry, engine=engine, stats=stats, pages=pages, limits=limits, guard=guard, tls=tls
    )


def _stop(
    stop: asyncio.Event,
    registry: Registry,
    front: Front,
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    number: signal.Signals,
) -> None:
    """First stops being ready and goes on answering while endpoints forget the pod, then ends. A second signal, or
    Ctrl-C: no wait."""
    again = registry.draining
    registry.draining = front.draining = True
    if again or number == signal.SIGINT:
        stop.set()
        return
    log.info("stopping", extra={"drain_seconds": settings.drain_seconds})
    loop.call_later(settings.drain_seconds, stop.set)


def _manager(
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    registry: Registry,
    stats: ServerStats,
    threads: int,
    store: Store,
    fetches: fetch.FetchStats,
    peers: fetch.Peers,
    adopted: Callable[[Config], None],
    learning: Learning,
) -> Manager:
    tools = Tools(
        changed_config=ConfigWatch(settings.config_dir).changed,
        fetch=functools.partial(
            fetch.fetch,
            store=store,
            limits=fetch.limits_of(settings),
            access=fetch.access_of(settings),
            stats=fetches,
            peers=peers,
        ),
        signature=_signatures(settings, store).check,
        load=functools.partial(_load, threads=threads, learning=learning),
        again=functools.partial(_again, learning=learning),
        golden=loading.check_golden,
        warm=functools.partial(loading.warm, batch_rows=settings.batch_rows),
        memory=cgroup.memory_available,
        trim=memory.trim,
        adopted=adopted,
        call=functools.partial(_call_in, loop),
        clock=time.monotonic,
        wall=time.time,
        jitter=random.random,
        host=os.uname().nodename,
        build=f"{__version__}/{onnxruntime.__version__}",
    )
    return Manager(store=store, registry=registry, stats=stats, tools=tools, poll_seconds=settings.poll_seconds)


def _load(artifact: Artifact, entry: Entry, *, threads: int, learning: Learning) -> Model:
    model = loading.load(artifact, entry, threads=threads)
    learning.prepare(model)
    return model


def _again(model: Model, entry: Entry, *, learning: Learning) -> Model:
    other = model.again(entry.parameters)
    learning.prepare(other, before=model)
    return other


def _signatures(settings: Settings, store: Store) -> Signatures:
    limits = fetch.limits_of(settings)
    # A few hundred bytes. Under policy Warn a boot on a network that swallows everything waits for this and then serves.
    limits = dataclasses.replace(
        limits,
        timeout_seconds=min(limits.timeout_seconds, _SIGNATURE_SECONDS),
        total_seconds=min(limits.total_seconds, _SIGNATURE_TOTAL_SECONDS),
    )
    return Signatures(
        saved=store.signature,
        save=store.put_signature,
        fetched=functools.partial(signatures, limits=limits, access=fetch.access_of(settings)),
    )


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], Any]) -> Any:
    """Runs `function` in the loop's thread and answers its result, for callers in other threads. Waits for as long as
    the loop is held up: a caller that gave up would take a flip for failed that is still to come. At the end of the
    process nobody waits for the caller, whose thread is a daemon (Manager.stop)."""
    done: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def call() -> None:
        try:
            done.set_result(function())
        except BaseException as error:
            done.set_exception(error)

    loop.call_soon_threadsafe(call)
    return done.result()


def _load_single(
    single: SingleFile, registry: Registry, stats: ServerStats, threads: int, batch_rows: int, learning: Learning
) -> Callable[[], dict[str, object]]:
    start = time.monotonic()
    artifact = Artifact.of_local(single.path)
    entry = Entry(name=single.name, version=single.version, digest=artifact.digest)
    model = _load(artifact, entry, threads=threads, learning=learning)
    loading.check_golden(model)
    loading.warm(model, (), batch_rows=batch_rows)
    stats.load_seconds[single.name] = time.monotonic() - start
    registry.wanted = frozenset({single.name})
    registry.flip(model)
    progress = Progress(state=State.SERVING, since=time.time(), size=artifact.model.stat().st_size)
    return lambda: status.document(
        revision=0,
        wanted={entry.place: (entry, progress)},
        serving={},
        config_refused=None,
        versions={(model.name, model.version): model},
    )
