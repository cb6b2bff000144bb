"""One client's connection: bytes to requests, answers to bytes, in order and within bounds (see front.py)."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools

from edgeward_runtime.messages import SMALL_BODY, Answer, Head, Request, error

if TYPE_CHECKING:
    from edgeward_runtime.front import Front
    from edgeward_runtime.guard import Guard

_MAX_HEADER_BYTES = 64 * 1024
_MAX_HEADS = 256
_MAX_KNOWN_HEAD = 2048  # bytes
_LINGER_SECONDS = 5.0
_MAX_LINGERING = 256
# Beyond the limit on connections, for one small request each: a kubelet that gets no answer to its probes kills a pod
# for being busy.
_SPARE_CONNECTIONS = 64
_SPARE_SECONDS = 5.0
_SPARE_PATHS = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})
_CHALLENGE = b"www-authenticate: Bearer\r\n"
_REASONS = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


class Connection(asyncio.Protocol):
    __slots__ = (
        "_answering",
        "_authorization",
        "_body_size",
        "_busy",
        "_certified",
        "_closing",
        "_expect",
        "_framing",
        "_front",
        "_header_bytes",
        "_in_headers",
        "_learn",
        "_learnt",
        "_linger_bytes",
        "_lingers",
        "_loop",
        "_parser",
        "_pieces",
        "_plain",
        "_refusal",
        "_request",
        "_resumes",
        "_since",
        "_transport",
        "_unsent",
        "_url",
        "_waiting",
        "_write_paused",
    )  # fmt: skip

    def __init__(self, front: Front, loop: asyncio.AbstractEventLoop) -> None:
        self._front = front
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()  # pipelined behind the one that runs
        self._busy = False
        self._answering: Request | None = None
        self._closing = False  # nothing more is read from it
        self._write_paused = False
        self._unsent = 0  # bytes of an answer that the client has not read, counted in the front
        self._refusal: Answer | None = None  # to be sent after what runs
        self._request: Request | None = None  # being received
        self._in_headers = False
        self._since = loop.time()  # of the last byte or answer when idle, of the first byte while a request comes in
        self._linger_bytes = 0
        self._lingers = False
        self._header_bytes = 0
        self._learn = 0  # length of the head that the data being parsed begins with, if it may be remembered
        self._learnt: Request | None = None
        self._plain = True
        self._resumes = False  # the parser reads the head that _stay made
        self._certified = False  # the client showed a certificate, and TLS verified it

    # -- transport ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        front = self._front
        if front.guard is not None and front.guard.certificates:
            self._certified = bool(transport.get_extra_info("peercert"))
        front.connections.add(self)
        if len(front.connections) > front.limits.connections + _SPARE_CONNECTIONS:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.connections.discard(self)
        if self._lingers:
            self._lingers = False
            self._front.lingering -= 1
        self._closing = True
        self._sent()
        if self._answering is not None:
            self._answering.gone = True
        if self._request is not None:
            self._release(self._body_size)
        for request in self._waiting:
            self._front.in_flight -= request.held
        self._waiting.clear()
        self._refusal = None
        self._request = None

    def pause_writing(self) -> None:
        self._write_paused = True
        self._sent()
        self._unsent = self._transport.get_write_buffer_size()
        self._front.unsent += self._unsent

    def _sent(self) -> None:
        self._front.unsent -= self._unsent
        self._unsent = 0

    def resume_writing(self) -> None:
        self._write_paused = False
        self._sent()
        if not self._busy:
            self._next()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            self._linger_bytes -= len(data)
            if self._linger_bytes <= 0:
                self._transport.abort()
            return
        end = 0
        if self._request is None:
            self._since = self._loop.time()
            if not self._busy and not self._waiting and not self._write_paused:
                end = data.find(b"\r\n\r\n", 0, _MAX_KNOWN_HEAD) + 4
                known = self._front.heads.get(data[:end]) if end > 4 else None
                if known is not None and known.body_size == len(data) - end:
                    self._handle(known.request(data[end:]))
                    return
        # All that is not body: heads, chunk sizes, trailers. on_body takes its part off again.
        self._header_bytes += len(data)
        self._learn = end if end > 4 else 0
        try:
            self._parser.feed_data(data)
            if self._learnt is not None:
                self._keep(data, self._learnt)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(error(400, "the request is not valid HTTP"))
        if self._request is not None and self._header_bytes > self._overhead():
            self._refuse(error(431, f"the request's headers are over {_MAX_HEADER_BYTES} bytes"))

    def _stay(self, rest: bytes) -> None:
        """With HTTP/1.1, whatever other protocol a request asked for (RFC 9110, 7.8: a server may ignore it). The parser
        takes such a request to end with its head and is done for. Java's own client asks so with every request, those
        with a body too: another parser reads that, and what follows it."""
        self._parser = httptools.HttpRequestParser(self)
        self._learnt = None  # of what came before it in the same data
        if self._request is not None:
            self._header_bytes -= len(rest)  # counted again below
            self._resumes = True
            try:
                self._parser.feed_data(self._framing + b"\r\n")
            except httptools.HttpParserError:
                self._refuse(error(400, "the request is not valid HTTP"))
            finally:
                self._resumes = False
        if rest and not self._closing:
            self.data_received(rest)

    def _overhead(self) -> int:
        """Bytes that a message may have beside its body: its headers and trailers, and what frames its chunks; five
        bytes for one of body is the most that honest chunks take."""
        return _MAX_HEADER_BYTES + 8 * self._body_size

    def _keep(self, data: bytes, request: Request) -> None:
        """Remembers the head of the one request that `data` was."""
        end, heads = self._learn, self._front.heads
        self._learnt = None
        # The parser said what the body is; if that is all that follows the head, the head says how it is read.
        small = len(request.body) <= SMALL_BODY
        if small and self._request is None and not self._waiting and request.body == data[end:]:
            if len(heads) >= _MAX_HEADS:
                heads.clear()
            heads[data[:end]] = Head(request)

    # -- parser callbacks -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._resumes:
            return
        self._request = Request()
        self._in_headers = True
        self._url = b""
        self._framing = b""  # the headers that tell where the body ends
        self._pieces: list[bytes] = []
        self._body_size = 0
        self._expect = False
        self._authorization: bytes | None = None
        # A head that is found again passes no guard.
        self._plain = self._front.guard is None

    def on_url(self, url: bytes) -> None:
        if not self._resumes:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        size = len(name)
        # Lengths first: almost every header is none of ours.
        if request is None or not self._in_headers or size not in (6, 7, 12, 13, 14, 15, 16, 17, 25, 30, 31):
            return
        name = name.lower()
        if name == b"inference-header-content-length":
            request.json_length = value
        elif name == b"content-encoding":
            request.encoding = value
            self._plain = False  # its body is not the bytes that came
        elif name == b"accept-encoding":
            request.accept = value
        elif name == b"edgeward-transfer-seconds":
            request.transfer = value
            self._plain = False  # another value each time: such heads would push out those that come again
        elif name == b"content-type":
            if value[:6].lower() == b"image/" or value[:8].lower() == b"text/csv":
                request.record = True
                self._plain = False  # seldom, and large
        elif name == b"edgeward-source":
            request.source = value[:256].decode("latin-1")
            self._plain = False
        elif name == b"x-envoy-expected-rq-timeout-ms":
            request.timeout = value
            self._plain = False  # a gateway tells what is left of it
        elif name == b"authorization":
            self._authorization = value
        elif name == b"expect":
            self._expect = value.lower() == b"100-continue"
            self._plain = False
        elif name == b"transfer-encoding":
            self._framing += b"transfer-encoding: %b\r\n" % value
            self._plain = False
        elif name == b"upgrade":
            self._plain = False
        elif name == b"content-length":
            self._framing += b"content-length: %b\r\n" % value
            if value.isdigit() and int(value) > self._front.limits.body_bytes:
                self._refuse(self._too_large())

    def on_headers_complete(self) -> None:
        if self._resumes:
            return
        self._in_headers = False
        if self._front.guard is not None and not self._closing and not self._allowed(self._front.guard):
            # Before any of its body: that of a stranger costs memory too.
            self._refuse(error(401, "a token or a certificate is needed here", _CHALLENGE))
        if self._expect and not self._closing:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _allowed(self, guard: Guard) -> bool:
        try:
            path = self._front.path_of(self._url)
        except httptools.HttpParserError:
            path = ""
        return guard.allows(path, authorization=self._authorization, certified=self._certified)

    def on_body(self, body: bytes) -> None:
        if self._closing:
            return
        self._body_size += len(body)
        self._header_bytes -= len(body)
        if self._body_size > self._front.limits.body_bytes:
            self._body_size -= len(body)  # what is kept and counted
            self._refuse(self._too_large())
            return
        if self._body_size > SMALL_BODY:
            front, new = self._front, len(body)
            front.in_flight += new if self._body_size - new > SMALL_BODY else self._body_size
            if front.in_flight > front.limits.in_flight_bytes:
                self._refuse(error(503, "the memory for request bodies is in use, try again later"))
                return
        self._pieces.append(body)

    def _release(self, size: int) -> None:
        if size > SMALL_BODY:
            self._front.in_flight -= size

    def on_message_complete(self) -> None:
        request, parser = self._request, self._parser
        if self._framing and parser.should_upgrade() and parser.get_method() != b"CONNECT" and not self._closing:
            # Of what ended is only the head: see _stay.
            close = b"" if parser.should_keep_alive() else b"connection: close\r\n"
            version = parser.get_http_version().encode()
            self._framing = b"%b / HTTP/%b\r\n%b%b" % (parser.get_method(), version, close, self._framing)
            return
        self._request = None
        self._header_bytes = 0
        if self._closing or request is None:
            return
        request.method = parser.get_method()
        request.keep_alive = parser.should_keep_alive() and parser.get_http_version() != "1.0"
        try:
            request.path = self._front.path_of(self._url)
        except httptools.HttpParserError:
            self._release(self._body_size)
            self._refuse(error(400, "the request's target is not valid"))
            return
        pieces = self._pieces
        request.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        if self._body_size > SMALL_BODY:
            request.held = self._body_size
        if self._learn and self._plain:
            self._learnt = request
        if self._busy or self._write_paused:
            self._waiting.append(request)
            self._transport.pause_reading()
        else:
            self._handle(request)

    # -- answering ------------------------------------------------------------------------------------------------

    def _handle(self, request: Request) -> None:
        self._busy = True
        self._answering = request
        front, reply = self._front, functools.partial(self._reply, request)
        if request.encoding is None and request.accept is None:
            front.handler(request, reply)
        else:
            front.codings.handle(request, reply)

    def _reply(self, request: Request, answer: Answer) -> None:
        self._busy = False
        self._answering = None
        self._since = self._loop.time()
        if request.held:
            self._front.in_flight -= request.held
        if self._closing:
            if self._refusal is not None and not self._transport.is_closing():
                self._write(answer, request.keep_alive, request.method == b"HEAD")
                if request.keep_alive:
                    self._refuse_next()
                else:
                    self._transport.close()
            return
        keep_alive = request.keep_alive and not self._front.draining
        self._write(answer, keep_alive, request.method == b"HEAD")
        if not keep_alive:
            self._closing = True
            self._transport.close()
            return
        if self._waiting:
            # Not called directly: a long pipeline would nest as deep.
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        if self._busy or self._write_paused or self._closing:
            return
        if self._waiting:
            self._handle(self._waiting.popleft())
        if not self._waiting:
            self._transport.resume_reading()

    def _write(self, answer: Answer, keep_alive: bool, head_only: bool = False) -> None:
        body = answer.body
        unsent = self._front.unsent
        if unsent and len(body) > SMALL_BODY and unsent + len(body) > self._front.limits.in_flight_bytes:
            answer = error(503, "the memory for answers is in use by clients that are slow to read theirs")
            body = answer.body
        head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
            _REASONS[answer.status],
            answer.content_type,
            len(body),
            answer.extra,
            b"" if keep_alive else b"connection: close\r\n",
        )
        if head_only or len(body) > SMALL_BODY:
            self._transport.write(head)
            if not head_only:
                self._transport.write(body)  # a copy of it is more than a system call
        else:
            self._transport.write(head + body)

    def _too_large(self) -> Answer:
        limit = self._front.limits.body_bytes
        return error(
            413, f"the request body is over the limit of {limit} bytes; large tensors are smaller as binary data"
        )

    def _refuse_next(self) -> None:
        """After the answer that ran: those of whole requests that wait, then the refusal."""
        if self._waiting:
            self._loop.call_soon(self._run_waiting)
            return
        answer, self._refusal = self._refusal, None
        if answer is not None:
            self._write(answer, keep_alive=False)
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._linger()

    def _run_waiting(self) -> None:
        if self._waiting and not self._transport.is_closing():
            self._handle(self._waiting.popleft())

    def _linger(self) -> None:
        front = self._front
        if front.lingering >= _MAX_LINGERING:
            self._transport.close()
            return
        front.connections.discard(self)
        front.lingering += 1
        self._lingers = True
        self._loop.call_later(_LINGER_SECONDS, self._transport.abort)

    def _refuse(self, answer: Answer) -> None:
        """Answers a request that is not read to its end, and closes. Reads on for a while without keeping anything:
        closing at once would reset the connection while the client sends, and it would see that instead of the
        answer."""
        if self._closing:
            return
        self._closing = True
        self._since = self._loop.time()
        if self._request is not None:
            self._release(self._body_size)
        self._request = None
        self._in_headers = False
        self._pieces = []
        self._linger_bytes = 2 * self._front.limits.body_bytes
        self._transport.resume_reading()
        self._refusal = answer
        if not self._busy:  # else in its turn: it would be taken for the answer of the request that runs
            self._refuse_next()

    # -- time and end ---------------------------------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        if self._busy:
            return
        limits = self._front.limits
        if self._request is None or self._closing:  # one that closes waits for the client to read its answer
            if now - self._since > limits.idle_seconds:
                self.abort()
        elif now - self._since > limits.request_seconds:
            self._refuse(error(408, f"the request was not complete after {limits.request_seconds:g} s"))

    def close_if_idle(self) -> None:
        if not self._busy and self._request is None and not self._waiting and not self._closing:
            self._closing = True
            self._transport.close()

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()


class SpareConnection(Connection):
    """One over the limit: health and metrics are answered, all else is 503, and then it closes."""

    __slots__ = ()

    def _crowded(self) -> Answer:
        return error(503, f"{self._front.limits.connections} connections are open, try again later")

    def on_headers_complete(self) -> None:
        self._expect = False  # nobody sends a body here
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._refuse(self._crowded())

    def _handle(self, request: Request) -> None:
        request.keep_alive = False
        if request.path in _SPARE_PATHS:
            super()._handle(request)
        else:
            self._refuse(self._crowded())

    def check_time(self, now: float) -> None:
        if not self._busy and now - self._since > _SPARE_SECONDS:
            self.abort()
