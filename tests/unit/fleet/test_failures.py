"""Refusals become exclusions: after patience, for longer and longer, and forgotten in the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.fleet.failures import REFUSALS, Refused, exclusions
from edgeward.fleet.model import Exclusion

NOW = 10_000.0


def refused(node: str = "n", *, reason: str = "Unschedulable", since: float = NOW - 60) -> Refused:
    return Refused(node=node, reason=reason, message="no", since=since)


def known(count: int = 1, *, until: float, node: str = "n") -> Exclusion:
    return Exclusion(node=node, reason="Unschedulable", message="no", count=count, until=until)


def test_nothing_is_excluded_before_patience_is_over() -> None:
    assert exclusions([], [refused(since=NOW - 59)], now=NOW) == ()
    (only,) = exclusions([], [refused(since=NOW - 60)], now=NOW)
    assert (only.node, only.count, only.until, only.reason, only.message) == ("n", 1, NOW + 60, "Unschedulable", "no")


@pytest.mark.parametrize(("before", "lasts"), [(1, 120), (2, 240), (5, 1920), (6, 3600), (60, 3600)])
def test_each_further_refusal_doubles_the_back_off_up_to_the_longest(before: int, lasts: float) -> None:
    (only,) = exclusions([known(before, until=NOW - 1)], [refused()], now=NOW)
    assert only.count == before + 1
    assert only.until == NOW + lasts


def test_a_node_that_refuses_for_months_does_not_end_the_planner() -> None:
    """2**1100 does not fit a float: an hour's back-off repeated for six weeks gets there."""
    (only,) = exclusions([known(1100, until=NOW - 1)], [refused()], now=NOW)
    assert only.until == NOW + 3600


def test_one_that_is_in_force_is_not_counted_again() -> None:
    running = known(3, until=NOW + 5)
    assert exclusions([running], [refused()], now=NOW) == (running,)


def test_an_old_one_is_forgotten_and_starts_anew() -> None:
    assert exclusions([known(4, until=NOW - 3600)], [], now=NOW) == ()
    (only,) = exclusions([known(4, until=NOW - 3600)], [refused()], now=NOW)
    assert (only.count, only.until) == (1, NOW + 60)
    assert exclusions([known(4, until=NOW - 3599)], [], now=NOW) == (known(4, until=NOW - 3599),)


@pytest.mark.parametrize("reason", ["ModelRefused", "NodeNotReady", "NodeGone", "Starting", "", "Evicted"])
def test_what_does_not_speak_of_the_node_excludes_nothing(reason: str) -> None:
    assert reason not in REFUSALS
    assert exclusions([], [refused(reason=reason, since=0)], now=NOW) == ()


@given(
    st.lists(st.builds(known, count=st.integers(0, 5000), until=st.floats(0, 2 * NOW), node=st.sampled_from("abc"))),
    st.lists(st.builds(refused, node=st.sampled_from("abc"), since=st.floats(0, 2 * NOW))),
)
def test_whatever_is_known_the_answer_is_sorted_bounded_and_stable(known: list, said: list) -> None:  # type: ignore[type-arg]
    found = exclusions(known, said, now=NOW)
    assert [item.node for item in found] == sorted({item.node for item in found})
    assert all(item.until <= max(NOW + 3600, max((k.until for k in known), default=0)) for item in found)
    assert exclusions(found, said, now=NOW) == found
