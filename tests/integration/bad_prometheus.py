"""A Prometheus that answers as badly as a test asks for, about every node of the fleet, by the kubelet's profile."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlparse

from tests.cluster.endpoint import Endpoint, answer

Series = list[tuple[str, str]]
"""(node, value as Prometheus writes it)"""
Vectors = dict[str, Series]
"""by query: cpu, cpu_at, memory, memory_at"""
Spoil = Callable[[Vectors, set[str], float], None]
"""Changes what would be answered: (the vectors, the nodes to spoil, now)"""
Behave = Callable[[BaseHTTPRequestHandler, bytes], None]
"""Sends an answer in its own way; gets the good one's bytes"""


class BadPrometheus:
    """Good until told otherwise: a tenth of each node's cores in use, a little different in each answer.

    `spoiled` are the nodes whose figures `spoil` changes; the others stay good, so that they look better.
    """

    def __init__(self, cores: Mapping[str, float]) -> None:
        self._cores = cores
        self._spoil: Spoil | None = None
        self._behave: Behave | None = None
        self.spoiled: set[str] = set()
        self.asked = 0
        self._endpoint = Endpoint(self._get)
        self.url = self._endpoint.url

    def close(self) -> None:
        self._endpoint.close()

    def good(self) -> None:
        self._spoil = self._behave = None

    def spoil(self, spoil: Spoil) -> None:
        self._spoil, self._behave = spoil, None

    def behave(self, behave: Behave) -> None:
        self._behave = behave

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        query = parse_qs(urlparse(request.path).query).get("query", [""])[0]
        self.asked += 1
        now = time.time()
        vectors: Vectors = {
            "cpu": [(node, str(0.1 * cores * random.uniform(0.95, 1.05))) for node, cores in self._cores.items()],
            "memory": [(node, str(2.0**28 + random.random())) for node in self._cores],
            "cpu_at": [(node, str(now)) for node in self._cores],
            "memory_at": [(node, str(now)) for node in self._cores],
        }
        if self._spoil is not None:
            self._spoil(vectors, self.spoiled, now)
        kind = "cpu" if "cpu" in query else "memory"
        series = vectors[f"{kind}_at" if "timestamp(" in query else kind]
        result = [{"metric": {"node": node}, "value": [now, value]} for node, value in series]
        body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()
        (self._behave or answer)(request, body)


def value(text: str, *, of: str = "cpu") -> Spoil:
    """Every figure of the spoiled nodes is this."""

    def spoil(vectors: Vectors, nodes: set[str], now: float) -> None:
        vectors[of] = [(node, text if node in nodes else good) for node, good in vectors[of]]

    return spoil


def stamped(at: Callable[[float], float]) -> Spoil:
    """The figures of the spoiled nodes were measured at another time."""

    def spoil(vectors: Vectors, nodes: set[str], now: float) -> None:
        for query in ("cpu_at", "memory_at"):
            vectors[query] = [(node, str(at(now)) if node in nodes else good) for node, good in vectors[query]]

    return spoil


def left_out(*queries: str) -> Spoil:
    def spoil(vectors: Vectors, nodes: set[str], now: float) -> None:
        for query in queries:
            vectors[query] = [(node, good) for node, good in vectors[query] if node not in nodes]

    return spoil


def twice(vectors: Vectors, nodes: set[str], now: float) -> None:
    vectors["cpu"] += [(node, "0.0001") for node in nodes]


def renamed(vectors: Vectors, nodes: set[str], now: float) -> None:
    for query, series in vectors.items():
        vectors[query] = [(f"ghost-{node}", good) for node, good in series]


def empty(vectors: Vectors, nodes: set[str], now: float) -> None:
    for query in vectors:
        vectors[query] = []


def late_by(seconds: float) -> Behave:
    def behave(request: BaseHTTPRequestHandler, body: bytes) -> None:
        threading.Event().wait(seconds)
        answer(request, body)

    return behave


def half(request: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(request, body[: len(body) // 2], Content_Length=str(len(body)))


def huge(request: BaseHTTPRequestHandler, body: bytes) -> None:
    answer(request, body[:-1] + b" " * (16 * 2**20) + body[-1:])


def instead(content: bytes, *, status: int = 200, **headers: str) -> Behave:
    return lambda request, body: answer(request, content, status=status, **headers)
