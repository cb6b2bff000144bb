"""Answers over http that end in time.

A socket's timeout is for each read: a source that sends a byte now and then holds its reader for ever, in the headers as
well as in a body that is read whole. So every read of an answer looks at the clock and asks whether it is still wanted.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """total: seconds from `begun` to the last byte. Reads beyond raise TimeoutError, reads of what nobody wants any more
    what `wanted` raises. Connecting has the socket's timeout alone."""

    total: float = math.inf
    wanted: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    begun: float = 0.0

    def left(self) -> float:
        """Seconds, never 0."""
        self.wanted()
        left = self.begun + self.total - self.clock()
        if left <= 0:
            raise TimeoutError(f"not done after {self.total:g} s")
        return left


class Request(urllib.request.Request):
    bound = Bound()


class HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_connecting(http.client.HTTPConnection, _bound_of(req)), req)


class HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        connect = _connecting(http.client.HTTPSConnection, _bound_of(req))
        return self.do_open(connect, req, context=self._context)  # type: ignore[attr-defined]


def connection(host: str, port: int, *, seconds: float) -> http.client.HTTPConnection:
    """One whose answer is there so many seconds from now, or TimeoutError; a connect may take as long again."""
    bound = Bound(total=seconds, begun=time.monotonic())
    return _connecting(http.client.HTTPConnection, bound)(host, port=port, timeout=seconds)


def reader(opened: io.BufferedIOBase, sock: socket.socket, bound: Bound) -> io.BufferedReader:
    """The same of a socket's file from which nothing has been read yet, in its place."""
    return io.BufferedReader(_Raw(opened.detach(), sock, bound))


def _bound_of(request: urllib.request.Request) -> Bound:
    return request.bound if isinstance(request, Request) else Bound()


def _connecting(
    kind: Callable[..., http.client.HTTPConnection], bound: Bound
) -> Callable[..., http.client.HTTPConnection]:
    def connect(host: str, **options: Any) -> http.client.HTTPConnection:
        connection = kind(host, **options)

        def response(sock: socket.socket, *args: Any, **more: Any) -> http.client.HTTPResponse:
            found = http.client.HTTPResponse(sock, *args, **more)
            # Nothing has been read yet. What was opened is kept: it holds the socket after the connection lets go of it.
            found.fp = reader(found.fp, sock, bound)
            return found

        connection.response_class = response  # type: ignore[assignment]
        return connection

    return connect


class _Raw(io.RawIOBase):
    def __init__(self, opened: io.RawIOBase, sock: socket.socket, bound: Bound) -> None:
        self._opened = opened
        self._sock = sock
        self._bound = bound
        self._timeout = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._bound.left()
        if left < (self._timeout or math.inf):
            self._sock.settimeout(left)
        return self._opened.readinto(buffer)

    def close(self) -> None:
        self._opened.close()
        super().close()
