"""One source's side of a file in parts: its connections, and unpacking. What it gets goes to gather.py, which says what is
next."""

from __future__ import annotations

import hashlib
import http.client
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeward_runtime.artifact import packed as packing
from edgeward_runtime.artifact.chunks import Chunk
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch import refusals
from edgeward_runtime.fetch.ranges import READ
from edgeward_runtime.fetch.refusals import unreachable
from edgeward_runtime.fetch.source import NoParts, Source
from edgeward_runtime.lifecycle import backoff

if TYPE_CHECKING:
    from edgeward_runtime.fetch.gather import Gathering

log = logging.getLogger(__name__)

OF_THE_STORE = ("DiskFull", "StoreUnwritable")
_KNOWN = 1 << 20  # bytes of chunks that were unpacked, from which on it is known how long that takes
_CUTS = 3  # connections in a row that may break without bringing anything, while another source goes on


@dataclass(frozen=True, kw_only=True, slots=True)
class From:
    """Where a file is: itself, and where there is one the blob of its packed chunks. `label`: for the counts."""

    label: str
    raw: Source
    packed: Source | None = None


class _Cut(Exception):
    """The connection ended before the bytes did."""


class Worker:
    """One source. In one thread."""

    def __init__(self, number: int, source: From, all_: Gathering) -> None:
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
            more = self._all.arrived(self, start, data)
            start += len(data)
            return more

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
                more = self._chunk(chunk, carry)
                number, carry = number + 1, bytearray()
                if not more or (self._unpacked[0] >= _KNOWN and number < last and not self._pays(number, last)):
                    return False
            return True

        def until() -> int:
            return sum(self._place(self._all.last_chunk(self._all.end(self))))

        try:
            self._read(self.source.packed, at, stop, until, arrived, cancelled)
        except (Refusal, NoParts) as error:
            if isinstance(error, Refusal) and error.reason in OF_THE_STORE:
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
        return self._all.arrived(self, chunk.offset, data)

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
                at += len(data)
                self._all.came(self, len(data), cancelled)
                # With what a pace made it wait: it is the time until the bytes are here that packing saves.
                self._wire[0] += len(data)
                self._wire[1] += time.perf_counter() - begun
                if cancelled():
                    raise Cancelled
                if not arrived(data):
                    return
