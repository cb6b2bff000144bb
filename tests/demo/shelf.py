"""A shelf for model files inside a cluster: a server that takes a file by PUT and gives it by GET. Standard library only.

For clusters that cannot reach this machine: the demo uploads its models through a port-forward, pods fetch them here.
"""

from __future__ import annotations

import re
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_CHUNK = 1 << 20
_LIMIT = 64 << 20


class Shelf(SimpleHTTPRequestHandler):
    """Plain names only, so nothing outside the folder is ever written."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        name, length = self.path.lstrip("/"), int(self.headers.get("Content-Length") or -1)
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,120}", name) or not 0 <= length <= _LIMIT:
            self.close_connection = True
            self.send_error(400, "a plain name and a Content-Length, please")
            return
        half = Path(self.directory) / f".{name}.{threading.get_ident()}"
        left = length
        with half.open("wb") as stream:
            while left and (chunk := self.rfile.read(min(left, _CHUNK))):
                stream.write(chunk)
                left -= len(chunk)
        if left:
            half.unlink()
            self.close_connection = True
            return
        half.rename(Path(self.directory) / name)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()


def serve(folder: str, port: int) -> None:
    def handler(*arguments: object) -> Shelf:
        return Shelf(*arguments, directory=folder)  # type: ignore[arg-type]

    ThreadingHTTPServer(("", port), handler).serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
