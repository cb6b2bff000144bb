"""The solver process: whatever becomes of it, nobody waits for it longer than its deadline, and the next one works."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgeward.hub.planner import Planner, PlannerSettings, Worker, WorkerFailed
from edgeward.hub.worker import MARGIN, allowance

WORK = "tests.unit.hub.worker_work"


def played(work: str, play: Callable[[Worker], Awaitable[Any]], *, idle: float = 60.0, deadline: float = 30.0) -> Any:
    async def run() -> Any:
        worker = Worker(f"{WORK}:{work}", idle=idle, deadline=deadline)
        try:
            return await play(worker)
        finally:
            await worker.close()

    return asyncio.run(run())


async def gone(pid: int) -> None:
    """Until there is no such process; the caller's time limit is the test's."""
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        await asyncio.sleep(0.01)


def test_one_process_answers_one_question_after_the_other() -> None:
    async def play(worker: Worker) -> list[tuple[int, int]]:
        return [await worker.ask(value) for value in (1, 2, 3)]

    answers = played("pid_and_double", play)
    assert [doubled for _, doubled in answers] == [2, 4, 6] and len({pid for pid, _ in answers}) == 1
    assert answers[0][0] != os.getpid()


def test_what_the_work_prints_is_no_answer() -> None:
    assert played("double", lambda worker: worker.ask(4)) == 8


def test_it_is_gone_when_idle_and_comes_back_when_asked() -> None:
    async def play(worker: Worker) -> tuple[int, int]:
        first, _ = await worker.ask(1)
        await gone(first)
        assert worker.pid is None
        second, _ = await worker.ask(1)
        return first, second

    first, second = played("pid_and_double", play, idle=0.01)
    assert first != second


def test_it_ends_with_whoever_asked_even_in_the_middle_of_its_work(tmp_path: Path) -> None:
    """Killed, an operator closes nothing; the pipe's end is all that tells its worker."""
    told = tmp_path / "pid"

    async def play(worker: Worker) -> None:
        asking = asyncio.create_task(worker.ask(str(told)))
        while not told.exists():
            await asyncio.sleep(0.01)
        assert worker._process is not None and worker._process.stdin is not None
        worker._process.stdin.close()
        with pytest.raises(WorkerFailed) as failed:
            await asking
        assert "exit status 0" in str(failed.value)
        await gone(int(told.read_text()))

    played("hang_and_tell", play)


def test_killed_it_is_told_and_the_next_question_starts_another(tmp_path: Path) -> None:
    told = tmp_path / "pid"

    async def play(worker: Worker) -> int:
        for _ in range(2):
            told.unlink(missing_ok=True)
            asking = asyncio.create_task(worker.ask(str(told)))
            while not told.exists():
                await asyncio.sleep(0.01)
            os.kill(int(told.read_text()), signal.SIGKILL)
            with pytest.raises(WorkerFailed) as failed:
                await asking
            assert failed.value.kind == "Crashed" and "signal 9" in str(failed.value)
        return worker.starts

    assert played("hang_and_tell", play) == 2


@pytest.mark.parametrize(
    ("work", "kind", "says"),
    [
        ("fail", "Refused", "ValueError: not with 1"),
        ("exhaust", "Refused", "out of memory"),
        ("crash", "Crashed", "signal 9"),
        ("leave", "Crashed", "exit status 3"),
        ("garble", "Crashed", ""),
        ("nowhere", "Crashed", "exit status 1"),
    ],
)
def test_every_failure_is_told_by_its_kind(work: str, kind: str, says: str) -> None:
    async def play(worker: Worker) -> WorkerFailed:
        with pytest.raises(WorkerFailed) as failed:
            await worker.ask(1)
        return failed.value

    error = played(work, play)
    assert error.kind == kind and says in str(error)


def test_one_that_hangs_is_killed_at_the_deadline_and_the_next_one_answers() -> None:
    async def play(worker: Worker) -> int:
        with pytest.raises(WorkerFailed) as failed:
            await worker.ask(1)
        assert failed.value.kind == "Hung"
        worker._deadline = 30.0
        return int(await worker.ask(2))

    assert played("hang", play, deadline=0.5) == 4


def test_it_loads_neither_kopf_nor_a_client_of_a_cluster() -> None:
    """It would cost a hundred megabytes beside the operator's own."""
    loaded = set(played("modules", lambda worker: worker.ask(0)))
    assert not loaded & {"kopf", "kubernetes", "aiohttp", "requests", "prometheus_client"}


@pytest.mark.parametrize(
    ("most", "used", "cached", "left"),
    [("400000000", "100000000", "50000000", 350_000_000 - MARGIN), ("1000", "1000", "0", 0), ("max", "5", "0", None)],
)
def test_it_may_use_what_the_container_has_left(
    tmp_path: Path, most: str, used: str, cached: str, left: int | None
) -> None:
    for name, text in (("memory.max", most), ("memory.current", used), ("memory.stat", f"anon 1\nfile {cached}\n")):
        (tmp_path / name).write_text(text + "\n")
    assert allowance(tmp_path) == left


def test_without_a_cgroup_it_may_use_what_it_likes(tmp_path: Path) -> None:
    assert allowance(tmp_path) is None


# When it is asked -------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A worker whose answers a test gives."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def ask(self, *arguments: Any) -> Any:
        self.asked.append(arguments)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        return


def planning(play: Callable[[Planner, Slow, Clock, list[int]], Awaitable[None]]) -> None:
    async def run() -> None:
        clock, worker, solved = Clock(), Slow(), list[int]()
        planner = Planner(
            PlannerSettings(every=300, retry=5, longest_retry=20), solved=lambda: solved.append(1), clock=clock
        )
        planner.worker = worker  # type: ignore[assignment]
        try:
            await play(planner, worker, clock, solved)
        finally:
            await planner.close()

    asyncio.run(run())


async def rest() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_solve_at_a_time_and_the_newest_fleet_wins() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        for shape in (1, 2, 3):
            assert planner.offer(shape, f"fleet {shape}")
            await rest()
        assert worker.asked == [("fleet 1",)]
        worker.answers.put_nowait("plan 1")
        await rest()
        assert worker.asked == [("fleet 1",), ("fleet 3",)] and planner.solution == "plan 1" and solved == [1]
        worker.answers.put_nowait("plan 3")
        await rest()
        assert (planner.solution, planner.busy, planner.solved) == ("plan 3", False, 2)

    planning(play)


def test_the_same_fleet_is_solved_again_only_after_a_while() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait("plan")
        assert planner.offer(1, "fleet")
        await rest()
        clock.now += 299
        assert not planner.offer(1, "fleet with other live figures")
        clock.now += 2
        assert planner.offer(1, "fleet with other live figures")
        await rest()
        assert len(worker.asked) == 2

    planning(play)


def test_after_a_failure_it_waits_longer_each_time_and_keeps_what_it_had() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait("plan")
        planner.offer(1, "fleet")
        await rest()
        for delay in (5, 10, 20, 20):
            worker.answers.put_nowait(WorkerFailed("Crashed", "ended in the middle of its work (signal 9)"))
            assert planner.offer(delay, "fleet") or planner.offer(1, "fleet")
            await rest()
            assert planner.solution == "plan" and "signal 9" in planner.problem
            clock.now += delay - 1
            assert not planner.offer(99, "fleet")
            clock.now += 1
        worker.answers.put_nowait("another")
        assert planner.offer(1, "fleet"), "what failed is tried again though nothing has changed"
        await rest()
        assert (planner.solution, planner.problem) == ("another", "") and planner.failures == {"Crashed": 4}

    planning(play)
