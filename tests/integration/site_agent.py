"""An agent whose Assignments are in another cluster than its pods: `python -m tests.integration.site_agent HUB SITE`, each
a kubeconfig. What a remote site's agent will be started by is still to come; this is the agent itself, with a client and
watches for each of the two."""

from __future__ import annotations

import asyncio
import sys

from edgeward.agent.agent import WATCHED, Agent
from edgeward.agent.settings import AgentSettings
from edgeward.cluster.cache import Cache
from edgeward.cluster.client import Client
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import ASSIGNMENTS, Object, Resource
from edgeward.cluster.resync import seed
from edgeward.hub import handlers

NAMESPACE = "edgeward"


async def run(hub_config: str, site_config: str) -> None:
    async with Client.connect(kubeconfig=site_config) as client, Client.connect(kubeconfig=hub_config) as hub:
        cache = Cache(changed=lambda resource, obj: notice(resource, obj))
        for resource in WATCHED:
            cache.add(resource)
        there = Cache(stores={ASSIGNMENTS.plural: cache[ASSIGNMENTS]})
        here = Cache(stores={plural: store for plural, store in cache.stores.items() if plural != ASSIGNMENTS.plural})
        agent = Agent(
            client=client,
            hub=hub,
            cache=cache,
            settings=AgentSettings(namespace=NAMESPACE, store_class="", settled_poll=1.0, unsettled_poll=0.3),
            recorder=Recorder(client, "edgeward-agent"),
        )

        def notice(resource: Resource, obj: Object) -> None:
            agent.notice(resource, obj)

        await seed(hub, there)
        await seed(client, here)
        async with asyncio.TaskGroup() as group:
            group.create_task(handlers.run(handlers.registry(hub, there), asyncio.Event()))
            group.create_task(handlers.run(handlers.registry(client, here), asyncio.Event()))
            group.create_task(agent.run())


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:3]))
