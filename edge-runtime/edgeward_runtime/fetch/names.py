"""Addresses of names, looked up beside whoever asks for them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence


def resolved(host: str, port: int) -> list[str]:
    """Its addresses; none for a name that is not known (yet)."""
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError:
        return []


class Names:
    """The resolver's own timeouts are many seconds, each time, and it cannot be interrupted. One that is slow is waited
    for once; from then on what it said last counts until it is quick again. For one thread."""

    def __init__(self, hosts: Sequence[str], port: int, resolve: Callable[[str, int], list[str]], *, patience: float):
        self._hosts, self._port, self._resolve, self._patience = hosts, port, resolve, patience
        self._looking: threading.Thread | None = None
        self._found: list[str] = []
        self._slow = False

    def addresses(self) -> list[str]:
        if self._looking is None or not self._looking.is_alive():
            self._looking = threading.Thread(target=self._look, daemon=True)
            self._looking.start()
            self._looking.join(0.0 if self._slow else self._patience)
            self._slow = self._slow or self._looking.is_alive()
        return self._found

    def _look(self) -> None:
        begun = time.monotonic()
        self._found = list(dict.fromkeys(one for host in self._hosts for one in self._resolve(host, self._port)))
        self._slow = time.monotonic() - begun > self._patience
