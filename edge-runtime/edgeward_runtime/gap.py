"""A version that makes room for the next one, which does not fit in memory beside it (modelSwap: OffloadInGap)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from dataclasses import dataclass

from edgeward_runtime import lifecycle
from edgeward_runtime.attempt import Tools
from edgeward_runtime.config import STABLE, Entry
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.lifecycle import Slot
from edgeward_runtime.live import Live

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Gap:
    """The version that made room, to be loaded again unless the new one serves first."""

    entry: Entry
    failures: int = 0
    retry_at: float = 0.0  # monotonic seconds


class Gaps:
    """`names` is replaced as a whole: the status is read in another thread."""

    def __init__(self, *, live: Live, tools: Tools) -> None:
        self._live = live
        self._tools = tools
        self._open: dict[str, _Gap] = {}
        self.names: frozenset[str] = frozenset()  # models of which no version answers

    def open(self, slot: Slot, *, cancelled: Callable[[], bool], wait: Callable[[float], object]) -> None:
        """Unloads what serves. Refusal or Cancelled if it does not get free in time; then it serves on."""
        name = slot.entry.name
        serving = self._live.serving[name, STABLE]
        log.warning(
            "the versions do not fit in memory together, the old one makes room",
            extra={"model": name, "version": serving.entry.version, "for": slot.entry.version},
        )
        # Noted first: whatever happens from here on, the old version is brought back.
        self._set({**self._open, name: _Gap(serving.entry)})
        if self._live.make_room(name, cancelled=cancelled, wait=wait):
            return
        self.keep(self.names - {name})
        if cancelled():
            raise Cancelled
        message = "the version that serves does not get free of requests, so it cannot make room"
        raise Refusal(step="Load", reason="NotEnoughMemory", message=message, permanent=False)

    def close(self, bring_back: Callable[[Entry], bool]) -> None:
        """Loads again what made room for a version that then failed, until it serves or another does. `bring_back` is
        False if the bytes are not there any more."""
        for name, gap in list(self._open.items()):
            if self._tools.clock() < gap.retry_at:
                continue
            error: object = "its blob is not in the store"
            try:
                if bring_back(gap.entry):
                    log.info("the old version is back", extra={"model": name, "version": gap.entry.version})
                    continue
            except Exception as failure:
                error = failure
            gap.failures += 1
            gap.retry_at = self._tools.clock() + lifecycle.backoff(gap.failures, self._tools.jitter())
            log.error(
                "the old version does not load again",
                extra={"model": name, "version": gap.entry.version, "error": str(error)},
            )

    def keep(self, names: Set[str]) -> None:
        """All other gaps are over: a version serves, or none is wanted."""
        self._set({name: gap for name, gap in self._open.items() if name in names})

    def _set(self, gaps: dict[str, _Gap]) -> None:
        self._open = gaps
        self.names = frozenset(gaps)
