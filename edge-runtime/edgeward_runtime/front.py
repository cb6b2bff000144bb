"""HTTP/1.1 on an asyncio protocol: httptools parses, callbacks answer, no task and no future per request.

A general server costs more per request than the whole budget of this one (measured on one slow core: uvicorn with an
empty ASGI application 62 us, this front with an empty handler about 30). What a public server must do is here and in
connection.py all the same: bounded headers and bodies, pipelining in order, Expect: 100-continue, keep-alive, content
codings, time limits for slow clients, a clean end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools

from edgeward_runtime.codings import Codings
from edgeward_runtime.connection import Connection, SpareConnection
from edgeward_runtime.messages import Handler, Head

if TYPE_CHECKING:
    from edgeward_runtime.guard import Guard
    from edgeward_runtime.tls import Tls

log = logging.getLogger(__name__)

_MAX_PATHS = 1024
_BACKLOG = 2048
_HANDSHAKE_SECONDS = 10.0
_SHUTDOWN_SECONDS = 1.0  # for a client to say goodbye: one that does not must not hold up the end of the server


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    connections: int
    body_bytes: int
    in_flight_bytes: int = 2**62  # of all bodies being received, waiting or running together
    idle_seconds: float = 90.0  # longer than an ingress keeps its own (60 s is common), so that the client closes first
    request_seconds: float = 60.0  # from a request's first byte to its last
    sweep_seconds: float = 1.0  # how often the two above are looked at


class Front:
    """The connections of one port. `handler` gets every request in the loop's thread and calls `reply`
    there, now or later."""

    def __init__(self, *, handler: Handler, limits: Limits, guard: Guard | None = None, tls: Tls | None = None) -> None:
        self.handler = handler
        self.limits = limits
        self.guard = guard  # None: everybody may ask
        self._tls = tls
        self.draining = False
        self.connections: set[Connection] = set()
        self.in_flight = 0  # bytes of bodies, see Limits
        self.unsent = 0  # bytes of answers that clients are slow to read
        self.lingering = 0  # refused ones that only wait for their client to read the answer
        self.paths: dict[bytes, str] = {}
        self.heads: dict[bytes, Head] = {}
        self.codings = Codings(self)
        self.loop: asyncio.AbstractEventLoop
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens; answers the port. OSError if it is taken."""
        self.loop = loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: self._connection(loop), host, port, backlog=_BACKLOG, **self._tls_options()
        )
        self._servers = [server]
        self._sweeper = loop.create_task(self._sweep(loop))
        return int(server.sockets[0].getsockname()[1])

    def _tls_options(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {
            "ssl": self._tls.context,
            "ssl_handshake_timeout": _HANDSHAKE_SECONDS,
            "ssl_shutdown_timeout": _SHUTDOWN_SECONDS,
        }

    async def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        """New certificates for connections from now on: other servers on the same listening sockets (a name such as
        localhost may have several addresses), so that none is refused in between. A context in use cannot forget an
        authority that it has trusted. OSError if it cannot be done; then all is as before."""
        old, new = self._servers, []
        try:
            for listening in [one for server in old for one in server.sockets]:
                copy = socket.socket(fileno=os.dup(listening.fileno()))
                copy.setblocking(False)
                server = await loop.create_server(
                    lambda: self._connection(loop), sock=copy, backlog=_BACKLOG, **self._tls_options()
                )
                new.append(server)
        except OSError:
            for server in new:
                server.close()
            raise
        # Told to stop in between, none of the new ones may stay.
        keep, drop = (old, new) if self.draining else (new, old)
        self._servers = keep
        for server in drop:
            server.close()

    def _connection(self, loop: asyncio.AbstractEventLoop) -> Connection:
        spare = len(self.connections) >= self.limits.connections
        return SpareConnection(self, loop) if spare else Connection(self, loop)

    async def stop(self, grace_seconds: float) -> int:
        """Accepts no more, waits for requests in flight, answers how many were cut off after the grace."""
        assert self._sweeper is not None
        self.draining = True
        for server in self._servers:
            server.close()
        deadline = asyncio.get_running_loop().time() + grace_seconds
        while self.connections and asyncio.get_running_loop().time() < deadline:
            for connection in list(self.connections):
                connection.close_if_idle()
            await asyncio.sleep(0.02)
        cut = len(self.connections)
        for connection in list(self.connections):
            connection.abort()
        self._sweeper.cancel()
        self.codings.stop()
        return cut

    async def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Time limits by looking now and then: a timer per request would cost more than all else here. What goes wrong
        with one connection or with new certificates must not end the limits for all."""
        stale = False  # new certificates are not in force yet
        while True:
            await asyncio.sleep(self.limits.sweep_seconds)
            now = loop.time()
            for connection in list(self.connections):
                try:
                    connection.check_time(now)
                except Exception:
                    log.exception("looking at a connection")
            if self._tls is None or self.draining:
                continue
            try:
                stale = self._tls.renew() or stale
                if stale:
                    await self._renew(loop)
                    stale = False
            except Exception:
                log.exception("new certificates are not in force yet")

    def path_of(self, url: bytes) -> str:
        """The decoded path without query, remembered: there are few and they come again and again."""
        path = self.paths.get(url)
        if path is None:
            raw = url.partition(b"?")[0] if url.startswith(b"/") else (httptools.parse_url(url).path or b"/")
            path = unquote(raw.decode("latin-1"))
            if len(self.paths) < _MAX_PATHS and len(url) < 512:
                self.paths[url] = path
        return path
