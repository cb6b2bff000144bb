"""Real runtimes, real requests, and the operator's own reader of what they counted: rates, restarts, swaps, clients that
report their way. The reader's clock is the test's, so that every figure is exact."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeward.agent import scrape
from edgeward.agent.traffic import TrafficReader
from edgeward.agent.windows import SLACK
from edgeward.cluster.cache import Cache
from edgeward.cluster.resources import ASSIGNMENTS, NODES, PODS
from edgeward.fleet.names import LABEL_ASSIGNMENT
from edgeward.fleet.traffic import Measured, facts
from tests.integration.test_runtime_serving import Server, publish, row, server
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import constant_times, digest

BEGIN = time.time()


def cache(*pods: str) -> Cache:
    """One job at one site with these pods, all at this machine's own address."""
    assignment = {
        "metadata": {"name": "reader-store-1", "namespace": "edgeward"},
        "spec": {"site": "store-1", "job": {"namespace": "shop", "name": "reader"}},
    }
    made = [
        {
            "metadata": {"name": uid, "namespace": "shop", "uid": uid, "labels": {LABEL_ASSIGNMENT: "reader-store-1"}},
            "spec": {"nodeName": "n"},
            "status": {"podIP": "127.0.0.1", "phase": "Running"},
        }
        for uid in pods
    ]
    found = Cache()
    for resource, objects in ((ASSIGNMENTS, [assignment]), (PODS, made), (NODES, [])):
        found.add(resource).seed(objects)
    return found


class Turns:
    """The reader's turns, 15 s apart by its own clock."""

    def __init__(self, store: Cache) -> None:
        self.now = BEGIN
        self.reader = TrafficReader(cache=store, clock=lambda: self.now, timeout=10.0)

    async def __call__(self) -> Measured | None:
        await self.reader.turn()
        self.now += 15
        return next(iter(self.reader.measured), None)


def traffic(server: Server, monkeypatch: pytest.MonkeyPatch, act: Callable[[Turns], Any], *pods: str) -> None:
    monkeypatch.setattr(scrape, "PORT", server.port)
    turns = Turns(cache(*(pods or ("a",))))

    async def run() -> None:
        try:
            await act(turns)
        finally:
            await turns.reader.close()

    asyncio.run(run())


def test_rates_and_times_of_a_real_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as source, server(tmp_path) as one:
        model = constant_times(2)
        one.want(publish(source, "1", model))
        one.until(lambda: one.serves("1"))

        async def act(turns: Turns) -> None:
            assert await turns() is None
            for _ in range(30):
                assert one.infer(row(1, 2, 3, 4))[0] == 200
            assert one.infer({"inputs": []})[0] == 400
            found = await turns()
            assert found is not None
            assert (found.job, found.site, found.digest) == ("shop/reader", "store-1", digest(model))
            assert (found.window, found.replicas, found.samples) == (15, 1, 30)
            assert found.arrivals == pytest.approx(2.0), "what a client got wrong is no load"
            assert found.service_seconds is not None and 0 < found.service_seconds < 1
            assert found.latency_p95 is not None and found.latency_p95 > 0
            assert (sum(found.hour_latency), found.hour_errors, found.hour_samples) == (30, 0, 30)
            assert found.memory_p95 is not None and found.memory_p95 > 10e6
            assert found.cpu_p95 is not None and found.cpu_p95 >= 0
            (known,) = facts([found], slo_latency=10.0)
            assert (known.within_slo, known.hour_requests) == (30, 30)

        traffic(one, monkeypatch, act)


def test_a_restart_begins_at_zero_and_loses_nothing_that_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as source:
        begun = time.monotonic()
        first = Server(tmp_path)
        first.want(publish(source, "1", constant_times(2)))
        first.until(lambda: first.serves("1"))

        async def act(turns: Turns) -> None:
            await turns()
            for _ in range(30):
                first.infer(row(1, 2, 3, 4))
            await turns()
            # Two that begin within the slack of a start's time are told apart by their counters alone.
            first.until(lambda: time.monotonic() - begun > SLACK + 1)
            first.stop()
            with server(tmp_path) as second:
                second.until(lambda: second.serves("1"))
                monkeypatch.setattr(scrape, "PORT", second.port)
                for _ in range(45):
                    second.infer(row(1, 2, 3, 4))
                found = await turns()
                assert found is not None
                assert (found.window, found.samples) == (30, 75)
                assert found.arrivals == pytest.approx(2.5)
                assert sum(found.hour_latency) == 75

        traffic(first, monkeypatch, act)


def test_a_new_version_is_measured_by_itself_and_the_old_one_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as source, server(tmp_path) as one:
        one.want(publish(source, "1", constant_times(2)))
        one.until(lambda: one.serves("1"))

        async def act(turns: Turns) -> None:
            await turns()
            for _ in range(15):
                one.infer(row(1, 2, 3, 4))
            one.want(publish(source, "2", constant_times(3)), revision=2)
            one.until(lambda: one.serves("2"))
            for _ in range(30):
                one.infer(row(1, 2, 3, 4))
            found = await turns()
            assert found is not None
            assert (found.digest, found.samples) == (digest(constant_times(3)), 30)
            assert found.arrivals == pytest.approx(3.0)

        traffic(one, monkeypatch, act)


def test_a_client_that_tells_how_long_its_requests_are_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks with an empty value, learns what the server spent, and reports the rest with its next request."""
    with serving() as source, server(tmp_path) as one:
        one.want(publish(source, "1", constant_times(2)))
        one.until(lambda: one.serves("1"))
        body = json.dumps(row(1, 2, 3, 4)).encode()

        def ask(said: str | None) -> dict[str, str]:
            headers = {} if said is None else {"Edgeward-Transfer-Seconds": said}
            status, answered, _ = one.request("POST", "/v2/models/m/infer", body, headers)
            assert status == 200
            return answered

        async def act(turns: Turns) -> None:
            await turns()
            assert "server-timing" not in ask(None)
            spent = ask("")["server-timing"]
            assert spent.startswith("total;dur=") and float(spent.removeprefix("total;dur=")) > 0
            for said in ("0.2", "0.4", "a lie", "-3"):
                assert "server-timing" in ask(said)
            found = await turns()
            assert found is not None
            assert (found.transfer_seconds, found.hour_transfers, found.samples) == (pytest.approx(0.3), 2, 6)

        traffic(one, monkeypatch, act)


def test_what_is_no_runtime_is_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is far too long, one that is cut, another service, nobody at all: no figures, and no fault."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = bodies.pop(0)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body[: len(body) - cut])
        await writer.drain()
        writer.close()

    page = 'nv_inference_request_success{model="m",version="1"} 5\n'
    bodies, cut = [], 0

    async def run() -> None:
        nonlocal cut
        fake = await asyncio.start_server(serve, "127.0.0.1", 0)
        monkeypatch.setattr(scrape, "PORT", fake.sockets[0].getsockname()[1])
        turns = Turns(cache("a"))
        for body in (b"x" * (scrape.LARGEST_PAGE + 1), b"\xff\xfe", page.replace("5", "NaN").encode(), b"<html>"):
            bodies.append(body)
            assert await turns() is None
        cut = 3
        bodies.append(page.encode())
        assert await turns() is None
        fake.close()
        assert await turns() is None
        assert turns.reader.failed == 0
        await turns.reader.close()

    asyncio.run(run())
