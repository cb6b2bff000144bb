"""Gives blobs of the store to the other pods of the job at this site (peers.py asks).

    HEAD, GET /edgeward/v1/blobs/sha256:HEX      Authorization: Bearer TOKEN, Edgeward-Peer: who asks
    200, 206    it is here; GET sends it, from Range on
    202         it is on its way here: Edgeward-Outside: 1 fetches it, 0 waits for its turn; Edgeward-Received: bytes
    404         nothing is known of it
    503         as many are being served as may be, Retry-After

On a port of its own, in threads of the lowest priority and few at a time: requests to models go through the event loop
and notice nothing. The file goes from the page cache to the socket without passing through this process. What is sent
was verified when it came; who receives it verifies it again.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from edgeward_runtime.fetch.turns import Turns
from edgeward_runtime.store import Store

log = logging.getLogger(__name__)

PATH = "/edgeward/v1/blobs/"
PEER, OUTSIDE, RECEIVED = "Edgeward-Peer", "Edgeward-Outside", "Edgeward-Received"
_CONNECTIONS = 32
_TRANSFERS = 4
TIMEOUT = 20.0  # seconds that a client may take for a read or a write
_AGAIN = 1.0  # seconds, after the system gave no connection
GRACE, SLOWEST = 30.0, 125_000  # seconds, bytes/s: from a peer that gives less, a blob might as well come from outside


def allowed(size: int) -> float:
    """Seconds that a blob of so many bytes may take from one peer to another."""
    return GRACE + size / SLOWEST


class Seed:
    """`heard` is called with the address of each peer that showed the token."""

    def __init__(self, *, store: Store, turns: Turns, heard: Callable[[str], None] = lambda _address: None) -> None:
        self._store = store
        self._turns = turns
        self.heard = heard
        self._token = b""
        self._socket: socket.socket | None = None
        self._connections = threading.BoundedSemaphore(_CONNECTIONS)
        self.transfers = threading.BoundedSemaphore(_TRANSFERS)

    def start(self, host: str, port: int, token: str) -> None:
        """OSError if the port cannot be had."""
        self.stop()
        self._token = token.encode()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = listening = socket.create_server((host, port), family=family, backlog=64)
        threading.Thread(target=self._accept, args=(listening,), name="edgeward-seed", daemon=True).start()

    def stop(self) -> None:
        listening, self._socket = self._socket, None
        if listening is not None:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listening.close()

    def _accept(self, listening: socket.socket) -> None:
        while self._socket is listening:
            try:
                connection, address = listening.accept()
            except OSError as error:  # too many open files, or a client that is gone already
                if self._socket is listening:
                    log.warning("a peer could not be heard", extra={"error": str(error)})
                    time.sleep(_AGAIN)
                continue
            if not self._connections.acquire(blocking=False):
                connection.close()
                continue
            try:
                threading.Thread(target=self._serve, args=(connection, address), daemon=True).start()
            except RuntimeError:  # the system gives no further thread now
                self._connections.release()
                connection.close()

    def _serve(self, connection: socket.socket, address: Any) -> None:
        # Its libraries take most of a megabyte, which a pod without peers has no use for.
        from edgeward_runtime.fetch.giving import Giving

        try:
            # Of this thread only: Linux keeps the priority by thread.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
            connection.settimeout(TIMEOUT)
            with connection, contextlib.suppress(OSError):
                Giving(connection, address, self)  # type: ignore[arg-type]  # it only keeps it
        finally:
            self._connections.release()

    def knows(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(self._token, given.strip().encode("latin-1"))

    def opened(self, digest: str) -> BinaryIO | None:
        for path in (self._store.blob_path(digest), self._store.manifest_path(digest)):
            with contextlib.suppress(OSError):
                return path.open("rb")
        return None

    @property
    def turns(self) -> Turns:
        return self._turns
