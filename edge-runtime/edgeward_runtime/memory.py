"""Memory of this process: given back to the system, and bounded before the system has to."""

from __future__ import annotations

import ctypes
import functools
import resource
from collections.abc import Callable
from pathlib import Path

_SHARE = 0.95  # of the limit: the kernel's own part, such as sockets' buffers, counts against it too
_SPARE = 64 * 2**20  # for stacks of threads that come later, which are reserved and hardly used


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # musl and others have none, and keep less
        return None


def trim() -> None:
    """glibc keeps what is freed in one of its arenas for that thread's next needs, so each replaced version would stay in
    memory in part (docs/adr/0008). Takes milliseconds, without Python's lock."""
    function = _trim()
    if function is not None:
        function(0)


def bound(limit: float | None) -> int | None:
    """Makes the allocation fail that would take this process beyond its memory limit in bytes (None: the machine's memory),
    so that one request is refused where the kernel would kill the server and all that it does. A model whose outputs
    have the size that the request asks for needs that; so does one that is too large to load.

    Called once everything runs: what is reserved by then but not used does not count. Called again after a run that
    found no memory: onnxruntime's allocator loses a block that it has reserved when there is no room for its own notes
    on it. Answers the limit of RLIMIT_DATA, or None if it cannot be set."""
    status = _kilobytes(Path("/proc/self/status"))
    total = limit if limit is not None else _kilobytes(Path("/proc/meminfo")).get("MemTotal", 0)
    if not total or "VmData" not in status:
        return None
    reserved = max(0, status["VmData"] - status.get("RssAnon", 0))
    allowed = int(total * _SHARE) + reserved + _SPARE
    _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        allowed = min(allowed, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    return allowed


def _kilobytes(path: Path) -> dict[str, int]:
    """The sizes in a file of /proc such as status, in bytes."""
    found: dict[str, int] = {}
    try:
        text = path.read_text()
    except OSError:
        return found
    for line in text.splitlines():
        name, _colon, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
            found[name] = int(words[0]) * 1024
    return found
