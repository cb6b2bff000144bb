"""What an agent writes of counters: with the report of its Assignment, and only while somebody watches."""

from __future__ import annotations

import asyncio
from typing import Any

from edgeward.agent.agent import Agent
from edgeward.cluster.resources import ASSIGNMENTS, NODES, PODS, Object, Resource
from tests.unit.fleet.objects import Raw, assignment, node

from .test_agent import NAME, Api, a_pod, an_agent
from .test_counters import NEW, answer, counted

SINCE = "2027-01-01T00:00:00Z"


class Statuses(Api):
    """Keeps what was written last, as an API server would."""

    def __init__(self) -> None:
        super().__init__()
        self.now = assigned()
        self.written: list[Raw] = []

    async def apply(self, resource: Resource, body: Object, **more: Any) -> Object:
        if resource is not ASSIGNMENTS:
            return await super().apply(resource, body, **more)
        self.written.append(body["status"])
        self.version += 1
        meta = {**self.now["metadata"], "resourceVersion": str(self.version)}
        self.now = {**self.now, "metadata": meta, "status": body["status"]}
        return self.now


def assigned(watch: Raw | None = None, status: Raw | None = None) -> Raw:
    found = assignment({"name": "n1", "replicas": 1}, models=[{"name": "m", "version": "2", "digest": NEW}])
    spec = found["spec"] | ({"watch": watch} if watch else {})
    return {**found, "spec": spec, "status": status or {}}


async def looked(agent: Agent, requests: int) -> None:
    """One look at the pod, and whatever comes of it."""
    agent.runtimes.of(NAME).answers["uid-p"] = said = answer((NEW, counted(requests)))
    raw = agent._cache[ASSIGNMENTS].get(f"edgeward/{NAME}")
    assert raw is not None
    pods = agent._cache[PODS].labelled("edgeward.dev/assignment", NAME)
    agent.watches.look(raw, pods, {"uid-p": said})
    for _ in range(5):
        await asyncio.sleep(0)
    await agent.reconcile(NAME)
    await agent.settle(NAME)


def test_counters_are_written_with_the_report_and_go_when_nobody_watches() -> None:
    async def story() -> None:
        api = Statuses()
        agent = an_agent(api, (ASSIGNMENTS, api.now), (NODES, node()), (PODS, a_pod("p")))
        clock = [1_798_761_600.0]  # SINCE
        agent._clock = agent.watches._clock = lambda: clock[0]

        def tell(watch: Raw | None) -> None:
            api.version += 1
            meta = {**api.now["metadata"], "resourceVersion": str(api.version)}
            api.now = {**assigned(watch, api.now["status"]), "metadata": meta}
            agent._cache[ASSIGNMENTS].put(api.now)

        await looked(agent, 5)
        settled = len(api.written)
        for requests in (6, 7, 8):
            clock[0] += 20
            await looked(agent, requests)
        assert len(api.written) == settled and "counters" not in api.now["status"], "nobody watches"
        clock[0] = 1_798_761_600.0
        tell({"since": SINCE, "interval": "10s"})
        await looked(agent, 8)
        begun = len(api.written)
        for requests in range(9, 19):
            clock[0] += 1
            await looked(agent, requests)
        assert len(api.written) == begun + 1, "one write an interval"
        (told,) = api.now["status"]["counters"]
        assert (told["digest"], told["requests"], told["since"]) == (NEW, 10, SINCE)
        tell(None)
        await looked(agent, 19)
        assert len(api.written) == begun + 2 and not {"counters", "gates"} & api.now["status"].keys()
        await looked(agent, 20)
        assert len(api.written) == begun + 2

    asyncio.run(story())
