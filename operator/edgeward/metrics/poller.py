"""Keeps the latest live figures in memory. They are never published: the decision that used them says their age."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from edgeward.fleet.model import Live, Sample
from edgeward.placement.freshness import implausible

from .source import Reading, Source

log = logging.getLogger(__name__)
FROZEN_READINGS, FROZEN_SCRAPES = 5, 4.0
FROZEN = "the very same cpu figure in every reading: taken for frozen"


@dataclass(slots=True)
class Unchanged:
    """A cpu figure that comes again and again, to its last digit, each time as if it had just been measured."""

    value: float
    first_at: float
    last_at: float
    times: int = 1

    def frozen(self, *, scrape_interval: float) -> bool:
        """No rate of a counter is the same to the last digit five times in a row. Zero may be: where nothing runs."""
        lasting = self.last_at - self.first_at >= FROZEN_SCRAPES * scrape_interval
        return self.value != 0 and self.times >= FROZEN_READINGS and lasting


class Poller:
    """Reads the first of `sources` that has something to say, every `interval` seconds.

    A node that is missing from a reading keeps its last samples: each carries its own time and loses weight by age,
    which says more than a hole would. So does a node whose new samples cannot be true; what was wrong with them is kept
    beside the older ones.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        interval: float,
        changed: Callable[[], None],
        nodes: Callable[[], Collection[str]] = tuple,
        scrape_interval: float = 15.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """nodes: the names of those that there are; empty while they are not known yet."""
        self._sources = sources
        self._interval = interval
        self._changed = changed
        self._nodes = nodes
        self._scrape_interval = scrape_interval
        self._clock = clock
        self._live: dict[str, Live] = {}
        self._unchanged: dict[str, Unchanged] = {}
        self.problem = "no live figures have been read yet" if sources else "no source of live figures is configured"
        self.failures = 0

    @property
    def live(self) -> Mapping[str, Live]:
        return self._live

    async def run(self) -> None:
        while self._sources:
            await self.poll()
            await asyncio.sleep(self._interval)

    async def poll(self) -> None:
        problems = []
        for source in self._sources:
            reading = self._of_nodes_here(source, await source.read())
            if reading.live:
                for node, live in reading.live.items():
                    self._live[node] = self._latest(node, live)
                break
            problems.append(reading.problem)
        else:
            self.failures += 1
        problem = "; ".join(problems)
        if problem != self.problem:
            (log.warning if problem else log.info)("live figures: %s", problem or "are read")
        # A source that failed is only worth a word in status when nothing stood in for it.
        self.problem = problem if len(problems) == len(self._sources) else ""
        self._changed()

    def forget(self, keep: set[str]) -> None:
        """Drop nodes that are gone."""
        for node in self._live.keys() - keep:
            del self._live[node]
            self._unchanged.pop(node, None)

    def _of_nodes_here(self, source: Source, reading: Reading) -> Reading:
        here = self._nodes()
        if not here or not reading.live:
            return reading
        live = {node: live for node, live in reading.live.items() if node in here}
        if live:
            return Reading(live=live, problem=reading.problem)
        example = min(reading.live)[:63]
        text = (
            f"{source.name} has figures only of nodes that are not here, such as {example}: which label names the node?"
        )
        return Reading(problem=text)

    def _latest(self, node: str, read: Live) -> Live:
        """What was read, and where it says nothing or nothing that can be true, what was known."""
        known, now = self._live.get(node, Live()), self._clock()
        doubts = [read.distrust] if read.distrust else []

        def newest(what: str, old: Sample | None, new: Sample | None) -> Sample | None:
            if new is None:
                return old
            wrong = implausible(new, now=now, slack=self._scrape_interval)
            if wrong:
                doubts.append(f"{what} is {wrong}")
                return old
            # Of two Prometheis behind one address one may be behind the other.
            return old if old is not None and old.at > new.at else new

        cpu, memory = newest("cpu", known.cpu, read.cpu), newest("memory", known.memory, read.memory)
        if cpu is not None:
            since = self._note(node, cpu)
            if since.frozen(scrape_interval=self._scrape_interval):
                cpu = Sample(value=cpu.value, at=since.first_at)
                doubts.append(FROZEN)
        return Live(cpu=cpu, memory=memory, distrust="; ".join(doubts))

    def _note(self, node: str, cpu: Sample) -> Unchanged:
        before = self._unchanged.get(node)
        if before is None or before.value != cpu.value:
            before = self._unchanged[node] = Unchanged(cpu.value, cpu.at, cpu.at)
        elif cpu.at > before.last_at:
            before.last_at = cpu.at
            before.times += 1
        return before
