"""How kopf is used: its low-level half only. An event puts an object into the cache and marks it; nothing else.

No create, update or delete handlers, timers, daemons or indexes: those write annotations and finalizers on every
object, and lose what happens while they run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import kopf

from edgeward.cluster.cache import Cache
from edgeward.cluster.client import Client
from edgeward.cluster.resources import Object, Resource

Notice = Callable[[Resource, Object], None]


def registry(client: Client, cache: Cache, resources: Iterable[Resource], notice: Notice) -> kopf.OperatorRegistry:
    """A registry with one event handler a resource, and a login that shows what `client` shows."""
    handlers = kopf.OperatorRegistry()
    for resource in resources:
        _watch(handlers, cache, resource, notice)

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        credentials = await client.credentials()
        return kopf.ConnectionInfo(
            server=str(credentials["server"]),
            ca_path=credentials["ca_path"],
            certificate_path=credentials["certificate_path"],
            private_key_path=credentials["private_key_path"],
            scheme=credentials["scheme"],
            token=credentials["token"],
        )

    return handlers


def _watch(handlers: kopf.OperatorRegistry, cache: Cache, resource: Resource, notice: Notice) -> None:
    store = cache[resource]

    async def handle(event: Any, **_: Any) -> None:
        obj = dict(event["object"])
        obj["metadata"] = dict(obj["metadata"])
        if store.event(event.get("type"), obj):
            notice(resource, obj)

    kopf.on.event(resource.group, resource.version, resource.plural, id=f"see-{resource.plural}", registry=handlers)(
        handle
    )


def settings() -> kopf.OperatorSettings:
    """kopf without its habits: no peering, no posting of log lines as Events, watches that end and begin anew."""
    options = kopf.OperatorSettings()
    options.peering.standalone = True
    options.posting.enabled = False
    options.posting.loggers = False
    options.scanning.disabled = True
    options.watching.server_timeout = 300
    options.watching.connect_timeout = 10
    options.networking.request_timeout = 30
    options.batching.idle_timeout = 1.0
    return options


async def run(handlers: kopf.OperatorRegistry, ready: asyncio.Event) -> None:
    """Until cancelled. If kopf's own loop ever ends or raises, so does this, and with it the process."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    await kopf.operator(registry=handlers, settings=settings(), standalone=True, clusterwide=True, ready_flag=ready)
    raise RuntimeError("the watch loop ended")
