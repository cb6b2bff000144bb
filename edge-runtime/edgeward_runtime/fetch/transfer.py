"""One file from one source into the store: resumed, paced, hashed while it is written."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import refusals
from edgeward_runtime.fetch.access import Limits
from edgeward_runtime.fetch.pace import Pace, wait
from edgeward_runtime.fetch.peers import Peers
from edgeward_runtime.fetch.refusals import shown, unreachable
from edgeward_runtime.fetch.source import Opened, Source, source_id
from edgeward_runtime.lifecycle import backoff
from edgeward_runtime.store import Store
from edgeward_runtime.store.partial import Origin, Partial

_CHUNK = 256 * 1024  # bytes; also how often a change of mind is noticed
_ROOM_STEP = 1 << 20  # bytes between two looks at the room, where a source does not say how much there will be


@dataclass(slots=True)
class Counts:
    """Bytes of one fetch."""

    received: int = 0
    resumed: int = 0  # were there from an earlier try and not asked for again
    reused: int = 0  # were in the store, in other files
    shared: int = 0  # came from peers at the same site
    by: dict[str, int] = field(default_factory=dict)  # of those received, by the label of the source, where it is told

    def came(self, label: str, count: int) -> None:
        self.received += count
        self.by[label] = self.by.get(label, 0) + count


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one fetch works with."""

    store: Store
    limits: Limits
    pace: Pace
    cancelled: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = lambda: 0.5
    counts: Counts = field(default_factory=Counts)
    peers: Peers | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    digest: str
    size: int | None = None  # bytes, where a manifest says so


class _Cut(Exception):
    """The connection ended before the bytes did."""


def transfer(wanted: Wanted, source: Source, job: Job) -> None:
    """Makes the blob; the caller holds its lock. Raises Refusal or Cancelled; what has come by then stays for the next
    try, unless it is known to be wrong.

    A connection that breaks is taken up again as long as each one brings something, after a short wait. A wrong hash
    over bytes that came in several pieces may be the fault of the earlier ones, so the whole file is asked for once.
    """
    deadline = job.clock() + job.limits.total_seconds
    with job.store.partial(wanted.digest, cancelled=job.cancelled) as partial:
        job.counts.resumed += partial.found
        furthest = partial.size
        while not _right(partial, wanted):
            if partial.size and _complete(partial, wanted):
                _restart(partial, job)
            try:
                whole = _piece(wanted, source, partial, job, deadline)
            except _Cut as cut:
                if partial.size <= furthest:
                    raise unreachable(source.address, str(cut)) from None
                furthest = partial.size
                wait(backoff(1, job.jitter()), cancelled=job.cancelled, sleep=job.sleep)
            except Refusal as refusal:
                if refusal.reason == "DiskFull" and partial.islands:
                    partial.islands.clear()  # of an earlier try; in order none are needed
                    continue
                if refusal.reason == "DiskFull" and job.store.free(_missing(partial, wanted)):
                    continue
                if refusal.reason in ("DigestMismatch", "TooLarge"):
                    partial.discard()  # of another file: these bytes would only take room
                raise
            else:
                if _right(partial, wanted):
                    break
                if whole:
                    raise _wrong(wanted, source, partial)
                _restart(partial, job)
                furthest = 0
        job.store.commit(wanted.digest, partial)


def _right(partial: Partial, wanted: Wanted) -> bool:
    return f"sha256:{partial.sha256}" == wanted.digest and (partial.size > 0 or wanted.size == 0)


def _complete(partial: Partial, wanted: Wanted) -> bool:
    """Whether all bytes that were to come are there: with a wrong hash, they are of no use."""
    total = wanted.size if wanted.size is not None else partial.origin.total
    return total is not None and partial.size >= total


def _restart(partial: Partial, job: Job) -> None:
    job.counts.resumed -= min(job.counts.resumed, partial.found)
    partial.restart()


def _piece(wanted: Wanted, source: Source, partial: Partial, job: Job, deadline: float) -> bool:
    """One connection, to the end of the file. Answers whether it brought all of it."""
    with source.open(partial.size, partial.origin) as opened:
        _check_announced(wanted, source, opened, job)
        if opened.offset != partial.size:
            _restart(partial, job)
        if opened.total is not None:
            job.store.room({wanted.digest: opened.total})
        mark = {"etag": opened.etag, "modified": opened.modified}
        partial.begin(Origin(source=source_id(source.address), total=opened.total, **mark))
        try:
            _copy(wanted, source, opened, partial, job, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(refusals.reason_text(error)) from None
        if opened.total is not None and partial.size < opened.total:
            raise _Cut(f"connection ended after {partial.size} of {opened.total} bytes")
        return opened.offset == 0


def _check_announced(wanted: Wanted, source: Source, opened: Opened, job: Job) -> None:
    if opened.total is None:
        return
    if wanted.size is not None and opened.total != wanted.size:
        raise refusals.mismatch(source.address, f"has {opened.total} bytes of {wanted.digest}, which has {wanted.size}")
    if opened.total > job.limits.max_bytes:
        raise refusals.too_large(source.address, opened.total, job.limits.max_bytes)


def _copy(wanted: Wanted, source: Source, opened: Opened, partial: Partial, job: Job, deadline: float) -> None:
    limit = wanted.size if wanted.size is not None else job.limits.max_bytes
    room_for = partial.size
    while True:
        chunk = opened.reader.read1(min(_CHUNK, job.pace.chunk or _CHUNK))  # what is there, not waiting for more
        if not chunk:
            return
        job.counts.received += len(chunk)
        size = partial.size + len(chunk)
        if size > limit:
            if wanted.size is not None:
                raise refusals.mismatch(source.address, f"has more than the {limit} bytes of {wanted.digest}")
            raise refusals.too_large(source.address, size, limit)
        if opened.total is None and size > room_for:
            room_for = size + _ROOM_STEP
            job.store.room({wanted.digest: size})
        if job.clock() > deadline:
            raise unreachable(source.address, f"not done after {job.limits.total_seconds:g} s")
        if job.cancelled():
            raise Cancelled
        partial.write(chunk)
        job.pace.took(len(chunk), job.cancelled)


def _wrong(wanted: Wanted, source: Source, partial: Partial) -> Refusal:
    """Of a file that came whole and is not what was wanted."""
    size, found = partial.size, partial.sha256
    partial.discard()
    if size == 0:
        return refusals.refusal("Empty", f"{shown(source.address)} has 0 bytes", step="Verify")
    return refusals.mismatch(source.address, f"has sha256:{found}, wanted {wanted.digest}")


def _missing(partial: Partial, wanted: Wanted) -> int:
    total = wanted.size if wanted.size is not None else partial.origin.total
    return max(_ROOM_STEP, (total or 0) - partial.size)
