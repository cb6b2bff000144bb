"""The thread that writes to the ring. A slow disk holds up nobody but it: what it is handed waits in a queue of bounded
length and bytes, and what does not fit there is dropped and counted. A disk that is full or cannot be written switches
it off for a while; then it tries again. Requests are answered all the same."""

from __future__ import annotations

import collections
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgeward_runtime.capture import ring as ring_module
from edgeward_runtime.capture.policy import Policy, Redaction
from edgeward_runtime.capture.ring import Ring, Row, TooBusy
from edgeward_runtime.capture.stats import CaptureStats

log = logging.getLogger(__name__)

MOST_QUEUED = 2048
MOST_QUEUED_BYTES = 16 * 2**20
_GATHER_SECONDS = 0.5  # from the first row of a batch to its commit
_LARGEST_BATCH = 2**20  # bytes of records, unless one alone is larger
_MAINTENANCE_SECONDS = 60.0
_FIRST_RETRY, _LAST_RETRY = 60.0, 600.0  # seconds, doubling

# (label that was there before, body of the answer's record), None for what there is none of; nothing at all if the
# ring could not be asked
Told = Callable[[tuple[bytes | None, bytes | None] | None], None]


@dataclass(frozen=True, slots=True)
class Label:
    id: str
    label: bytes
    at_ms: int
    told: Told


@dataclass(frozen=True, slots=True)
class Sketch:
    model: str
    digest: str
    at_ms: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Configure:
    folder: Path
    policy: Policy | None
    revision: int


