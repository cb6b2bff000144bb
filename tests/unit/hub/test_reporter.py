"""Statuses behind the plans: each object once, its newest only, and never at the price of what the next plan must know."""

from __future__ import annotations

import asyncio
from typing import Any

from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import ASSIGNMENTS, INFERENCE_JOBS, Object, Resource
from edgeward.fleet.model import Live, Sample
from edgeward.hub.hub import WATCHED, Hub, HubSettings
from tests.fakes import FakeClient
from tests.unit.fleet.objects import NOW, job, node, release


class Api(FakeClient):
    """Takes every write, those of a job's status only while the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.version = 1000
        self.cache = Cache()
        self.statuses: list[Object] = []
        self.refuse = False

    async def apply(self, resource: Resource, body: Object, *, subresource: str = "", **_: Any) -> Object:
        if resource is INFERENCE_JOBS:
            await self.gate.wait()
            if self.refuse:
                raise ApiError(409, "Conflict", "edited meanwhile")
            self.statuses.append(body)
        self.version += 1
        known = self.cache[resource].get(
            "/".join(filter(None, (body["metadata"].get("namespace"), body["metadata"]["name"])))
        )
        meta = {"uid": f"u{self.version}", "generation": 1, **(known or {}).get("metadata", {}), **body["metadata"]}
        return {**(known or {}), **body, "metadata": {**meta, "resourceVersion": str(self.version)}}


class Desk:
    """A hub over one job and nodes of which one is there at first."""

    def __init__(self, **spec: Any) -> None:
        self.api = Api()
        objects = {
            "nodes": [node("n1")],
            "inferencejobs": [job("signs", model={"name": "m"}, **spec)],
            "modelreleases": [release("m")],
        }
        for resource in WATCHED:
            self.api.cache.add(resource).seed(objects.get(resource.plural, []))
        self.now = NOW
        self.hub = Hub(
            client=self.api,
            cache=self.api.cache,
            settings=HubSettings(),
            recorder=Recorder(self.api, "test"),
            live=lambda: ({"n1": Live(cpu=Sample(0.2, self.now - 5))}, ""),
            clock=lambda: self.now,
        )

    def raw(self) -> Object:
        found = self.api.cache[INFERENCE_JOBS].get("shop/signs")
        assert found is not None
        return found

    def edit(self) -> None:
        """Somebody scales the job to 0."""
        raw = self.raw()
        self.api.version += 1
        meta = {**raw["metadata"], "generation": 2, "resourceVersion": str(self.api.version)}
        self.api.cache[INFERENCE_JOBS].put({**raw, "metadata": meta, "spec": {**raw["spec"], "replicas": 0}})

    def ready(self) -> None:
        """The site reports that the job's replica serves."""
        (raw,) = self.api.cache[ASSIGNMENTS].all()
        self.api.version += 1
        status = {"nodes": [{"name": "n1", "replicas": 1, "ready": 1}], "replicas": 1, "readyReplicas": 1}
        meta = {**raw["metadata"], "resourceVersion": str(self.api.version)}
        self.api.cache[ASSIGNMENTS].put({**raw, "metadata": meta, "status": status})

    def told(self) -> Object:
        """As plans see it."""
        (found,) = self.hub._reporter.seen(INFERENCE_JOBS)
        return found


def reason(body: Object) -> str:
    return str(next(item["reason"] for item in body["status"]["conditions"] if item["type"] == "Ready"))


def test_a_plan_does_not_wait_for_a_status_and_sees_it_as_if_it_were_written() -> None:
    async def play() -> None:
        desk = Desk()
        await desk.hub._pass()
        assert "status" not in desk.raw() or not desk.raw()["status"].get("conditions")
        assert reason(desk.told()) == "PodsStarting"
        assert desk.told()["metadata"]["resourceVersion"] != desk.raw()["metadata"]["resourceVersion"]
        decided = desk.told()["status"]["explanation"]
        desk.now += 60
        await desk.hub._pass()
        assert desk.told()["status"]["explanation"] == decided, "why it is there is what was known when it was decided"
        desk.api.gate.set()
        await desk.hub._reporter.finish()
        assert desk.told() == desk.raw() and reason(desk.raw()) == "PodsStarting"

    asyncio.run(play())


def test_only_the_newest_status_of_a_job_is_written() -> None:
    async def play() -> None:
        desk = Desk()
        await desk.hub._pass()
        desk.edit()
        assert desk.told() == desk.raw(), "what was decided on another spec is not shown"
        await desk.hub._pass()
        assert desk.api.statuses == []
        desk.api.gate.set()
        await desk.hub._reporter.finish()
        assert [reason(body) for body in desk.api.statuses] == ["NothingWanted"]

    asyncio.run(play())


def test_a_status_that_changed_while_the_last_one_was_on_its_way_is_written_after_it() -> None:
    async def play() -> None:
        desk = Desk()
        await desk.hub._pass()
        writing = asyncio.create_task(desk.hub._reporter.finish())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        desk.ready()
        await desk.hub._pass()
        newest = reason(desk.told())
        assert newest == "Serving"
        desk.api.gate.set()
        await writing
        await desk.hub._reporter.finish()
        assert [reason(body) for body in desk.api.statuses] == ["PodsStarting", newest]
        assert len({body["metadata"]["resourceVersion"] for body in desk.api.statuses}) == 2, "each on what was there"

    asyncio.run(play())


def test_a_refused_status_is_no_longer_taken_for_written() -> None:
    async def play() -> None:
        desk = Desk()
        await desk.hub._pass()
        desk.api.refuse = True
        desk.api.gate.set()
        await desk.hub._reporter.finish()
        assert desk.told() == desk.raw()

    asyncio.run(play())


def test_a_pass_waits_for_what_the_next_plan_decides_by() -> None:
    """A leader that dies right after the pass must not leave its successor without it."""

    async def play() -> None:
        desk = Desk(scaling={"minReplicas": 1, "maxReplicas": 4})
        waits = asyncio.create_task(desk.hub._pass())
        for _turn in range(50):
            await asyncio.sleep(0)
        assert not waits.done(), "how many replicas were decided on is read by the next plan"
        desk.api.gate.set()
        await waits
        assert desk.raw()["status"]["scaling"]["replicas"] == 1

    asyncio.run(play())


def test_a_status_that_cannot_wait_waits_for_the_one_that_is_on_its_way() -> None:
    """Both were sent on the same version: the one that mattered came second and was refused."""

    async def play() -> None:
        desk = Desk()
        await desk.hub._pass()
        writing = asyncio.create_task(desk.hub._reporter.finish())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        desk.ready()
        await desk.hub._pass()
        urgent = asyncio.create_task(desk.hub._reporter._write(INFERENCE_JOBS, "shop/signs"))
        await asyncio.sleep(0)
        desk.api.gate.set()
        await asyncio.gather(writing, urgent)
        assert [reason(body) for body in desk.api.statuses] == ["PodsStarting", "Serving"]
        versions = [int(body["metadata"]["resourceVersion"]) for body in desk.api.statuses]
        assert versions[0] < versions[1]

    asyncio.run(play())
