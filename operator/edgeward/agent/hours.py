"""What the pods of one job at one site did within the last hour, in slots that slide out whole."""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgeward.fleet.traffic import HOUR, NO_LATENCIES

from .exposition import MOST_VERSIONS, Counts

SLOT = 300.0
"""seconds of one slot: twelve of a few hundred bytes, however many requests"""
STEP = 1.05
"""ratio of two neighbours in the histograms of cpu and memory: percentiles are exact to 5%"""
LEAST = 1e-4
"""what is less counts as this much"""


@dataclass(slots=True)
class Sums:
    """Of one slot, or of several."""

    latency: array[float] = field(default_factory=lambda: array("d", NO_LATENCIES))
    errors: float = 0.0
    digests: dict[str, Counts] = field(default_factory=dict)
    """without the latencies: those are of all digests together"""
    cpu: Counter[int] = field(default_factory=Counter)
    """readings of cores in use, by bin"""
    memory: Counter[int] = field(default_factory=Counter)
    """readings of bytes in use, by bin"""

    def count(self, deltas: Mapping[str, Counts]) -> None:
        for digest, delta in deltas.items():
            self._add(digest, replace(delta, latency=NO_LATENCIES))
            self.errors += delta.errors
            for index, count in enumerate(delta.latency):
                self.latency[index] += count

    def merge(self, other: Sums) -> None:
        for index, count in enumerate(other.latency):
            self.latency[index] += count
        self.errors += other.errors
        for digest, counts in other.digests.items():
            self._add(digest, counts)
        self.cpu.update(other.cpu)
        self.memory.update(other.memory)

    def _add(self, digest: str, counts: Counts) -> None:
        known = self.digests.get(digest)
        if known is not None:
            self.digests[digest] = known + counts
        elif len(self.digests) < MOST_VERSIONS:
            self.digests[digest] = counts


@dataclass(slots=True)
class _Slot:
    since: float
    """where the slot begins: a multiple of SLOT"""
    begun: float
    """where the first interval in it begins, which may be before"""
    sums: Sums = field(default_factory=Sums)


class Hour:
    def __init__(self) -> None:
        self._slots: deque[_Slot] = deque()
        self._past: Sums | None = None
        """of all slots but the newest: they change once in SLOT seconds, and are asked for at every turn"""

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def begun(self) -> float:
        """Since when it covers what happened; there must be a slot."""
        return self._slots[0].begun

    def at(self, at: float, *, since: float) -> Sums:
        """Where an interval from `since` to `at` is counted: in the slot of its end."""
        if not self._slots or self._slots[-1].since + SLOT <= at:
            self._slots.append(_Slot(since=at - at % SLOT, begun=since))
            self._past = None
        return self._slots[-1].sums

    def drop(self, *, now: float) -> None:
        """What ended more than an hour ago."""
        while self._slots and self._slots[0].since + SLOT <= now - HOUR:
            self._slots.popleft()
            self._past = None

    def total(self) -> Sums:
        if self._past is None:
            self._past = Sums()
            for slot in list(self._slots)[:-1]:
                self._past.merge(slot.sums)
        whole = Sums()
        whole.merge(self._past)
        if self._slots:
            whole.merge(self._slots[-1].sums)
        return whole


def bin_of(value: float) -> int:
    return math.floor(math.log(max(value, LEAST)) / math.log(STEP))


def p95(bins: Counter[int]) -> float | None:
    """The upper edge of the bin that holds the 95th percentile; None without readings."""
    wanted, passed = 0.95 * bins.total(), 0
    for index in sorted(bins):
        passed += bins[index]
        if passed >= wanted:
            return _edge(index)
    return None


def largest(bins: Counter[int]) -> float | None:
    return _edge(max(bins)) if bins else None


def _edge(index: int) -> float:
    """The upper edge of a bin."""
    return STEP ** (index + 1)
