"""Asks the hub's Prometheus what the gates want to know, in the background: a plan never waits for an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from edgeward.fleet.model import Answer
from edgeward.rollout.model import Question

from .gate import Answered


class Asks(Protocol):
    def ask(self, query: str, *, since: float, now: float) -> Awaitable[Answered]: ...


class Asker:
    """Keeps the latest answer to each question in memory, as live figures are kept: whoever leads next asks anew.

    A question is asked when its answer is due, and then once an interval for as long as it is wanted.
    """

    def __init__(
        self,
        prometheus: Asks | None,
        *,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
        at_once: int = 4,
    ) -> None:
        """prometheus: None where none is configured. changed: called when there is an answer."""
        self._prometheus = prometheus
        self._changed = changed
        self._clock = clock
        self._wanted: Mapping[str, Question] = {}
        self._answers: dict[str, Answer] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._room = asyncio.Semaphore(at_once)

    @property
    def answers(self) -> Mapping[str, Answer]:
        return self._answers

    def want(self, questions: Iterable[Question]) -> None:
        """These, and no others any more. Must be called in the event loop."""
        self._wanted = {question.key: question for question in questions}
        for key in self._answers.keys() - self._wanted.keys():
            del self._answers[key]
        self._ask_due()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._asking.values():
            task.cancel()

    def _ask_due(self) -> None:
        now = self._clock()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waits = []
        for key, question in self._wanted.items():
            if key in self._asking:
                continue
            moment = self._moment(question, self._answers.get(key))
            if moment <= now:
                self._asking[key] = asyncio.get_running_loop().create_task(self._ask(question))
            else:
                waits.append(moment - now)
        if waits:
            self._timer = asyncio.get_running_loop().call_later(min(waits), self._ask_due)

    @staticmethod
    def _moment(question: Question, known: Answer | None) -> float:
        """When it is to be asked next."""
        if known is None or known.at < question.due:
            return question.due
        return known.at + question.interval

    async def _ask(self, question: Question) -> None:
        try:
            async with self._room:
                at = self._clock()
                said = await self._answer(question, at)
            if question.key in self._wanted:
                self._answers[question.key] = Answer(
                    at=at, value=said.value, samples=said.samples, error=said.error[:512]
                )
                self._changed()
        finally:
            del self._asking[question.key]
        self._ask_due()

    async def _answer(self, question: Question, at: float) -> Answered:
        if self._prometheus is None:
            return Answered(error="the operator knows no Prometheus: set metrics.prometheusUrl, or evaluateAt: Site")
        return await self._prometheus.ask(question.query, since=question.since, now=at)
