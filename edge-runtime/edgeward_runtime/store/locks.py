"""Locks between the pods of a node that share a store.

    locks/HEX.lock    held alone by whoever writes that digest, or looks whether it has to
    locks/HEX.use     shared by all who need that digest; held alone by whoever removes it

The kernel drops a flock when its holder dies, kill -9 included, so no lock is ever stale. The files stay: one that is
removed while another pod waits for it would be two locks of one name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.store.disk import disk_errors

_WAIT = 0.1  # seconds between two tries


class Locks:
    def __init__(self, folder: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._folder = folder
        self._sleep = sleep
        self._held: dict[str, int] = {}  # name -> descriptor, shared, for as long as this process needs the digest

    @contextlib.contextmanager
    def alone(self, name: str, *, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Waits for another holder. Raises Cancelled, or Refusal if the disk does not let us."""
        while True:
            with self.try_alone(name) as mine:
                if mine:
                    yield
                    return
            if cancelled():
                raise Cancelled
            self._sleep(_WAIT)

    @contextlib.contextmanager
    def try_alone(self, name: str) -> Iterator[bool]:
        descriptor = self._open(name)
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
    def shared(self, name: str) -> Iterator[None]:
        """Waits only for one who removes what the name stands for, which is short."""
        descriptor = self._open(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def hold(self, names: frozenset[str]) -> None:
        """Holds exactly these shared from now on. A disk that takes no lock file lets nobody remove anything either."""
        for name in self._held.keys() - names:
            os.close(self._held.pop(name))
        for name in names - self._held.keys():
            with contextlib.suppress(OSError, Refusal):
                descriptor = self._open(name)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                except OSError:
                    os.close(descriptor)
                    raise
                self._held[name] = descriptor

    @property
    def held(self) -> frozenset[str]:
        return frozenset(self._held)

    def _open(self, name: str) -> int:
        with disk_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
