"""What a gate's question comes to, from a real little Prometheus that behaves as badly as it can."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from edgeward.metrics.gate import Answered, GateQueries

from .test_source import Behaviour, prometheus, send

NOW = 1_800_000_030.7
END = 1_800_000_030.0
SINCE = NOW - 60


def matrix(*series: list[tuple[float, str]]) -> bytes:
    result = [
        {"metric": {"n": str(index)}, "values": [list(point) for point in one]} for index, one in enumerate(series)
    ]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()


def asked(behave: Behaviour, *, since: float = SINCE, **options: Any) -> Answered:
    async def ask(url: str) -> Answered:
        queries = GateQueries(url=url, step=15, **options)
        try:
            return await queries.ask("sum(x)", since=since, now=NOW)
        finally:
            queries.close()

    with prometheus(behave) as (url, _):
        return asyncio.run(ask(url))


def says(*series: list[tuple[float, str]]) -> Answered:
    return asked(lambda request, _: send(request, matrix(*series)))


def test_the_value_is_that_at_the_end_and_the_samples_are_the_points_that_have_one() -> None:
    points = [(END - 30, "0.5"), (END - 15, "NaN"), (END, "0.25")]
    assert says(points) == Answered(value=0.25, samples=2)


@pytest.mark.parametrize(
    ("series", "samples"),
    [([], 0), ([[]], 0), ([[(END - 60, "1"), (END - 45, "2")]], 2), ([[(END - 15, "1"), (END, "NaN")]], 1)],
    ids=["no series", "an empty one", "one that ended", "a share of no requests"],
)
def test_what_has_no_value_at_the_end_is_no_data(series: list[list[tuple[float, str]]], samples: int) -> None:
    assert says(*series) == Answered(samples=samples)


def test_two_series_are_an_error_that_says_what_to_do() -> None:
    answer = says([(END, "1")], [(END, "1")])
    assert answer.value is None and "2 series" in answer.error and "sum()" in answer.error


@pytest.mark.parametrize(("span", "points", "step"), [(60.0, 5, 15), (7.0, 1, 15), (0.0, 1, 15), (1e6, 1001, 1000)])
def test_the_range_is_in_whole_seconds_and_ends_now(span: float, points: int, step: int) -> None:
    seen: dict[str, str] = {}

    def note(request: BaseHTTPRequestHandler, _: str) -> None:
        seen.update({key: values[0] for key, values in parse_qs(urlparse(request.path).query).items()})
        send(request, matrix())

    assert asked(note, since=NOW - span) == Answered()
    assert int(seen["end"]) == END and int(seen["step"]) == step
    assert (int(seen["end"]) - int(seen["start"])) // step + 1 == points


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"<html>", 200, "not JSON"),
        (b'{"data": {"result": [{"values": [["now"]]}]}}', 200, "Prometheus at"),
        (b'{"data": {}}', 200, "not a vector"),
        (b'{"status":"error","error":"parse error: unexpected end"}', 400, "parse error: unexpected end"),
        (b"", 302, "Prometheus at"),
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes, status: int, words: str) -> None:
    answer = asked(lambda request, _: send(request, body, status=status))
    assert answer.value is None and words in answer.error


def test_one_that_hangs_costs_no_more_than_its_time() -> None:
    go_on = threading.Event()
    try:
        answer = asked(lambda request, _: bool(go_on.wait(10)) and send(request, matrix()), deadline=0.2)
        assert "did not answer within 0.2 s" in answer.error
    finally:
        go_on.set()


def test_nobody_there_is_an_error() -> None:
    async def ask() -> Answered:
        queries = GateQueries(url="http://127.0.0.1:9")
        return await queries.ask("up", since=SINCE, now=NOW)

    assert "cannot be reached" in asyncio.run(ask()).error
