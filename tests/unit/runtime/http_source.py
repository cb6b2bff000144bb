"""A small HTTP source of model files that can misbehave; also used by the integration tests.

It gives ranges only when told to, so that both kinds of servers are tried.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Source:
    """`files` maps paths to contents. Other paths answer 404. Set the other attributes to misbehave."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []  # of each request, names in lower case
        self.ranges = False
        self.answers_from: int | None = None  # another offset than the one asked for
        self.etags: dict[str, str] = {}  # by path; If-Range is held against them
        self.answer_headers: dict[str, str] = {}
        self.stall_at: int | None = None  # offset in the file at which the bytes stop coming
        self.go_on = threading.Event()  # set: what stalls goes on
        # What a path answers instead of a file: (target, headers in lower case, body) -> status, headers, body.
        self.answers: dict[str, Callable[[str, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]] = {}
        self.cut_after: int | None = None  # bytes, then the connection ends although more was announced
        self.seconds_per_chunk = 0.0
        self.chunk = 64 * 1024
        self.status: int | None = None

    def url(self, path: str) -> str:
        return f"{self.address}{path}"


@contextlib.contextmanager
def serving() -> Iterator[Source]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            pass

        def do_GET(self) -> None:
            source.requests.append(self.path)
            source.headers.append({name.lower(): value for name, value in self.headers.items()})
            path = self.path.partition("?")[0]
            if path in source.answers:
                self.answer(path)
                return
            if source.status is not None or (path not in source.files and path not in source.redirects):
                self.send_response(source.status or 404)
                for name, value in source.answer_headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if path in source.redirects:
                self.send_response(302)
                self.send_header("Location", source.redirects[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = source.files[path]
            offset = self.offset(path)
            if offset >= len(content) > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            offset = source.answers_from if offset and source.answers_from is not None else offset
            end = self.end(path, len(content))
            part = bool(offset) or end < len(content)
            self.send_response(206 if part else 200)
            if part:
                self.send_header("Content-Range", f"bytes {offset}-{end - 1}/{len(content)}")
            if path in source.etags:
                self.send_header("ETag", source.etags[path])
            for name, value in source.answer_headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(end - offset))
            self.end_headers()
            stop = end if source.cut_after is None else min(offset + source.cut_after, end)
            with contextlib.suppress(OSError):
                self.write(content, offset, stop)

        def do_HEAD(self) -> None:
            content = source.files.get(self.path.partition("?")[0])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            if source.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.end_headers()

        def do_POST(self) -> None:
            source.requests.append(self.path)
            source.headers.append({name.lower(): value for name, value in self.headers.items()})
            self.answer(self.path.partition("?")[0])

        def answer(self, path: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, headers, content = source.answers[path](self.path, source.headers[-1], body)
            (self.send_response_only if "Date" in headers else self.send_response)(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def offset(self, path: str) -> int:
            """Where to begin; 0 for the whole file."""
            asked = self.headers.get("Range", "")
            if not source.ranges or not asked.startswith("bytes="):
                return 0
            mark = self.headers.get("If-Range")
            return 0 if mark is not None and mark != source.etags.get(path) else int(asked[6:].partition("-")[0])

        def end(self, path: str, size: int) -> int:
            last = self.headers.get("Range", "").partition("-")[2]
            mark = self.headers.get("If-Range")
            allowed = source.ranges and (mark is None or mark == source.etags.get(path))
            return min(int(last) + 1, size) if allowed and last.isdigit() else size

        def write(self, content: bytes, start: int, stop: int) -> None:
            while start < stop:
                step = source.chunk
                if source.stall_at is not None and not source.go_on.is_set():
                    if start >= source.stall_at:
                        source.go_on.wait()
                        continue
                    step = min(step, source.stall_at - start)
                end = min(start + step, stop)
                self.wfile.write(content[start:end])
                start = end
                if source.seconds_per_chunk:
                    time.sleep(source.seconds_per_chunk)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    source = Source(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield source
    finally:
        source.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
