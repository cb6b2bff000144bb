"""Whose turn it is to go outside for a blob, among the pods of a job at one site.

Each pod says what it wants and asks the others what they do about it (peers.py). Of those that want a blob and have it
not, the first by rank goes outside and the others wait for it. What keeps two from going: a pod says that it wants the
blob before it asks, and whoever is asked by one that goes before it gives way. So of two that ask at the same time one
sees the other in any order of the messages: Lamport's bakery, with a rank instead of a number drawn.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

_GIVES_WAY = 3.0  # seconds to one that asked and is first; it asks again well within


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a pod that does not have a blob says about it."""

    outside: bool  # it fetches it; else it waits for its turn
    received: int  # bytes so far, to see whether it gets on


@dataclass(kw_only=True, slots=True)
class _Turn:
    received: Callable[[], int]
    outside: bool = False
    before: dict[str, float] = field(default_factory=dict)  # pods that go first -> when they last asked


class Turns:
    """`me`: this process among the pods, anything that no other has."""

    def __init__(self, me: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.me = me
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: dict[str, _Turn] = {}

    @contextmanager
    def wanted(self, digest: str, *, received: Callable[[], int]) -> Iterator[None]:
        """Says so until the block ends. One fetch of a digest at a time: the store's lock sees to that."""
        with self._lock:
            self._turns[digest] = _Turn(received=received)
        try:
            yield
        finally:
            with self._lock:
                self._turns.pop(digest, None)

    def go(self, digest: str, *, past: Collection[str] = ()) -> bool:
        """Takes the turn, unless one that goes first has asked lately. `past`: those that are waited for no more."""
        with self._lock:
            turn = self._turns[digest]
            lately = self._clock() - _GIVES_WAY
            turn.outside = not any(at > lately and who not in past for who, at in turn.before.items())
            return turn.outside

    def asked(self, digest: str, *, by: str) -> Said | None:
        """What to answer to another pod that wants it; None if nothing is known of it here."""
        with self._lock:
            turn = self._turns.get(digest)
            if turn is None:
                return None
            if by and not turn.outside and self.first(digest, by):
                turn.before[by] = self._clock()
            return Said(outside=turn.outside, received=turn.received())

    def first(self, digest: str, other: str) -> bool:
        """Whether the other one goes before this one. By blob, so that the work is spread."""
        return _rank(digest, other) < _rank(digest, self.me)


def _rank(digest: str, who: str) -> bytes:
    return hashlib.sha256(f"{digest} {who}".encode()).digest()
