"""Stands in for a Prometheus that scrapes a thousand kubelets: cores in use as a function says, by the kubelet's profile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlparse

from tests.cluster.endpoint import Endpoint, answer


class Figures:
    """`cores` gives the cores in use by node, now; memory is the same everywhere."""

    def __init__(self, cores: Callable[[], Mapping[str, float]]) -> None:
        self.cores = cores
        self._endpoint = Endpoint(self._get)
        self.url = self._endpoint.url

    def close(self) -> None:
        self._endpoint.close()

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        query = parse_qs(urlparse(request.path).query).get("query", [""])[0]
        answer(request, self._answer(query))

    def _answer(self, query: str) -> bytes:
        now = time.time()
        cores = self.cores()
        if "timestamp(" in query:
            values: Mapping[str, float] = dict.fromkeys(cores, now)
        else:
            values = cores if "cpu" in query else dict.fromkeys(cores, 2.0**29)
        result = [{"metric": {"node": node}, "value": [now, repr(value)]} for node, value in values.items()]
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
