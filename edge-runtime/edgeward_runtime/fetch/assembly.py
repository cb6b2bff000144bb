"""A file that is put together from what is in the store and what comes from several places at once.

Everything ends up in the partial file in order, so that after a kill the next process finds the first bytes of the file,
as it does of a plain download, and islands behind them.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeward_runtime.artifact.chunks import Chunk
from edgeward_runtime.errors import Cancelled
from edgeward_runtime.store.partial import Partial

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the store a chunk's bytes were seen."""

    path: Path
    offset: int


class Assembly:
    """Not safe for threads: the caller sees to it. `chunks`: of the whole file, or none; `here`: those of them that the
    store has, by digest."""

    def __init__(self, partial: Partial, *, size: int, chunks: Sequence[Chunk], here: Mapping[str, Place]) -> None:
        self._partial = partial
        self._size = size
        self._local = {chunk.offset: chunk for chunk in chunks if chunk.digest in here}
        self._chunks = chunks
        self._here = here
        self.reused = 0
        """bytes that came from the store"""
        self.damaged: list[tuple[int, int]] = []
        """what the store should have had and has not: to be fetched after all"""

    @property
    def whole(self) -> bool:
        return self._partial.size >= self._size

    def missing(self) -> list[tuple[int, int]]:
        """What has to come from elsewhere, rising, [start, end)."""
        have = [(chunk.offset, chunk.offset + chunk.length) for chunk in self._local.values()]
        have += [(0, self._partial.size), *self._partial.islands.ranges()]
        gaps, at = [], 0
        for start, end in sorted(have):
            if start > at:
                gaps.append((at, start))
            at = max(at, end)
        if at < self._size:
            gaps.append((at, self._size))
        return gaps

    def write(self, position: int, data: bytes | memoryview, cancelled: Callable[[], bool]) -> None:
        """Bytes that came for `position`. Those that are there already are dropped. Raises Cancelled."""
        view = memoryview(data)[max(0, self._partial.size - position) :]
        position = max(position, self._partial.size)
        if not view:
            return
        if position == self._partial.size:
            self._partial.write(view)
            self.advance(cancelled)
        else:
            self._partial.islands.append(position, view)

    def advance(self, cancelled: Callable[[], bool]) -> None:
        """Takes up whatever comes next and is here: gigabytes, perhaps. Raises Cancelled."""
        before = -1
        while before != self._partial.size:
            before = self._partial.size
            if cancelled():
                raise Cancelled
            for data in self._partial.islands.take(before):
                self._partial.write(data)
            chunk = self._chunk_at(self._partial.size)
            if chunk is not None:
                self._copy(chunk)

    def _chunk_at(self, position: int) -> Chunk | None:
        """The local chunk that has this byte. An earlier try may have ended within it."""
        if not self._local:
            return None
        low, high = 0, len(self._chunks)
        while low < high:
            middle = (low + high) // 2
            if self._chunks[middle].offset <= position:
                low = middle + 1
            else:
                high = middle
        return self._local.get(self._chunks[low - 1].offset) if position < self._size else None

    def _copy(self, chunk: Chunk) -> None:
        place = self._here[chunk.digest]
        data = _read(place, chunk.length)
        end = chunk.offset + chunk.length
        if f"sha256:{hashlib.sha256(data).hexdigest()}" == chunk.digest:
            rest = memoryview(data)[self._partial.size - chunk.offset :]
            self.reused += len(rest)
            self._partial.write(rest)
            return
        log.warning("part of a model in the store has changed, fetched instead", extra={"file": place.path.name})
        del self._local[chunk.offset]
        self.damaged.append((self._partial.size, end))


def _read(place: Place, length: int) -> bytes:
    """b"" if the disk does not give it."""
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, length, place.offset)
        finally:
            os.close(descriptor)
    except OSError:
        return b""
