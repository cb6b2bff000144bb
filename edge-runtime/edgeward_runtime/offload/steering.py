"""Which requests go elsewhere: the hardest ones, as many as the budget allows.

A fixed threshold on confidence is brittle (Sedna's example: .43 sends 99 % away, .49 nothing), so the user states a
share of the requests and bytes an hour, and the threshold follows what the model answers: it is the quantile of the last
requests' hardness that leaves the share above it. Two token buckets hold the budget whatever the threshold does, from
the moment that a request goes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_WINDOW = 512  # requests whose hardness is remembered
_WARM = 32  # before so many nothing is called hard
_REFRESH = 16  # requests between two looks at the quantile
_BURST_BYTES = 300.0  # seconds of the bytes' rate that may go at once
_BURST_REQUESTS = 8.0  # so many may go one after the other after a calm time


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """`share` 0..1 of the requests; `bytes_per_hour` both ways, as sent. None = without this limit."""

    share: float | None = None
    bytes_per_hour: float | None = None


class Steering:
    """Times are seconds of one monotonic clock. Used by one thread."""

    def __init__(self, budget: Budget, *, now: float) -> None:
        self._budget = budget
        self._hardness: deque[float] = deque(maxlen=_WINDOW)
        self._times: deque[float] = deque(maxlen=_WINDOW)
        self._since_refresh = 0
        self.threshold = float("inf")
        # Empty at first: what has gone is never more than what the time and the requests so far allow.
        self._requests = self._bytes = 0.0
        self._bytes_at = now
        self._mean_bytes = 0.0  # of what was sent, 0 before the first

    @property
    def _rate(self) -> float | None:
        return None if self._budget.bytes_per_hour is None else self._budget.bytes_per_hour / 3600.0

    @property
    def _bytes_burst(self) -> float:
        return float("inf") if self._rate is None else self._rate * _BURST_BYTES

    def arrived(self) -> None:
        """Every request adds its share to the budget, wherever it is answered."""
        share = 1.0 if self._budget.share is None else self._budget.share
        self._requests = min(_BURST_REQUESTS, self._requests + share)

    def seen(self, hardness: float, *, now: float) -> bool:
        """Takes note of a request that was answered here; whether it is among the hardest."""
        self.arrived()
        self._hardness.append(hardness)
        self._times.append(now)
        self._since_refresh += 1
        if len(self._hardness) < _WARM:
            return False
        if self._since_refresh >= _REFRESH or self.threshold == float("inf"):
            self._since_refresh = 0
            self.threshold = _quantile(self._hardness, 1.0 - self._share(now))
        # Equals are not harder: a model that is sure of everything asks nobody.
        return hardness > self.threshold

    def _share(self, now: float) -> float:
        """The share that both limits allow: bytes that last for the hardest of the hour, not for its first minutes."""
        share = 1.0 if self._budget.share is None else self._budget.share
        rate, span = self._rate, now - self._times[0]
        if rate is None or self._mean_bytes == 0.0 or span <= 0.0:
            return share
        requests_per_second = (len(self._times) - 1) / span
        return min(share, rate / (requests_per_second * self._mean_bytes)) if requests_per_second > 0 else share

    def affords(self, size: int, *, now: float) -> bool:
        """Whether one request of about `size` bytes (both ways) is within the budget now."""
        self._refill(now)
        requests = self._budget.share is None or self._requests >= 1.0
        return requests and (self._rate is None or self._bytes >= size)

    def reserve(self, size: int, *, now: float) -> None:
        """A request goes: it counts from here on, or a slow link would let many go on the same budget."""
        self._refill(now)
        self._requests -= 1.0
        self._bytes -= size

    def settle(self, reserved: int, size: int) -> None:
        """It is back, or lost: `size` bytes really travelled."""
        self._bytes += reserved - size
        if size:
            self._mean_bytes = size if self._mean_bytes == 0.0 else self._mean_bytes + 0.1 * (size - self._mean_bytes)

    def _refill(self, now: float) -> None:
        if self._rate is not None:
            self._bytes = min(self._bytes_burst, self._bytes + max(0.0, now - self._bytes_at) * self._rate)
        self._bytes_at = max(now, self._bytes_at)


def _quantile(values: deque[float], share: float) -> float:
    """The smallest of the values with at least that share of them at or below it."""
    ordered = sorted(values)
    index = min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))
    return ordered[index] if share > 0.0 else -float("inf")
