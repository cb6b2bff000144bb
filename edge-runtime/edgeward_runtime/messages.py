"""What the HTTP front and the application hand to each other: a request, an answer, the call that sends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from edgeward_runtime.errors import ProtocolError

SMALL_BODY = 64 * 1024  # bytes; only larger ones count against the budget, the others are bounded by their number
JSON = b"application/json"  # exactly: KServe's client reads an error's text only without a charset
_EXTRA = {415: b"accept-encoding: gzip, deflate\r\n", 503: b"retry-after: 1\r\n"}


class Request:
    """A whole request. Only the headers that this server reads are kept."""

    # Defaults stand here, once, and not in each request: most of them are never another.
    method: bytes = b""
    path: str = ""
    body: bytes = b""
    keep_alive: bool = True
    json_length: bytes | None = None  # Inference-Header-Content-Length
    length: int | None = None  # the same as a number, where it is known already
    encoding: bytes | None = None  # Content-Encoding, None once the body is decoded
    accept: bytes | None = None  # Accept-Encoding
    record: bool = False  # Content-Type image/... or text/csv: the body is a record for the model's preprocessing
    source: str = ""  # Edgeward-Source
    timeout: bytes | None = None  # X-Envoy-Expected-Rq-Timeout-Ms
    gone: bool = False  # the connection ended: nobody reads the answer
    transfer: bytes | None = None  # Edgeward-Transfer-Seconds
    held: int = 0  # bytes of the budget for bodies, see Front.in_flight
    refused: ProtocolError | None = None  # why the body could not be decoded


class Head:
    """A request's head that was parsed before, byte for byte the same: most clients of a model server repeat theirs,
    and a dictionary finds it ten times faster than the parser's callbacks take it apart. Only of requests that came in
    one piece, with a Content-Length or no body, and with nothing in them that changes how they are read."""

    __slots__ = ("accept", "body_size", "json_length", "keep_alive", "length", "method", "path")

    def __init__(self, request: Request) -> None:
        self.method = request.method
        self.path = request.path
        self.body_size = len(request.body)
        self.keep_alive = request.keep_alive
        self.json_length = request.json_length
        length = request.json_length
        # Anything else is for the application to refuse.
        self.length = int(length) if length is not None and length.isdigit() and len(length) < 19 else None
        if self.length is not None and self.length > self.body_size:
            self.length = None
        self.accept = request.accept

    def request(self, body: bytes) -> Request:
        request = Request()
        request.method = self.method
        request.path = self.path
        request.body = body
        request.json_length = self.json_length
        request.length = self.length
        if not self.keep_alive:
            request.keep_alive = False
        if self.accept is not None:
            request.accept = self.accept
        return request


@dataclass(slots=True)
class Answer:
    status: int
    body: bytes
    content_type: bytes = JSON
    extra: bytes = b""  # finished header lines, each with its \r\n
    # Whether it may be sent gzipped or deflated. Triton's asyncio client offers both with every request, and unpacks the
    # answers to infer only, as its server packs no others; errors it reads as they are.
    packable: bool = False


Reply = Callable[[Answer], None]
Handler = Callable[[Request, Reply], None]


def error(status: int, text: str, extra: bytes = b"") -> Answer:
    """`{"error": text}`, the form that every client of the protocol reads."""
    return Answer(status, orjson.dumps({"error": text}), extra=extra or _EXTRA.get(status, b""))
