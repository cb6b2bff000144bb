"""Makes room: removes what nobody needs, the least recently used first.

Needed is what a job's record names (current and previous, of every job that shares the store) and what a running
process holds. The rest goes in this order: halves of downloads that nobody wants, then models by their last use.

Last use is the mtime of a model's file or manifest, but no wall clock is trusted with it: touch() writes a time later
than any other in the store, so the order is right whatever the clock does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeward_runtime.artifact import manifest as manifests
from edgeward_runtime.errors import Refusal
from edgeward_runtime.store import disk, layout
from edgeward_runtime.store.islands import files as islands_of
from edgeward_runtime.store.locks import Locks
from edgeward_runtime.store.partial import note_path, read_note
from edgeward_runtime.store.records import RecordFiles

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Evicted:
    """Since the process began."""

    models: int = 0
    size: int = 0  # bytes


class Eviction:
    def __init__(self, root: Path, *, locks: Locks, records: RecordFiles) -> None:
        self._root = root
        self._locks = locks
        self._records = records
        self.done = Evicted()

    def used(self, *, without: frozenset[str] = frozenset()) -> int:
        """Bytes in the store, what is still to come of downloads that run or may go on included, those of `without` left
        out."""
        whole = sum(_size(path) for folder in (layout.BLOBS, layout.MANIFESTS) for path in self._files(folder))
        return whole + sum(_announced(path) for path in self._partials() if path.name not in without)

    def touch(self, name: str) -> None:
        """Notes that a model was used just now."""
        times = [_modified(path) for path in self._models()]
        later = max([time.time_ns(), *(one + 1 for one in times)])
        for folder in (layout.MANIFESTS, layout.BLOBS):
            path = self._root / folder / name
            if path.exists():
                with contextlib.suppress(OSError):  # a read-only disk evicts nothing either
                    os.utime(path, ns=(later, later))
                return

    def free(self, wanted: int) -> int:
        """Removes until `wanted` bytes are free or nothing is left that may go; answers the bytes freed."""
        pinned = {layout.name_of(digest) for digest in self._records.pinned()} | self._held()
        freed = 0
        wanted_soon = pinned | self._layers(path for path in self._files(layout.MANIFESTS) if path.name in pinned)
        for path in sorted(self._partials(), key=_modified):
            if freed < wanted and path.name not in wanted_soon:
                freed += self._remove_partial(path)
        for path in sorted(self._models(), key=_modified):
            if freed >= wanted:
                break
            if path.name in pinned:
                continue
            size = self._remove_model(path, pinned)
            if size:
                self.done.models += 1
                self.done.size += size
                log.info("model removed to make room", extra={"digest": f"sha256:{path.name}", "bytes": size})
            freed += size
        return freed

    def pinning(self) -> list[str]:
        """Jobs whose models stay, for the message that there is no room."""
        return sorted(set(self._records.pinned().values()))

    def _held(self) -> set[str]:
        return {name.removesuffix(layout.USE) for name in self._locks.held}

    def _files(self, folder: str) -> list[Path]:
        return [path for path in disk.entries(self._root / folder) if not path.name.startswith(".")]

    def _partials(self) -> list[Path]:
        return [path for path in self._files(layout.PARTIAL) if not path.suffix]

    def _models(self) -> list[Path]:
        """A manifest stands for its artifact; a blob that no manifest names is a model of its own, or what is left of
        an artifact."""
        manifests = self._files(layout.MANIFESTS)
        layers = self._layers(manifests)
        return manifests + [path for path in self._files(layout.BLOBS) if path.name not in layers]

    @staticmethod
    def _layers(paths: Iterable[Path]) -> set[str]:
        return {name for path in paths for name in layers_of(path)}

    def _remove_partial(self, path: Path) -> int:
        with (
            contextlib.suppress(OSError, Refusal),
            self._locks.try_alone(path.name + layout.WRITE) as unwritten,
            self._locks.try_alone(path.name + layout.USE) as unwanted,
        ):
            if unwritten and unwanted:
                islands = islands_of(path)
                size = sum(_size(one) for one in (path, *islands))
                for one in (path, *islands, note_path(path)):
                    one.unlink(missing_ok=True)
                return size
        return 0

    def _remove_model(self, path: Path, pinned: set[str]) -> int:
        if path.parent.name == "sha256" and path.parent.parent.name == "blobs":
            return self._remove_blob(path)
        layers = layers_of(path)
        with (
            contextlib.suppress(OSError, Refusal),
            self._locks.try_alone(path.name + layout.WRITE) as unwritten,
            self._locks.try_alone(path.name + layout.USE) as unused,
        ):
            if not (unwritten and unused):
                return 0
            size = _size(path)
            layout.remove_release(self._root, path.name)
            path.unlink(missing_ok=True)
            layout.remove_signature(self._root, path.name)
            others = self._layers(self._files(layout.MANIFESTS))
            blobs = [self._root / layout.BLOBS / name for name in layers - others - pinned]
            return size + sum(self._remove_blob(blob) for blob in blobs)
        return 0

    def _remove_blob(self, path: Path) -> int:
        """Nothing if an artifact's folder still links it: one may have come since the manifests were read."""
        with (
            contextlib.suppress(OSError, Refusal),
            self._locks.try_alone(path.name + layout.WRITE) as unwritten,
            self._locks.try_alone(path.name + layout.USE) as unused,
        ):
            if unwritten and unused:
                known = path.stat()
                if known.st_nlink == 1:
                    path.unlink()
                    layout.remove_signature(self._root, path.name)
                    return known.st_size
        return 0


def layers_of(path: Path) -> set[str]:
    """Names of the blobs that a stored manifest needs; none if it cannot be read, for then it is worth nothing."""
    try:
        parsed = manifests.parse(path.read_bytes(), max_bytes=2**62)
    except (OSError, Refusal):
        return set()
    return {layout.name_of(layer.digest) for layer in parsed.layers}


def _announced(path: Path) -> int:
    note = read_note(path)
    here = _size(path) + sum(_size(one) for one in islands_of(path))
    return max(here, note.origin.total or 0 if note else 0)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
