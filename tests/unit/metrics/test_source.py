"""Live figures from a real little Prometheus that behaves as badly as it can; nothing raises, and words stay the same."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from edgeward.fleet.model import Live, Sample
from edgeward.metrics.http import MOST
from edgeward.metrics.poller import FROZEN, Poller
from edgeward.metrics.profiles import KUBELET, NODE_EXPORTER, PROFILES
from edgeward.metrics.source import MetricsApiSource, PrometheusSource, Reading

Behaviour = Callable[[BaseHTTPRequestHandler, str], None]
VALUES = {"cpu": "1.5", "cpu_at": "1000", "memory": "2048", "memory_at": "1001"}


def which(query: str) -> str:
    """Which of the four queries this is, by the kubelet's profile."""
    kind = "cpu" if "cpu" in query else "memory"
    return f"{kind}_at" if "timestamp(" in query else kind


def vector(*series: tuple[str | None, str]) -> bytes:
    result = [{"metric": {"node": node} if node else {}, "value": [1.0, value]} for node, value in series]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


def send(request: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, length: int | None = None) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def prometheus(behave: Behaviour) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlparse(self.path).query)["query"][0]
            asked.append(query)
            try:
                behave(self, query)
            except OSError:
                return

        def log_message(self, *_: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            return

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read(
    behave: Behaviour, *, times: int = 1, deadline: float = 2.0, pause: float = 0.0
) -> tuple[list[Reading], list[str]]:
    async def play(url: str) -> list[Reading]:
        source = PrometheusSource(url=url + "/", profile=KUBELET, window="2m", deadline=deadline)
        try:
            readings = []
            for _ in range(times):
                readings.append(await source.read())
                await asyncio.sleep(pause)
            return readings
        finally:
            source.close()

    with prometheus(behave) as (url, asked):
        readings = asyncio.run(play(url))
        return [Reading(one.live, one.problem.replace(url, "URL")) for one in readings], asked


def good(request: BaseHTTPRequestHandler, query: str) -> None:
    send(request, vector(("n1", VALUES[which(query)]), ("n2", VALUES[which(query)])))


def test_one_vector_query_a_figure_for_all_nodes_each_with_its_time() -> None:
    (reading,), asked = read(good)
    expected = Live(cpu=Sample(1.5, 1000.0), memory=Sample(2048.0, 1001.0))
    assert reading == Reading(live={"n1": expected, "n2": expected})
    assert sorted(map(which, asked)) == ["cpu", "cpu_at", "memory", "memory_at"]
    assert not any("WINDOW" in query for query in asked) and any("[2m]" in query for query in asked)


def refusing(status: int) -> Behaviour:
    # A body that is never the same twice, as with a request id.
    return lambda request, query: send(request, f"{time.monotonic_ns()}".encode(), status=status)


def half(request: BaseHTTPRequestHandler, query: str) -> None:
    body = vector(("n1", "1"))
    send(request, body[: len(body) // 2], length=len(body))


def answering(body: bytes) -> Behaviour:
    return lambda request, query: send(request, body)


def hang_up(request: BaseHTTPRequestHandler, query: str) -> None:
    request.connection.close()


def changing(request: BaseHTTPRequestHandler, query: str) -> None:
    send(request, vector(("n1", f"x{time.monotonic_ns()}")))


def hanging(request: BaseHTTPRequestHandler, query: str) -> None:
    time.sleep(1.2)


def dripping(request: BaseHTTPRequestHandler, query: str) -> None:
    """A byte now and then keeps every limit per socket operation from ever being reached."""
    request.send_response(200)
    request.end_headers()
    for _ in range(15):
        request.wfile.write(b" ")
        time.sleep(0.08)


@pytest.mark.parametrize(
    ("behave", "says"),
    [
        (refusing(503), "URL/"),
        (refusing(400), "URL/"),
        (half, ""),
        (hang_up, ""),
        (answering(b"<html>"), "JSON"),
        (answering(b""), "JSON"),
        (answering(b"{}"), ""),
        (answering(b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}}'), "vector"),
        (answering(b'{"status": "success", "data": {"result": null}}'), ""),
        (answering(b'{"status": "success", "data": {"result": [{"metric": 1}]}}'), "vector"),
        (changing, "vector"),
        (answering(vector()), "no series"),
        (answering(vector((None, "1"))), "no series"),
    ],
)
def test_whatever_goes_wrong_is_said_in_the_same_words_each_time(behave: Behaviour, says: str) -> None:
    """The words end in conditions: were they to change, every reading would write every status."""
    readings, asked = read(behave, times=3)
    assert len({reading.problem for reading in readings}) == 1
    assert says in readings[0].problem and readings[0].problem.startswith("Prometheus at URL")
    assert all(not reading.live for reading in readings)
    assert len(asked) <= 12, "no retries"
    assert not any(character.isdigit() and character * 6 in readings[0].problem for character in "0123456789")


@pytest.mark.parametrize(("behave", "most"), [(hanging, 4), (dripping, 20)])
def test_one_that_hangs_is_left_at_the_deadline_and_said_to_in_the_same_words(behave: Behaviour, most: int) -> None:
    begun = time.monotonic()
    readings, asked = read(behave, times=5, deadline=0.15, pause=0.05)
    assert time.monotonic() - begun < 2.5, "the deadline holds over the whole reading"
    assert {reading.problem for reading in readings} == {"Prometheus at URL/ did not answer within 0.15 s"}
    assert len(asked) <= most, "while a thread hangs, nothing more is asked; one that is only slow ends by itself"


def huge(request: BaseHTTPRequestHandler, query: str) -> None:
    send(request, vector(*((f"node-{number}", "1" * 1000) for number in range(20)), ("n1", "1" * MOST)))


def huge_when_unpacked(request: BaseHTTPRequestHandler, query: str) -> None:
    body = gzip.compress(vector(("n1", "1" * 2 * MOST)), compresslevel=1)
    request.send_response(200)
    request.send_header("Content-Encoding", "gzip")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def endless(request: BaseHTTPRequestHandler, query: str) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b" " * 65536)


def elsewhere(request: BaseHTTPRequestHandler, query: str) -> None:
    request.send_response(302)
    request.send_header("Location", "/login?from=" + str(time.monotonic_ns()))
    request.send_header("Content-Length", "0")
    request.end_headers()


def deep(request: BaseHTTPRequestHandler, query: str) -> None:
    send(request, b"[" * 100_000)


@pytest.mark.parametrize(
    ("behave", "says"),
    [
        (huge, "sent more than 8 MiB"),
        (huge_when_unpacked, "sent more than 8 MiB"),
        (endless, "sent more than 8 MiB"),
        (elsewhere, "redirect"),
        (deep, "RecursionError"),
        (answering(b'{"status": "error", "error": "x"}'), "not a vector"),
        (answering(b"[]"), "not a vector"),
        (answering(b"null"), "not a vector"),
    ],
)
def test_what_no_prometheus_answers_is_said_and_costs_little(behave: Behaviour, says: str) -> None:
    readings, asked = read(behave, times=2, deadline=20)
    assert len({reading.problem for reading in readings}) == 1 and says in readings[0].problem
    assert not readings[0].live and len(asked) <= 8, "neither retried nor followed"


def test_answers_that_are_packed_or_in_chunks_are_read() -> None:
    def packed(request: BaseHTTPRequestHandler, query: str) -> None:
        body = gzip.compress(vector(("n1", VALUES[which(query)])))
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Content-Encoding", "gzip")
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        for part in (body[:10], body[10:]):
            request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        request.wfile.write(b"0\r\n\r\n")

    (reading,), _ = read(packed)
    assert reading == Reading(live={"n1": Live(cpu=Sample(1.5, 1000.0), memory=Sample(2048.0, 1001.0))})


def test_a_slow_one_within_the_deadline_is_fine() -> None:
    def slow(request: BaseHTTPRequestHandler, query: str) -> None:
        time.sleep(0.1)
        good(request, query)

    (reading,), _ = read(slow)
    assert len(reading.live) == 2 and not reading.problem


def test_after_it_hung_it_is_read_again() -> None:
    stuck = [True] * 4

    def once(request: BaseHTTPRequestHandler, query: str) -> None:
        if stuck:
            stuck.pop()
            time.sleep(0.4)
        good(request, query)

    readings, _ = read(once, times=2, deadline=0.2, pause=0.5)
    assert readings[0].problem and len(readings[1].live) == 2


@pytest.mark.parametrize(("text", "value"), [("NaN", math.nan), ("+Inf", math.inf), ("-1", -1.0), ("1e3", 1000.0)])
def test_numbers_come_as_prometheus_writes_them_and_are_doubted_later(text: str, value: float) -> None:
    def behave(request: BaseHTTPRequestHandler, query: str) -> None:
        send(request, vector(("n1", text if which(query) == "cpu" else VALUES[which(query)])))

    (reading,), _ = read(behave)
    sample = reading.live["n1"].cpu
    assert sample is not None and (sample.value == value or (math.isnan(value) and math.isnan(sample.value)))


def test_two_answers_for_one_node_are_no_answer_and_are_named() -> None:
    def behave(request: BaseHTTPRequestHandler, query: str) -> None:
        twice = [("n1", "1"), ("n1", "2")] if which(query) == "cpu" else [("n1", VALUES[which(query)])]
        send(request, vector(*twice, ("n2", "3")))

    (reading,), _ = read(behave)
    assert reading.live["n1"].cpu is None and reading.live["n1"].memory is not None
    assert "cpu" in reading.live["n1"].distrust and reading.live["n2"].distrust == ""


def test_a_value_without_a_time_is_no_sample() -> None:
    def behave(request: BaseHTTPRequestHandler, query: str) -> None:
        send(request, vector() if which(query) == "cpu_at" else vector(("n1", "1")))

    (reading,), _ = read(behave)
    assert reading.live["n1"].cpu is None and reading.live["n1"].memory is not None


def test_nobody_there() -> None:
    async def play() -> list[Reading]:
        source = PrometheusSource(url="http://127.0.0.1:1", profile=KUBELET, deadline=2)
        try:
            return [await source.read() for _ in range(2)]
        finally:
            source.close()

    one, two = asyncio.run(play())
    assert one.problem and one == two


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_every_profile_asks_for_a_rate_over_the_window_and_for_times_by_node(profile: Any) -> None:
    assert "[WINDOW]" in profile.cpu.value and "rate(" in profile.cpu.value
    for query in (profile.cpu, profile.memory):
        assert "timestamp(" in query.measured_at and "timestamp(" not in query.value
        assert f"by ({profile.node_label})" in query.value and f"by ({profile.node_label})" in query.measured_at
    assert PROFILES["Kubelet"] is KUBELET and PROFILES["NodeExporter"] is NODE_EXPORTER


# metrics.k8s.io ------------------------------------------------------------------------------------------------------


def metrics_of(name: str, **changes: Any) -> dict[str, Any]:
    usage = {"cpu": "250m", "memory": "1Gi"}
    return {"metadata": {"name": name}, "timestamp": "2027-01-15T08:00:00Z", "usage": usage, **changes}


def ask(items: Any) -> Reading:
    async def nodes() -> Any:
        if isinstance(items, Exception):
            raise items
        return items

    return asyncio.run(MetricsApiSource(nodes).read())


def test_the_metrics_api_in_units_and_with_its_time() -> None:
    found = ask([metrics_of("n1")]).live["n1"]
    assert found == Live(cpu=Sample(0.25, 1800000000.0), memory=Sample(float(1 << 30), 1800000000.0))


@pytest.mark.parametrize(
    "broken",
    [
        metrics_of("bad", usage={}),
        metrics_of("bad", usage={"cpu": "x", "memory": "1"}),
        metrics_of("bad", timestamp="now"),
        metrics_of("bad", timestamp=None),
        {},
        None,
    ],
)
def test_one_node_that_answers_nonsense_hides_no_other(broken: Any) -> None:
    found = ask([broken, metrics_of("n1")])
    assert list(found.live) == ["n1"]
    assert ask([broken]).problem


@pytest.mark.parametrize("items", [[], None, 1, ValueError("x"), OSError("x")])
def test_the_metrics_api_never_raises(items: Any) -> None:
    found = ask(items)
    assert not found.live and found.problem.startswith("metrics.k8s.io")


# Keeping what was read -----------------------------------------------------------------------------------------------


class Scripted:
    def __init__(self, name: str, *readings: Reading) -> None:
        self.name, self.readings, self.asked = name, list(readings), 0

    async def read(self) -> Reading:
        self.asked += 1
        return self.readings.pop(0)


def live(value: float, at: float = 1.0) -> Live:
    return Live(cpu=Sample(value, at), memory=Sample(value, at))


def poll(*sources: Scripted, times: int = 1) -> tuple[Poller, int]:
    changes: list[int] = []
    poller = Poller(sources=sources, interval=1, changed=lambda: changes.append(1))
    for _ in range(times):
        asyncio.run(poller.poll())
    return poller, len(changes)


def test_the_first_source_with_something_to_say_is_enough() -> None:
    first, last = Scripted("a", Reading({"n": live(1)})), Scripted("b")
    poller, changes = poll(first, last)
    assert (poller.live["n"], poller.problem, last.asked, changes) == (live(1), "", 0, 1)


def test_what_stands_in_leaves_nothing_to_say_and_when_nothing_does_all_is_said() -> None:
    poller, _ = poll(Scripted("a", Reading(problem="a is down")), Scripted("b", Reading({"n": live(2)})))
    assert (poller.live["n"], poller.problem, poller.failures) == (live(2), "", 0)
    poller, _ = poll(Scripted("a", Reading(problem="a is down")), Scripted("b", Reading(problem="b too")))
    assert (dict(poller.live), poller.problem, poller.failures) == ({}, "a is down; b too", 1)


def test_a_node_that_is_missing_once_keeps_its_last_samples() -> None:
    poller, _ = poll(Scripted("a", Reading({"n": live(1), "m": live(1)}), Reading({"n": live(2)})), times=2)
    assert (poller.live["n"], poller.live["m"]) == (live(2), live(1))
    poller.forget({"n"})
    assert list(poller.live) == ["n"]


def read_in_turn(*readings: Live, now: float = 1000.0, nodes: tuple[str, ...] = ()) -> Poller:
    source = Scripted("a", *(Reading({"n": one}) for one in readings))
    poller = Poller(
        sources=[source], interval=1, changed=lambda: None, nodes=lambda: nodes, scrape_interval=15, clock=lambda: now
    )
    for _ in readings:
        asyncio.run(poller.poll())
    return poller


def test_half_a_reading_keeps_the_other_half() -> None:
    poller = read_in_turn(live(1), Live(cpu=Sample(2, 5)))
    assert poller.live["n"] == Live(cpu=Sample(2, 5), memory=Sample(1, 1.0))
    assert read_in_turn(live(1), Live(distrust="twice")).live["n"] == replace(live(1), distrust="twice")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (live(math.nan, 900), "cpu is not a number; memory is not a number"),
        (live(math.inf, 900), "cpu is not a number; memory is not a number"),
        (live(1, math.nan), "cpu is not a number; memory is not a number"),
        (live(1, math.inf), "cpu is not a number; memory is not a number"),
        (live(-0.1, 900), "cpu is negative; memory is negative"),
        (live(1, 1016), "cpu is from the future; memory is from the future"),
        (Live(cpu=Sample(-1, 900), memory=Sample(5, 901)), "cpu is negative"),
    ],
)
def test_what_cannot_be_true_replaces_nothing_and_is_told_until_it_is_true_again(bad: Live, says: str) -> None:
    """One scrape of rubbish used to take the last good sample with it, so the node was unknown at once."""
    poller = read_in_turn(live(1, 890), bad)
    told = poller.live["n"]
    assert told.distrust == says and told.cpu == Sample(1, 890)
    assert told.memory == (Sample(5, 901) if bad.memory == Sample(5, 901) else Sample(1, 890))
    assert read_in_turn(bad).live["n"].cpu is None
    assert read_in_turn(live(1, 890), bad, live(2, 950)).live["n"] == live(2, 950)


