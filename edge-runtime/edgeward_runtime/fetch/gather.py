"""One file of known size into the store, from what is there already and from parts that one or two sources give at once.

Which part comes from where is ranges.py's; here are the connections, a thread for each source beyond the first. Whatever
goes wrong, the whole file's hash decides: a chunk index that lies costs a plain download and nothing else.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeward_runtime.artifact.chunks import Chunk
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import refusals
from edgeward_runtime.fetch.assembly import Assembly, Place
from edgeward_runtime.fetch.giver import OF_THE_STORE, From, Worker
from edgeward_runtime.fetch.pace import wait
from edgeward_runtime.fetch.ranges import Ranges
from edgeward_runtime.fetch.refusals import unreachable
from edgeward_runtime.fetch.source import NoParts
from edgeward_runtime.fetch.transfer import Job, Wanted
from edgeward_runtime.store.partial import Origin, Partial

log = logging.getLogger(__name__)

TOGETHER = 1 << 20  # bytes, below which a second connection is not worth it
_JOIN = 0.5  # seconds that one who still reads is waited for: what it may still get is dropped
_LOOK = 0.1  # seconds between two looks of one that has nothing to do


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What there is beside the sources: the file's chunks, and where the store has some of them."""

    chunks: Sequence[Chunk] = ()
    here: Mapping[str, Place] = field(default_factory=dict)


def gather(wanted: Wanted, sources: Sequence[From], known: Known, job: Job, *, stop: threading.Event) -> bool:
    """Makes the blob; the caller holds its lock. False: it cannot be had like this, a plain download has to do it (what
    has come stays for that, unless it is known to be wrong). Raises Refusal or Cancelled as transfer() does.

    `stop` is set when the sources beyond the first are not to go on, and cleared for the next file; what reads from them
    has to ask it."""
    assert wanted.size is not None
    with job.store.partial(wanted.digest, cancelled=job.cancelled) as partial:
        job.counts.resumed += partial.found + sum(end - start for start, end in partial.islands.ranges())
        reused = job.counts.reused
        partial.begin(Origin(total=wanted.size))
        stop.clear()
        try:
            done = Gathering(wanted.size, sources, known, job, partial, stop).run()
        except Refusal as refusal:
            # What came out of order is there twice while it is put in its place. In order it takes no more than the file.
            if refusal.reason != "DiskFull" or not partial.islands:
                raise
            partial.islands.clear()
            return False
        finally:
            stop.set()
        if not done:
            return False
        if f"sha256:{partial.sha256}" == wanted.digest:
            job.store.commit(wanted.digest, partial)
            return True
        log.warning("parts do not make the file, it is fetched whole", extra={"digest": wanted.digest})
        job.counts.resumed, job.counts.reused = 0, reused
        partial.discard()
        return False