class Writer:
    """root: the store's folder for captures; a job's ring is root/NAMESPACE/JOB. labelled: told of rows whose label
    was there before them, with their body, in the writer's thread. wall: unix seconds, clock: seconds that never go
    back."""

    def __init__(
        self,
        *,
        root: Path,
        host: str,
        stats: CaptureStats,
        labelled: Callable[[str, bytes, bytes], None],
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._host = host
        self._stats = stats
        self._labelled = labelled
        self._wall = wall
        self._clock = clock
        self._queue: collections.deque[Row | Label | Sketch | _Configure] = collections.deque()
        self._bytes = 0
        self._urgent = False
        self._stopping = False
        self._condition = threading.Condition()
        self._ring: Ring | None = None
        self._folder: Path | None = None
        self._policy: Policy | None = None
        self._revision = 0
        self._retry_at = 0.0
        self._retry = _FIRST_RETRY
        self._maintained = 0.0
        self._thread: threading.Thread | None = None

    # -- from other threads ---------------------------------------------------------------------------------------

    def configure(self, namespace: str, job: str, policy: Policy | None, revision: int) -> None:
        """policy None, or None as its redaction: nothing is kept, what was goes. Starts the thread when it is first
        needed."""
        folder = self._root / namespace / job
        nothing = policy is None or policy.redaction is Redaction.NONE
        with self._condition:
            if nothing and self._thread is None and not (folder / ring_module.FILE).exists():
                return
            self._queue.append(_Configure(folder, policy, revision))
            self._urgent = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edgeward-capture", daemon=True)
                self._thread.start()
            self._condition.notify()

    def put(self, item: Row | Sketch) -> bool:
        """False, and counted, if there is no room."""
        size = len(item.body)
        with self._condition:
            if len(self._queue) >= MOST_QUEUED or self._bytes + size > MOST_QUEUED_BYTES:
                self._stats.drop("QueueFull")
                return False
            self._queue.append(item)
            self._bytes += size
            if len(self._queue) == 1 or self._bytes >= _LARGEST_BATCH:
                self._condition.notify()
            return True

    def label(self, label: Label) -> bool:
        """Soon answered by label.told, in the writer's thread. False if there is no room."""
        with self._condition:
            if len(self._queue) >= MOST_QUEUED:
                return False
            self._queue.append(label)
            self._urgent = True
            self._condition.notify()
            return True

    def stop(self) -> None:
        """Writes what is queued and ends."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._queue and not self._stopping:
                    # Without a ring there is nothing to look after: then only a message wakes it.
                    self._condition.wait(_MAINTENANCE_SECONDS if self._ring is not None else None)
                if self._queue and not self._urgent and not self._stopping:
                    self._condition.wait_for(self._is_due, timeout=_GATHER_SECONDS)
                items, self._bytes, self._urgent = list(self._queue), 0, False
                self._queue.clear()
                ending = self._stopping
            try:
                self._work(items)
            except Exception:
                # A bug here must not end the thread: those who ask it would wait for ever.
                log.exception("capture")
            if ending:
                if self._ring is not None:
                    self._ring.close()
                return

    def _is_due(self) -> bool:
        return self._urgent or self._stopping or self._bytes >= _LARGEST_BATCH

    def _work(self, items: list[Row | Label | Sketch | _Configure]) -> None:
        batch: list[Row] = []
        size = 0
        for item in items:
            if isinstance(item, Row):
                if batch and size + len(item.body) > _LARGEST_BATCH:
                    self._write(batch)
                    batch, size = [], 0
                batch.append(item)
                size += len(item.body)
                continue
            if batch:
                self._write(batch)
                batch, size = [], 0
            if isinstance(item, _Configure):
                self._configured(item)
            elif isinstance(item, Label):
                self._tell(item)
            else:
                self._sketch(item)
        if batch:
            self._write(batch)
        self._maintain()

    def _configured(self, item: _Configure) -> None:
        self._close()
        self._folder, self._policy, self._revision = item.folder, item.policy, item.revision
        self._retry_at, self._retry = 0.0, _FIRST_RETRY
        self._stats.off = ""
        self._stats.bytes = self._stats.records = self._stats.labels = 0
        if item.policy is None or item.policy.redaction is Redaction.NONE:
            self._guard(lambda: ring_module.remove(item.folder))
        elif item.policy.max_bytes < ring_module.SMALLEST:
            log.warning("nothing is captured: maxBytes is below 1 MiB", extra={"max_bytes": item.policy.max_bytes})
            self._stats.off = "MaxBytesTooSmall"
        else:
            self._opened()
            ring_module.sweep(self._root, keep=item.folder, now=self._wall())
            self._maintained = 0.0

    def _opened(self) -> Ring | None:
        """The ring, opened or begun if need be; None while the disk has not the will for it."""
        policy, folder = self._policy, self._folder
        if policy is None or folder is None or policy.redaction is Redaction.NONE:
            return None
        if policy.max_bytes < ring_module.SMALLEST:
            return None
        if self._ring is not None and not self._ring.current:
            self._close()
        if self._ring is None and self._clock() >= self._retry_at:

            def open_() -> None:
                self._ring = Ring(
                    folder,
                    max_bytes=policy.max_bytes,
                    mode=policy.redaction,
                    revision=self._revision,
                    ttl_seconds=policy.ttl_seconds,
                )

            if self._guard(open_):
                self._stats.off = ""
        return self._ring

    def _guard(self, act: Callable[[], None]) -> bool:
        """Whether it worked; else what the failure means has been done."""
        try:
            act()
            return True
        except TooBusy:
            self._stats.drop("Busy")
        except sqlite3.Error as error:
            self._failed(error)
        except OSError as error:
            self._switch_off("Unwritable", error)
        return False

    def _failed(self, error: sqlite3.Error) -> None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            self._stats.drop("Busy")
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            # What is damaged cannot be mended by waiting. The next use begins a new one.
            log.error("the capture ring is damaged, a new one is begun", extra={"error": str(error)})
            self._stats.resets += 1
            self._close()
            if self._folder is not None:
                try:
                    ring_module.remove(self._folder)
                except OSError as failure:
                    self._switch_off("Unwritable", failure)
        else:
            self._switch_off("DiskFull" if code == sqlite3.SQLITE_FULL else "Unwritable", error)

    def _switch_off(self, reason: str, error: Exception) -> None:
        log.error("capture is off for a while", extra={"reason": reason, "error": str(error), "seconds": self._retry})
        self._close()
        self._stats.fail(reason)
        self._retry_at = self._clock() + self._retry
        self._retry = min(2 * self._retry, _LAST_RETRY)

    def _close(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def _write(self, rows: list[Row]) -> None:
        ring = self._opened()
        if ring is None:
            self._stats.drop(self._stats.off or "Off", len(rows))
            return
        fitting: list[Row] = []
        room = ring.sizes.batch
        for row in rows:
            if not ring.fits(len(row.body)):
                self._stats.drop("TooLarge")
                continue
            cost = ring_module.footprint(len(row.body))
            if fitting and cost > room:
                self._add(ring, fitting)
                fitting, room = [], ring.sizes.batch
            fitting.append(row)
            room -= cost
        if fitting:
            self._add(ring, fitting)

    def _add(self, ring: Ring, rows: list[Row]) -> None:
        def add() -> None:
            added = ring.add(rows)
            self._stats.kept += added.kept
            self._stats.evicted += added.evicted
            if added.refused:
                self._stats.drop("LessImportant", added.refused)
            bodies = {row.id: row.body for row in rows}
            for request_id, label in added.labelled:
                self._labelled(request_id, label, bodies[request_id])
            ring.settle()
            self._retry = _FIRST_RETRY

        if ring is not self._ring or not self._guard(add):
            self._stats.drop("NotWritten", len(rows))

    def _tell(self, item: Label) -> None:
        ring = self._opened()
        answer: list[tuple[bytes | None, bytes | None]] = []
        if ring is not None:
            self._guard(lambda: answer.append(ring.label(item.id, item.label, at_ms=item.at_ms)))
        item.told(answer[0] if answer else None)

    def _sketch(self, item: Sketch) -> None:
        ring = self._opened()
        if ring is None:
            return

        def keep() -> None:
            kept = ring.sketch(model=item.model, digest=item.digest, host=self._host, at_ms=item.at_ms, body=item.body)
            self._stats.sketches += kept

        self._guard(keep)

    def _maintain(self) -> None:
        now = self._clock()
        if self._maintained and now - self._maintained < _MAINTENANCE_SECONDS:
            return
        self._maintained = now
        ring, policy = self._opened(), self._policy
        if ring is None or policy is None:
            return

        def look() -> None:
            self._stats.expired += ring.expire(int((self._wall() - policy.ttl_seconds) * 1000))
            ring.settle()
            counts = ring.counts()
            self._stats.records, self._stats.labels = counts["records"], counts["labels"]
            self._stats.bytes = ring.bytes_on_disk()

        self._guard(look)
