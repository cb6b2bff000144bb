"""When the planner waits: for more of what it was just told, and for others who need the event loop."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """Idle, a plan begins at once. After a plan that took T seconds to make, the next begins no sooner than 2 T later, so
    that two thirds of the time stay for everything else, and a burst is taken in by few plans; never more than `longest`,
    or than T where plans take longer than that: half of the time must stay, or the writes of a plan wait for the next one.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._earliest = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until a plan may begin."""
        return max(self._earliest - now, 0.0)

    def planned(self, seconds: float, *, now: float) -> None:
        """A plan that took so long to make, its writes not counted, has just been carried out."""
        self._earliest = now + min(2 * seconds, max(self._longest, seconds))


class Breath:
    """For a long row of small steps on the event loop: taken at each, it lets others go first every `every` seconds."""

    def __init__(self, every: float = 0.02) -> None:
        self._every = every
        self._since = time.monotonic()

    async def take(self) -> None:
        if time.monotonic() - self._since >= self._every:
            await asyncio.sleep(0)
            self._since = time.monotonic()
