"""One way to say what is going on: a line with the seconds since the start, so a slow step shows by itself."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

Say = Callable[[str], None]


class Progress:
    """Prints `[  3.2 s] text`. Several threads may speak at once; a line is never torn."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, write: Callable[[str], object] | None = None):
        self._clock = clock
        self._write = write or (lambda line: (sys.stdout.write(line), sys.stdout.flush()))
        self._started = clock()
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        return self._clock() - self._started

    def __call__(self, text: str) -> None:
        with self._lock:
            self._write(f"[{self.seconds:6.1f} s] {text}\n")


def silent(text: str) -> None:
    """For tests that want no lines."""


class ClusterError(Exception):
    """Something that the person at the keyboard can act on; its text says what to do or which log to read."""


def wait_for(what: str, condition: Callable[[], bool], *, seconds: float, hint: str = "", every: float = 0.2) -> float:
    """Wait until condition() holds and return the seconds it took; ClusterError names `what` and the hint."""
    started = time.monotonic()
    while True:
        if condition():
            return time.monotonic() - started
        if time.monotonic() - started > seconds:
            raise ClusterError(f"{what} did not happen within {seconds:.0f} s. {hint}".strip())
        time.sleep(every)
