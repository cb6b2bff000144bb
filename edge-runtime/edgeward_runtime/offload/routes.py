"""What the way to another server costs, learnt from each request that went it, and whether it is worth trying.

T_d = T_p + T_s + T_r, as placement counts a transfer: packing, sending (with the other side's unpacking), and reading
the answer. Each is measured per route and encoding, and the encoding with the smallest sum is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field

IDENTITY, GZIP = "identity", "gzip"
ENCODINGS = (IDENTITY, GZIP)
_DECAY = 0.95  # weight of all that was seen before one more sample
_TRIES = 2  # of each encoding before any is preferred
_REVISIT = 64  # requests between two looks at one that is not preferred
_MARGIN = 2.0  # mean deviations on top of a prediction: it must hold nearly always, not half the time
_FAILURES = 3  # in a row until a route counts as down
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds


class Line:
    """seconds = a + b * bytes with b >= 0, fitted to the latest samples, older ones fading out."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._deviation = 0.0
        self.samples = 0

    def add(self, size: float, seconds: float) -> None:
        if self.samples:
            off = abs(seconds - self.at(size))
            self._deviation = off if self.samples == 1 else _DECAY * self._deviation + (1 - _DECAY) * off
        self.samples += 1
        self._n = _DECAY * self._n + 1.0
        self._x = _DECAY * self._x + size
        self._y = _DECAY * self._y + seconds
        self._xx = _DECAY * self._xx + size * size
        self._xy = _DECAY * self._xy + size * seconds

    def at(self, size: float) -> float:
        """Seconds for so many bytes; 0 before the first sample."""
        if self._n == 0.0:
            return 0.0
        mean_x, mean_y = self._x / self._n, self._y / self._n
        variance = self._xx / self._n - mean_x * mean_x
        covariance = self._xy / self._n - mean_x * mean_y
        # Of one size only: in proportion beyond it, and not below zero before it.
        if variance <= 1e-9 * max(1.0, mean_x * mean_x):
            return mean_y * max(1.0, size / mean_x) if mean_x > 0 else mean_y
        slope = max(0.0, covariance / variance)
        return max(0.0, mean_y + slope * (size - mean_x))

    def at_most(self, size: float) -> float:
        return self.at(size) + _MARGIN * self._deviation


@dataclass(slots=True)
class Way:
    """One encoding on one route. Sizes are of the body before it is packed."""

    pack: Line = field(default_factory=Line)
    send: Line = field(default_factory=Line)
    sent: Line = field(default_factory=Line)  # bytes on the wire instead of seconds

    def at_most(self, size: int) -> float:
        return self.pack.at_most(size) + self.send.at_most(size)

    def usual(self, size: int) -> float:
        return self.pack.at(size) + self.send.at(size)


class Route:
    """Used by one thread; times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.ways = {name: Way() for name in ENCODINGS}
        self.execution, self.unpack = Line(), Line()
        self._asked = 0
        self._failures = 0
        self._open_at = 0.0
        self._trying = False

    # -- is it there ----------------------------------------------------------------------------------------------

    def open(self, now: float) -> bool:
        """False while the route is known to be down. After its wait one request may try, and only one."""
        if self._failures < _FAILURES:
            return True
        return now >= self._open_at and not self._trying

    def leaving(self) -> None:
        self._trying = self._failures >= _FAILURES

    def failed(self, now: float, jitter: float) -> None:
        """`jitter` in 0..1 spreads the next try of many sites over time."""
        self._trying = False
        self._failures += 1
        beyond = self._failures - _FAILURES
        if beyond >= 0:
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(beyond, 10))
            self._open_at = now + wait * (0.5 + jitter)

    def refused(self) -> None:
        """It answered, if not with what was hoped for: the request is at fault, not the way."""
        self._trying = False
        self._failures = 0

    # -- what it costs --------------------------------------------------------------------------------------------

    def took(
        self, encoding: str, size: int, *, sent: int, pack: float, send: float, execution: float, unpack: float
    ) -> None:
        """An answered request: bytes before packing and as sent, then seconds."""
        self._trying = False
        self._failures = 0
        way = self.ways[encoding]
        way.pack.add(size, pack)
        way.send.add(size, send)
        way.sent.add(size, sent)
        self.execution.add(size, execution)
        self.unpack.add(size, unpack)

    def choose(self, size: int) -> str:
        """The encoding for the next request: the cheapest, but each is tried first and looked at again from time to
        time, since links change."""
        self._asked += 1
        for name, way in self.ways.items():
            if way.send.samples < _TRIES:
                return name
        best = min(ENCODINGS, key=lambda name: self.ways[name].usual(size))
        if self._asked % _REVISIT == 0:
            return next(name for name in ENCODINGS if name != best)
        return best

    def known(self) -> bool:
        return self.execution.samples > 0

    def at_most(self, size: int) -> float:
        """Seconds until an answer is there, nearly always; 0 before anything is known."""
        if not self.known():
            return 0.0
        way = min((way for way in self.ways.values() if way.send.samples), key=lambda one: one.usual(size))
        return way.at_most(size) + self.execution.at_most(size) + self.unpack.at_most(size)

    def wire_bytes(self, size: int) -> int:
        """What a body of that size will be on the wire, about."""
        way = min(
            (way for way in self.ways.values() if way.sent.samples), key=lambda one: one.usual(size), default=None
        )
        return size if way is None else max(1, round(way.sent.at(size)))
