"""A few daemon threads. Those of concurrent.futures are waited for when the process ends, however long they wait
themselves for a server that does not answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Threads:
    def __init__(self, most: int) -> None:
        self._most = most
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started = 0
        self._idle = threading.Semaphore(0)

    def run(self, work: Callable[[], None]) -> None:
        """Soon, in one of the threads. `work` does not raise. RuntimeError if not even one can be started."""
        if not self._idle.acquire(blocking=False) and self._started < self._most:
            try:
                threading.Thread(target=self._loop, name="edgeward-offload", daemon=True).start()
                self._started += 1
            except RuntimeError:
                if not self._started:
                    raise
        self._work.put(work)

    def stop(self) -> None:
        """Each thread ends after what it does and what was given before."""
        for _ in range(self._started):
            self._work.put(None)

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work
            self._idle.release()
