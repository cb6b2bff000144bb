"""The loop of an agent against an API in memory: what it writes, what it removes, whom it asks."""

from __future__ import annotations

import asyncio
from typing import Any

from edgeward.agent.agent import WATCHED, Agent
from edgeward.agent.settings import AgentSettings
from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import (
    ASSIGNMENTS,
    DEPLOYMENTS,
    NODES,
    PODS,
    SERVICES,
    VOLUME_CLAIMS,
    Object,
    Resource,
)
from tests.fakes import FakeClient
from tests.unit.fleet.objects import Raw, assignment, node

NAME = "signs-edge"


class Api(FakeClient):
    """Takes every write but those of the kinds in `refused`, and notes it."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = refused
        self.version = 100
        self.done: list[tuple[str, str, str]] = []

    def of(self, verb: str, kind: str) -> list[str]:
        return [name for said, about, name in self.done if (said, about) == (verb, kind)]

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        raise ApiError(404, "NotFound", name)

    async def apply(self, resource: Resource, body: Object, **_: Any) -> Object:
        if resource.kind in self.refused:
            raise ApiError(422, "Invalid", "not like this")
        self.done.append(("apply", resource.kind, body["metadata"]["name"]))
        self.version += 1
        meta = {**body["metadata"], "uid": f"uid-{self.version}", "resourceVersion": str(self.version)}
        return {**body, "metadata": meta}

    async def merge(self, resource: Resource, namespace: str, name: str, patch: Object, *, manager: str) -> Object:
        self.done.append(("merge", resource.kind, name))
        return {}

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str = "") -> None:
        self.done.append(("delete", resource.kind, name))


def an_agent(api: Api, *objects: tuple[Resource, Raw], persistent: bool = False) -> Agent:
    cache = Cache()
    for resource in WATCHED:
        cache.add(resource)
    for resource, obj in objects:
        cache[resource].put(obj)
    agent = Agent(client=api, cache=cache, settings=AgentSettings(), recorder=Recorder(api, "edgeward-agent"))
    agent._persistent = persistent
    return agent


def told(**more: Any) -> tuple[Resource, Raw]:
    return ASSIGNMENTS, assignment({"name": "n1", "replicas": 1}, **more)


def child(name: str, *, labels: Raw | None = None, version: int = 1, **meta: Any) -> Raw:
    own = {"app.kubernetes.io/managed-by": "edgeward", **(labels or {})}
    about = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": str(version), "labels": own}
    return {"metadata": {**about, **meta}}


def a_pod(name: str, *, phase: str = "Running", on: str = "n1") -> Raw:
    body = child(name, labels={"edgeward.dev/assignment": NAME}, annotations={"edgeward.dev/node": on})
    status = {"phase": phase, "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    return {**body, "spec": {"nodeName": on}, "status": status if phase == "Running" else {"phase": phase}}


def reconciled(agent: Agent) -> None:
    asyncio.run(agent.reconcile(NAME))


def test_a_refused_child_does_not_keep_what_no_longer_belongs() -> None:
    """A Service that was refused kept the pods of a node that the Assignment had long left."""
    mine = {"edgeward.dev/assignment": NAME}
    old, budget = (DEPLOYMENTS, child("signs-old", labels=mine)), child("signs-budget", labels=mine)
    for refused, gone in (("Service", 1), ("Deployment", 0)):
        api = Api(refused)
        agent = an_agent(api, told(), (NODES, node()), old, (PODS, a_pod("p")))
        agent._cache.stores["poddisruptionbudgets"].put(budget)
        agent._look(told()[1]).answers["uid-p"] = {"contract": 1, "revision": 1, "models": []}
        reconciled(agent)
        assert api.of("delete", "Deployment") == ["signs-old"]
        assert len(api.of("delete", "PodDisruptionBudget")) == gone
        assert api.of("merge", "Pod") == ["p"], "its runtime has not read the newest models"
