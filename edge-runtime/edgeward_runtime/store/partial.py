"""A file on its way: its bytes so far, and a note beside them so that the next process can go on from there.

    partial/HEX         the first bytes, in order
    partial/HEX.json    where they came from, how many there will be, and up to where they were synced, with the sha256
                        up to there
    partial/HEX.OFFSET  bytes that came before those in front of them, see islands.py

After a kill every byte that was written is still there. After a power cut only what was synced is sure: what lies
behind that point is cut off when the machine was started anew since (its boot id says so), and what lies before it must
hash to what the note says. The hash over all is computed anew from the bytes, never believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

import orjson

from edgeward_runtime.errors import Cancelled
from edgeward_runtime.store.disk import disk_errors, replace, sync_directory
from edgeward_runtime.store.islands import Islands

_CHUNK = 1 << 20  # bytes
# Bytes between two syncs: what a power cut costs at most.
_CHECKPOINT = 16 * 2**20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where bytes come from. `source` is a hash of the address: the note must not keep a password."""

    source: str = ""
    etag: str | None = None
    modified: str | None = None
    total: int | None = None  # bytes of the whole file


@dataclass(frozen=True, kw_only=True, slots=True)
class _Note:
    origin: Origin
    boot: str
    synced: int
    sha256: str  # of the first `synced` bytes


class Partial:
    """Open for writing; the caller holds the digest's lock. OSErrors of the disk come out as Refusal."""

    def __init__(self, path: Path, *, cancelled: Callable[[], bool], checkpoint: int = _CHECKPOINT) -> None:
        self._path = path
        self._checkpoint = checkpoint
        self.size = 0
        self.origin = Origin()
        self._seen = hashlib.sha256()
        self._synced = 0
        self._synced_hash = self._seen.hexdigest()
        with disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not os.access(path, os.W_OK):
                path.chmod(0o640)  # a kill came between the last byte and the new name
            self._file = FileIO(path, "a+")
            self.islands = Islands(path)
        try:
            self._adopt(cancelled)
        except BaseException:
            self._file.close()
            raise
        self.found = self.size
        """bytes that an earlier process left; 0 after restart()"""

    @property
    def sha256(self) -> str:
        return self._seen.hexdigest()

    def begin(self, origin: Origin) -> None:
        """Notes where the bytes that follow come from."""
        if origin != self.origin:
            self.origin = origin
            self._write_note()

    def write(self, chunk: bytes | memoryview) -> None:
        view = memoryview(chunk)
        while view:
            with disk_errors():
                count = self._file.write(view) or 0
            self._seen.update(view[:count])
            self.size += count
            view = view[count:]
        if self.size - self._synced >= self._checkpoint:
            self.sync()
            self._synced, self._synced_hash = self.size, self._seen.copy().hexdigest()
            self._write_note(sync=True)

    def sync(self) -> None:
        with disk_errors():
            os.fsync(self._file.fileno())

    def restart(self) -> None:
        """Back to nothing, for bytes that turned out wrong or a source that gives only the whole file."""
        self.islands.clear()
        with disk_errors():
            self._file.truncate(0)
        self._forget()
        self.found = 0

    def close(self) -> None:
        """Keeps what there is for the next time; nothing at all if that is nothing."""
        self._file.close()
        self.islands.close()
        if self.size == 0 and not self.islands:
            self.discard()

    def discard(self) -> None:
        self._file.close()
        self.islands.clear()
        for path in (self._path, note_path(self._path)):
            with contextlib.suppress(OSError):
                path.unlink()

    def commit(self, path: Path) -> None:
        """Makes the bytes the file at `path`. The caller has compared the hash."""
        self.islands.clear()
        self.sync()
        with disk_errors():
            os.fchmod(self._file.fileno(), 0o444)
            self._file.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path.rename(path)
            sync_directory(path.parent)
        with contextlib.suppress(OSError):
            note_path(self._path).unlink()

    def _adopt(self, cancelled: Callable[[], bool]) -> None:
        note = read_note(self._path)
        with disk_errors():
            if note is None:
                self.islands.clear()
                self._file.truncate(0)
                return
            if note.boot != _boot_id():
                self.islands.clear()
                self._file.truncate(min(note.synced, os.fstat(self._file.fileno()).st_size))
            self._file.seek(0)
            while chunk := self._file.read(_until(self.size, note.synced)):
                self._seen.update(chunk)
                self.size += len(chunk)
                if self.size == note.synced and self._seen.hexdigest() != note.sha256:
                    break
                if cancelled():
                    raise Cancelled
            if self.size < note.synced or (self.size == note.synced and self._seen.hexdigest() != note.sha256):
                self.islands.clear()
                self._file.truncate(0)
                self._forget()
                return
        self.origin, self._synced, self._synced_hash = note.origin, note.synced, note.sha256

    def _forget(self) -> None:
        self.size = 0
        self.origin = Origin()
        self._seen = hashlib.sha256()
        self._synced, self._synced_hash = 0, self._seen.hexdigest()

    def _write_note(self, *, sync: bool = False) -> None:
        note = _Note(origin=self.origin, boot=_boot_id(), synced=self._synced, sha256=self._synced_hash)
        with disk_errors():
            replace(note_path(self._path), orjson.dumps(asdict(note)), sync=sync)


def note_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def read_note(partial: Path) -> _Note | None:
    """None if there is none or it makes no sense: then nothing is known about the bytes, and they are dropped."""
    try:
        document = orjson.loads(note_path(partial).read_bytes())
        origin = Origin(**document.pop("origin"))
        note = _Note(origin=origin, **document)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    texts = (note.boot, note.sha256, origin.source)
    plain = all(isinstance(text, str) for text in texts) and type(note.synced) is int and note.synced >= 0
    optional = all(value is None or isinstance(value, str) for value in (origin.etag, origin.modified))
    return note if plain and optional and (origin.total is None or type(origin.total) is int) else None


def _until(size: int, synced: int) -> int:
    """How much to read next so that a read ends just at the synced point."""
    return min(_CHUNK, synced - size) if size < synced else _CHUNK


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
