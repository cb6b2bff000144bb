"""Leadership: two never lead at once, a stopped process refuses its own writes, and a short duration is not cut."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.cluster.client import ApiError, WriteRefused
from edgeward.cluster.lease import Leadership, LeaseSettings
from tests.fakes import FakeClient, FakeServer

PATH = "/apis/coordination.k8s.io/v1/namespaces/edgeward/leases/edgeward-hub"


@dataclass
class Clock:
    """Seconds. Every machine has its own idea of when it began; `skew` is that."""

    now: float = 0.0
    skew: float = 0.0

    def __call__(self) -> float:
        return self.now + self.skew


@dataclass
class World:
    server: FakeServer = field(default_factory=FakeServer)
    settings: LeaseSettings = field(default_factory=LeaseSettings)
    clocks: list[Clock] = field(default_factory=list)

    def candidate(self, name: str, *, skew: float = 0.0) -> Leadership:
        now = self.clocks[0].now if self.clocks else 0.0
        clock = Clock(now, skew)
        self.clocks.append(clock)
        return Leadership(
            FakeClient(self.server),
            namespace="edgeward",
            name="edgeward-hub",
            identity=name,
            settings=self.settings,
            clock=clock,
        )

    def wait(self, seconds: float) -> None:
        for clock in self.clocks:
            clock.now += seconds


def look(*candidates: Leadership) -> None:
    """One round of each, as `run` does it: what goes wrong is not renewed."""
    for candidate in candidates:
        try:
            asyncio.run(candidate._step())
        except ApiError:
            continue


def test_the_first_leads_and_the_second_waits() -> None:
    world = World()
    one, two = world.candidate("one"), world.candidate("two")
    assert not one.leading
    look(one, two)
    assert one.leading and not two.leading
    one.check()
    with pytest.raises(WriteRefused, match="two does not hold"):
        two.check()


def test_a_holder_that_renews_keeps_it_and_transitions_stay() -> None:
    world = World()
    one, two = world.candidate("one"), world.candidate("two", skew=1e6)
    for _ in range(20):
        look(one, two)
        world.wait(1.5)
    assert one.leading and not two.leading
    assert world.server.objects[PATH]["spec"]["leaseTransitions"] == 0


def test_a_dead_holder_is_followed_after_the_duration_and_within_fifteen_seconds() -> None:
    world = World()
    one, two = world.candidate("one"), world.candidate("two")
    look(one, two)
    waited = 0.0
    while not two.leading:
        world.wait(1.5)
        waited += 1.5
        look(two)
        assert waited < 15
    assert waited >= 10 and not one.leading
    assert world.server.objects[PATH]["spec"]["leaseTransitions"] == 1


def test_a_stopped_process_refuses_its_own_writes_before_another_may_lead() -> None:
    world = World()
    one = world.candidate("one")
    look(one)
    world.wait(5.9)
    one.check()
    world.wait(0.2)
    with pytest.raises(WriteRefused):
        one.check()


def test_a_renewal_that_took_long_counts_from_when_it_was_asked() -> None:
    world = World()
    one = world.candidate("one")
    look(one)
    world.server.failing = [ApiError(0, "TimeoutError", "")] * 2
    for _ in range(2):
        world.wait(3)
        look(one)
    assert not one.leading


def test_one_that_lost_it_does_not_take_it_back_from_another() -> None:
    world = World()
    one, two = world.candidate("one"), world.candidate("two")
    look(one, two)
    for _ in range(8):
        world.wait(1.5)
        look(two)
    assert two.leading
    look(one)
    assert two.leading and not one.leading


def test_a_clean_end_lets_the_next_one_start_at_once() -> None:
    world = World()
    one, two = world.candidate("one"), world.candidate("two")
    look(one, two)
    asyncio.run(one.release())
    assert not one.leading
    look(two)
    assert two.leading
    asyncio.run(one.release())
    assert two.leading, "what is not held is not released"


def test_somebody_annotating_the_lease_costs_nobody_the_lead() -> None:
    world = World()
    one = world.candidate("one")
    look(one)
    for _ in range(5):
        world.wait(1.5)
        world.server.answer("PATCH", PATH, {"metadata": {"annotations": {"a": "b"}}})
        look(one)
        assert one.leading


def test_a_lease_that_somebody_deletes_does_not_make_two_leaders() -> None:
    world = World()
    one, two = world.candidate("one"), world.candidate("two")
    look(one, two)
    world.server.objects.clear()
    look(two)
    assert one.leading and not two.leading
    look(one)
    assert one.leading, "the holder makes it anew"
    world.server.objects.clear()
    world.wait(11)
    look(two)
    assert two.leading and not one.leading


def test_a_duration_that_is_no_whole_number_is_not_cut_below_the_holders_own() -> None:
    """The Lease holds whole seconds. Cut to 3, a holder with 3.5 s to write would not be alone."""
    world = World(settings=LeaseSettings(duration=3.9, renew_deadline=3.5, retry=0.5))
    one, two = world.candidate("one"), world.candidate("two")
    look(one, two)
    world.wait(3.2)
    look(two)
    assert not (one.leading and two.leading)
    assert world.server.objects[PATH]["spec"]["leaseDurationSeconds"] == 4


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 4), st.sets(st.integers(0, 2)), st.booleans()),
        max_size=40,
    ),
    st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
)
def test_two_never_lead_at_the_same_time(story: list[tuple[float, set[int], bool]], skews: list[float]) -> None:
    """Random waits; in each round some processes are stopped, and now and then the API does not answer."""
    world = World()
    candidates = [world.candidate(str(number), skew=skew) for number, skew in enumerate(skews)]
    for wait, awake, fails in story:
        world.wait(wait)
        for number in sorted(awake):
            world.server.failing = [ApiError(0, "TimeoutError", "")] if fails else []
            look(candidates[number])
            assert sum(candidate.leading for candidate in candidates) <= 1


def test_run_ends_when_what_was_held_is_lost() -> None:
    async def play() -> None:
        world = World(settings=LeaseSettings(duration=1.0, renew_deadline=0.5, retry=0.01))
        one = world.candidate("one")
        running = asyncio.create_task(one.run())
        await asyncio.wait_for(one.elected.wait(), 1)
        world.server.failing = [ApiError(503, "ServiceUnavailable", "")] * 1000
        world.wait(0.6)
        await asyncio.wait_for(running, 1)

    asyncio.run(play())
