"""While a job waits there is one reason: of all that hold, the one that `Rejection` declares first."""

from __future__ import annotations

import pytest

from edgeward.api.reasons import Rejection
from edgeward.fleet.model import Fleet, Job, Namespace, Problem, Resources
from edgeward.placement import plan
from tests.unit.placement.strategies import GI, fleet, job, node

FULL = node("full", foreign=Resources(3900, 0, 1))
NOTHING_ALLOWED = (Namespace("test", max_replicas=0),)
HUGE = Resources(90_000, GI, 1)


def reason(one: Job, **known: object) -> str:
    made: Fleet = fleet([FULL], [one], **known)
    (decided,) = plan(made).jobs
    assert decided.missing == 1
    return decided.reason


@pytest.mark.parametrize(
    ("expected", "one", "known"),
    [
        (
            Rejection.POLICY_FORBIDS,
            job("x", request=HUGE, model_digest="", problem=Problem("PolicyForbids", "its tier is too high here")),
            {"namespaces": NOTHING_ALLOWED},
        ),
        (Rejection.NO_RUNNABLE_MODEL, job("x", request=HUGE, model_digest=""), {"namespaces": NOTHING_ALLOWED}),
        (Rejection.TOO_BIG_FOR_ANY_NODE, job("x", request=HUGE), {"namespaces": NOTHING_ALLOWED}),
        (Rejection.QUOTA_EXCEEDED, job("x"), {"namespaces": NOTHING_ALLOWED}),
        (Rejection.NO_CAPACITY, job("x"), {}),
    ],
)
def test_one_reason_and_the_most_severe_one(expected: Rejection, one: Job, known: dict[str, object]) -> None:
    """From case to case the worst obstacle is taken away; what is left are all the ones after it."""
    assert reason(one, **known) == expected.value


def test_a_node_that_holds_a_replica_and_has_no_room_for_the_next_is_among_the_nearest_misses() -> None:
    """Else the one obstacle would be told in the message alone, and nothing in figures would say how little is missing."""
    (decided,) = plan(fleet([node("a")], [job("x", replicas=2, request=Resources(3000, GI, 1))])).jobs
    assert (decided.missing, decided.placements[0].node) == (1, "a")
    (rejected,) = decided.explanation.rejected
    assert (rejected.reason, rejected.count, rejected.nearest_miss) == ("InsufficientCpu", 1, "a lacks 2 cpu")
