"""Asks every runtime of this cluster for its counters, in turns. What comes of it stays in memory: the hub of the same
process reads it, nothing is published per sample, and a new leader begins anew."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from edgeward.cluster.cache import Cache
from edgeward.cluster.resources import ASSIGNMENTS, NODES, PODS, Object
from edgeward.fleet.names import LABEL_ASSIGNMENT
from edgeward.fleet.traffic import Measured

from .exposition import Page
from .report import has_ended, is_lost
from .scrape import RuntimeScraper
from .windows import Key, Windows

log = logging.getLogger(__name__)


class TrafficReader:
    def __init__(
        self,
        *,
        cache: Cache,
        interval: float = 15.0,
        window: float = 60.0,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """interval: seconds between two turns. window: seconds that rates are over. timeout: of one runtime's answer."""
        self._cache = cache
        self._interval = interval
        self._clock = clock
        self._windows = Windows(window=window)
        self._scraper = RuntimeScraper(timeout=timeout)
        self.measured: Sequence[Measured] = ()
        """as of the last turn"""
        self.failed = 0

    async def run(self) -> None:
        """Until cancelled. The cache must have been seeded."""
        while True:
            begun = time.monotonic()
            try:
                await self.turn()
            except Exception:  # one odd object must not end the measuring
                self.failed += 1
                log.exception("a turn of reading the runtimes' counters failed")
            await asyncio.sleep(max(1.0, self._interval - (time.monotonic() - begun)))

    async def turn(self) -> None:
        """Ask all once."""
        pods = self._pods()
        self._windows.begin(((pod["metadata"]["uid"], key) for pod, key in pods), at=self._clock())

        def note(uid: str, page: Page) -> None:
            self._windows.note(uid, page, at=self._clock())

        await self._scraper.count((pod for pod, _ in pods), note)
        found = []
        for item in self._windows.measured(now=self._clock()):
            found.append(item)
            await asyncio.sleep(0)  # the rest of the process is waiting
        self.measured = tuple(found)

    async def close(self) -> None:
        await self._scraper.close()

    def _pods(self) -> list[tuple[Object, Key]]:
        """Those whose runtime can be asked. One that is ending still answers, and serves."""
        keys = {
            raw["metadata"]["name"]: Key(f"{job['namespace']}/{job['name']}", raw["spec"]["site"])
            for raw in self._cache[ASSIGNMENTS].all()
            if (job := raw["spec"]["job"])
        }
        found = []
        for pod in self._cache[PODS].all():
            key = keys.get((pod["metadata"].get("labels") or {}).get(LABEL_ASSIGNMENT, ""))
            if key is None or has_ended(pod) or not pod.get("status", {}).get("podIP"):
                continue
            node = self._cache[NODES].get(str(pod.get("spec", {}).get("nodeName", "")))
            if node is None or not is_lost(node):
                found.append((pod, key))
        return found
