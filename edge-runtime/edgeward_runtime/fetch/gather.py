"""One file of known size into the store, from what is there already and from parts that one or two sources give at once.

Which part comes from where is ranges.py's; here are the connections, a thread for each source beyond the first. Whatever
goes wrong, the whole file's hash decides: a chunk index that lies costs a plain download and nothing else.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeward_runtime.artifact import packed as packing
from edgeward_runtime.artifact.chunks import Chunk
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import refusals
from edgeward_runtime.fetch.assembly import Assembly, Place
from edgeward_runtime.fetch.pace import wait
from edgeward_runtime.fetch.ranges import READ, Ranges
from edgeward_runtime.fetch.refusals import unreachable
from edgeward_runtime.fetch.source import NoParts, Source
from edgeward_runtime.fetch.transfer import Job, Wanted
from edgeward_runtime.lifecycle import backoff
from edgeward_runtime.store.partial import Origin, Partial

log = logging.getLogger(__name__)

TOGETHER = 1 << 20  # bytes, below which a second connection is not worth it
_LOOK = 0.1  # seconds between two looks of one that has nothing to do
_OF_THE_STORE = ("DiskFull", "StoreUnwritable")
_CUTS = 3  # connections in a row that may break without bringing anything, while another source goes on


@dataclass(frozen=True, kw_only=True, slots=True)
class From:
    """Where a file is: itself, and where there is one the blob of its packed chunks. `label`: for the counts."""

    label: str
    raw: Source
    packed: Source | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What there is beside the sources: the file's chunks, and where the store has some of them."""

    chunks: Sequence[Chunk] = ()
    here: Mapping[str, Place] = field(default_factory=dict)


class _Cut(Exception):
    """The connection ended before the bytes did."""


def gather(wanted: Wanted, sources: Sequence[From], known: Known, job: Job, *, stop: threading.Event) -> bool:
    """Makes the blob; the caller holds its lock. False: it cannot be had like this, a plain download has to do it (what
    has come stays for that, unless it is known to be wrong). Raises Refusal or Cancelled as transfer() does.

    `stop` is set when the sources beyond the first are not to go on; what reads from them has to ask it."""
    assert wanted.size is not None
    with job.store.partial(wanted.digest, cancelled=job.cancelled) as partial:
        job.counts.resumed += partial.found + sum(end - start for start, end in partial.islands.ranges())
        partial.begin(Origin(total=wanted.size))
        try:
            done = _Gathering(wanted.size, sources, known, job, partial, stop).run()
        finally:
            stop.set()
        if not done:
            return False
        if f"sha256:{partial.sha256}" == wanted.digest:
            job.store.commit(wanted.digest, partial)
            return True
        log.warning("parts do not make the file, it is fetched whole", extra={"digest": wanted.digest})
        job.counts.resumed, job.counts.reused = 0, 0
        partial.discard()
        return False


