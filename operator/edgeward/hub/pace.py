"""How long a planner that was just told of a change waits for more of them."""

from __future__ import annotations


class Pace:
    """Idle, a plan begins at once. After a plan that took T seconds to make, the next begins no sooner than 2 T later, so
    that two thirds of the time stay for everything else, and a burst is taken in by few plans; never more than `longest`.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._earliest = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until a plan may begin."""
        return max(self._earliest - now, 0.0)

    def planned(self, seconds: float, *, now: float) -> None:
        """A plan that took so long to make, its writes not counted, has just been carried out."""
        self._earliest = now + min(2 * seconds, self._longest)
