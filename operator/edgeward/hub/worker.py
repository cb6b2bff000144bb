"""The process that solves: requests on stdin, answers on stdout, one at a time; it ends when its stdin does.

    python -m edgeward.hub.worker MODULE:FUNCTION

A frame is the length of what follows (8 bytes, big-endian) and a pickle: of the arguments one way; the other way of the
result, of what was raised instead as text, and of the most memory used so far in bytes. Both ends are this program in
this version, over a pipe that nobody else can open, so a pickle is safe here; it is also several times faster than any
text form of a Fleet.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import resource
import signal
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

LENGTH = struct.Struct(">Q")
NICENESS = 10
"""the operator's own work, the renewal of its Lease above all, comes first"""
MARGIN = 32 * 2**20
"""bytes of the container's memory that the worker leaves to whatever else may need some"""
CGROUP = Path("/sys/fs/cgroup")


def frame(content: bytes) -> bytes:
    return LENGTH.pack(len(content)) + content


def solve(work: Callable[..., Any], request: bytes) -> bytes:
    """The frame that answers a request. Whatever goes wrong in the work becomes an answer as well."""
    result, error = None, ""
    try:
        arguments = pickle.loads(request)  # noqa: S301  from our own parent, see above
        result = work(*arguments)
    except MemoryError:
        error = "it ran out of memory"
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return frame(pickle.dumps((result, error, peak), protocol=pickle.HIGHEST_PROTOCOL))


def allowance(cgroup: Path = CGROUP) -> int | None:
    """Bytes that this process may use, by what the container has left; None when it has no limit.

    Without a limit of its own it could drive the container over its one: then the kernel ends every process in it
    (Kubernetes sets memory.oom.group since 1.28), and the operator with it.
    """
    try:
        most, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
        # What a page cache holds is given back when somebody needs it.
        stat = (cgroup / "memory.stat").read_text().splitlines()
        cached = sum(int(line.split()[1]) for line in stat if line.startswith("file "))
        return max(0, int(most) - int(used) + cached - MARGIN)
    except (OSError, ValueError):  # "max", or cgroup v1, or none at all
        return None


def serve(work: Callable[..., Any], requests: BinaryIO, answers: BinaryIO, *, end: Callable[[], None]) -> None:
    """Until the requests end; then `end` is called, in the middle of a piece of work too: nobody waits for it."""
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def listen() -> None:
        while len(header := requests.read(LENGTH.size)) == LENGTH.size:
            length = LENGTH.unpack(header)[0]
            content = requests.read(length)
            if len(content) < length:
                break
            waiting.put(content)
        end()
        waiting.put(None)

    threading.Thread(target=listen, name="requests", daemon=True).start()
    while (request := waiting.get()) is not None:
        answers.write(solve(work, request))
        answers.flush()


def main(argv: list[str]) -> int:
    os.nice(NICENESS)
    # Ctrl-C reaches every process of a terminal; it is the operator that ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # where the kernel has to choose, it shall be this process
        Path("/proc/self/oom_score_adj").write_text("1000")
    limit = allowance()
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # Nothing that a library prints may get in between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    module, _, name = argv[0].partition(":")
    work = getattr(importlib.import_module(module), name)
    serve(work, sys.stdin.buffer, answers, end=lambda: os._exit(0))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