class _Gathering:
    def __init__(
        self, size: int, sources: Sequence[From], known: Known, job: Job, partial: Partial, stop: threading.Event
    ) -> None:
        self._job = job
        self._stop = stop
        self._changed = threading.Condition()
        self._assembly = Assembly(partial, size=size, chunks=known.chunks, here=known.here)
        self._assembly.advance()
        self._size = size
        self._chunks = known.chunks
        self.carried: dict[int, bytearray] = {}
        """by number of the chunk: what there is of its packed form, for whoever goes on with it"""
        self._ends = [chunk.offset + chunk.length for chunk in known.chunks]
        self._starts = [chunk.offset for chunk in known.chunks]
        self._assembly.damaged.clear()  # missing() has them
        self._ranges = Ranges(missing=self._assembly.missing(), cut=self._cut)
        self._workers = [_Worker(number, one, self) for number, one in enumerate(sources)]
        self._deadline = job.clock() + job.limits.total_seconds
        self._failed: list[Refusal] = []
        self._no_parts = False
        self._fatal: BaseException | None = None

    def run(self) -> bool:
        """Whether all bytes are there. Raises what the first source failed with, if none is left."""
        self._job.counts.reused = self._assembly.reused
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
            self._stop.set()
            for thread in threads:
                thread.join()
            self._job.counts.reused = self._assembly.reused
        if self._fatal is not None:
            raise self._fatal
        if self._assembly.whole:
            return True
        if self._no_parts or not self._failed:
            return False
        raise self._failed[0]

    # -- for the workers, in their threads ------------------------------------------------------------------------

    def part(self, worker: _Worker) -> tuple[int, int] | None:
        """The next one; waits for it. None: there is nothing more for this source."""
        with self._changed:
            while not self._over() and not self._stop.is_set():
                found = self._ranges.take(worker.number, self._job.clock())
                if found is not None:
                    return found
                self._changed.wait(_LOOK)
                if worker.number == 0 and self._job.cancelled():
                    raise Cancelled
            return None

    def back(self, worker: _Worker) -> None:
        """It is through with its part, or what is left of it is anybody's."""
        with self._changed:
            self._ranges.back(worker.number)
            self._changed.notify_all()

    def end(self, worker: _Worker) -> int:
        with self._changed:
            return self._ranges.end(worker.number)

    def arrived(self, worker: _Worker, position: int, data: bytes | memoryview) -> None:
        """Bytes of the file. Raises Refusal if the disk does not take them, or time is up."""
        with self._changed:
            self._assembly.write(position, data)
            self._ranges.took(worker.number, len(data), self._job.clock())
            self._take_damaged()
        if self._job.clock() > self._deadline:
            raise unreachable(worker.source.raw.address, f"not done after {self._job.limits.total_seconds:g} s")

    def came(self, worker: _Worker, count: int, cancelled: Callable[[], bool]) -> None:
        """Bytes over the wire, in whatever form."""
        with self._changed:
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

    def _beside(self, worker: _Worker) -> None:
        try:
            self._work(worker, self._stop.is_set)
        except Cancelled:
            pass
        except BaseException as error:
            with self._changed:
                self._fatal = self._fatal or error
                self._changed.notify_all()

    def _work(self, worker: _Worker, cancelled: Callable[[], bool]) -> None:
        try:
            worker.run(cancelled)
        except NoParts:
            self._no_parts = True
            log.warning("source gives no parts", extra={"source": refusals.shown(worker.source.raw.address)})
        except Refusal as refusal:
            if refusal.reason in _OF_THE_STORE:
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
        return self._fatal is not None or self._ranges.done or all(worker.gone for worker in self._workers)

    def _take_damaged(self) -> None:
        while self._assembly.damaged:
            self._ranges.add(*self._assembly.damaged.pop())

    def _cut(self, place: int) -> int:
        """Parts end where chunks do: only whole ones can come packed."""
        number = bisect_left(self._ends, place)
        return self._ends[number] if number < len(self._ends) else place


