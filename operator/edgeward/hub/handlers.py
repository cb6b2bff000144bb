"""How kopf is used: its low-level half only. An event puts an object into the cache, which tells who cares.

No create, update or delete handlers, timers, daemons or indexes: those write annotations and finalizers on every
object, and lose what happens while they run.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import kopf

from edgeward.cluster.cache import Cache, Store
from edgeward.cluster.client import Client


def registry(client: Client, cache: Cache) -> kopf.OperatorRegistry:
    """A registry with one event handler a resource, and a login that shows what `client` shows."""
    handlers = kopf.OperatorRegistry()
    for store in cache.stores.values():
        _watch(handlers, store)

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


def _watch(handlers: kopf.OperatorRegistry, store: Store) -> None:
    resource = store.resource

    async def handle(event: Any, **_: Any) -> None:
        obj = dict(event["object"])
        obj["metadata"] = dict(obj["metadata"])
        store.event(event.get("type"), obj)

    kopf.on.event(resource.group, resource.version, resource.plural, id=f"see-{resource.plural}", registry=handlers)(
        handle
    )


class NoEssence(kopf.AnnotationsDiffBaseStorage):
    """kopf copies every object deeply for each event, to see what changed since a state that it never stored for us.
    That copy was a third of this process's time; our cache compares resource versions instead."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None


def settings() -> kopf.OperatorSettings:
    """kopf without its habits: no peering, no posting of log lines as Events, watches that end and begin anew."""
    options = kopf.OperatorSettings()
    options.peering.standalone = True
    options.persistence.diffbase_storage = NoEssence()
    options.posting.enabled = False
    options.posting.loggers = False
    options.scanning.disabled = True
    options.watching.server_timeout = 300
    options.watching.connect_timeout = 10
    options.networking.request_timeout = 30
    options.queueing.idle_timeout = 1.0
    return options


async def run(handlers: kopf.OperatorRegistry, started: asyncio.Event) -> None:
    """Until cancelled. If kopf's own loop ever ends or raises, so does this, and with it the process."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    await kopf.operator(registry=handlers, settings=settings(), standalone=True, clusterwide=True, ready_flag=started)
    raise RuntimeError("the watch loop ended")
