"""A small HTTP source of model files that can misbehave; also used by the integration tests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Source:
    """`files` maps paths to contents. Other paths answer 404. Set the other attributes to misbehave."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[str] = []
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
            path = self.path.partition("?")[0]
            if source.status is not None or (path not in source.files and path not in source.redirects):
                self.send_error(source.status or 404)
                return
            if path in source.redirects:
                self.send_response(302)
                self.send_header("Location", source.redirects[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = source.files[path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            content = content[: source.cut_after]
            with contextlib.suppress(OSError):
                for start in range(0, len(content), source.chunk):
                    self.wfile.write(content[start : start + source.chunk])
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
        server.shutdown()
        server.server_close()
        thread.join()
