"""How far a wanted version is when it is first seen, or seen again: it may serve already, or have been refused before."""

from __future__ import annotations

from edgeward_runtime import lifecycle
from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.lifecycle import Progress, Slot, State
from edgeward_runtime.records import Records
from edgeward_runtime.status import Serving

_REFUSED_KEPT = 64  # entries


class Refusals:
    """What was refused for good: in this process by the entry's key, and on disk what outlives it."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._here: dict[str, tuple[int, Progress]] = {}  # with the attempt

    def slot(self, entry: Entry, live: Serving | None, *, now: float, wall: float) -> Slot:
        """`live`: what serves where the entry is wanted; `now` is monotonic, `wall` unix seconds."""
        if live is not None and same(live.entry, entry):
            # A rollback to what serves, or only other sources.
            return Slot(entry=entry, progress=live.progress)
        attempt, known = self._here.get(entry.key, (-1, None))
        if known is not None and attempt >= entry.attempt:
            return Slot(entry=entry, progress=known)
        refused = self._records.refused(entry, wall=wall)
        if refused is not None:
            progress = Progress(state=State.FAILED, since=refused.at, refused=refused, permanent=True)
            return Slot(entry=entry, progress=progress)
        crashes = self._records.crashes(entry)
        return (
            _crashed(entry, crashes, now=now, wall=wall)
            if crashes
            else Slot(entry=entry, progress=Progress(since=wall))
        )

    def remember(self, slot: Slot) -> None:
        """A slot that has failed. Whether inputs and outputs changed hangs on what serves when it is tried again."""
        refused = slot.progress.refused
        if refused is None or not slot.progress.permanent or refused.step == "Schema":
            return
        kept = list(self._here.items())[1 - _REFUSED_KEPT :]
        self._here = {**dict(kept), slot.entry.key: (slot.entry.attempt, slot.progress)}
        if refused.reason in lifecycle.REMEMBERED:
            self._records.remember_refused(slot.entry, refused)


def same(live: Entry, wanted: Entry) -> bool:
    """Whether a version that serves is all that is wanted. Where its signature is asked for in another way, it has to
    be looked at again, while it serves on."""
    return live.identity == wanted.identity and live.signature == wanted.signature


def _crashed(entry: Entry, crashes: int, *, now: float, wall: float) -> Slot:
    message = "the process ended while it loaded or tried this version: out of memory, or a crash in native code"
    refusal = Refusal(
        step="Load", reason="LoadCrashed", message=message, permanent=False, after=lifecycle.long_backoff(crashes)
    )
    progress = lifecycle.failed(Progress(since=wall), refusal, now=now, wall=wall, jitter=0.0)
    return Slot(entry=entry, progress=progress, crashes=crashes)
