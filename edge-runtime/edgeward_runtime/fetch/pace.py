"""Keeps a download below a bandwidth, and lets a wait be given up."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgeward_runtime.errors import Cancelled

_SLICE = 0.25  # seconds between two looks at whether the wait is still wanted
_BURST = 0.25  # seconds' worth of bytes that may come at once


class Pace:
    """A token bucket, for all threads together. `rate` is bit/s, 0 for no bound. A chunk may overdraw it; the next one
    waits for that."""

    def __init__(self, rate: float, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._rate = rate / 8  # bytes/s
        self._clock = clock
        self._sleep = sleep
        self._tokens = self._rate * _BURST
        self._at = clock()
        self._lock = threading.Lock()

    @property
    def chunk(self) -> int | None:
        """Bytes to read at most at a time, so that a slow download is even; None for as you like."""
        return max(1024, int(self._rate * _BURST)) if self._rate else None

    def took(self, count: int, cancelled: Callable[[], bool]) -> None:
        """Waits until so many bytes may have come. Raises Cancelled."""
        if not self._rate:
            return
        with self._lock:
            now = self._clock()
            # A clock that jumps (a laptop that slept) gives no more than one burst.
            self._tokens = min(self._rate * _BURST, self._tokens + max(0.0, now - self._at) * self._rate) - count
            self._at = now
            lacking = -self._tokens
        if lacking > 0:
            wait(lacking / self._rate, cancelled=cancelled, sleep=self._sleep)


def wait(seconds: float, *, cancelled: Callable[[], bool], sleep: Callable[[float], None]) -> None:
    while seconds > 0:
        if cancelled():
            raise Cancelled
        sleep(min(seconds, _SLICE))
        seconds -= _SLICE
