"""Models on disk, by content, shared by the pods of a node. Names: layout.py.

A kill at any moment leaves either a whole file or a partial one that the next process goes on with. Everything is hashed
again before every load: a power cut or a bad disk may have changed what fsync promised.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgeward_runtime.artifact import manifest as manifests
from edgeward_runtime.artifact.manifest import Manifest
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.store import disk, layout
from edgeward_runtime.store.eviction import Evicted, Eviction
from edgeward_runtime.store.islands import files as islands_of
from edgeward_runtime.store.locks import Locks
from edgeward_runtime.store.partial import Partial
from edgeward_runtime.store.records import RecordFiles

log = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes


def _never() -> bool:
    return False


class Store:
    """`quota`: bytes that it may hold, 0 for as many as the disk has."""

    def __init__(self, root: Path, *, quota: int = 0, sleep: Callable[[float], None] = time.sleep) -> None:
        self.root = root
        self.quota = quota
        self._locks = Locks(root / layout.LOCKS, sleep=sleep)
        self._records = RecordFiles(root / layout.JOBS)
        self._eviction = Eviction(root, locks=self._locks, records=self._records)
        self._held: frozenset[str] = frozenset()
        self.used = 0
        """bytes when somebody last looked or wrote: a scrape must not wait for a disk"""
        self.corrupted = 0
        """files that were dropped because their bytes had changed"""

    # -- what is there --------------------------------------------------------------------------------------------

    def blob_path(self, digest: str) -> Path:
        return self.root / layout.BLOBS / layout.name_of(digest)

    def manifest_path(self, digest: str) -> Path:
        return self.root / layout.MANIFESTS / layout.name_of(digest)

    def has(self, digest: str) -> bool:
        """Whether there is something of that digest, in whatever state."""
        return self.manifest_path(digest).exists() or self.blob_path(digest).exists()

    def find(self, digest: str, *, cancelled: Callable[[], bool] = _never) -> Path | None:
        """Where the model is, every byte of it verified: its file, or the folder of an artifact. None if it is not
        there as it should be; what is corrupted is removed, so that the next fetch brings it anew."""
        manifest = self.manifest(digest)
        if manifest is None:
            path = self.verified(digest, cancelled=cancelled)
        else:
            # All of them, so that all damaged ones are found at once.
            found = [self.verified(layer.digest, cancelled=cancelled) for layer in manifest.layers]
            path = self._release(digest, manifest) if all(found) else None
        if path is not None:
            self._eviction.touch(layout.name_of(digest))
        return path

    def verified(self, digest: str, *, cancelled: Callable[[], bool] = _never) -> Path | None:
        """The blob's path if it is there and its bytes still hash to the digest. A corrupted one is removed; a reader
        that has it open keeps its own."""
        path = self.blob_path(digest)
        try:
            with path.open("rb") as file:
                seen = hashlib.sha256()
                while chunk := file.read(_CHUNK):
                    seen.update(chunk)
                    if cancelled():
                        raise Cancelled
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("blob cannot be read", extra={"digest": digest, "error": str(error)})
            return None
        if seen.hexdigest() == layout.name_of(digest):
            return path
        self.corrupted += 1
        log.error("blob is corrupted, removed", extra={"digest": digest, "found": f"sha256:{seen.hexdigest()}"})
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def manifest(self, digest: str) -> Manifest | None:
        """The artifact's manifest if it is there, unharmed."""
        path = self.manifest_path(digest)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() == layout.name_of(digest):
            return manifests.parse(content, max_bytes=2**62)
        self.corrupted += 1
        log.error("manifest is corrupted, removed", extra={"digest": digest})
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    @staticmethod
    def size(path: Path) -> int:
        """Bytes of what find() answered."""
        files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
        return sum(one.stat().st_size for one in files)

    # -- bringing something in ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, digest: str, *, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Holds the digest's lock; waits for another pod that has it, and keeps what is there from being removed.
        Raises Cancelled, or Refusal if the disk does not let us."""
        name = layout.name_of(digest)
        with self._locks.shared(name + layout.USE), self._locks.alone(name + layout.WRITE, cancelled=cancelled):
            yield

    @contextlib.contextmanager
    def needed(self, digests: frozenset[str]) -> Iterator[None]:
        """Keeps blobs from being removed between finding them and linking them."""
        with contextlib.ExitStack() as stack:
            for digest in sorted(digests):
                stack.enter_context(self._locks.shared(layout.name_of(digest) + layout.USE))
            yield

    @contextlib.contextmanager
    def partial(self, digest: str, *, cancelled: Callable[[], bool] = _never) -> Iterator[Partial]:
        """What there is of a download, to go on with while the digest's lock is held. Whatever happens, what has come
        so far stays, unless it was discarded."""
        one = Partial(self.root / layout.PARTIAL / layout.name_of(digest), cancelled=cancelled)
        try:
            yield one
        finally:
            one.close()

    def commit(self, digest: str, partial: Partial) -> Path:
        """Makes the finished partial file the blob. The caller has compared the hash."""
        path = self.blob_path(digest)
        partial.commit(path)
        self.measure()
        return path

    def put_manifest(self, digest: str, content: bytes) -> None:
        """The caller has compared the hash, and the parser takes it."""
        with disk.disk_errors():
            disk.replace(self.manifest_path(digest), content)

    def signature(self, digest: str) -> bytes | None:
        """What put_signature() kept, or whatever has become of it since."""
        try:
            return (self.root / layout.SIGNATURES / layout.name_of(digest)).read_bytes()
        except OSError:
            return None

    def put_signature(self, digest: str, content: bytes) -> None:
        """A disk that takes no more must not stop a model that was just verified; a later boot asks the sources."""
        with contextlib.suppress(OSError):
            disk.replace(self.root / layout.SIGNATURES / layout.name_of(digest), content)

    def release(self, digest: str, manifest: Manifest) -> Path:
        """The folder of an artifact whose blobs are all there; the caller holds its lock and needs its blobs."""
        with disk.disk_errors():
            return layout.make_release(self.root, digest, manifest)

    def _release(self, digest: str, manifest: Manifest) -> Path | None:
        if layout.release_fits(self.root, digest, manifest):
            return self.root / layout.RELEASES / layout.name_of(digest)
        with (
            contextlib.suppress(OSError, Refusal),
            self._locks.try_alone(layout.name_of(digest) + layout.WRITE) as mine,
        ):
            if mine:
                return layout.make_release(self.root, digest, manifest)
        return None

    # -- room -----------------------------------------------------------------------------------------------------

    def room(self, sizes: Mapping[str, int]) -> None:
        """Makes room for files: digest -> bytes; what is there of them already counts. Refusal DiskFull if what is in
        use leaves too little."""
        size = sum(sizes.values())
        for last in (False, True):
            over, free = self._over_quota(sizes), self._free_on_disk()
            lacking = size - self._present(sizes) - free
            if over <= 0 and lacking <= 0:
                return
            if not last:
                self.free(max(over, lacking))
        jobs = ", ".join(self._eviction.pinning()) or "none that is known"
        if over > 0:
            message = f"{size} bytes are {over} more than the store's quota of {self.quota} leaves beside models in use"
        else:
            message = f"{size} bytes are {lacking} more than the disk has free beside models in use"
        raise Refusal(
            step="Fetch", reason="DiskFull", message=f"{message} (jobs with models here: {jobs})"[:500], permanent=False
        )

    def free(self, size: int) -> int:
        """Removes what nobody needs, the least recently used first, until so many bytes are free; answers how many
        were freed."""
        self._clear_trash()
        freed = self._eviction.free(size)
        self.measure()
        return freed

    def hold(self, digests: frozenset[str]) -> None:
        """What this process needs from now on, and nothing else: no pod of the node removes it."""
        if digests != self._held:
            for digest in digests ^ self._held:
                self._eviction.touch(layout.name_of(digest))
            self._locks.hold(frozenset(layout.name_of(digest) + layout.USE for digest in digests))
            self._held = digests
            self.measure()

    def measure(self) -> None:
        self.used = self._eviction.used()

    @property
    def evicted(self) -> Evicted:
        return self._eviction.done

    def _over_quota(self, sizes: Mapping[str, int]) -> int:
        if not self.quota:
            return 0
        names = frozenset(layout.name_of(digest) for digest in sizes)
        return self._eviction.used(without=names) + sum(sizes.values()) - self.quota

    def _present(self, sizes: Mapping[str, int]) -> int:
        paths = [self.root / layout.PARTIAL / layout.name_of(digest) for digest in sizes]
        every = [*paths, *(island for path in paths for island in islands_of(path))]
        return sum(path.stat().st_size for path in every if path.exists())

    def _free_on_disk(self) -> int:
        with contextlib.suppress(OSError):
            self.root.mkdir(parents=True, exist_ok=True)
            told = os.statvfs(self.root)
            return told.f_bavail * told.f_frsize
        return 2**62  # nothing is known; writing will tell

    def clean(self) -> None:
        """At a start: what is left of a process that was killed and of no use to the next one."""
        self._clear_trash()
        for folder in (layout.MANIFESTS, layout.PARTIAL, layout.RELEASES):
            for path in disk.entries(self.root / folder):
                if path.name.startswith(".") or (path.suffix and not path.with_suffix("").exists()):
                    self._clean_one(path, path.name.lstrip(".").partition(".")[0])

    def _clean_one(self, path: Path, name: str) -> None:
        """Unless another pod is at it right now."""
        with contextlib.suppress(OSError, Refusal), self._locks.try_alone(name + layout.WRITE) as mine:
            if mine:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _clear_trash(self) -> None:
        for path in disk.entries(self.root / layout.TRASH):
            shutil.rmtree(path, ignore_errors=True)

    # -- records --------------------------------------------------------------------------------------------------

    def read_record(self, namespace: str, job: str, name: str) -> dict[str, Any]:
        return self._records.read(namespace, job, name)

    def write_record(self, namespace: str, job: str, name: str, document: Mapping[str, Any]) -> bool:
        return self._records.write(namespace, job, name, document)

    def write_good(self, namespace: str, job: str, live: Mapping[str, Mapping[str, Any]]) -> bool:
        return self._records.write_good(namespace, job, live)
