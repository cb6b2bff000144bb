"""What the Lease remembers of jobs that look lost, from one leader to the next, and how the word to delete them ends."""

from __future__ import annotations

import asyncio

from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import ASSIGNMENTS, DEFINITIONS, INFERENCE_JOBS, LEASES
from edgeward.hub.orphans import CONFIRM, HELD
from edgeward.hub.sweep import Sweep
from tests.fakes import FakeClient
from tests.unit.fleet.objects import Raw, ago, assignment, job

LEASE = LEASES.path("edgeward", "edgeward-hub")
JOBS = INFERENCE_JOBS.path("")


class Stage:
    """Jobs and the Assignments of jobs, a Lease, and leaders that follow one another."""

    def __init__(self, *names: str) -> None:
        self.client = FakeClient()
        self.now = 1000.0
        self.deleted: list[str] = []
        self.told = {name: assignment(job=name) for name in names}
        self.client.server.objects |= {
            LEASE: {"metadata": {"name": "edgeward-hub", "namespace": "edgeward", "uid": "u", "resourceVersion": "1"}},
            DEFINITIONS.path("", "inferencejobs.edgeward.dev"): {
                "metadata": {"name": "inferencejobs.edgeward.dev", "creationTimestamp": ago(5000)},
                "status": {"conditions": [{"type": "Established", "status": "True"}]},
            },
        }
        self.jobs(*names)
        self.leader()

    def leader(self) -> None:
        async def delete(name: str) -> None:
            self.deleted.append(name)
            self.told.pop(name.removesuffix("-edge"))

        self.sweep = Sweep(
            client=self.client,
            cache=Cache(),
            recorder=Recorder(self.client, "test"),
            namespace="edgeward",
            lease_name="edgeward-hub",
            manager="test",
            delete=delete,
            mark=lambda: None,
            clock=lambda: self.now,
        )

    def jobs(self, *names: str) -> None:
        self.there = [job(name) for name in names]
        self.client.server.objects[JOBS] = {"metadata": {}, "items": self.there}

    def run(self, *, seconds: float = 3) -> None:
        async def once() -> None:
            cache = Cache()
            cache.add(INFERENCE_JOBS).seed(self.there)
            cache.add(ASSIGNMENTS).seed(self.told.values())
            self.sweep.cache = cache
            await self.sweep.once()

        asyncio.run(once())
        self.now += seconds
        asyncio.run(once())

    @property
    def notes(self) -> Raw:
        found = self.client.server.objects[LEASE]["metadata"].get("annotations") or {}
        return {key: value for key, value in found.items() if value is not None}

    def confirm(self) -> None:
        self.client.server.objects[LEASE]["metadata"].setdefault("annotations", {})[CONFIRM] = "true"


def test_a_new_leader_holds_what_the_old_one_held_until_each_is_back() -> None:
    stage = Stage("a", "b", "c")
    stage.run()
    stage.jobs()
    stage.run()
    assert stage.deleted == [] and stage.notes == {HELD: "shop/a,shop/b,shop/c"}
    stage.leader()
    stage.jobs("a")
    stage.run()
    assert stage.deleted == [] and stage.notes == {HELD: "shop/b,shop/c"}
    stage.jobs("a", "b", "c")
    stage.run()
    assert stage.deleted == [] and stage.notes == {}
    stage.jobs("a", "b")
    stage.run()
    assert stage.deleted == ["c-edge"], "an ordinary deletion afterwards is one"


def test_a_hold_that_could_not_be_noted_is_noted_later_and_holds_meanwhile() -> None:
    stage = Stage("a", "b", "c")
    stage.run()
    stage.jobs()
    stage.run(seconds=1)
    real = stage.client.merge

    async def refused(*_: object, **__: object) -> Raw:
        raise ApiError(500, "x", "no quorum")

    stage.client.merge = refused  # type: ignore[method-assign, assignment]
    stage.run()
    stage.jobs("a")
    stage.run()
    assert stage.deleted == [] and stage.notes == {}
    stage.client.merge = real  # type: ignore[method-assign]
    stage.run()
    assert stage.deleted == [] and stage.notes == {HELD: "shop/b,shop/c"}


def test_the_word_ends_with_what_it_was_for() -> None:
    stage = Stage("a", "b")
    stage.run()
    stage.jobs()
    stage.run()
    stage.confirm()
    stage.run()
    assert sorted(stage.deleted) == ["a-edge", "b-edge"]
    stage.run()
    assert stage.notes == {}


def test_the_word_stands_while_a_deletion_is_refused() -> None:
    stage = Stage("a", "b")
    stage.run()
    stage.jobs()
    stage.run()
    stage.confirm()
    real = stage.sweep.delete

    async def refused(name: str) -> None:
        return None

    stage.sweep.delete = refused
    stage.run()
    assert stage.deleted == [] and CONFIRM in stage.notes
    stage.sweep.delete = real
    stage.run()
    stage.run()
    assert sorted(stage.deleted) == ["a-edge", "b-edge"] and stage.notes == {}


def test_a_word_for_nothing_does_not_stand_for_ever() -> None:
    """Given after the jobs were back already, it used to let the next accident pass, months later."""
    stage = Stage("a", "b")
    stage.confirm()
    stage.run(seconds=40)
    assert CONFIRM in stage.notes, "whoever deletes right after the word is not asked again"
    stage.run(seconds=301)
    assert stage.notes == {}
    stage.jobs()
    stage.run()
    assert stage.deleted == []


def test_nothing_is_asked_in_each_pass_while_no_job_is_missing() -> None:
    stage = Stage("a", "b")
    for _ in range(5):
        stage.run(seconds=1)
    assert stage.client.server.requests == [("GET", LEASE)]
