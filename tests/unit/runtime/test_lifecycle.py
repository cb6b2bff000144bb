from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.errors import Refusal
from edgeward_runtime.lifecycle import Progress, State, backoff, due, entered, failed

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
