"""`edgeward operator`: everything that runs in the operator process, in one place.

kopf watches -> cache -> hub (planner loop)      only while this replica holds the Lease
                     \\-> agent of this cluster   only while this replica holds the Lease
Prometheus  -> poller -> hub
Lease, resync check, /healthz /readyz /metrics   always
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from edgeward import __version__
from edgeward.agent.agent import WATCHED as AGENT_WATCHES
from edgeward.agent.agent import Agent
from edgeward.agent.report import is_lost
from edgeward.agent.traffic import TrafficReader
from edgeward.cluster import trim
from edgeward.cluster.cache import Cache, Lag
from edgeward.cluster.client import ApiError, Client, WriteRefused
from edgeward.cluster.events import Recorder
from edgeward.cluster.lease import Leadership
from edgeward.cluster.resources import (
    ASSIGNMENTS,
    DISRUPTION_BUDGETS,
    INFERENCE_JOBS,
    MODEL_RELEASES,
    NAMESPACES,
    NODE_METRICS,
    NODES,
    PODS,
    Object,
    Resource,
)
from edgeward.cluster.resync import seed, watch_the_watches
from edgeward.fleet.model import Live
from edgeward.fleet.names import LABEL_MANAGED_BY, MANAGED_BY
from edgeward.hub import debug, handlers, http
from edgeward.hub.following import Follower
from edgeward.hub.heartbeats import Heartbeats
from edgeward.hub.hub import WATCHED as HUB_WATCHES
from edgeward.hub.hub import Hub
from edgeward.hub.site_bytes import SiteBytes
from edgeward.hub.telemetry import OperatorMetrics
from edgeward.metrics.asker import Asker
from edgeward.metrics.gate import GateQueries
from edgeward.metrics.poller import Poller
from edgeward.metrics.source import MetricsApiSource, PrometheusSource, Source

from .settings import OperatorSettings

log = logging.getLogger(__name__)


class LeaseLost(Exception):
    """Another replica writes now. The process ends and is started again as a standby."""


async def run(settings: OperatorSettings, *, kubeconfig: str | None = None) -> None:
    """Until SIGTERM. Raises when anything that must not end has ended: crash, be restarted, start from the API again."""
    async with Client.connect(kubeconfig=kubeconfig) as client, Client.connect(kubeconfig=kubeconfig) as own_line:
        cache = _cache(lambda resource, obj: notice(resource, obj))
        # The random part is a key as well: see hub/debug.py.
        identity = f"{os.environ.get('POD_NAME') or socket.gethostname()}-{uuid.uuid4().hex}"
        hub_settings = settings.hub()
        leadership = Leadership(
            own_line,  # a thousand writes of a burst before it would cost the Lease
            namespace=settings.namespace,
            name=hub_settings.lease_name,
            identity=identity,
            settings=settings.lease(),
        )
        client.guard = leadership.check
        lag = Lag(limit=settings.timing.watch_dead_after)
        sources = _sources(settings, client)
        hub: Hub
        poller = Poller(
            sources=sources,
            interval=settings.metrics.poll_interval,
            changed=lambda: hub.mark(),
            nodes=lambda: cache[NODES].objects,
            scrape_interval=settings.metrics.scrape_interval,
        )

        def live() -> tuple[Mapping[str, Live], str]:
            poller.forget(set(cache[NODES].objects))
            return poller.live, poller.problem

        heartbeats = Heartbeats(
            client=client,
            ready=lambda: (name for name, node in cache[NODES].objects.items() if not is_lost(node)),
            changed=lambda: hub.mark(),
        )
        traffic = TrafficReader(cache=cache, interval=settings.metrics.traffic_interval)
        hub = Hub(
            client=client,
            cache=cache,
            settings=hub_settings,
            recorder=Recorder(client, "edgeward-hub"),
            live=live,
            measured=lambda: traffic.measured,
            followed=lambda: follower.followed,
            answers=lambda: asker.answers,
            ask=lambda questions: asker.want(questions),
            heard=lambda: heartbeats.heard,
        )
        queries = _queries(settings)
        asker = Asker(queries, changed=hub.mark)
        follower = Follower(
            client=client,
            releases=lambda: cache[MODEL_RELEASES].all(),
            pins=lambda: ((job.namespace, job.asks) for job in (hub.last.fleet.jobs if hub.last else ()) if job.asks),
            reach=settings.registries.reach(),
            changed=hub.mark,
        )
        agent = Agent(
            client=client,
            cache=cache,
            settings=settings.agent(),
            recorder=Recorder(client, "edgeward-agent"),
            prometheus=queries,
        )

        def notice(resource: Resource, obj: Object) -> None:
            if resource in HUB_WATCHES:
                hub.mark()
            if resource is MODEL_RELEASES:
                follower.wake()
            agent.notice(resource, obj)

        metrics = CollectorRegistry()
        metrics.register(
            OperatorMetrics(
                client=client,
                hub=hub,
                leading=lambda: leadership.leading,
                queue=lambda: len(agent.queue) + len(agent.behind),
                lag=lambda: lag.worst(now=_now()),
            )
        )
        metrics.register(SiteBytes(cache[ASSIGNMENTS].all))
        runner = await http.serve(
            port=settings.port,
            healthy=lambda: _unhealthy(lag),
            ready=lambda: "" if cache.ready else "the cache is not filled yet",
            metrics=metrics,
            routes=debug.routes(
                identity=identity,
                settings=hub_settings.plan,
                leading=lambda: leadership.leading,
                last=lambda: (hub.last.fleet, hub.last.plan) if hub.last else None,
            ),
        )
        watching = asyncio.Event()
        tasks: list[Coroutine[Any, Any, None]] = [
            handlers.run(handlers.registry(client, cache), watching),
            _check_watches(client, cache, lag, settings),
            _lead(leadership, hub, agent, poller, traffic, follower, cache),
            _listen(heartbeats, cache),
        ]
        log.info("edgeward %s started as %s", __version__, identity)
        try:
            await _until_told(tasks, watching)
        finally:
            await runner.cleanup()
            await agent.close()
            await traffic.close()
            asker.close()
            if queries is not None:
                queries.close()
            for source in sources:
                if isinstance(source, PrometheusSource):
                    source.close()
            try:
                await leadership.release()
            except ApiError as error:
                log.warning("the lease could not be released: %s", error)


async def _lead(
    leadership: Leadership,
    hub: Hub,
    agent: Agent,
    poller: Poller,
    traffic: TrafficReader,
    follower: Follower,
    cache: Cache,
) -> None:
    """Stand by with a warm cache; once elected, plan and carry out; end when the Lease is lost."""
    lost = False
    try:
        async with asyncio.TaskGroup() as group:
            election = group.create_task(leadership.run())
            group.create_task(poller.run())
            await leadership.elected.wait()
            while not cache.ready:
                await asyncio.sleep(0.1)
            log.info("leading")
            group.create_task(hub.run())
            group.create_task(agent.run())
            group.create_task(traffic.run())
            group.create_task(follower.run())
            await election
            raise LeaseLost(leadership.identity)
    except* (LeaseLost, WriteRefused):
        # Whichever noticed first: the election, or a write that was held back.
        lost = True
    if lost:
        raise LeaseLost(leadership.identity)


async def _listen(heartbeats: Heartbeats, cache: Cache) -> None:
    """From when the cache says which nodes are Ready: they are what the first look goes by."""
    while not cache.ready:
        await asyncio.sleep(0.1)
    await heartbeats.run()


async def _check_watches(client: Client, cache: Cache, lag: Lag, settings: OperatorSettings) -> None:
    await seed(client, cache)
    await watch_the_watches(client, cache, lag, interval=settings.timing.resync)


def _unhealthy(lag: Lag) -> str:
    if lag.dead(now=_now()):
        return f"the cache has been behind a LIST for {lag.worst(now=_now()):.0f} s: a watch is dead"
    return ""


def _cache(changed: Callable[[Resource, Object], None]) -> Cache:
    cache = Cache(changed=changed)
    trims = {NODES: trim.node, PODS: trim.pod, NAMESPACES: trim.namespace, INFERENCE_JOBS: trim.inference_job}
    for resource in dict.fromkeys(HUB_WATCHES + AGENT_WATCHES):
        # Budgets of the user's count too: they protect pods of ours.
        ours_only = resource not in HUB_WATCHES and resource is not DISRUPTION_BUDGETS
        options: dict[str, Any] = {"wanted": _ours, "selector": f"{LABEL_MANAGED_BY}={MANAGED_BY}"} if ours_only else {}
        if resource in trims:
            options["trim"] = trims[resource]
        cache.add(resource, **options)
    return cache


def _ours(obj: Object) -> bool:
    return (obj["metadata"].get("labels") or {}).get(LABEL_MANAGED_BY) == MANAGED_BY


def _sources(settings: OperatorSettings, client: Client) -> list[Source]:
    metrics = settings.metrics
    profile = metrics.profile_in_use()
    sources: list[Source] = []
    if metrics.prometheus_url and profile is not None:
        sources.append(
            PrometheusSource(
                url=metrics.prometheus_url, profile=profile, window=metrics.window, deadline=metrics.deadline
            )
        )
    if not sources or metrics.fallback:

        async def node_metrics() -> list[Object]:
            items, _ = await client.list(NODE_METRICS)
            return items

        sources.append(MetricsApiSource(node_metrics))
    return sources


def _queries(settings: OperatorSettings) -> GateQueries | None:
    """Who answers the gates' questions: the Prometheus of this cluster, which is the hub's and that of its sites."""
    metrics = settings.metrics
    if not metrics.prometheus_url:
        return None
    return GateQueries(url=metrics.prometheus_url, deadline=metrics.deadline, step=metrics.scrape_interval)


async def _until_told(tasks: list[Coroutine[Any, Any, None]], watching: asyncio.Event) -> None:
    """Run all until one ends or the process is told to stop; then cancel the others. watching: kopf has started."""
    told = asyncio.Event()
    running = [asyncio.create_task(task) for task in tasks]
    stop = asyncio.create_task(_told(told, watching))
    done, _ = await asyncio.wait([*running, stop], return_when=asyncio.FIRST_COMPLETED)
    for task in [*running, stop]:
        task.cancel()
    await asyncio.gather(*running, stop, return_exceptions=True)
    for task in done - {stop}:
        task.result()
        raise RuntimeError("a part of the operator ended by itself")


async def _told(told: asyncio.Event, watching: asyncio.Event) -> None:
    """kopf takes the signals for itself while it starts, and its own way out waits five seconds for our tasks, the
    Lease in hand. So they are taken back."""
    _take_signals(told)
    await watching.wait()
    await asyncio.sleep(0.1)  # it raises its flag a moment before it takes them
    _take_signals(told)
    await told.wait()


def _take_signals(told: asyncio.Event) -> None:
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, told.set)


def _now() -> float:
    return asyncio.get_running_loop().time()
