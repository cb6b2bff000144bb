from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.call import Call
from edgeward_runtime.tensors import TensorSpec
from edgeward_runtime.waiting import AGEING_NS, Waiting


class Fake:
    def __init__(self, rows: int, fixed: bool) -> None:
        self.batch_rows, self.batch_fixed = rows, fixed
        self.inputs = {"x": TensorSpec("x", "FP32", (-1, -1))}


def model(rows: int = 8, *, fixed: bool = True) -> Any:
    return Fake(rows, fixed)


def call(at: Any, *, came: int = 0, width: int = 2, rows: int = 1, **more: Any) -> Call:
    made = Call(at)
    made.queued_ns, made.rows = came, rows
    made.feeds = {"x": np.zeros((rows, width), np.float32)}
    for key, value in more.items():
        setattr(made, key, value)
    return made


def order(waiting: Waiting, now: int = 10) -> list[list[int]]:
    found = []
    while len(waiting):
        calls, _dropped = waiting.take(now)
        found.append([one.queued_ns for one in calls])
    return found


def test_shapes_of_a_dynamic_model_do_not_mix() -> None:
    one, waiting = model(fixed=False), Waiting()
    for came, width in ((1, 2), (2, 3), (3, 2), (4, 3)):
        waiting.add(call(one, came=came, width=width))
    assert order(waiting) == [[1, 3], [2, 4]]


def test_inputs_with_different_rows_run_alone() -> None:
    one, waiting = model(), Waiting()
    odd = call(one, came=1, rows=2)
    odd.feeds["x"] = np.zeros((3, 2), np.float32)
    waiting.add(odd)
    waiting.add(call(one, came=2))
    assert order(waiting) == [[1], [2]]


def test_more_urgent_first_but_age_counts() -> None:
    one, waiting = model(1), Waiting()
    waiting.add(call(one, came=5, priority=3))
    waiting.add(call(one, came=6, priority=1))
    waiting.add(call(one, came=7, priority=2))
    # Two seconds after the least urgent came, a first class one does not pass it any more.
    waiting.add(call(one, came=6 + 2 * AGEING_NS, priority=1))
    assert order(waiting) == [[6], [7], [5], [6 + 2 * AGEING_NS]]


def test_expired_and_gone_never_run_and_the_rest_does() -> None:
    one, waiting = model(), Waiting()
    expired, due = call(one, came=1, deadline_ns=10), call(one, came=2, deadline_ns=11)
    gone = call(one, came=3, client=SimpleNamespace(gone=True))
    for each in (expired, due, gone):
        waiting.add(each)
    calls, dropped = waiting.take(10)
    assert calls == [due] and dropped == [expired, gone] and len(waiting) == 0
    assert [each.dropped for each in (expired, due, gone)] == ["expired", "", "gone"]
    assert waiting.take(2**60) == ([], []), "a run is not dropped later"


def test_only_dropped_ones() -> None:
    one, waiting = model(), Waiting()
    waiting.add(call(one, deadline_ns=5))
    waiting.add(call(one, client=SimpleNamespace(gone=True)))
    calls, dropped = waiting.take(6)
    assert not calls and len(dropped) == 2 and len(waiting) == 0


def test_deadlines_of_calls_that_ran_are_forgotten() -> None:
    one, waiting = model(1), Waiting()
    waiting.add(call(one, came=2**50))
    for came in range(1, 200):
        waiting.add(call(one, came=came, deadline_ns=2**60))
        waiting.take(came)
    assert len(waiting) == 1 and len(waiting._deadlines) < 40


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(1, 9), st.sampled_from([0, 50, 10**6])), max_size=40
    ),
    st.integers(1, 9),
)
def test_each_call_comes_out_once_and_no_batch_is_too_large(drawn: list[tuple[int, int, int, int]], most: int) -> None:
    models, waiting = [model(most), model(1), model(most, fixed=False)], Waiting()
    calls = [
        call(models[kind], came=came, rows=rows, width=rows, priority=priority, deadline_ns=deadline)
        for came, (kind, priority, rows, deadline) in enumerate(drawn)
    ]
    out: list[Call] = []
    for number, each in enumerate(calls):
        waiting.add(each)
        if number % 3 == 0:
            taken, dropped = waiting.take(60)
            out += taken + dropped
    while len(waiting):
        taken, dropped = waiting.take(60)
        out += taken + dropped
        assert taken or dropped
        if len(taken) > 1:
            assert sum(each.rows for each in taken) <= taken[0].model.batch_rows
            assert len({(id(each.model), each.feeds["x"].shape[1:]) for each in taken}) <= (
                1 if not taken[0].model.batch_fixed else len(taken)
            )
            assert len({id(each.model) for each in taken}) == 1
    assert sorted(map(id, out)) == sorted(map(id, calls))
    assert all((each.dropped == "expired") == (each.deadline_ns == 50) for each in calls)
