"""Memory of this process given back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


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
