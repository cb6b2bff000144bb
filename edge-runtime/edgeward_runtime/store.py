"""Models on disk, by content.

    blobs/sha256/HEX                    a whole verified file; appears by rename only
    partial/HEX                         being written, under the lock of its digest
    locks/HEX.lock                      flock: of the pods of a node that share the store one fetches, the others wait
    and find the blob jobs/NAMESPACE/NAME/last-good.json  what served last, for a boot without network or with a config
    that fails jobs/NAMESPACE/NAME/refused.json    entries not to be tried again

The kernel drops a flock when its holder dies, kill -9 included, so no lock is ever stale. A blob is hashed again before
every load: a power cut or a bad disk may have changed what fsync promised.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from edgeward_runtime.errors import Cancelled, Refusal

log = logging.getLogger(__name__)

_CHUNK = 1 << 20  # bytes


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


class Store:
    def __init__(self, root: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.root = root
        self._sleep = sleep

    def blob_path(self, digest: str) -> Path:
        return self.root / "blobs" / "sha256" / _hex(digest)

    def clean(self) -> None:
        """Drops what a killed download left behind, unless another pod is writing it right now."""
        for partial in self._list(self.root / "partial"):
            with contextlib.suppress(OSError), self._try_lock(partial.name) as mine:
                if mine:
                    partial.unlink(missing_ok=True)

    @staticmethod
    def _list(directory: Path) -> list[Path]:
        try:
            return list(directory.iterdir())
        except OSError:
            return []

    def verified(self, digest: str, *, cancelled: Callable[[], bool] = lambda: False) -> Path | None:
        """The blob's path if it is there and its bytes still hash to the digest. A corrupted one is removed, so that
        the next fetch brings a good one; a reader that has it open keeps its own."""
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
        if seen.hexdigest() == _hex(digest):
            return path
        log.error("blob is corrupted, removed", extra={"digest": digest, "found": f"sha256:{seen.hexdigest()}"})
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    @contextlib.contextmanager
    def locked(self, digest: str, *, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Holds the digest's lock; waits for another pod that has it. Raises Cancelled, or Refusal if the disk does
        not let us."""
        while True:
            with self._try_lock(_hex(digest)) as mine:
                if mine:
                    yield
                    return
            if cancelled():
                raise Cancelled
            self._sleep(0.1)

    @contextlib.contextmanager
    def _try_lock(self, name: str) -> Iterator[bool]:
        with disk_errors():
            path = self.root / "locks" / f"{name}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def writing(self, digest: str) -> Iterator[BinaryIO]:
        """The partial file of a digest, to be written while its lock is held. On a clean exit nothing has become a blob
        yet: commit() does that. On an error the partial file is removed."""
        partial = self.root / "partial" / _hex(digest)
        try:
            with disk_errors():
                partial.parent.mkdir(parents=True, exist_ok=True)
                partial.unlink(missing_ok=True)  # one left by a kill may be read-only already
                with partial.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise

    def commit(self, digest: str) -> Path:
        """Makes the finished partial file the blob. The caller has compared the hash of what it wrote."""
        path = self.blob_path(digest)
        with disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.root / "partial" / _hex(digest)
            partial.chmod(0o444)
            partial.rename(path)
            _sync_directory(path.parent)
        return path

    def evict(self, wanted: frozenset[str]) -> int:
        """Removes the blobs that nobody needs: not among `wanted` (digests), in no job's last-good record, and not
        being fetched or waited for right now. Answers the bytes freed; a reader that has one open keeps its own."""
        keep = {_hex(digest) for digest in wanted}
        for path in self.root.glob("jobs/*/*/last-good.json"):
            for live in self.read_record(path.parent.parent.name, path.parent.name, "last-good").values():
                if isinstance(live, dict):
                    keep.add(_hex(str(live.get("digest"))))
        freed = 0
        for blob in self._list(self.root / "blobs" / "sha256"):
            if blob.name in keep:
                continue
            with contextlib.suppress(OSError, Refusal), self._try_lock(blob.name) as mine:
                if mine:
                    size = blob.stat().st_size
                    blob.unlink()
                    freed += size
                    log.info("blob removed to make room", extra={"digest": f"sha256:{blob.name}", "bytes": size})
        return freed

    def read_record(self, namespace: str, job: str, name: str) -> dict[str, Any]:
        """A job's record, {} if there is none or it cannot be read: a record is a help, never a condition of
        serving."""
        path = self._record_path(namespace, job, name)
        try:
            document = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            log.warning("record cannot be read", extra={"record": name, "error": str(error)})
            return {}
        return document if isinstance(document, dict) else {}

    def write_record(self, namespace: str, job: str, name: str, document: Mapping[str, Any]) -> bool:
        """Writes it whole or not at all; False if the disk does not let us, which must not stop the server."""
        path = self._record_path(namespace, job, name)
        # Replicas of one job on one node share the folder.
        temporary = path.with_name(f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(orjson.dumps(document, option=orjson.OPT_SORT_KEYS))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            _sync_directory(path.parent)
        except OSError as error:
            log.warning("record cannot be written", extra={"record": name, "error": str(error)})
            with contextlib.suppress(OSError):
                temporary.unlink()
            return False
        return True

    def _record_path(self, namespace: str, job: str, name: str) -> Path:
        return self.root / "jobs" / namespace / job / f"{name}.json"


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turns a disk's refusal into a reason that the status can show. Never permanent: space comes back."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refusal(step="Fetch", reason="DiskFull", message="the model store is full", permanent=False) from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EEXIST):
            message = f"the model store cannot be written: {error.strerror}"
            raise Refusal(step="Fetch", reason="StoreUnwritable", message=message, permanent=False) from None
        raise
