"""What every write to the store needs: a disk's refusal as a reason, and names that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from edgeward_runtime.errors import Refusal

# EFBIG is what a file size limit of the process says.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EEXIST, errno.EMLINK)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turns a disk's refusal into a reason that the status can show. Never permanent: space comes back."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Refusal(step="Fetch", reason="DiskFull", message="the model store is full", permanent=False) from None
        if error.errno in _UNWRITABLE:
            message = f"the model store cannot be written: {error.strerror}"
            raise Refusal(step="Fetch", reason="StoreUnwritable", message=message, permanent=False) from None
        raise


def sync_directory(path: Path) -> None:
    """Makes the names in a folder outlive a power cut, as fsync does for a file's bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Writes a file whole or not at all. OSError if the disk does not let us."""
    # Replicas of one job on one node share the folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.rename(path)
        if sync:
            sync_directory(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it is not there or cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []
