"""When the runtimes of an Assignment have nothing more to say, and are asked seldom."""

from __future__ import annotations

from edgeward.agent.runtimes import _settled
from tests.unit.fleet.objects import Raw, assignment

from .test_agent import a_pod
from .test_counters import NEW, OLD, answer

WANTED = assignment({"name": "n1", "replicas": 1}, models=[{"name": "m", "version": "1", "digest": OLD}])


def settled(said: Raw) -> bool:
    return _settled(WANTED, [a_pod("p")], {"uid-p": said})


def test_a_canary_that_was_taken_back_is_watched_until_it_has_gone() -> None:
    """It stood in the status for the time between two looks at a settled runtime."""
    assert settled(answer((OLD, None)))
    assert not settled(answer((OLD, None), (NEW, None)))


def test_what_serves_in_the_place_of_a_refused_version_is_settled() -> None:
    refused = answer((OLD, None), state="Failed")
    refused["models"][0]["refused"] = {"step": "Load", "reason": "NotOnnx", "message": "", "at": "2027-01-01T00:00:00Z"}
    refused["models"] += answer((NEW, None))["models"]
    assert settled(refused)
