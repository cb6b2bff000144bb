"""Stands in for a Prometheus that scrapes a thousand kubelets: cores in use as a function says, by the kubelet's profile."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse


class Figures:
    """`cores` gives the cores in use by node, now; memory is the same everywhere."""

    def __init__(self, cores: Callable[[], Mapping[str, float]]) -> None:
        outer = self
        self.cores = cores

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlparse(self.path).query).get("query", [""])[0]
                body = outer._answer(query)
                with contextlib.suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, query: str) -> bytes:
        now = time.time()
        cores = self.cores()
        if "timestamp(" in query:
            values: Mapping[str, float] = dict.fromkeys(cores, now)
        else:
            values = cores if "cpu" in query else dict.fromkeys(cores, 2.0**29)
        result = [{"metric": {"node": node}, "value": [now, repr(value)]} for node, value in values.items()]
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