def test_an_older_answer_does_not_replace_a_newer_one() -> None:
    assert read_in_turn(live(1, 890), live(2, 880)).live["n"] == live(1, 890)


def test_a_figure_that_never_changes_ages_though_it_is_stamped_anew_each_time() -> None:
    """A cache between, or an exporter that serves what it once read: every sample looks fresh and is not."""
    same = [live(1.25, 800 + 15.0 * number) for number in range(6)]
    assert read_in_turn(*same[:4]).live["n"] == same[3], "four times may be chance"
    frozen = read_in_turn(*same).live["n"]
    assert frozen.cpu == Sample(1.25, 800) and frozen.distrust == FROZEN
    assert frozen.memory == same[5].memory, "memory may stay as it is"
    moving = live(1.26, 900)
    assert read_in_turn(*same, moving).live["n"] == moving


def test_a_figure_that_is_read_often_between_two_scrapes_is_not_frozen() -> None:
    assert read_in_turn(*[live(1.25, 900)] * 20).live["n"] == live(1.25, 900)
    assert read_in_turn(*[live(1.25, 900 + number) for number in range(8)]).live["n"].distrust == ""


def test_a_node_without_pods_uses_nothing_for_as_long_as_it_likes() -> None:
    zero = [Live(cpu=Sample(0.0, 800 + 15.0 * number)) for number in range(9)]
    assert read_in_turn(*zero).live["n"] == zero[-1]


def test_nodes_that_are_not_here_are_left_out_and_when_there_are_no_others_that_is_said() -> None:
    assert dict(read_in_turn(live(1), nodes=("m", "n")).live) == {"n": live(1)}
    lost = read_in_turn(live(1), nodes=("m",))
    assert not lost.live and lost.problem == (
        "a has figures only of nodes that are not here, such as n: which label names the node?"
    )
    mixed = Scripted("a", Reading({"ghost": live(1), "m": live(2)}))
    poller = Poller(sources=[mixed], interval=1, changed=lambda: None, nodes=lambda: ("m",))
    asyncio.run(poller.poll())
    assert dict(poller.live) == {"m": live(2)} and not poller.problem


def test_before_the_first_reading_and_without_a_source_that_is_said() -> None:
    assert Poller(sources=[Scripted("a")], interval=1, changed=lambda: None).problem
    assert Poller(sources=[], interval=1, changed=lambda: None).problem
