"""What every scheme offers to the transfer: bytes from an offset on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from edgeward_runtime.store.partial import Origin


class Reader(Protocol):
    def read1(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """`offset` is where the bytes begin: as asked for, or 0 if the source gives only the whole file or another one than
    before. The lengths are those that it announces, the marks what it tells this version of the file by."""

    reader: Reader
    offset: int
    total: int | None = None
    etag: str | None = None
    modified: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """`open` is given the offset wanted and where the bytes before it came from. Raises Refusal."""

    address: str
    open: Callable[[int, Origin], AbstractContextManager[Opened]]


def source_id(address: str) -> str:
    """Tells addresses apart without keeping them: they may hold a password."""
    return hashlib.sha256(address.encode()).hexdigest()[:32]
