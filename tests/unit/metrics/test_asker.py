"""What the gates ask the hub's Prometheus: when, how often, and that nobody waits for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgeward.metrics.asker import Asker
from edgeward.metrics.gate import Answered
from edgeward.rollout.model import Question

NOW = 1000.0


class Prometheus:
    def __init__(self) -> None:
        self.asked: list[tuple[str, float, float]] = []
        self.said = Answered(value=0.5, samples=3)
        self.open = asyncio.Event()
        self.open.set()
        self.at_once = self.most = 0

    async def ask(self, query: str, *, since: float, now: float) -> Answered:
        self.asked.append((query, since, now))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.open.wait()
        self.at_once -= 1
        return self.said


class Desk:
    def __init__(self, prometheus: Prometheus | None) -> None:
        self.now = NOW
        self.news = 0
        self.asker = Asker(prometheus, changed=self._changed, clock=lambda: self.now)

    def _changed(self) -> None:
        self.news += 1

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not done():
                await asyncio.sleep(0)


def question(query: str = "x", *, due: float = NOW, since: float = NOW - 60) -> Question:
    return Question(query=query, since=since, due=due, interval=30.0)


def test_it_is_asked_when_its_answer_is_due_and_again_only_for_the_next_look() -> None:
    async def story() -> None:
        prometheus = Prometheus()
        desk = Desk(prometheus)
        desk.asker.want([question(due=NOW + 5)])
        await asyncio.sleep(0)
        assert prometheus.asked == []
        desk.now = NOW + 5
        desk.asker.want([question(due=NOW + 5)])
        await desk.until(lambda: desk.news == 1)
        assert prometheus.asked == [("x", NOW - 60, NOW + 5)]
        (answer,) = desk.asker.answers.values()
        assert (answer.at, answer.value, answer.samples) == (NOW + 5, 0.5, 3)
        desk.now = NOW + 20
        desk.asker.want([question(due=NOW + 5)])  # the look has not been written yet
        desk.asker.want([question(due=NOW + 35)])
        await asyncio.sleep(0)
        assert len(prometheus.asked) == 1
        desk.now = NOW + 36
        desk.asker.want([question(due=NOW + 35)])
        await desk.until(lambda: desk.news == 2)
        desk.asker.close()

    asyncio.run(story())


def test_a_look_that_waits_for_data_is_asked_for_again_once_an_interval() -> None:
    async def story() -> None:
        prometheus = Prometheus()
        prometheus.said = Answered()
        desk = Desk(prometheus)
        for number in (1, 2, 3):
            desk.asker.want([question(due=NOW)])
            await desk.until(lambda number=number: desk.news == number)  # type: ignore[misc]
            desk.now += 31
        desk.asker.close()

    asyncio.run(story())


def test_one_that_hangs_holds_up_nobody_and_is_not_asked_twice() -> None:
    async def story() -> None:
        prometheus = Prometheus()
        prometheus.open.clear()
        desk = Desk(prometheus)
        questions = [question(f"q{number}") for number in range(9)]
        for _ in range(3):
            desk.asker.want(questions)
            await asyncio.sleep(0.01)
        assert prometheus.most == 4 and len(prometheus.asked) == 4
        prometheus.open.set()
        await desk.until(lambda: len(desk.asker.answers) == 9)
        assert len(prometheus.asked) == 9
        desk.asker.close()

    asyncio.run(story())


def test_what_nobody_wants_to_know_any_more_is_forgotten() -> None:
    async def story() -> None:
        prometheus = Prometheus()
        desk = Desk(prometheus)
        desk.asker.want([question()])
        await desk.until(lambda: desk.news == 1)
        prometheus.open.clear()
        desk.asker.want([question("y")])
        assert not desk.asker.answers
        desk.asker.want([])
        prometheus.open.set()
        await asyncio.sleep(0.01)
        assert not desk.asker.answers
        desk.asker.close()

    asyncio.run(story())


def test_without_a_prometheus_it_says_so() -> None:
    async def story() -> None:
        desk = Desk(None)
        desk.asker.want([question()])
        await desk.until(lambda: desk.news == 1)
        (answer,) = desk.asker.answers.values()
        assert "prometheusUrl" in answer.error
        desk.asker.close()

    asyncio.run(story())
