"""Pieces of work for the solver process of the tests, good and bad ones."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path


def double(value: int) -> int:
    print("a library that prints")  # must not get in between the answers
    return 2 * value


def pid_and_double(value: int) -> tuple[int, int]:
    return os.getpid(), 2 * value


def fail(value: int) -> int:
    raise ValueError(f"not with {value}")


def crash(value: int) -> int:
    """As the kernel ends a process that uses too much memory; but only for odd values."""
    if value % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * value


def leave(value: int) -> int:
    os._exit(3)


def hang(value: int) -> int:
    """For ever, with odd values."""
    if value % 2:
        threading.Event().wait()
    return 2 * value


def hang_and_tell(path: str) -> None:
    """For ever; the pid is in the file before."""
    half = Path(path).with_suffix(".half")
    half.write_text(str(os.getpid()))
    half.rename(path)
    threading.Event().wait()


def garble(value: int) -> int:
    """Something else on the pipe than an answer."""
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, b"x" * 64)
        except OSError:
            continue
    return value


def exhaust(value: int) -> int:
    raise MemoryError


def modules(_: int) -> list[str]:
    return sorted(sys.modules)
