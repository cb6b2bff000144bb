"""The solver process: whatever becomes of it, nobody waits for it longer than its deadline, and the next one works."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeward.fleet.model import Fleet, Job, Live, Node, Placed, Problem, Resources, Sample
from edgeward.hub.planner import Planner, PlannerSettings, Worker, WorkerFailed, wants
from edgeward.hub.worker import MARGIN, allowance
from edgeward.placement.model import Guidance, TierShare
from edgeward.placement.settings import PlanSettings

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


NODES = tuple(Node(name=f"n{number}", site="s", tier="edge") for number in range(100))
PLAN = PlanSettings(worth_solving=8, guidance_expiry=60)


def fleet_of(*replicas: int, now: float = 1000.0, nodes: tuple[Node, ...] = NODES) -> Fleet:
    """A job each, with so many replicas and none of them placed."""
    jobs = tuple(
        Job("shop", f"j{number}", f"u{number}", replicas=count, model_digest="sha256:1")
        for number, count in enumerate(replicas)
    )
    return Fleet(now=now, nodes=nodes, jobs=jobs)


def planning(play: Callable[[Planner, Slow, Clock, list[int]], Awaitable[None]], **settings: float) -> None:
    async def run() -> None:
        clock, worker, solved = Clock(), Slow(), list[int]()
        limits: dict[str, Any] = {"every": 300, "retry": 5, "longest_retry": 20, "patience": 60, "quiet": 0, **settings}
        planner = Planner(PlannerSettings(**limits), solved=lambda: solved.append(1), clock=clock)
        planner.worker = worker  # type: ignore[assignment]
        try:
            await play(planner, worker, clock, solved)
        finally:
            await planner.close()

    asyncio.run(run())


async def rest() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def ask(planner: Planner, fleet: Fleet) -> bool:
    return await planner.advise(fleet, wants(fleet), PLAN)


ADVICE = Guidance(made_at=1000.0)
DEAD = WorkerFailed("Crashed", "ended in the middle of its work (signal 9)")


def test_few_replicas_are_placed_on_the_spot_and_so_are_small_fleets() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        assert not await ask(planner, fleet_of(1))
        assert not await ask(planner, fleet_of(7))
        assert not await ask(planner, fleet_of(8, nodes=NODES[:10]))
        assert not planner.busy and not worker.asked

    planning(play)


def test_many_new_replicas_wait_for_advice() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        asking = asyncio.create_task(ask(planner, fleet_of(8)))
        await rest()
        assert not asking.done() and planner.advice(1000.0, PLAN) is None
        worker.answers.put_nowait(ADVICE)
        assert await asking and solved == [1]
        assert planner.advice(1001.0, PLAN) == ADVICE

    planning(play)


def test_they_wait_no_longer_than_patience_and_what_comes_later_is_told() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        assert await ask(planner, fleet_of(8)) and planner.busy
        assert planner.advice(1000.0, PLAN) is None
        worker.answers.put_nowait(ADVICE)
        await rest()
        assert solved == [1] and planner.advice(1001.0, PLAN) == ADVICE

    planning(play, patience=0.0)


def test_what_has_waited_for_room_before_is_solved_behind() -> None:
    """Many replicas for which there is no room must not hold up each pass."""

    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait(ADVICE)
        assert await ask(planner, fleet_of(50))
        room = fleet_of(50, nodes=NODES[:99])
        assert not await ask(planner, room) and planner.busy, "another fleet is solved, and nobody waits for it"
        assert not await ask(planner, fleet_of(50, 1)), "one more is not many"
        assert await asyncio.wait_for(_answered(planner, worker, fleet_of(50, 1, 8)), 60), "eight more are"

    planning(play)


async def _answered(planner: Planner, worker: Slow, fleet: Fleet) -> bool:
    asking = asyncio.create_task(ask(planner, fleet))
    for _ in range(3):
        worker.answers.put_nowait(ADVICE)
    return await asking


def test_one_solve_at_a_time_and_the_newest_fleet_wins() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        fleets = [fleet_of(8), fleet_of(8, 8), fleet_of(8, 8, 8)]
        for fleet in fleets:
            await ask(planner, fleet)
        assert worker.asked == [(fleets[0], PLAN)]
        for _ in fleets:
            worker.answers.put_nowait(ADVICE)
        await rest()
        assert worker.asked == [(fleets[0], PLAN), (fleets[2], PLAN)]
        assert (planner.busy, planner.solved) == (False, 2)

    planning(play, patience=0.0)


def test_the_same_fleet_is_solved_again_only_after_a_while() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        for number, (wait, asked) in enumerate([(0, 1), (299, 1), (2, 2)]):
            clock.now += wait
            worker.answers.put_nowait(ADVICE)
            # Samples and the clock go on all the time; they make no other fleet.
            await ask(planner, fleet_of(8, now=1000.0 + number))
            await rest()
            assert len(worker.asked) == asked

    planning(play)


TIERS = replace(ADVICE, tiers=(TierShare(3, 8, 8, 4.0),))
BOUNDED = replace(ADVICE, tiers=(TierShare(3, 8, 8, 4.0, 5.0),))


def test_advice_is_there_before_its_bound() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait(TIERS)
        assert await ask(planner, fleet_of(8))
        await rest()
        assert planner.advice(1000.0, PLAN) == TIERS and not planner.busy
        assert worker.asked[1:] == [(fleet_of(8), PLAN, TIERS)]
        worker.answers.put_nowait(BOUNDED)
        await rest()
        known = planner.advice(1000.0, PLAN)
        assert known == BOUNDED and known.share_of_bound == 0.8
        assert (planner.solved, solved) == (1, [1, 1]), "two passes: for the places, and for the status"

    planning(play)


def test_what_is_to_be_solved_does_not_wait_for_a_bound() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait(TIERS)
        await ask(planner, fleet_of(8))
        await rest()
        asking = asyncio.create_task(ask(planner, fleet_of(8, 8)))
        await rest()
        assert worker.asked[-1] == (fleet_of(8, 8), PLAN)
        worker.answers.put_nowait(ADVICE)
        assert await asking and planner.advice(1000.0, PLAN) == ADVICE

    planning(play)


def test_a_bound_is_asked_for_only_when_it_is_quiet() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait(TIERS)
        await ask(planner, fleet_of(8))
        await rest()
        worker.answers.put_nowait(ADVICE)
        assert await ask(planner, fleet_of(8, 8)) and len(worker.asked) == 2, "solves alone"

    planning(play, quiet=3600.0)


def test_without_a_bound_the_advice_is_as_good_as_it_was() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait(TIERS)
        await ask(planner, fleet_of(8))
        worker.answers.put_nowait(DEAD)
        await rest()
        assert planner.advice(1000.0, PLAN) == TIERS and not planner.problem and not planner.failures

    planning(play)


def test_advice_is_kept_for_as_long_as_a_plan_would_follow_it() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait(ADVICE)
        await ask(planner, fleet_of(8))
        assert planner.advice(1060.0, PLAN) == ADVICE and planner.advice(1061.0, PLAN) is None

    planning(play)


def test_after_a_failure_it_waits_longer_each_time_says_why_and_keeps_what_it_had() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait(ADVICE)
        await ask(planner, fleet_of(8))
        for number, delay in enumerate((5, 10, 20, 20)):
            worker.answers.put_nowait(DEAD)
            await ask(planner, fleet_of(8, *[8] * (number + 1)))
            await rest()
            told = planner.advice(1000.0, PLAN)
            assert told is not None and told == replace(ADVICE, problem=planner.problem)
            assert "signal 9" in told.problem and not any(mark in told.problem for mark in ("5 s", "10 s", "20 s"))
            clock.now += delay - 1
            assert not await ask(planner, fleet_of(99)) and not planner.busy
            clock.now += 1
        later = planner.advice(2000.0, PLAN)
        assert later == Guidance(made_at=2000.0, problem=planner.problem), "there is nothing else left to say"
        worker.answers.put_nowait(ADVICE)
        await ask(planner, fleet_of(8, 8, 8, 8, 8))
        await rest()
        assert (planner.advice(1000.0, PLAN), planner.problem) == (ADVICE, "")
        assert planner.failures == {"Crashed": 4}

    planning(play)


def test_an_answer_of_another_kind_is_no_advice() -> None:
    async def play(planner: Planner, worker: Slow, clock: Clock, solved: list[int]) -> None:
        worker.answers.put_nowait("a plan")
        await ask(planner, fleet_of(8))
        assert planner.failures == {"Refused": 1} and planner.latest is None and not solved

    planning(play)


def test_what_wants_a_place() -> None:
    placed = (Placed(node="n1", site="s", replicas=2),)
    lost = (*placed, Placed(node="n2", site="s", replicas=2, lost_since=700.0))
    jobs = (
        Job("shop", "half", "1", replicas=3, model_digest="sha256:1", placed=placed),
        Job("shop", "whole", "2", replicas=2, model_digest="sha256:1", placed=placed),
        Job("shop", "fewer", "3", replicas=1, model_digest="sha256:1", placed=placed),
        Job("shop", "lost", "6", replicas=4, model_digest="sha256:1", placed=lost, lost_after=300),
        Job("shop", "away", "7", replicas=4, model_digest="sha256:1", placed=lost, lost_after=301),
        Job("shop", "no-model-yet", "4", replicas=3),
        Job("shop", "broken", "5", replicas=3, model_digest="sha256:1", problem=Problem("InvalidSpec", "no")),
    )
    assert wants(Fleet(now=1000.0, nodes=NODES, jobs=jobs)).jobs == {"shop/half": 1, "shop/lost": 2}


def test_live_figures_do_not_make_another_fleet_and_all_else_does() -> None:
    fleet = fleet_of(8)
    same = replace(
        fleet,
        now=2000.0,
        nodes=(replace(NODES[0], live=Live(cpu=Sample(1.0, 2000.0))), *NODES[1:]),
        metrics_problem="x",
    )
    assert wants(same).shape == wants(fleet).shape
    for other in (
        fleet_of(9),
        fleet_of(8, nodes=NODES[1:]),
        fleet_of(8, nodes=(replace(NODES[0], ready=False), *NODES[1:])),
        fleet_of(8, nodes=(replace(NODES[0], foreign=Resources(cpu=5)), *NODES[1:])),
    ):
        assert wants(other).shape != wants(fleet).shape
