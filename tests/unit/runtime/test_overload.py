from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeward_runtime.call import Call
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.overload import Backlog, measured

MS = 1_000_000


def model(row_ms: float, *, fixed: bool = False) -> Any:
    return SimpleNamespace(row_ns=row_ms * MS, alone_ns=0.0, inline_rows=7, batch_fixed=fixed, chain=None)


def call(*, rows: int = 1, row_ms: float = 10, priority: int = 1, **more: Any) -> Call:
    made = Call(model(row_ms))
    made.rows, made.priority = rows, priority
    made.feeds = {"x": np.zeros((rows, 4), np.float32)}
    for key, value in more.items():
        setattr(made, key, value)
    return made


def refused(backlog: Backlog, one: Call, now: int = 0) -> ProtocolError:
    before = (backlog.calls, backlog.bytes, backlog.wait_ns(5))
    with pytest.raises(ProtocolError) as caught:
        backlog.enter(one, now)
    assert caught.value.status == 503 and (backlog.calls, backlog.bytes, backlog.wait_ns(5)) == before
    return caught.value


def test_the_wait_is_what_rows_took_and_counts_the_more_urgent_only() -> None:
    backlog = Backlog(limit=100, limit_bytes=2**40)
    inside = [call(rows=3), call(priority=2), call(rows=2, priority=4)]
    for one in inside:
        backlog.enter(one, 0)
    assert [backlog.wait_ns(priority) // MS for priority in (1, 2, 3, 4, 5)] == [30, 40, 40, 60, 60]
    for one in inside:
        one.model.row_ns = 1  # learnt anew meanwhile: what was counted in is counted out
        backlog.leave(one)
    assert backlog.wait_ns(5) == 0 == backlog.calls == backlog.bytes


def test_retry_after_is_the_time_the_queue_needs() -> None:
    backlog = Backlog(limit=2, limit_bytes=2**40)
    backlog.enter(call(row_ms=1200), 0)
    backlog.enter(call(row_ms=1900), 0)
    assert refused(backlog, call()).extra == b"retry-after: 4\r\n"
    long = Backlog(limit=1, limit_bytes=2**40)
    long.enter(call(row_ms=1e6), 0)
    assert refused(long, call()).extra == b"retry-after: 60\r\n"


def test_a_wait_beyond_the_deadline_is_refused_at_once() -> None:
    backlog = Backlog(limit=100, limit_bytes=2**40)
    for _ in range(5):
        backlog.enter(call(), 0)
    late = call(deadline_ns=49 * MS)
    assert "about 50 ms, the request's timeout leaves 49 ms" in refused(backlog, late).text
    assert late.dropped == "refused"
    backlog.enter(call(deadline_ns=51 * MS), 0)
    # An idle server never refuses: what a row takes is only learnt by running one.
    Backlog(limit=1, limit_bytes=1).enter(call(row_ms=1e9, deadline_ns=1), 0)


def test_less_urgent_ones_leave_room() -> None:
    backlog = Backlog(limit=10, limit_bytes=2**40)
    for _ in range(8):
        backlog.enter(call(priority=3), 0)
    assert "full (8 requests)" in refused(backlog, call(priority=3)).text
    backlog.enter(call(priority=2), 0)
    refused(backlog, call(priority=2))
    backlog.enter(call(), 0)
    refused(backlog, call())


def test_waiting_tensors_are_bounded_but_one_always_fits() -> None:
    backlog = Backlog(limit=100, limit_bytes=100)
    backlog.enter(call(rows=50), 0)
    assert "memory" in refused(backlog, call()).text
    words = call()
    words.feeds = {"x": np.array(["a"] * 10, dtype=object)}
    roomy = Backlog(limit=100, limit_bytes=2**40)
    roomy.enter(words, 0)
    assert roomy.bytes == 720, "strings are counted with what Python makes of them"


def test_a_row_is_learnt_from_runs() -> None:
    one, other = call(row_ms=0), call(rows=3)
    one.started_ns, one.finished_ns = 0, 8 * MS
    other.model = one.model
    measured([one, other])
    assert one.model.row_ns == 2 * MS
    one.finished_ns = 40 * MS
    measured([one, other])
    assert one.model.row_ns == 3 * MS
    assert one.model.inline_rows == 7, "only where a row's time does not follow from other dimensions"


def test_what_takes_long_after_all_leaves_the_event_loop_and_comes_back() -> None:
    one = call()
    one.model = model(0, fixed=True)

    def took(ns: int) -> int:
        one.started_ns, one.finished_ns = 0, ns
        measured([one])
        return one.model.inline_rows

    assert took(10_000) == 10
    assert took(10 * MS) == 0
    assert [took(10_000) for _ in range(60)][-1] > 5
    other = call(rows=3)
    other.model = one.model
    before = one.model.inline_rows
    one.finished_ns = 800 * MS
    measured([one, other])
    assert one.model.inline_rows == before, "a batch's rows say nothing of one that runs alone"
