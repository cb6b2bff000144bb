from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.errors import Refusal
from edgeward_runtime.lifecycle import (
    STEPS,
    Progress,
    Room,
    State,
    backoff,
    due,
    entered,
    failed,
    memory_held,
    memory_needed,
    room,
    step_of,
)

AWAY = Refusal(step="Fetch", reason="Unreachable", message="no route", permanent=False)
BAD = Refusal(step="Load", reason="NotOnnx", message="rubbish", permanent=True)


def test_backoff_doubles_to_a_minute():
    assert [backoff(n, 0.5) for n in (1, 2, 3, 6, 7, 50)] == [1, 2, 4, 32, 60, 60]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_backoff_is_bounded(failures, jitter):
    assert 0.5 <= backoff(failures, jitter) <= 90


def test_the_way_to_serving():
    progress = Progress(since=1)
    for wall, state in enumerate((State.FETCHING, State.VERIFYING, State.LOADING, State.WARMING, State.SERVING), 2):
        assert due(progress, now=0)
        progress = entered(progress, state, wall=wall)
        assert progress.state is state and progress.since == wall
    assert not due(progress, now=1e9)


def test_a_retry_does_not_flicker():
    progress = failed(entered(Progress(), State.FETCHING, wall=10), AWAY, now=100, wall=11, jitter=0.5)
    assert progress.state is State.FAILED and progress.since == 11
    assert not due(progress, now=100.9) and due(progress, now=101)
    again = entered(progress, State.FETCHING, wall=12)
    assert again == progress, "the status shows the failure while the same step is tried again"
    twice = failed(again, AWAY, now=101, wall=13, jitter=0.5)
    assert (twice.since, twice.refused.at) == (11, 11), "the same failure keeps its first time"
    assert due(twice, now=103) and not due(twice, now=102.9)


def test_a_retry_that_gets_further_shows_it():
    progress = failed(Progress(), AWAY, now=0, wall=1, jitter=0)
    progress = entered(progress, State.VERIFYING, wall=2)
    assert progress.state is State.VERIFYING and progress.refused is None


def test_another_failure_has_its_own_time():
    progress = failed(Progress(), AWAY, now=0, wall=1, jitter=0)
    progress = failed(progress, BAD, now=5, wall=6, jitter=0)
    assert (progress.refused.reason, progress.refused.at, progress.since) == ("NotOnnx", 6, 1)


def test_a_permanent_refusal_is_never_due():
    assert not due(failed(Progress(), BAD, now=0, wall=0, jitter=0), now=1e9)


@pytest.mark.parametrize("state", [State.FETCHING, State.VERIFYING, State.LOADING])
def test_serving_clears_what_was(state):
    progress = entered(failed(entered(Progress(), state, wall=0), AWAY, now=0, wall=0, jitter=0), State.SERVING, wall=9)
    assert progress == Progress(state=State.SERVING, since=9)


def test_a_retry_shows_a_failure_until_its_step_is_passed():
    """Schema is part of Loading, Signature of Verifying."""
    late = Refusal(step="Golden", reason="GoldenMismatch", message="y", permanent=False)
    progress = failed(Progress(), late, now=0, wall=1, jitter=0)
    for state in (State.FETCHING, State.VERIFYING, State.LOADING, State.CHECKING):
        assert entered(progress, state, wall=2) is progress
    assert entered(progress, State.WARMING, wall=2).refused is None
    schema = failed(
        Progress(), Refusal(step="Schema", reason="r", message="m", permanent=False), now=0, wall=1, jitter=0
    )
    assert entered(schema, State.LOADING, wall=2) is schema
    assert entered(schema, State.CHECKING, wall=2).refused is None


def test_every_state_on_the_way_has_its_first_step():
    way = [State.FETCHING, State.VERIFYING, State.LOADING, State.CHECKING, State.WARMING, State.MIRRORING]
    assert [step_of(state) for state in way] == [step for step in STEPS if step not in ("Signature", "Schema")]


def test_what_waits_for_copies_is_not_worked_on():
    assert not due(Progress(state=State.MIRRORING), now=1e9)


@pytest.mark.parametrize(
    ("needed", "available", "freed", "in_gap", "found"),
    [
        (100, None, 50, True, Room.BESIDE),
        (100, 0, None, False, Room.BESIDE),
        (100, 100, 50, True, Room.BESIDE),
        (101, 100, 50, False, None),
        (101, 100, 50, True, Room.IN_GAP),
        (150, 100, 50, True, Room.IN_GAP),
        (151, 100, 50, True, None),
    ],
)
def test_where_a_version_may_be_loaded(needed, available, freed, in_gap, found):
    assert room(needed=needed, available=available, freed=freed, in_gap=in_gap) is found


@given(st.integers(0, 2**40), st.none() | st.integers(0, 2**40), st.none() | st.integers(0, 2**40))
def test_no_gap_unless_asked_for_and_none_for_nothing(needed, available, freed):
    assert room(needed=needed, available=available, freed=freed, in_gap=False) is not Room.IN_GAP
    if room(needed=needed, available=available, freed=freed, in_gap=True) is Room.IN_GAP:
        assert available < needed <= available + freed


def test_memory_is_what_was_measured_or_reckoned_from_the_size():
    assert memory_needed(10**9, measured=5) == 5
    assert memory_held(10**9, measured=100) == 70 and memory_held(10**9, measured=None) == 10**9
    # Peaks beside the process, as measured: see the function.
    for size, peak in ((3.2e6, 14e6), (31.6e6, 54e6), (105e6, 156e6)):
        assert peak <= memory_needed(int(size), measured=None) <= 2 * peak
