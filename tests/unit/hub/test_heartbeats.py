"""Whether nodes are heard of, by the Leases that change and those that do not. The clock is ours."""

from __future__ import annotations

from typing import Any, cast

from edgeward.cluster.client import Client
from edgeward.hub.heartbeats import Heartbeats


class World:
    def __init__(self, *, ready: tuple[str, ...] = ("a", "b")) -> None:
        self.now = 1000.0
        self.told = 0
        self.revisions: dict[str, int] = {"a": 1, "b": 1}
        self.beats = Heartbeats(
            client=cast(Client, None), ready=lambda: ready, changed=self.changed, clock=lambda: self.now
        )
        self.look()

    def changed(self) -> None:
        self.told += 1

    def look(self, *, renewed: tuple[str, ...] = ()) -> dict[str, bool]:
        for name in renewed:
            self.revisions[name] += 1
        leases: list[dict[str, Any]] = [
            {"metadata": {"name": name, "resourceVersion": str(revision)}} for name, revision in self.revisions.items()
        ]
        self.beats.look(leases)
        return dict(self.beats.heard)

    def looks(self, seconds: float, *, renewed: tuple[str, ...]) -> dict[str, bool]:
        """A look every five seconds, as the loop does."""
        for _ in range(int(seconds / 5)):
            self.now += 5
            self.look(renewed=renewed)
        return dict(self.beats.heard)


def test_a_node_that_renews_nothing_for_forty_seconds_is_silent() -> None:
    world = World()
    assert world.looks(35, renewed=("a",)) == {"a": True, "b": True}
    assert world.looks(5, renewed=("a",)) == {"a": True, "b": False}


def test_the_first_renewal_makes_it_heard_again() -> None:
    world = World()
    world.looks(60, renewed=("a",))
    assert world.looks(5, renewed=("a", "b")) == {"a": True, "b": True}


def test_it_is_told_at_a_change_only() -> None:
    world = World()
    told = world.told
    world.looks(30, renewed=("a", "b"))
    assert world.told == told
    world.looks(60, renewed=("a",))
    assert world.told == told + 1


def test_a_node_that_is_away_when_the_operator_starts_is_silent_at_once() -> None:
    world = World(ready=("a",))
    assert world.beats.heard == {"a": True, "b": False}


def test_a_node_that_is_new_is_heard() -> None:
    world = World()
    world.looks(10, renewed=("a", "b"))
    world.revisions["c"] = 1
    assert world.looks(5, renewed=("a", "b"))["c"]


def test_an_api_server_that_was_away_makes_nobody_silent() -> None:
    """Neither could the nodes renew, nor could anybody look."""
    world = World()
    world.looks(10, renewed=("a", "b"))
    world.now += 300
    assert world.look() == {"a": True, "b": True}
    assert world.looks(40, renewed=("a",)) == {"a": True, "b": False}


def test_a_lease_that_is_gone_says_nothing() -> None:
    world = World()
    del world.revisions["b"]
    assert world.looks(5, renewed=("a",)) == {"a": True}
