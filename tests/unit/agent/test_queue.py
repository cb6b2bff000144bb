"""The queue of an agent: no key twice at once, marks merge, failures wait longer and longer."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.agent.queue import KeyQueue


@asynccontextmanager
async def working(queue: KeyQueue, handle, *, workers: int = 3, failed=lambda key, error: None):  # type: ignore[no-untyped-def]
    tasks = [asyncio.create_task(queue.work(handle, failed=failed)) for _ in range(workers)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def idle(queue: KeyQueue) -> None:
    for _ in range(500):
        await asyncio.sleep(0)
        if not len(queue) and not queue._busy:
            return
    raise AssertionError("never idle")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=30))
def test_never_the_same_key_twice_at_once_and_the_last_mark_is_never_lost(story: list[tuple[str, int]]) -> None:
    async def play() -> None:
        queue, busy, done, marked = KeyQueue(), Counter[str](), [], 0
        seen_after: dict[str, int] = {}

        async def handle(key: str) -> None:
            busy[key] += 1
            assert busy[key] == 1
            seen_after[key] = marked
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            busy[key] -= 1
            done.append(key)

        last: dict[str, int] = {}
        async with working(queue, handle):
            for key, pause in story:
                marked += 1
                last[key] = marked
                queue.mark(key)
                for _ in range(pause):
                    await asyncio.sleep(0)
            await idle(queue)
        assert set(done) == {key for key, _ in story}
        assert len(done) <= len(story), "marks merge"
        assert all(seen_after[key] >= number for key, number in last.items()), "worked on after its last mark"

    asyncio.run(play())


def test_marks_before_work_begins_merge_into_one() -> None:
    async def play() -> list[str]:
        queue, done = KeyQueue(), []

        async def handle(key: str) -> None:
            done.append(key)

        for _ in range(5):
            queue.mark("a")
        async with working(queue, handle):
            await idle(queue)
        return done

    assert asyncio.run(play()) == ["a"]


def test_a_failure_is_told_and_tried_again_later_and_later_until_it_is_forgotten() -> None:
    async def play() -> tuple[list[str], list[float]]:
        queue, told, begun = KeyQueue(first_delay=0.05, longest_delay=60.0), [], []
        loop = asyncio.get_running_loop()

        async def handle(key: str) -> None:
            begun.append(loop.time())
            if len(begun) in (1, 2, 3, 5):
                raise ValueError("no")

        async with working(queue, handle, failed=lambda key, error: told.append(f"{key}: {error}")):
            queue.mark("a")
            while len(begun) < 4:
                await asyncio.sleep(0.005)
            queue.mark("a")
            while len(begun) < 6:
                await asyncio.sleep(0.005)
        return told, begun

    told, begun = asyncio.run(asyncio.wait_for(play(), 10))
    waited = [later - sooner for sooner, later in itertools.pairwise(begun)]
    assert told == ["a: no"] * 4
    assert waited[1] > 0.07 and waited[2] > 0.14, "twice as long, less the quarter that spreads retries"
    assert waited[4] < waited[2], "a success ended the story; the next failure starts a new one"


def test_a_failing_key_holds_up_no_other() -> None:
    async def play() -> list[str]:
        queue, done = KeyQueue(first_delay=60), []

        async def handle(key: str) -> None:
            if key == "bad":
                raise ValueError
            done.append(key)

        async with working(queue, handle, workers=1):
            for key in ("bad", "x", "y"):
                queue.mark(key)
            await asyncio.sleep(0.05)
        return done

    assert asyncio.run(play()) == ["x", "y"]


def test_of_two_later_marks_the_earlier_counts() -> None:
    """A back-off of a minute left over from before must not hold up the first retry of a new failure."""

    async def play() -> list[str]:
        queue, done = KeyQueue(), []

        async def handle(key: str) -> None:
            done.append(key)

        async with working(queue, handle):
            queue.mark_later("a", 60)
            queue.mark_later("a", 0.01)
            await asyncio.sleep(0.1)
        return done

    assert asyncio.run(play()) == ["a"]


def test_a_cancelled_worker_leaves_no_key_busy() -> None:
    async def play() -> int:
        queue, started = KeyQueue(), asyncio.Event()

        async def handle(key: str) -> None:
            started.set()
            await asyncio.sleep(60)

        async with working(queue, handle, workers=1):
            queue.mark("a")
            await started.wait()
            queue.mark("a")
        return len(queue)

    assert asyncio.run(play()) == 1, "it waits for the next worker"


def test_what_can_wait_leaves_time_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that rests takes a share of the time that shrinks as each piece of work takes longer."""
    rests: list[float] = []
    sleep, clock = asyncio.sleep, itertools.count(100, 3)

    async def rest(seconds: float) -> None:
        if seconds:
            rests.append(seconds)
        await sleep(0)

    async def play() -> None:
        queue = KeyQueue()

        async def handle(key: str) -> None:
            pass

        queue.mark("a")
        queue.mark("b")
        worker = asyncio.create_task(queue.work(handle, failed=lambda key, error: None, rest=2.0))
        await idle(queue)
        worker.cancel()

    monkeypatch.setattr(asyncio, "sleep", rest)
    monkeypatch.setattr("edgeward.agent.queue.time.monotonic", lambda: float(next(clock)))
    asyncio.run(play())
    assert rests == [6.0, 6.0][: len(rests)] and rests


def test_a_failure_that_comes_with_the_end_does_not_keep_the_worker() -> None:
    """asyncio.gather raises what a child raised and forgets that it was cancelled: an agent whose Lease was lost while a
    write timed out went on for good, without ever being allowed to write."""

    async def play() -> None:
        queue = KeyQueue()

        async def write() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise TimeoutError from None

        async def handle(key: str) -> None:
            await asyncio.gather(write(), write())

        queue.mark("a")
        worker = asyncio.create_task(queue.work(handle, failed=lambda key, error: None))
        for _ in range(5):
            await asyncio.sleep(0)
        worker.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        ended = worker.done()
        worker.cancel()
        assert ended

    asyncio.run(play())