class _Worker:
    """One source. In one thread."""

    def __init__(self, number: int, source: From, all_: _Gathering) -> None:
        self.number = number
        self.source = source
        self.gone = False
        self._all = all_
        self._wire = [0, 0.0]  # bytes, and seconds in which they came
        self._unpacked = [0, 0.0]  # bytes of chunks, and seconds that it took
        self._use_packed = source.packed is not None

    def run(self, cancelled: Callable[[], bool]) -> None:
        """Until nothing is left for it. Raises NoParts, Refusal, Cancelled."""
        cuts = 0
        while (part := self._all.part(self)) is not None:
            before = self._wire[0]
            try:
                self._bring(*part, cancelled)
                cuts = 0
            except _Cut as cut:
                cuts = 0 if self._wire[0] > before else cuts + 1
                if cuts and (cuts >= _CUTS or not self._all.others_go_on()):
                    raise unreachable(self.source.raw.address, str(cut)) from None
                self._all.back(self)
                self._all.wait(backoff(1, self._all.job.jitter()), cancelled)
            else:
                self._all.back(self)

    def _bring(self, start: int, end: int, cancelled: Callable[[], bool]) -> None:
        if self._use_packed and start < self._all.next_chunk(start) < end:
            end = self._all.next_chunk(start)  # an earlier try ended within a chunk; what follows may come packed
        run = self._all.packed_run(start, end) if self._use_packed else None
        if run is not None and (run[0] in self._all.carried or self._pays(*run)):
            self._packed(*run, cancelled)
        else:
            self._raw(start, end, cancelled)

    def _pays(self, first: int, last: int) -> bool:
        every = [self._all.chunk(number) for number in range(first, last)]
        return packing.pays(
            size=sum(chunk.length for chunk in every),
            packed=sum(chunk.packed[1] for chunk in every if chunk.packed),
            bandwidth=self._wire[0] / self._wire[1] if self._wire[1] else 0.0,
            unpack_rate=self._unpacked[0] / self._unpacked[1] if self._unpacked[1] else 0.0,
        )

    def _raw(self, start: int, end: int, cancelled: Callable[[], bool]) -> None:
        def arrived(data: bytes) -> bool:
            nonlocal start
            data = data[: max(0, self._all.end(self) - start)]
            self._all.arrived(self, start, data)
            start += len(data)
            return start < self._all.end(self)

        self._read(self.source.raw, start, end, lambda: self._all.end(self), arrived, cancelled)

    def _packed(self, first: int, last: int, cancelled: Callable[[], bool]) -> None:
        assert self.source.packed is not None
        number, carry = first, self._all.carried.pop(first, bytearray())
        at, stop = self._place(first)[0] + len(carry), sum(self._place(last - 1))

        def arrived(data: bytes) -> bool:
            nonlocal number, carry
            view = memoryview(data)
            while view and number < last:
                chunk, length = self._all.chunk(number), self._place(number)[1]
                lacking = length - len(carry)
                carry += view[:lacking]
                view = view[lacking:]
                if len(carry) < length:
                    break
                if not self._chunk(chunk, carry):
                    carry = bytearray()
                    return False
                number, carry = number + 1, bytearray()
                if chunk.offset + chunk.length >= self._all.end(self):
                    return False
            return True

        def until() -> int:
            return sum(self._place(self._all.last_chunk(self._all.end(self))))

        try:
            self._read(self.source.packed, at, stop, until, arrived, cancelled)
        except (Refusal, NoParts) as error:
            if isinstance(error, Refusal) and error.reason in _OF_THE_STORE:
                raise
            # The file itself may be there all the same.
            self._use_packed = False
            log.warning("no packed chunks", extra={"source": self.source.label, "error": str(error)})
        finally:
            if carry:
                self._all.carried[number] = carry

    def _place(self, number: int) -> tuple[int, int]:
        return self._all.chunk(number).packed or (0, 0)

    def _chunk(self, chunk: Chunk, packed: bytearray) -> bool:
        begun = time.perf_counter()
        try:
            data = packing.unpack(packed, chunk.length)
        except ValueError:
            data = b""
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != chunk.digest:
            log.warning("a packed chunk is not what it should be", extra={"source": self.source.label})
            self._use_packed = False
            return False
        self._unpacked[0] += len(data)
        self._unpacked[1] += time.perf_counter() - begun
        self._all.arrived(self, chunk.offset, data)
        return True

    def _read(
        self,
        source: Source,
        at: int,
        stop: int,
        until: Callable[[], int],
        arrived: Callable[[bytes], bool],
        cancelled: Callable[[], bool],
    ) -> None:
        """`until`: where to stop, which may have come nearer; `arrived` answers whether more is wanted."""
        if source.part is None:
            raise NoParts
        pace = self._all.job.pace
        with source.part(at, stop) as opened:
            while at < (end := min(stop, until())):
                begun = time.perf_counter()
                try:
                    data = opened.reader.read1(min(READ, pace.chunk or READ, end - at))
                except (OSError, http.client.HTTPException) as error:
                    raise _Cut(refusals.reason_text(error)) from None
                if not data:
                    raise _Cut(f"connection ended after {at} of {stop} bytes")
                self._wire[0] += len(data)
                self._wire[1] += time.perf_counter() - begun
                at += len(data)
                self._all.came(self, len(data), cancelled)
                if cancelled():
                    raise Cancelled
                if not arrived(data):
                    return
