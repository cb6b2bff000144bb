"""Keeps the latest live figures in memory. They are never published: the decision that used them says their age."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from edgeward.fleet.model import Live

from .source import Source

log = logging.getLogger(__name__)


class Poller:
    """Reads the first of `sources` that has something to say, every `interval` seconds.

    A node that is missing from a reading keeps its last samples: each carries its own time and loses weight by age,
    which says more than a hole would.
    """

    def __init__(self, *, sources: Sequence[Source], interval: float, changed: Callable[[], None]) -> None:
        self._sources = sources
        self._interval = interval
        self._changed = changed
        self._live: dict[str, Live] = {}
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
            reading = await source.read()
            if reading.live:
                for node, live in reading.live.items():
                    self._live[node] = latest(self._live.get(node, Live()), live)
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


def latest(known: Live, read: Live) -> Live:
    """What was read, and where it says nothing, what was known."""
    return Live(cpu=read.cpu or known.cpu, memory=read.memory or known.memory, distrust=read.distrust)
