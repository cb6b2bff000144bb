"""What happens to a wanted model version, as pure functions over plain data: no clock, no disk, no thread.

    Pending -> Fetching -> Verifying -> Loading -> Checking -> Warming -> [Mirroring] -> Serving
                                +-> Staged, where it is not to be loaded yet
                  any step -> Failed -> (back-off, unless permanent) -> Fetching ...

While a failed entry is tried again its state stays Failed until it gets past the step that failed: a status that
flickers would be written and read over and over for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal

_BACKOFF_FIRST = 1.0  # seconds
_BACKOFF_MAX = 60.0
# For what each try costs a whole download or the process.
_LONG_FIRST = 60.0
_LONG_MAX = 600.0
_LOAD_BASE = 16 * 2**20  # bytes that the first runs take, whatever the model's size
# Reasons that hang on the verified bytes and this machine alone: remembered over a restart. The others depend on this
# process or this moment: wrong bytes too may come from a login page in between or from a file that was only half there.
REMEMBERED = frozenset({"NotOnnx", "LoadFailed", "GoldenMismatch"})


class State(StrEnum):
    PENDING = "Pending"
    FETCHING = "Fetching"
    VERIFYING = "Verifying"
    STAGED = "Staged"
    LOADING = "Loading"
    CHECKING = "Checking"
    WARMING = "Warming"
    MIRRORING = "Mirroring"
    SERVING = "Serving"
    FAILED = "Failed"


# The first step of each state; Signature is part of Verifying, Schema of Loading.
_STEP_OF = {
    State.PENDING: "Fetch",
    State.FETCHING: "Fetch",
    State.VERIFYING: "Verify",
    State.STAGED: "Signature",
    State.LOADING: "Load",
    State.CHECKING: "Golden",
    State.WARMING: "Warm",
    State.MIRRORING: "Mirror",
}
STEPS = ("Fetch", "Verify", "Signature", "Load", "Schema", "Golden", "Warm", "Mirror")


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    step: str
    reason: str
    message: str
    at: float  # unix seconds of the first time it failed like this


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a wanted entry is. Replaced as a whole, so that another thread always reads one that fits together."""

    state: State = State.PENDING
    since: float = 0.0  # unix seconds
    size: int | None = None  # bytes of the model file
    seconds: float | None = None  # that the fetch took
    received: int = 0  # bytes of it that came from outside the site, since this process wants it
    shared: int = 0  # bytes of it that came from other pods at the site
    refused: Refused | None = None
    warning: Refused | None = None  # what would have been a refusal, had somebody asked for it: policy Warn
    permanent: bool = False
    failures: int = 0
    retry_at: float = 0.0  # on the manager's monotonic clock


@dataclass(frozen=True, slots=True)
class Shunned:
    """A source that is not asked before `until` (monotonic seconds, inf = never again)."""

    refusal: Refusal
    failures: int
    until: float


class Bytes(Protocol):
    """Those of a fetch that runs: from outside the site, and from other pods in it."""

    received: int
    shared: int


@dataclass(slots=True)
class Tally:
    """Bytes that came for one entry, those of tries that failed too. Written by the thread that fetches, read by any."""

    now: Bytes | None = None
    before: tuple[int, int] = (0, 0)

    @property
    def total(self) -> tuple[int, int]:
        """(received, shared)"""
        now, (received, shared) = self.now, self.before
        return (received, shared) if now is None else (received + now.received, shared + now.shared)

    def follow(self, now: Bytes) -> None:
        self.now = now

    def settle(self) -> None:
        self.before, self.now = self.total, None


@dataclass(slots=True)
class Slot:
    """A wanted entry and its progress. One of another key gets a new slot; work for the old one notices that and
    stops."""

    entry: Entry
    progress: Progress
    shunned: dict[str, Shunned] = field(default_factory=dict)  # sources that gave wrong bytes
    tally: Tally = field(default_factory=Tally)
    crashes: int = 0  # processes that ended while they loaded it, one after the other

    def fetched_as(self, staged: Slot | None) -> None:
        """What is known of its bytes from when it was only fetched."""
        if staged is not None and staged.entry.digest == self.entry.digest and self.progress.size is None:
            self.progress = replace(self.progress, size=staged.progress.size, seconds=staged.progress.seconds)