class Gathering:
    def __init__(
        self, size: int, sources: Sequence[From], known: Known, job: Job, partial: Partial, stop: threading.Event
    ) -> None:
        self._job = job
        self._reused = job.counts.reused  # of the files before
        self._stop = stop
        self._changed = threading.Condition()
        self._assembly = Assembly(partial, size=size, chunks=known.chunks, here=known.here)
        self._assembly.advance(job.cancelled)
        self._size = size
        self._chunks = known.chunks
        self.carried: dict[int, bytearray] = {}
        """by number of the chunk: what there is of its packed form, for whoever goes on with it"""
        self._ends = [chunk.offset + chunk.length for chunk in known.chunks]
        self._starts = [chunk.offset for chunk in known.chunks]
        self._assembly.damaged.clear()  # missing() has them
        self._ranges = Ranges(missing=self._assembly.missing(), cut=self._cut)
        self._workers = [Worker(number, one, self) for number, one in enumerate(sources)]
        self._deadline = job.clock() + job.limits.total_seconds
        self._failed: list[Refusal] = []
        self._no_parts = False
        self._fatal: BaseException | None = None
        self._ended = False  # from then on nothing is written, whoever still reads

    def run(self) -> bool:
        """Whether all bytes are there. Raises what the first source failed with, if none is left."""
        self._job.counts.reused = self._reused + self._assembly.reused
        missing = self._assembly.missing()
        if not missing:
            return True
        if sum(end - start for start, end in missing) < TOGETHER:
            del self._workers[1:]
        for worker in self._workers:
            self._ranges.join(worker.number)
        threads = [threading.Thread(target=self._beside, args=(one,), daemon=True) for one in self._workers[1:]]
        for thread in threads:
            thread.start()
        try:
            self._work(self._workers[0], self._job.cancelled)
            with self._changed:
                # The others may still be at it, or take over.
                while not self._over():
                    self._changed.wait(_LOOK)
                    if self._job.cancelled():
                        raise Cancelled
        finally:
            with self._changed:
                self._ended = True
            self._stop.set()
            for thread in threads:
                thread.join(_JOIN)
            self._job.counts.reused = self._reused + self._assembly.reused
        if self._fatal is not None:
            raise self._fatal
        if self._assembly.whole:
            return True
        if self._no_parts or not self._failed:
            return False
        raise self._failed[0]

    # -- for the workers, in their threads ------------------------------------------------------------------------

    def part(self, worker: Worker) -> tuple[int, int] | None:
        """The next one; waits for it. None: there is nothing more for this source."""
        with self._changed:
            while not self._over():
                found = self._ranges.take(worker.number, self._job.clock())
                if found is not None:
                    return found
                self._changed.wait(_LOOK)
                if worker.number == 0 and self._job.cancelled():
                    raise Cancelled
            return None

    def back(self, worker: Worker) -> None:
        """It is through with its part, or what is left of it is anybody's."""
        with self._changed:
            self._ranges.back(worker.number)
            self._changed.notify_all()

    def end(self, worker: Worker) -> int:
        with self._changed:
            return self._ranges.end(worker.number)

    def arrived(self, worker: Worker, position: int, data: bytes | memoryview) -> bool:
        """Bytes of the file; those behind the end of its part are another one's by now. Answers whether more is wanted.
        Raises Refusal if the disk does not take them, or time is up."""
        with self._changed:
            if self._ended:
                raise Cancelled
            end = self._ranges.end(worker.number)
            data = data[: max(0, end - position)]
            cancelled = self._job.cancelled if worker.number == 0 else self._stop.is_set
            self._assembly.write(position, data, cancelled)
            self._ranges.took(worker.number, len(data), self._job.clock())
            self._take_damaged()
        if self._job.clock() > self._deadline:
            raise unreachable(worker.source.raw.address, f"not done after {self._job.limits.total_seconds:g} s")
        return position + len(data) < end

    def came(self, worker: Worker, count: int, cancelled: Callable[[], bool]) -> None:
        """Bytes over the wire, in whatever form."""
        with self._changed:
            if self._ended:
                raise Cancelled
            self._job.counts.came(worker.source.label, count)
        self._job.pace.took(count, cancelled)

    def wait(self, seconds: float, cancelled: Callable[[], bool]) -> None:
        wait(seconds, cancelled=cancelled, sleep=self._job.sleep)

    @property
    def job(self) -> Job:
        return self._job

    def others_go_on(self) -> bool:
        return sum(not worker.gone for worker in self._workers) > 1

    def packed_run(self, start: int, end: int) -> tuple[int, int] | None:
        """The chunks, by number, that these bytes are, if they are whole ones and there is a packed form."""
        first = bisect_left(self._starts, start)
        last = bisect_left(self._ends, end)
        whole = last < len(self._ends) and self._starts[first] == start and self._ends[last] == end
        return (first, last + 1) if whole and self._chunks[first].packed else None

    def last_chunk(self, end: int) -> int:
        """The number of the chunk that ends there or behind it."""
        return min(bisect_left(self._ends, end), len(self._ends) - 1)

    def next_chunk(self, start: int) -> int:
        """Where the next chunk begins that begins at `start` or behind it."""
        number = bisect_left(self._starts, start)
        return self._starts[number] if number < len(self._starts) else self._size

    def chunk(self, number: int) -> Chunk:
        return self._chunks[number]

    # -- in whatever thread ---------------------------------------------------------------------------------------

    def _beside(self, worker: Worker) -> None:
        try:
            self._work(worker, self._stop.is_set)
        except Cancelled:
            pass
        except BaseException as error:
            with self._changed:
                self._fatal = self._fatal or error
                self._changed.notify_all()

    def _work(self, worker: Worker, cancelled: Callable[[], bool]) -> None:
        try:
            worker.run(cancelled)
        except NoParts:
            self._no_parts = True
            log.warning("source gives no parts", extra={"source": refusals.shown(worker.source.raw.address)})
        except Refusal as refusal:
            if refusal.reason in OF_THE_STORE:
                raise
            shown = refusals.shown(worker.source.raw.address)
            log.warning("source failed", extra={"source": shown, "reason": refusal.reason, "error": refusal.message})
            with self._changed:
                self._failed.insert(0 if worker.number == 0 else len(self._failed), refusal)
        finally:
            with self._changed:
                worker.gone = True
                self._ranges.leave(worker.number)
                self._changed.notify_all()

    def _over(self) -> bool:
        return (
            self._ended or self._fatal is not None or self._ranges.done or all(worker.gone for worker in self._workers)
        )

    def _take_damaged(self) -> None:
        while self._assembly.damaged:
            self._ranges.add(*self._assembly.damaged.pop())

    def _cut(self, place: int) -> int:
        """Parts end where chunks do: only whole ones can come packed."""
        number = bisect_left(self._ends, place)
        return self._ends[number] if number < len(self._ends) else place
