"""One pass of the hub over objects of which some cannot be read: each is told so, and the others go on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import edgeward.hub.hub
from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError
from edgeward.cluster.events import Recorder
from edgeward.hub.hub import WATCHED, Hub, HubSettings
from edgeward.hub.pace import Breath
from tests.fakes import FakeClient
from tests.unit.fleet.objects import NOW, Raw, assignment, job, node, release


def patched(*, jobs: list[Raw], releases: list[Raw], nodes: list[Raw]) -> list[str]:
    """The paths that one pass writes to."""
    client, cache = FakeClient(), Cache()
    for resource in WATCHED:
        items = {"inferencejobs": jobs, "modelreleases": releases, "nodes": nodes}.get(resource.plural, [])
        cache.add(resource).seed(items)

    async def once() -> None:
        hub = Hub(
            client=client,
            cache=cache,
            settings=HubSettings(),
            recorder=Recorder(client, "test"),
            live=lambda: ({}, ""),
            clock=lambda: NOW,
        )
        await hub.once()

    asyncio.run(once())
    return [path.rpartition("namespaces/")[2] for method, path in client.server.requests if method == "PATCH"]


def test_a_release_that_cannot_be_read_is_told_so() -> None:
    """It used to get no status at all: a user saw an empty line in `kubectl get mr` and no reason."""
    broken = release("broken")
    broken["spec"]["artifact"]["digest"] = 5
    written = patched(jobs=[], releases=[broken, release("fine")], nodes=[])
    assert "shop/modelreleases/broken/status" in written
    assert "shop/modelreleases/fine/status" in written


def test_a_job_that_cannot_be_read_is_told_so_and_the_others_are_placed() -> None:
    broken = job("broken")
    broken["spec"]["replicas"] = "many"
    written = patched(jobs=[broken, job("fine", model={"name": "m"})], releases=[release("m")], nodes=[node()])
    assert "shop/inferencejobs/broken/status" in written
    assert any(path.startswith("edgeward/assignments/fine-") for path in written)


def test_a_refused_deletion_does_not_stop_the_statuses() -> None:
    """One DELETE that was refused used to end the pass, so that no job got a status any more."""
    client, cache = FakeClient(), Cache()
    for resource in WATCHED:
        cache.add(resource).seed([assignment()] if resource.plural == "assignments" else [])

    async def once() -> None:
        hub = Hub(
            client=client,
            cache=cache,
            settings=HubSettings(),
            recorder=Recorder(client, "test"),
            live=lambda: ({}, ""),
            clock=lambda: NOW,
        )
        client.server.failing = [ApiError(403, "Forbidden", "a webhook says no")]
        await hub._delete_assignment("signs-edge")
        assert hub.failed == 1 and client.server.requests[-1][0] == "DELETE"

    asyncio.run(once())


def hub_of(nodes: int, jobs: int) -> Hub:
    client, cache = FakeClient(), Cache()
    objects = {
        "nodes": [node(f"n{number}") for number in range(nodes)],
        "inferencejobs": [job(f"j{number}") for number in range(jobs)],
    }
    for resource in WATCHED:
        cache.add(resource).seed(objects.get(resource.plural, []))
    recorder = Recorder(client, "test")
    return Hub(
        client=client,
        cache=cache,
        settings=HubSettings(),
        recorder=recorder,
        live=lambda: ({}, ""),
        clock=lambda: NOW,
    )


def test_a_plan_does_not_wait_until_the_news_of_the_last_one_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def passes() -> None:
        out, begun = asyncio.Event(), asyncio.Event()

        async def tell(*_: object, **__: object) -> None:
            begun.set()
            await out.wait()

        monkeypatch.setattr(Recorder, "tell", tell)
        hub = hub_of(nodes=2, jobs=2)
        await hub._pass()
        await begun.wait()
        await hub._pass()
        assert hub.passes == 2
        out.set()
        await hub.once()

    asyncio.run(passes())


def test_a_large_fleet_is_planned_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan ends when the loop has gone on meanwhile: on the loop it would never end."""
    went_on = threading.Event()
    decide = edgeward.hub.hub.decide

    def slow(*arguments: Any, **options: Any) -> Any:
        assert went_on.wait(60), "the event loop stood still"
        return decide(*arguments, **options)

    monkeypatch.setattr(edgeward.hub.hub, "decide", slow)

    async def once() -> None:
        hub = hub_of(nodes=200, jobs=10)
        planning = asyncio.create_task(hub.once())
        await asyncio.sleep(0)
        went_on.set()
        assert len((await planning).plan.jobs) == 10

    asyncio.run(once())


def test_a_small_fleet_is_planned_on_the_spot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread would make the demo's plans later."""
    threads: list[threading.Thread] = []
    decide = edgeward.hub.hub.decide

    def noted(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return decide(*arguments, **options)

    monkeypatch.setattr(edgeward.hub.hub, "decide", noted)

    async def once() -> None:
        await hub_of(nodes=5, jobs=3).once()

    asyncio.run(once())
    assert threads == [threading.main_thread()]


def test_the_loop_breathes_in_a_long_row_of_small_steps() -> None:
    async def play() -> None:
        others: list[int] = []
        breath = Breath(every=0)
        asyncio.get_running_loop().call_soon(others.append, 1)
        await breath.take()
        assert others == [1]
        breath = Breath(every=3600)
        asyncio.get_running_loop().call_soon(others.append, 2)
        await breath.take()
        assert others == [1], "not at each step: a turn of the loop costs more than most of them"

    asyncio.run(play())
