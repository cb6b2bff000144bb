"""One pass of the hub over objects of which some cannot be read: each is told so, and the others go on."""

from __future__ import annotations

import asyncio

from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError
from edgeward.cluster.events import Recorder
from edgeward.hub.hub import WATCHED, Hub, HubSettings
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
