"""Keys to work on: never the same one twice at once, failures later and later."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable


class KeyQueue:
    """A key marked while it is being worked on is worked on once more afterwards; marks in between merge."""

    def __init__(self, *, first_delay: float = 0.5, longest_delay: float = 60.0) -> None:
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._waiting: dict[str, None] = {}
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._again)

    def mark(self, key: str) -> None:
        if key in self._busy:
            self._again.add(key)
        else:
            self._waiting.setdefault(key)
            self._wake.set()

    def mark_later(self, key: str, seconds: float) -> None:
        """At the latest then; an earlier mark wins."""
        loop = asyncio.get_running_loop()
        known = self._timers.get(key)
        if known is not None:
            if known.when() <= loop.time() + seconds:
                return
            known.cancel()
        self._timers[key] = loop.call_later(seconds, self._fire, key)

    async def work(
        self, handle: Callable[[str], Awaitable[None]], *, failed: Callable[[str, Exception], None], rest: float = 0.0
    ) -> None:
        """One worker, until cancelled. Several may share one queue. After work that took T seconds it rests for rest * T:
        what can wait takes a share of a busy API server that shrinks as others need it."""
        while True:
            key = await self._take()
            begun = time.monotonic()
            try:
                await handle(key)
                self._failures.pop(key, None)
            except Exception as error:  # the loop must outlive any one object
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # What failed stood in for the cancellation: asyncio.gather raises whichever came first.
                    raise asyncio.CancelledError from error
                self._failures[key] = self._failures.get(key, 0) + 1
                failed(key, error)
                delay = min(self._first_delay * 2 ** (self._failures[key] - 1), self._longest_delay)
                self.mark_later(key, delay * random.uniform(0.75, 1.25))  # noqa: S311  (spreads retries, keeps no secret)
            finally:
                self._busy.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.mark(key)
            if rest:
                await asyncio.sleep(rest * (time.monotonic() - begun))

    async def _take(self) -> str:
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._waiting))
        del self._waiting[key]
        self._busy.add(key)
        return key

    def _fire(self, key: str) -> None:
        self._timers.pop(key, None)
        self.mark(key)
