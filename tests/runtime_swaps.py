"""Swaps of a real edgeward-serve under constant load, and what they cost: for the integration tests and the benchmark.

The load is open: each client sends at fixed times whatever the server does, and a latency counts from the time at which
the request was due, so that a stall shows in all that it held up.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.test_runtime_serving import LIMIT, Server, publish
from tests.unit.runtime.http_source import Source
from tests.unit.runtime.onnx_models import stamped

SIZES = (4, 1024, 512, 10)  # 2 MB of weights


@dataclass(frozen=True, slots=True)
class Answer:
    at: float  # monotonic seconds
    latency: float  # seconds since it was due
    version: str  # as the answer says
    value: float  # as the version's weights make it


class Clients:
    """`count` threads, each sending `rate` requests a second over a kept connection."""

    def __init__(self, port: int, *, count: int = 3, rate: float = 60.0, path: str = "/v2/models/m/infer") -> None:
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self._port, self._path, self._period = port, path, 1.0 / rate
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(index,), daemon=True) for index in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LIMIT)

    def _run(self, index: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LIMIT)
        x = {"name": "x", "datatype": "FP32", "shape": [1, SIZES[0]], "data": [1.0] * SIZES[0]}
        outputs = [{"name": "version"}]
        due = time.monotonic() + self._period * index / len(self._threads)
        number = 0
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            number += 1
            body = json.dumps({"id": f"{index}-{number}", "inputs": [x], "outputs": outputs})
            try:
                connection.request("POST", self._path, body)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {text!r}")
                else:
                    document = json.loads(text)
                    now = time.monotonic()
                    value = document["outputs"][0]["data"][0]
                    self.answers.append(Answer(now, now - due, document["model_version"], value))
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            due += self._period


@dataclass(slots=True)
class Swaps:
    """What became of so many swaps under load. A swap that did not come through within the limit raises."""

    swaps: int = 0
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    misrouted: list[Answer] = field(default_factory=list)  # made by another version than the answer names, or too old
    p99_seconds: float = 0.0
    p99_seconds_before: float = 0.0  # the same load, no swap

    @property
    def p99_ratio(self) -> float:
        return self.p99_seconds / self.p99_seconds_before


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def swap_under_load(server: Server, source: Source, count: int, *, quiet: float = 2.0, pause: float = 0.05) -> Swaps:
    """Brings version 1 live, watches `quiet` seconds of load, then swaps `count` times, `pause` seconds apart. Every
    version multiplies by its own number, so an answer shows which one really made it."""

    def want(number: int) -> None:
        server.want(publish(source, str(number), stamped(number, SIZES)), revision=number)
        server.until(lambda: server.serves(str(number)))

    want(1)
    found = Swaps(swaps=count)
    since = {"1": 0.0}
    until = {}
    with Clients(server.port) as clients:
        time.sleep(quiet)
        before = len(clients.answers)
        for number in range(2, count + 2):
            since[str(number)] = time.monotonic()
            want(number)
            until[str(number - 1)] = time.monotonic()
            time.sleep(pause)
    found.requests = len(clients.answers)
    found.failed = clients.failures
    for answer in clients.answers:
        # A request that came before the flip may be answered after it.
        in_time = since[answer.version] <= answer.at <= until.get(answer.version, answer.at) + answer.latency + 0.05
        if answer.value != float(answer.version) or not in_time:
            found.misrouted.append(answer)
    latencies = [answer.latency for answer in clients.answers]
    found.p99_seconds_before = percentile(latencies[:before], 0.99)
    found.p99_seconds = percentile(latencies[before:], 0.99)
    return found


def pss_bytes(pid: int, *, anonymous: bool = False) -> int:
    """Memory of a process, pages that it shares with others by their part; `anonymous`: without those of files, whose
    part changes when another process starts that has the same libraries."""
    name = "Pss_Anon:" if anonymous else "Pss:"
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name}")


def pss_ratio(server: Server, source: Source, count: int, *, first: int = 10, anonymous: bool = False) -> float:
    """PSS after `first` + `count` swaps over that after `first`, by when every path has been taken. Two models take
    turns under ever new version numbers."""
    contents = [stamped(factor, SIZES) for factor in (1, 2)]

    def swap(number: int) -> None:
        server.want(publish(source, str(number), contents[number % 2]), revision=number)
        server.until(lambda: server.serves(str(number)) and len(server.status()["models"]) == 1)

    def settled(swaps: int) -> int:
        """Once all replaced versions are freed."""
        server.until(lambda: sum("drained" in line["message"] for line in server.lines()) == swaps)
        return pss_bytes(server.process.pid, anonymous=anonymous)

    for number in range(1, first + 2):
        swap(number)
    before = settled(first)
    for number in range(first + 2, first + 2 + count):
        swap(number)
    return settled(first + count) / before
