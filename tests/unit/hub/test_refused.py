"""A refused write waits, twice as long each time, and not at all when its object has changed."""

from __future__ import annotations

from edgeward.hub.refused import Refused


def test_waits_double_up_to_the_longest() -> None:
    refused, now, waits = Refused(longest=5.0), 100.0, []
    for _ in range(4):
        delay = refused.note("a", "7", first=1.0, now=now)
        assert refused.holds("a", "7", now=now + delay - 0.01)
        assert not refused.holds("a", "7", now=now + delay)
        waits.append(delay)
        now += delay
    assert waits == [1.0, 2.0, 4.0, 5.0]


def test_a_changed_object_is_a_new_try_at_once_and_starts_over() -> None:
    refused = Refused()
    for _ in range(5):
        refused.note("a", "7", first=1.0, now=0.0)
    assert not refused.holds("a", "8", now=0.1)
    assert refused.note("a", "8", first=1.0, now=0.1) == 1.0


def test_one_refused_write_holds_up_no_other_and_success_forgets() -> None:
    refused = Refused()
    refused.note("a", "7", first=1.0, now=0.0)
    assert not refused.holds("b", "7", now=0.0)
    refused.forget("a")
    assert not refused.holds("a", "7", now=0.0)
