"""One question of a peer, answered: what is asked and answered is written in seed.py."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO

from edgeward_runtime.fetch import bounded
from edgeward_runtime.fetch.seed import OUTSIDE, PATH, PEER, RECEIVED, TIMEOUT, Seed, allowed

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?")
_HEAD = 10.0  # seconds for all of a request: who sends a byte now and then must not hold a connection for hours


class Giving(BaseHTTPRequestHandler):
    """One request a connection."""

    server: Seed  # type: ignore[assignment]
    server_version, sys_version = "edgeward-runtime", ""

    def setup(self) -> None:
        super().setup()
        bound = bounded.Bound(total=_HEAD, begun=time.monotonic())
        self.rfile = bounded.reader(self.rfile, self.connection, bound)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        seed = self.server
        if not seed.knows(self.headers.get("Authorization", "")):
            self._say(401)
            return
        seed.heard(str(self.client_address[0]))
        digest = self.path.removeprefix(PATH)
        if not self.path.startswith(PATH) or not _DIGEST.fullmatch(digest):
            self._say(404)
            return
        file = seed.opened(digest)
        if file is None:
            self._absent(digest)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            if self.command == "HEAD":
                self._say(200, length=size)
            elif seed.transfers.acquire(blocking=False):
                try:
                    self._send(file, size)
                finally:
                    seed.transfers.release()
            else:
                self._say(503, {"Retry-After": "1"})

    def _absent(self, digest: str) -> None:
        said = self.server.turns.asked(digest, by=self.headers.get(PEER, ""))
        if said is None:
            self._say(404)
        else:
            told = {OUTSIDE: str(int(said.outside)), RECEIVED: str(said.received), "Retry-After": "1"}
            self._say(202, told)

    def _send(self, file: BinaryIO, size: int) -> None:
        start, end = 0, size
        asked = self.headers.get("Range")
        if asked is None:
            self._say(200, length=size)
        else:
            found = _RANGE.fullmatch(asked.strip())
            start = int(found[1]) if found else size
            end = min(size, int(found[2]) + 1) if found and found[2] else size
            if not start < end:
                self._say(416, {"Content-Range": f"bytes */{size}"})
                return
            self._say(206, {"Content-Range": f"bytes {start}-{end - 1}/{size}"}, length=end - start)
        self.wfile.flush()
        self._pour(file, start, end, until=time.monotonic() + allowed(end - start))

    def _pour(self, file: BinaryIO, start: int, end: int, *, until: float) -> None:
        """One who reads slower than anybody is to be waited for holds up the next."""
        ready = select.poll()
        ready.register(self.connection, select.POLLOUT)
        while start < end:
            left = until - time.monotonic()
            if left <= 0 or not ready.poll(1000 * min(left, TIMEOUT)):
                return
            try:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)
            except BlockingIOError:
                continue
            if not sent:
                return  # it was cut off under us, by a disk that lost it
            start += sent

    def _say(self, status: int, headers: Mapping[str, str] | None = None, *, length: int = 0) -> None:
        self.send_response(status)
        self.send_header(PEER, self.server.turns.me)
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""
