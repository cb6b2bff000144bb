"""Writes that the API server refused: when each may be tried again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class _Wait:
    version: str
    delay: float
    until: float


@dataclass(slots=True)
class Refused:
    """Waits that double, by write. A newer version of the object is a new try at once: what was refused may be gone.

    Without this, a quota, a webhook or a watch that died would make as many refused writes a second as the planner makes
    plans.
    """

    longest: float = 60.0
    """seconds"""
    _waits: dict[Hashable, _Wait] = field(default_factory=dict)

    def holds(self, key: Hashable, version: str, *, now: float) -> bool:
        """Whether this write is to wait."""
        wait = self._waits.get(key)
        return wait is not None and wait.version == version and now < wait.until

    def note(self, key: Hashable, version: str, *, first: float, now: float) -> float:
        """It was refused just now; the seconds to wait."""
        known = self._waits.get(key)
        again = known is not None and known.version == version
        delay = min(2 * known.delay, self.longest) if known is not None and again else first
        if len(self._waits) >= 10_000:
            self._waits.clear()
        self._waits[key] = _Wait(version=version, delay=delay, until=now + delay)
        return delay

    def forget(self, key: Hashable) -> None:
        """It went through."""
        self._waits.pop(key, None)
