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
    """`open` is given the offset wanted and where the bytes before it came from. `part` gives the bytes from one offset up
    to another, or raises NoParts. Both raise Refusal. `size` tells the bytes of a file of which parts can be had, None if it
    does not know."""

    address: str
    open: Callable[[int, Origin], AbstractContextManager[Opened]]
    part: Callable[[int, int], AbstractContextManager[Opened]] | None = None
    size: Callable[[], int | None] = lambda: None


class NoParts(Exception):
    """The source gives whole files only, or another part than it was asked for."""


def source_id(address: str) -> str:
    """Tells addresses apart without keeping them: they may hold a password."""
    return hashlib.sha256(address.encode()).hexdigest()[:32]
