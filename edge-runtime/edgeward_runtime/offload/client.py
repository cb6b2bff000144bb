"""One HTTP exchange with the other server, in a thread of a small pool, timed part by part."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import orjson

from edgeward_runtime.offload import wire
from edgeward_runtime.offload.routes import GZIP
from edgeward_runtime.tensors import Array, TensorSpec

_LEVEL = 1  # of gzip: beyond it, edge CPUs lose more time than links gain
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


# Of the 4xx, those that are about the way or the moment and not about the request.
_NOT_THE_REQUEST = (401, 403, 404, 407, 408, 425, 429)


class Unavailable(Exception):
    """No answer, or one that says that there will be none."""


class Refused(Exception):
    """The other server will not have this request, whoever sends it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status = status
        self.text = text


class Attempt:
    """One exchange as seen from another thread: it can be cut off, whatever it waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def cut(self) -> None:
        with self._lock:
            self._cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def over(self, connection: socket.socket | None) -> None:
        """What the exchange waits on from here; None: nothing any more. Unavailable if it was cut off before."""
        with self._lock:
            self._socket = connection
        if connection is not None:
            self.check()

    def check(self) -> None:
        if self._cut:
            raise Unavailable("no answer in time")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """`url` of the model: https://host/v2/models/NAME. `ca` in PEM; None = the system's."""

    url: str
    ca: str | None = None
    token_file: Path | None = None
    max_answer_bytes: int = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What came back. Bytes as they travelled, seconds of each part: pack and unpack here, execution as the other
    server says, send = all the rest."""

    tensors: list[Array]
    version: str
    sent: int
    received: int
    pack: float
    send: float
    execution: float
    unpack: float


class Client:
    """`exchange` may be called by several threads at once; each keeps a connection open."""

    def __init__(self, target: Target, *, clock: Callable[[], float] = perf_counter) -> None:
        parts = urllib.parse.urlsplit(target.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{target.url!r:.200} is no http or https address")
        if parts.scheme == "http" and target.token_file is not None:
            raise ValueError("a token is not sent over plain http: use https, or leave the token out")
        self._target = target
        self._host, self._port = parts.hostname, parts.port
        self._path = f"{parts.path.rstrip('/')}/infer"
        self._tls = ssl.create_default_context(cadata=target.ca) if parts.scheme == "https" else None
        self._clock = clock
        self._local = threading.local()

    def exchange(
        self,
        body: bytes,
        json_length: int,
        *,
        encoding: str,
        timeout: float,
        specs: dict[str, TensorSpec],
        names: Sequence[str],
        attempt: Attempt,
    ) -> Exchange:
        """Unavailable, Refused or wire.WireError if there is nothing to answer with. `timeout` in seconds for each wait on
        the socket; `attempt` ends them all."""
        start = self._clock()
        packed = gzip.compress(body, _LEVEL, mtime=0) if encoding == GZIP else body
        headers = {
            "Inference-Header-Content-Length": str(json_length),
            "Content-Type": "application/octet-stream",
            "Edgeward-Transfer-Seconds": "",  # asks for Server-Timing
        }
        if encoding == GZIP:
            headers |= {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
        if self._target.token_file is not None:
            headers["Authorization"] = f"Bearer {self._token(self._target.token_file)}"
        leaves = self._clock()
        reply, raw = self._post(packed, headers, timeout, attempt)
        arrives = self._clock()
        if 400 <= reply.status < 500 and reply.status not in _NOT_THE_REQUEST:
            raise Refused(reply.status, _error_text(raw))
        if reply.status != 200:
            # Not what it says: that may quote the request, and this text gets into the log.
            raise Unavailable(f"status {reply.status}")
        length = reply.getheader("Inference-Header-Content-Length")
        if length is None or not length.isdigit():
            raise wire.WireError("the answer is not binary")
        content = self._unpacked(raw) if reply.getheader("Content-Encoding") == "gzip" else raw
        tensors, version = wire.answer(content, int(length), specs, names)
        execution = min(_server_seconds(reply.getheader("Server-Timing")), arrives - leaves)
        return Exchange(
            tensors=tensors,
            version=version,
            sent=len(packed),
            received=len(raw),
            pack=leaves - start,
            send=arrives - leaves - execution,
            execution=execution,
            unpack=self._clock() - arrives,
        )

    def _post(
        self, body: bytes, headers: dict[str, str], timeout: float, attempt: Attempt
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                return self._over(connection, body, headers, timeout, attempt)
            except _STALE:
                pass  # closed while it was idle: asking again is safe, infer changes nothing
            except (OSError, http.client.HTTPException) as error:
                raise Unavailable(str(error) or type(error).__name__) from None
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=timeout)
            if self._tls is None
            else http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
        )
        try:
            return self._over(connection, body, headers, timeout, attempt)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(str(error) or type(error).__name__) from None

    def _over(
        self,
        connection: http.client.HTTPConnection,
        body: bytes,
        headers: dict[str, str],
        timeout: float,
        attempt: Attempt,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self._local.connection = None
        try:
            connection.timeout = timeout
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(timeout)
            attempt.over(connection.sock)
            connection.request("POST", self._path, body, headers)
            reply = connection.getresponse()
            raw = reply.read(self._target.max_answer_bytes + 1)
            if len(raw) > self._target.max_answer_bytes:
                raise http.client.HTTPException(f"the answer is over {self._target.max_answer_bytes} bytes")
            attempt.check()  # what was cut off may look like a short answer
        except BaseException:
            connection.close()
            raise
        finally:
            attempt.over(None)
        if reply.will_close:
            connection.close()
        else:
            self._local.connection = connection
        return reply, raw

    def _unpacked(self, raw: bytes) -> bytes:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
                content = file.read(self._target.max_answer_bytes + 1)
        except (OSError, EOFError) as error:
            raise wire.WireError(f"the answer cannot be unpacked: {error}") from None
        if len(content) > self._target.max_answer_bytes:
            raise wire.WireError(f"the answer unpacks to more than {self._target.max_answer_bytes} bytes")
        return content

    @staticmethod
    def _token(path: Path) -> str:
        """Read each time: tokens are rotated, and a few bytes from the page cache cost nothing beside a request."""
        try:
            return path.read_text().strip()
        except OSError as error:
            raise Unavailable(f"the token cannot be read: {error.strerror}") from None


def _error_text(raw: bytes) -> str:
    """`{"error": text}` of the protocol."""
    try:
        said = orjson.loads(raw)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        said = raw[:200].decode(errors="replace")
    return str(said)[:500]


def _server_seconds(header: str | None) -> float:
    """`total;dur=MS` of Server-Timing (W3C); 0 from a server that does not say."""
    for part in (header or "").split(","):
        name, _, rest = part.strip().partition(";")
        key, _, value = rest.partition("=")
        if name == "total" and key == "dur":
            try:
                return max(0.0, float(value) / 1000.0)
            except ValueError:
                return 0.0
    return 0.0
