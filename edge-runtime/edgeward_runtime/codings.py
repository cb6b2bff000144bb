"""Content codings gzip and deflate (RFC 9110), for request bodies and for answers.

A body that unpacks to more than a request may have is refused without being unpacked further, and what it unpacks to
counts against the budget for bodies as if it had come so. Anything large is done in a thread, one at a time: zlib lets
go of the interpreter there, and at no time is more than one unpacked body outside the budget.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from edgeward_runtime.errors import ProtocolError, bad_request
from edgeward_runtime.messages import SMALL_BODY, Answer, Reply, Request

if TYPE_CHECKING:
    from edgeward_runtime.front import Front

_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's wbits
# Up to here it takes the event loop less than a hand-over and back delays others (about 0.1 ms).
_INLINE_IN = 4 * 1024  # bytes to pack or, packed, to unpack
_INLINE_OUT = 16 * 1024  # bytes after unpacking
_WORTH = 1024  # bytes; a smaller answer fits one packet anyway
_LEVEL = 1  # most of the gain at a fifth of the default level's time
_NAMES = {b"gzip": "gzip", b"x-gzip": "gzip", b"deflate": "deflate"}
_MAX_CHOICES = 256
# gzip allows several, one after the other (RFC 1952). Each costs a copy of what follows it.
_MAX_MEMBERS = 16


class Codings:
    """Stands between a connection and the application for requests that have one of the two headers."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._jobs: deque[tuple[Callable[[], bytes], Callable[[bytes | ProtocolError], None]]] = deque()
        self._running = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="edgeward-codings")
        self._choices: dict[bytes, str | None] = {}

    def stop(self) -> None:
        self._jobs.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def handle(self, request: Request, reply: Reply) -> None:
        if request.accept is not None:
            coding = self._choice(request.accept)
            if coding is not None:
                reply = functools.partial(self._encode, coding, reply)
        named = (request.encoding or b"").strip().lower()
        if named in (b"", b"identity"):
            self._front.handler(request, reply)
            return
        name = _NAMES.get(named)
        if name is None:
            text = f"Content-Encoding {named.decode('latin-1')!r:.50} is not supported, send gzip, deflate or the body as it is"
            self._decoded(request, reply, ProtocolError(415, text))
            return
        body, limit = request.body, self._front.limits.body_bytes
        if len(body) <= _INLINE_IN:
            try:
                self._decoded(request, reply, decode(name, body, min(limit, _INLINE_OUT)))
                return
            except TooLarge:
                pass  # for this way
            except ProtocolError as failure:
                self._decoded(request, reply, failure)
                return
        self._in_thread(functools.partial(_decode, name, body, limit), functools.partial(self._decoded, request, reply))

    def _decoded(self, request: Request, reply: Reply, body: bytes | ProtocolError) -> None:
        """Hands the request on, with its body or with why there is none: the application counts and answers both."""
        front = self._front
        if isinstance(body, bytes):
            held = len(body) if len(body) > SMALL_BODY else 0
            if held and front.in_flight - request.held + held > front.limits.in_flight_bytes:
                body = ProtocolError(503, "the memory for request bodies is in use, try again later")
        request.encoding = None
        if isinstance(body, ProtocolError):
            request.body, held, request.refused = b"", 0, body
        else:
            request.body = body
        front.in_flight += held - request.held
        request.held = held
        front.handler(request, reply)

    def _encode(self, coding: str, reply: Reply, answer: Answer) -> None:
        """Packs the answer if that makes it smaller."""
        size = len(answer.body)
        if not answer.packable or size < _WORTH:
            reply(answer)
        elif size <= _INLINE_IN:
            self._encoded(coding, reply, answer, encode(coding, answer.body))
        else:
            pack = functools.partial(encode, coding, answer.body)
            self._in_thread(pack, functools.partial(self._encoded, coding, reply, answer))

    @staticmethod
    def _encoded(coding: str, reply: Reply, answer: Answer, packed: bytes | ProtocolError) -> None:
        if isinstance(packed, bytes) and len(packed) < len(answer.body):
            extra = answer.extra + b"content-encoding: %b\r\nvary: accept-encoding\r\n" % coding.encode()
            answer = Answer(answer.status, packed, answer.content_type, extra)
        reply(answer)

    def _choice(self, header: bytes) -> str | None:
        """accepted(), remembered: clients repeat theirs."""
        if header not in self._choices:
            if len(self._choices) >= _MAX_CHOICES:
                self._choices.clear()
            self._choices[header] = accepted(header)
        return self._choices[header]

    # -- the thread -----------------------------------------------------------------------------------------------

    def _in_thread(self, work: Callable[[], bytes], then: Callable[[bytes | ProtocolError], None]) -> None:
        self._jobs.append((work, then))
        if not self._running:
            self._next()

    def _next(self) -> None:
        work, then = self._jobs.popleft()
        self._running = True
        self._thread.submit(self._run, work, then)

    def _run(self, work: Callable[[], bytes], then: Callable[[bytes | ProtocolError], None]) -> None:
        result: bytes | ProtocolError
        try:
            result = work()
        except ProtocolError as failure:
            result = failure
        except MemoryError:
            result = ProtocolError(503, "not enough memory for the body, try again later")
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._front.loop.call_soon_threadsafe(self._done, then, result)

    def _done(self, then: Callable[[bytes | ProtocolError], None], result: bytes | ProtocolError) -> None:
        self._running = False
        try:
            then(result)
        finally:
            if self._jobs and not self._running:
                self._next()


