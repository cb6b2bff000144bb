"""A few lines of Kubernetes API client for the cluster's own set-up: JSON over one kept-open connection per thread.

Not the official client: starting a cluster must not depend on what the project under test depends on.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .certificates import Pair

Object = dict[str, Any]


class ApiError(Exception):
    def __init__(self, status: int, message: str, *, path: str = ""):
        super().__init__(f"{status} {path}: {message}")
        self.status = status


class Api:
    """Calls one API server as one user. Safe for several threads. Raises ApiError, or OSError when unreachable."""

    def __init__(self, server: str, *, authority: Path, pair: Pair, timeout: float = 60):
        parts = urlsplit(server)
        self._host, self._port, self._timeout = parts.hostname or "", parts.port or 443, timeout
        self._context = ssl.create_default_context(cafile=str(authority))
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._local = threading.local()

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def post(self, path: str, body: Object) -> Any:
        return self.call("POST", path, body)

    def delete(self, path: str) -> Any:
        return self.call("DELETE", path)

    def patch(self, path: str, body: Any, *, kind: str = "application/merge-patch+json") -> Any:
        return self.call("PATCH", path, body, kind=kind)

    def apply(self, path: str, body: Object) -> Any:
        """Server-side apply by a full object path."""
        url = f"{path}?fieldManager=edgeward-test-cluster&force=true"
        return self.call("PATCH", url, body, kind="application/apply-patch+yaml")

    @contextlib.contextmanager
    def stream(self, path: str) -> Iterator[http.client.HTTPResponse]:
        """A GET whose answer does not end, such as a watch, on a connection of its own and without a time limit."""
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._context)
        try:
            connection.request("GET", path, headers={"Accept": "application/json"})
            yield connection.getresponse()
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Content-Type": kind}
        for attempt in (0, 1):
            kept = getattr(self._local, "connection", None)
            connection = kept or http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=self._context
            )
            try:
                connection.request(method, path, data, headers)
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                self._local.connection = None
                if kept is None or attempt:  # a kept connection may have been closed by the server in between
                    raise
                continue
            self._local.connection = connection
            break
        if response.status >= 300:
            raise ApiError(response.status, text.decode(errors="replace")[:600], path=path)
        return json.loads(text) if "json" in (response.getheader("Content-Type") or "") else text.decode()
