"""Pieces of a file that came before those in front of them, where two sources give different parts at once.

    partial/HEX.OFFSET     bytes of the file from OFFSET on, in order

An island is only ever appended to, so after a kill its length says all. Nothing of one is synced: after a power cut none
is believed. They go into partial/HEX as soon as that has reached them, and their bytes are hashed there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgeward_runtime.store.disk import disk_errors

_CHUNK = 256 * 1024  # bytes


class Islands:
    """The caller holds the digest's lock. OSErrors of the disk come out as Refusal."""

    def __init__(self, partial: Path) -> None:
        self._partial = partial
        self._ends: dict[int, int] = {}  # by where it begins
        for path in files(partial):
            start = int(path.suffix[1:])
            self._ends[start] = start + path.stat().st_size
        self._open: dict[int, int] = {}  # descriptors of those that were written to

    def __bool__(self) -> bool:
        return bool(self._ends)

    def ranges(self) -> list[tuple[int, int]]:
        """Where they begin and end, rising."""
        return sorted(self._ends.items())

    def append(self, position: int, data: bytes | memoryview) -> None:
        """Bytes at `position`: behind an island that ends there, or the first of a new one."""
        start = next((start for start, end in self._ends.items() if end == position), position)
        view = memoryview(data)
        with disk_errors():
            if start not in self._open:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                # One that was left there by chance (an overlap) is not to be gone on with in its middle.
                flags |= 0 if self._ends.get(start) == position else os.O_TRUNC
                self._open[start] = os.open(self._path(start), flags, 0o640)
            while view:
                count = os.write(self._open[start], view)
                position += count
                self._ends[start] = position
                view = view[count:]

    def take(self, position: int) -> Iterator[bytes]:
        """The bytes from `position` on of the islands that have that byte; they are removed behind it. Islands that end
        before it are removed too."""
        for start, end in self.ranges():
            if start > position:
                return
            with disk_errors():
                if end > position:
                    with self._path(start).open("rb", buffering=0) as file:
                        file.seek(position - start)
                        while chunk := file.read(_CHUNK):
                            position += len(chunk)
                            yield chunk
                self._drop(start)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def clear(self) -> None:
        for start in list(self._ends):
            self._drop(start)

    def _drop(self, start: int) -> None:
        if start in self._open:
            os.close(self._open.pop(start))
        del self._ends[start]
        with contextlib.suppress(OSError):
            self._path(start).unlink()

    def _path(self, start: int) -> Path:
        return self._partial.with_name(f"{self._partial.name}.{start}")


def files(partial: Path) -> list[Path]:
    return [path for path in partial.parent.glob(f"{partial.name}.*") if path.suffix[1:].isdigit()]
