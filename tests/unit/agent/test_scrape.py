"""Asking runtimes: the contract's own examples are believed, garbage is not, and no answer is cut short."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from edgeward.agent import scrape
from edgeward.agent.scrape import RuntimeScraper, believable

EXAMPLES = Path(__file__).parents[3] / "edge-runtime/contract/examples"
VALID = sorted((EXAMPLES / "status-valid").glob("*.json"))
INVALID = sorted((EXAMPLES / "status-invalid").glob("*.json"))
# What this version of the contract has no word for, or the agent does not read.
PASSED_OVER = {"bad-step", "unknown-state", "role-stable", "gap-false", "counters-without-latency"}


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_what_the_contract_calls_valid_is_believed(path: Path) -> None:
    assert believable(json.loads(path.read_text()))


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_what_the_contract_calls_invalid_is_not(path: Path) -> None:
    assert believable(json.loads(path.read_text())) == (path.stem in PASSED_OVER)


@pytest.mark.parametrize(
    "answer", [None, 1, "x", [], {}, {"contract": 1}, {"contract": True, "revision": 0, "models": []}]
)
def test_what_has_another_shape_is_not(answer: object) -> None:
    assert not believable(answer)


async def _ask(monkeypatch: pytest.MonkeyPatch, *parts: bytes, pause: float = 0.0, within: float = 1.0) -> object:
    """What a runtime is believed that sends these parts, with a pause before each."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % sum(map(len, parts)))
        for part in parts:
            await asyncio.sleep(pause)
            writer.write(part)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    monkeypatch.setattr(scrape, "PORT", server.sockets[0].getsockname()[1])
    scraper = RuntimeScraper(timeout=within)
    try:
        pod = {"metadata": {"uid": "u"}, "status": {"podIP": "127.0.0.1"}}
        return (await scraper.ask([pod, {"metadata": {"uid": "v"}, "status": {}}])).get("u")
    finally:
        await scraper.close()
        server.close()


GOOD = json.dumps({"contract": 1, "revision": 3, "models": []}).encode()


def test_an_answer_that_comes_in_pieces_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = asyncio.run(_ask(monkeypatch, GOOD[:5], GOOD[5:20], GOOD[20:], pause=0.02))
    assert answer == json.loads(GOOD)


def test_one_that_is_slow_or_far_too_long_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(_ask(monkeypatch, GOOD, pause=5, within=0.1)) is None
    assert asyncio.run(_ask(monkeypatch, GOOD[:-1], b" " * 300_000 + b"}")) is None
    assert asyncio.run(_ask(monkeypatch, b"<html>")) is None
    assert asyncio.run(_ask(monkeypatch, b"\xff\xfe\x00")) is None
