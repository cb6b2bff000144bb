"""Whom the agent asks what it serves, and how often: often while something is under way, seldom once it is settled."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeward.cluster.cache import Cache
from edgeward.cluster.resources import ASSIGNMENTS, NODES, PODS, Object
from edgeward.fleet.names import LABEL_ASSIGNMENT

from .report import has_ended, is_lost, is_ready
from .scrape import RuntimeScraper
from .settings import AgentSettings
from .watches import Watches

log = logging.getLogger(__name__)
BYTES = ("received", "shared")
MOVES = 5.0
"""seconds between two reports of nothing but bytes, while they come"""


@dataclass(slots=True)
class Looked:
    """What the runtimes of one Assignment last said, and when they are asked again."""

    answers: dict[str, Object] = field(default_factory=dict)
    next: float = 0.0
    moved: dict[str, int] = field(default_factory=dict)
    moved_at: float = 0.0
    """the bytes that were last told of, and when"""
    settled: bool = False
    """whether the last look found all done: what comes after is looked at often at first"""
    soon: bool = False
    pause: float = 0.0
    """seconds until the next look; grows while there is nothing new, so that what never answers costs little"""


class Runtimes:
    def __init__(
        self,
        *,
        cache: Cache,
        settings: AgentSettings,
        news: Callable[[str], None],
        clock: Callable[[], float],
        watches: Watches,
        judged: Callable[[Object, Sequence[Object], Mapping[str, Object], bool], float | None] = lambda *_: None,
    ) -> None:
        """news: told of an Assignment whose runtimes said something new. watches, judged: told of every look (the
        Assignment, all its pods, the answers by uid); judged, and whether it is to come to a verdict at this one, says
        when it wants the next one."""
        self._cache = cache
        self._settings = settings
        self._news = news
        self._clock = clock
        self._watches = watches
        self._judged = judged
        self._scraper = RuntimeScraper(timeout=settings.scrape_timeout)
        self._looked: dict[str, Looked] = {}

    async def close(self) -> None:
        await self._scraper.close()

    def of(self, name: str) -> Looked:
        return self._looked.setdefault(name, Looked())

    def answers(self, name: str) -> dict[str, Object]:
        """What the pods of an Assignment last said, by uid."""
        looked = self._looked.get(name)
        return looked.answers if looked else {}

    def forget(self, name: str) -> None:
        self._looked.pop(name, None)
        self._watches.forget(name)

    def look_soon(self, name: str) -> None:
        """They have something new to say from now on; a settled one is asked seldom."""
        looked = self._looked.get(name)
        if looked is not None:
            looked.next, looked.soon = 0.0, True

    async def watch(self) -> None:
        """Ask the runtimes: often while something is under way, seldom once it is settled."""
        asked: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                now = self._clock()
                asked = {name: task for name, task in asked.items() if not task.done()}
                for raw in self._cache[ASSIGNMENTS].all():
                    name = raw["metadata"]["name"]
                    # A task each: pods of a site that is cut off take seconds to say nothing.
                    if name not in asked and (self.of(name).next <= now or self._watches.new(raw)):
                        asked[name] = group.create_task(self._ask(raw))
                await asyncio.sleep(0.5)

    async def _ask(self, raw: Object) -> None:
        try:
            await self.ask(raw)
        except Exception:  # the loop must outlive any one object
            name = raw["metadata"]["name"]
            log.error("assignment %s: a look at its runtimes failed", name, exc_info=True)
            self.of(name).next = self._clock() + self._settings.settled_poll

    async def ask(self, raw: Object) -> None:
        name = raw["metadata"]["name"]
        looked = self.of(name)
        looked.soon = False
        every = self._cache[PODS].labelled(LABEL_ASSIGNMENT, name)
        pods = [pod for pod in every if "deletionTimestamp" not in pod["metadata"] and not has_ended(pod)]
        answers = await self._scraper.ask([pod for pod in pods if self._can_answer(pod)])
        # While the hub watches, the site judges by what it reports: then both see the same, and the hub knows why.
        reports = self._watches.look(raw, every, answers)
        asked_for = self._judged(raw, every, answers, reports) or 0.0
        # A runtime that does not answer this once keeps its last word; the pod's own Ready says whether it lives.
        alive = {pod["metadata"]["uid"] for pod in pods}
        answers = {**{uid: said for uid, said in looked.answers.items() if uid in alive}, **answers}
        settled = _settled(raw, pods, answers)
        moved = _moved(answers)
        waited = settled or self._clock() - looked.moved_at >= MOVES
        news = _said(answers) != _said(looked.answers) or (waited and moved != looked.moved)
        longest, shortest = self._settings.settled_poll, self._settings.unsettled_poll
        begins = news or looked.settled
        looked.pause = longest if settled else shortest if begins else min(max(looked.pause * 1.5, shortest), longest)
        looked.settled = settled
        looked.next = min(self._clock() + looked.pause, self._watches.due(name) or math.inf)
        if self._clock() < asked_for:  # one that has passed waits for something else
            looked.next = min(looked.next, asked_for)
        if looked.soon:  # told something new while this look was under way
            looked.next = 0.0
        looked.answers = answers
        if news:
            looked.moved, looked.moved_at = moved, self._clock()
            self._news(name)

    def _can_answer(self, pod: Object) -> bool:
        node = self._cache[NODES].get(str(pod.get("spec", {}).get("nodeName", "")))
        return node is None or not is_lost(node)


def _said(answers: Mapping[str, Object]) -> dict[str, Object]:
    """All but the counters, which change with every request, and the bytes that come: that is no news."""
    left_out = ("counters", *BYTES)
    return {
        uid: {
            **answer,
            "models": [
                {key: value for key, value in model.items() if key not in left_out} for model in answer["models"]
            ],
        }
        for uid, answer in answers.items()
    }


def _moved(answers: Mapping[str, Object]) -> dict[str, int]:
    counts = {uid: sum(model.get(one, 0) for model in said["models"] for one in BYTES) for uid, said in answers.items()}
    return {uid: count for uid, count in counts.items() if count}


def _settled(raw: Object, pods: list[Object], answers: Mapping[str, Object]) -> bool:
    """Whether every pod is ready and serves just what the Assignment names, or has refused it for good."""
    wanted = {model["digest"] for model in raw["spec"].get("models") or [] if model.get("role") != "Previous"}
    if len(pods) != sum(node["replicas"] + node.get("leaving", 0) for node in raw["spec"].get("nodes") or []):
        return False
    for pod in pods:
        answer = answers.get(pod["metadata"]["uid"])
        if answer is None:
            return False
        serving = {model["digest"] for model in answer["models"] if model["serving"]}
        refused = {model["digest"] for model in answer["models"] if model.get("refused")}
        # What waits on the disk for its moment has nothing to say before.
        staged = {model["digest"] for model in answer["models"] if model.get("state") == "Staged"}
        if not wanted <= serving | refused | staged or not (is_ready(pod) or refused):
            return False
        # A canary that was taken back is told of until it has gone.
        if serving - wanted and not refused and not staged:
            return False
    return True