def counted(slot: Slot) -> Progress:
    """The progress with the bytes of this moment."""
    received, shared = slot.tally.total
    return replace(slot.progress, received=received, shared=shared)


def backoff(failures: int, jitter: float) -> float:
    """Seconds until the next try after that many failures in a row: doubling from 1 to 60, times 0.5..1.5 by `jitter`
    in 0..1, so that a fleet does not come back in step."""
    exponent = min(failures - 1, 10)
    return min(_BACKOFF_MAX, _BACKOFF_FIRST * 2.0**exponent) * (0.5 + jitter)


def long_backoff(failures: int) -> float:
    """Seconds: doubling from a minute to ten."""
    return min(_LONG_MAX, _LONG_FIRST * 2.0 ** min(failures - 1, 10))


def step_of(state: State) -> str:
    """The first step of a state."""
    return _STEP_OF.get(state, "Fetch")


class Room(StrEnum):
    """Where a version may be loaded."""

    BESIDE = "Beside"  # while the old one serves
    IN_GAP = "InGap"  # after the old one was unloaded


def memory_needed(size: int, *, measured: int | None) -> int:
    """Bytes that loading takes at its peak: what the artifact says was measured, else by the size of its files.
    Measured with onnxruntime 1.31 on dense models: 14 MB for one of 3 MB, 54 for 32, 156 for 105."""
    return measured if measured is not None else size + size // 2 + _LOAD_BASE


def memory_held(size: int, *, measured: int | None) -> int:
    """Bytes that a loaded version holds, once the peak of its load is over: 109 MB for that one of 105 MB."""
    return measured * 7 // 10 if measured is not None else size


def room(*, needed: int, available: float | None, freed: int | None, in_gap: bool) -> Room | None:
    """Where a version that takes `needed` bytes goes, None = nowhere. `freed`: bytes that unloading what serves would
    give, None if nothing serves: then there is nothing to protect and trying costs nobody anything."""
    if available is None or freed is None or needed <= available:
        return Room.BESIDE
    return Room.IN_GAP if in_gap and needed <= available + freed else None


def due(progress: Progress, *, now: float) -> bool:
    """Whether the entry should be worked on now (monotonic seconds)."""
    if progress.state in (State.SERVING, State.MIRRORING, State.STAGED) or progress.permanent:
        return False
    return now >= progress.retry_at


def entered(progress: Progress, state: State, *, wall: float) -> Progress:
    """The progress on entering a step; keeps a failure in sight until its step is passed."""
    if state in (State.SERVING, State.STAGED):
        return Progress(state=state, since=wall, size=progress.size, seconds=progress.seconds, warning=progress.warning)
    if progress.refused is not None and STEPS.index(_STEP_OF[state]) <= STEPS.index(progress.refused.step):
        return progress
    return replace(progress, state=state, since=wall, refused=None)


def failed(progress: Progress, refusal: Refusal, *, now: float, wall: float, jitter: float) -> Progress:
    """The progress after a failure: the same failure again keeps its first time, so that nothing changes to be
    reported."""
    before = progress.refused
    same = before is not None and (before.step, before.reason, before.message) == (
        refusal.step,
        refusal.reason,
        refusal.message,
    )
    refused = before if same else Refused(step=refusal.step, reason=refusal.reason, message=refusal.message, at=wall)
    failures = progress.failures + 1
    # Never earlier than asked for, or the source would still be shunned.
    wait = backoff(failures, jitter) if refusal.after is None else refusal.after * (1.0 + 0.25 * jitter)
    return replace(
        progress,
        state=State.FAILED,
        since=progress.since if progress.state is State.FAILED else wall,
        refused=refused,
        permanent=refusal.permanent,
        failures=failures,
        retry_at=now + wait,
    )