class TooLarge(Exception):
    """The body unpacks to more than the limit."""


def _decode(coding: str, body: bytes, limit: int) -> bytes:
    try:
        return decode(coding, body, limit)
    except TooLarge:
        raise ProtocolError(413, f"the request body unpacks to more than the limit of {limit} bytes") from None


def decode(coding: str, body: bytes, limit: int) -> bytes:
    """The body unpacked. TooLarge as soon as it is longer than `limit`, 400 if it is damaged or ends early."""
    parts: list[bytes] = []
    size = 0
    rest = body
    while True:
        unpacker = zlib.decompressobj(_GZIP if coding == "gzip" else _framing(rest))
        try:
            part = unpacker.decompress(rest, limit - size + 1)
        except zlib.error as failure:
            raise bad_request(f"the body is not valid {coding}: {failure}") from None
        parts.append(part)
        size += len(part)
        if size > limit:
            raise TooLarge
        if not unpacker.eof:
            raise bad_request(f"the body is not valid {coding}: it ends early")
        rest = unpacker.unused_data
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
        if coding != "gzip":
            raise bad_request(f"the body is not valid {coding}: {len(rest)} bytes are left over")
        if len(parts) >= _MAX_MEMBERS:
            raise bad_request(f"the body has more than {_MAX_MEMBERS} gzip members")


def _framing(body: bytes) -> int:
    """ "deflate" means zlib's framing (RFC 9110, 8.4.1.2); some clients leave it out, and its two bytes tell."""
    framed = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _ZLIB if framed else _RAW


def encode(coding: str, body: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP if coding == "gzip" else _ZLIB)
    return packer.compress(body) + packer.flush()


def accepted(header: bytes) -> str | None:
    """The coding that an Accept-Encoding header likes best, gzip before deflate, None for none of ours (RFC 9110,
    12.5.3). A weight that is no number counts as 0."""
    weights: dict[str, float] = {}
    for entry in header.decode("latin-1").lower().split(","):
        name, _semicolon, parameters = entry.partition(";")
        key, _equals, value = parameters.partition("=")
        weight = 1.0
        if key.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
        weights[name.strip()] = weight
    others = weights.get("*", 0.0)
    gzip = weights.get("gzip", weights.get("x-gzip", others))
    deflate = weights.get("deflate", others)
    best, name = (gzip, "gzip") if gzip >= deflate else (deflate, "deflate")
    # Not named, "identity" is possible but nothing is said for it.
    return name if best > 0 and best >= weights.get("identity", 0.0) else None
