"""What an agent writes of its memory, and that the way back is carried out from it: with objects of its own API alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from edgeward.agent import memory
from edgeward.agent.agent import Agent
from edgeward.api.assignment import RefusedHere
from edgeward.cluster.client import ApiError
from edgeward.cluster.resources import ASSIGNMENTS, CONFIG_MAPS, NODES, PODS, Object, Resource
from tests.unit.fleet.objects import Raw, assignment, node

from .test_agent import NAME, Api, a_pod, an_agent
from .test_counters import NEW, OLD, answer, counted

AT = "2027-01-01T00:00:00Z"
SOURCES = ["https://models/m"]
GATE = {"name": "errors", "builtin": "ErrorRate", "max": "0.1", "interval": "10s"}


class Kept(Api):
    """Keeps objects as an API server would; `cut` is the link to the hub, whose Assignments it holds too."""

    def __init__(self, raw: Raw) -> None:
        super().__init__()
        self.raw = raw
        self.cut = False
        self.bodies: dict[str, Raw] = {}

    async def apply(self, resource: Resource, body: Object, **more: Any) -> Object:
        if resource is ASSIGNMENTS and self.cut:
            raise ApiError(0, "ClientConnectorError", "no route")
        self.version += 1
        meta = {**body["metadata"], "uid": "u", "resourceVersion": str(self.version)}
        self.done.append(("apply", resource.kind, meta["name"]))
        if resource is ASSIGNMENTS:
            self.raw = {**self.raw, "metadata": {**self.raw["metadata"], **meta}, "status": body["status"]}
            return self.raw
        self.bodies[f"{resource.kind} {meta['name']}"] = body
        return {**body, "metadata": meta}


def assigned(*, avoid: list[Raw] | None = None, attempt: int = 0, version: str = "9", **more: Any) -> Raw:
    models = [
        {"name": "m", "version": "2", "digest": NEW, "sources": SOURCES, "attempt": attempt, **more},
        {"name": "m", "version": "1", "digest": OLD, "sources": SOURCES, "role": "Previous"},
    ]
    raw = assignment({"name": "n1", "replicas": 1}, models=models)
    meta = {**raw["metadata"], "resourceVersion": version, "generation": int(version)}
    return {**raw, "metadata": meta, "spec": {**raw["spec"], "avoid": avoid or []}}


def refusing(revision: int) -> Raw:
    refused = {"step": "Golden", "reason": "GoldenMismatch", "message": "off", "at": AT}
    entry = {"name": "m", "version": "2", "digest": NEW, "state": "Failed", "serving": False, "refused": refused}
    return {"contract": 1, "revision": revision, "models": [entry]}


def memory_of(api: Kept) -> list[Raw]:
    found = [body for key, body in api.bodies.items() if "edgeward-memory" in key]
    return json.loads(found[0]["data"]["shop.m"]) if found and found[0]["data"] else []


def served(api: Kept) -> list[tuple[str, str, int]]:
    (text,) = [body["data"]["models.json"] for body in api.bodies.values() if "models.json" in (body.get("data") or {})]
    return [(one["version"], one["role"], one.get("attempt", 0)) for one in json.loads(text)["models"]]


async def both(agent: Agent) -> None:
    await agent.reconcile(NAME)
    await agent.settle(NAME)


def the_agent(api: Kept, *more: tuple[Resource, Raw]) -> Agent:
    return an_agent(api, (ASSIGNMENTS, api.raw), (NODES, node()), (PODS, a_pod("p")), *more)


def test_a_refusal_is_written_once_reported_and_outlives_assignment_and_agent() -> None:
    async def story() -> None:
        api = Kept(assigned())
        agent = the_agent(api)
        await both(agent)
        assert memory_of(api) == [] and not any("memory" in name for _, _, name in api.done)
        agent.runtimes.of(NAME).answers["uid-p"] = refusing(0)
        await both(agent)
        assert memory_of(api) == [], "it has not read the newest models.json: it may speak of an attempt before"
        agent.runtimes.of(NAME).answers["uid-p"] = refusing(99)
        await both(agent)
        (entry,) = memory_of(api)
        assert (entry["identity"], entry["scope"], entry["step"]) == (NEW, "Site", "Golden")
        assert [one["identity"] for one in api.raw["status"]["refused"]] == [NEW]
        api.done.clear()
        await both(agent)
        assert [one for one in api.done if one[0] == "apply"] == [], "nothing new, nothing written"
        # Another Assignment of that name, and another agent: what is remembered is there, and is told again.
        memory = agent._remembering._memory("edge")
        assert memory is not None
        api.raw = assigned(version="200")
        other = the_agent(api, (CONFIG_MAPS, memory))
        await both(other)
        assert [one["identity"] for one in api.raw["status"]["refused"]] == [NEW]
        api.raw = assigned(attempt=1, version="300")
        other._cache[ASSIGNMENTS].put(api.raw)
        await both(other)
        assert memory_of(api) == [] and not api.raw["status"].get("refused") and served(api)[0] == ("2", "Stable", 1)

    asyncio.run(story())


def test_what_the_hub_says_was_taken_back_is_remembered_when_the_hub_knows_it_no_more() -> None:
    async def story() -> None:
        avoid = {"identity": NEW, "version": "2", "reason": "gate errors: 0.3", "attempt": 0, "at": AT}
        api = Kept(assigned(avoid=[avoid]))
        agent = the_agent(api)
        await both(agent)
        api.raw = assigned(version="200")
        agent._cache[ASSIGNMENTS].put(api.raw)
        await both(agent)
        (told,) = api.raw["status"]["refused"]
        assert (told["scope"], told["reason"], told["digest"]) == ("Release", "gate errors: 0.3", NEW)
        assert served(api) == [("2", "Stable", 0)], "what the hub tells is served: its word is the newer one"

    asyncio.run(story())


def test_it_goes_back_while_the_hub_is_away_and_says_so_when_it_is_there() -> None:
    async def story() -> None:
        api = Kept(assigned(localGates=[GATE]))
        agent = the_agent(api)
        clock = [1_800_000_000.0]
        agent._clock = agent.runtimes._clock = agent.watches._clock = lambda: clock[0]

        def look(requests: int, errors: int) -> None:
            clock[0] += 20
            said = {**answer((OLD, counted(50)), (NEW, counted(requests, errors))), "revision": 99}
            agent.runtimes.of(NAME).answers["uid-p"] = said
            pods = agent._cache[PODS].labelled("edgeward.dev/assignment", NAME)
            agent._remembering.judged(api.raw, pods, {"uid-p": said})

        await both(agent)
        assert served(api) == [("2", "Stable", 0)]
        look(0, 0)
        await both(agent)
        api.cut = True
        look(100, 90)
        await agent.reconcile(NAME)
        assert served(api) == [("1", "Stable", 0)], "from what its own API holds"
        (entry,) = memory_of(api)
        assert (entry["step"], entry["scope"]) == ("Gate", "Site") and "gate errors: 0.9" in entry["reason"]
        try:
            await agent.settle(NAME)
        except ApiError as error:
            assert error.status == 0
        assert not api.raw["status"].get("refused")
        api.cut = False
        await both(agent)
        told = {one["digest"]: one for one in api.raw["status"]["models"]}
        assert told[NEW]["refused"]["step"] == "Gate" and "gate errors: 0.9" in told[NEW]["refused"]["message"]
        assert served(api) == [("1", "Stable", 0)]
        # Somebody says retry: it is tried again.
        api.raw = assigned(localGates=[GATE], attempt=1, version="500")
        agent._cache[ASSIGNMENTS].put(api.raw)
        await agent.reconcile(NAME)
        assert served(api) == [("2", "Stable", 1)]

    asyncio.run(story())


def test_a_memory_that_cannot_be_written_holds_up_nothing() -> None:
    async def story() -> None:
        api = Kept(assigned(localGates=[GATE]))
        agent = the_agent(api)
        await both(agent)
        whole = api.apply

        async def apply(resource: Resource, body: Object, **more: Any) -> Object:
            if "edgeward-memory" in body["metadata"]["name"]:
                raise ApiError(422, "RequestEntityTooLarge", "too long")
            return await whole(resource, body, **more)

        api.apply = apply  # type: ignore[method-assign]
        (model,) = [one for one in agent._cache[ASSIGNMENTS].all()[0]["spec"]["models"] if one["version"] == "2"]
        verdict = {"identity": model["digest"], "digest": model["digest"], "version": "2", "scope": "Site", "at": AT}
        agent._remembering._gates.setdefault(NAME, []).append(
            RefusedHere.model_validate({**verdict, "step": "Gate", "reason": "gate errors"})
        )
        await agent.reconcile(NAME)
        assert served(api) == [("1", "Stable", 0)] and memory_of(api) == []
        api.apply = whole  # type: ignore[method-assign]
        await both(agent)
        assert [one["step"] for one in memory_of(api)] == ["Gate"] and agent._remembering._gates[NAME] == []

    asyncio.run(story())


def test_once_the_version_has_finished_elsewhere_the_site_that_went_back_stays_there() -> None:
    async def story() -> None:
        api = Kept(assigned(localGates=[GATE]))
        agent = the_agent(api)
        await both(agent)
        verdict = {"identity": NEW, "digest": NEW, "version": "2", "scope": "Site", "at": AT}
        agent._remembering._gates.setdefault(NAME, []).append(
            RefusedHere.model_validate({**verdict, "step": "Gate", "reason": "gate errors"})
        )
        await both(agent)
        assert served(api) == [("1", "Stable", 0)]
        finished = assigned(version="600")
        finished["spec"]["models"] = finished["spec"]["models"][:1]
        api.raw = finished
        agent._cache[ASSIGNMENTS].put(finished)
        config = next(one for key, one in api.bodies.items() if "models.json" in (one.get("data") or {}))
        assert agent._cache[CONFIG_MAPS].get(f"shop/{config['metadata']['name']}") is not None
        await both(agent)
        assert served(api) == [("1", "Stable", 0)]

    asyncio.run(story())


def test_a_retry_holds_although_the_memory_cannot_be_written() -> None:
    """A quota or a policy may forbid it; what was said to try again stayed refused for as long."""

    class Full(Kept):
        async def apply(self, resource: Resource, body: Object, **more: Any) -> Object:
            if resource is CONFIG_MAPS and "memory" in body["metadata"]["name"]:
                raise ApiError(403, "Forbidden", "not here")
            return await super().apply(resource, body, **more)

    async def story() -> None:
        api = Full(assigned())
        of_before = RefusedHere(identity=NEW, digest=NEW, version="2", scope="Site", step="Gate", reason="r", at=AT)
        body = memory.written(None, site="edge", namespace="edgeward", entries={"shop.m": [of_before]})
        agent = the_agent(api, (CONFIG_MAPS, {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}))
        await both(agent)
        assert served(api) == [("1", "Stable", 0)]
        api.raw = assigned(attempt=1, version="300")
        agent._cache[ASSIGNMENTS].put(api.raw)
        await both(agent)
        assert served(api) == [("2", "Stable", 1)]

    asyncio.run(story())


def test_a_site_that_went_back_and_waits_for_a_moment_writes_nothing_in_an_idle_minute() -> None:
    async def story() -> None:
        nightly = {"windows": [{"start": "02:00", "duration": "1h"}]}
        of_before = RefusedHere(identity=NEW, digest=NEW, version="2", scope="Site", step="Gate", reason="r", at=AT)
        body = memory.written(None, site="edge", namespace="edgeward", entries={"shop.m": [of_before]})
        newest = {"name": "m", "version": "3", "digest": "sha256:" + "c" * 64, "sources": SOURCES}
        raw = assigned()
        raw["spec"]["models"] = [{**newest, "activation": nightly, "localGates": [GATE]}, *raw["spec"]["models"][1:]]
        raw["spec"]["nodes"] = [{"name": "n1", "replicas": 1}, {"name": "n2", "replicas": 1}]
        api = Kept(raw)
        meta = {**body["metadata"], "resourceVersion": "1"}
        agent = the_agent(
            api, (NODES, node("n2")), (PODS, a_pod("q", on="n2")), (CONFIG_MAPS, {**body, "metadata": meta})
        )
        noon = 1_798_804_800.0
        clock = [noon]
        agent._clock = lambda: clock[0]
        for uid in ("uid-p", "uid-q"):
            agent.runtimes.of(NAME).answers[uid] = {**answer((OLD, counted(7))), "revision": 99}
        await both(agent)
        await both(agent)
        assert served(api) == [("1", "Stable", 0), ("3", "Staged", 0)]
        api.done.clear()
        for second in range(60):
            clock[0] = noon + second
            for uid in ("uid-p", "uid-q"):
                agent.runtimes.of(NAME).answers[uid] = {**answer((OLD, counted(8 + second))), "revision": 99}
            await both(agent)
        assert api.done == []
        clock[0] = noon + 14 * 3600 + 1
        await both(agent)
        assert served(api) == [("3", "Stable", 0)]

    asyncio.run(story())
