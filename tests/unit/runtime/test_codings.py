"""gzip and deflate: the pure functions, and the front with them on a real socket."""

from __future__ import annotations

import asyncio
import gzip
import random
import threading
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime import codings
from edgeward_runtime.codings import TooLarge, accepted, decode, encode
from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.front import Limits
from edgeward_runtime.messages import Answer, error
from tests.unit.runtime.test_front import CLOSE, exchange, with_front

UNPACKER = zlib.decompressobj
RAW = zlib.compressobj(wbits=-15)
DEFLATED = {
    "gzip": gzip.compress(b"text" * 100),
    "x-gzip": gzip.compress(b"text" * 100),
    "deflate": zlib.compress(b"text" * 100),
    "Deflate ": RAW.compress(b"text" * 100) + RAW.flush(),
}


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("body", [b"", b"x", b"\0" * 100_000, bytes(range(256)) * 40])
def test_there_and_back(coding, body):
    assert decode(coding, encode(coding, body), len(body)) == body


def test_what_others_pack():
    assert decode("gzip", gzip.compress(b"one") + gzip.compress(b"two"), 6) == b"onetwo"
    assert gzip.decompress(encode("gzip", b"body")) == zlib.decompress(encode("deflate", b"body")) == b"body"


# mtime=0: the bodies are part of the tests' names, which have to be the same in every process that collects them.
@pytest.mark.parametrize(
    ("coding", "body", "said"),
    [
        ("gzip", b"", "ends early"),
        ("gzip", b"not gzip", "incorrect header"),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9], "ends early"),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-8] + b"\0" * 8, "incorrect data check"),
        ("gzip", gzip.compress(b"x", mtime=0) + b"more", "incorrect header"),
        ("gzip", gzip.compress(b"", mtime=0) * 17, "more than 16"),
        ("deflate", b"", "ends early"),
        ("deflate", zlib.compress(b"x" * 1000)[:-1], "ends early"),
        ("deflate", zlib.compress(b"x") + b"more", "left over"),
        ("deflate", b"\xff" * 9, "invalid"),
    ],
)
def test_damaged_bodies(coding, body, said):
    with pytest.raises(ProtocolError) as caught:
        decode(coding, body, 10_000)
    assert caught.value.status == 400 and said in caught.value.text


class Counting:
    """zlib's unpacker that counts what it gave out."""

    given = 0

    def __init__(self, wbits: int) -> None:
        self._real = UNPACKER(wbits)

    def decompress(self, data: bytes, most: int) -> bytes:
        part = self._real.decompress(data, most)
        Counting.given += len(part)
        return part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("members", [1, 5])
def test_a_bomb_is_not_unpacked_beyond_the_limit(members, monkeypatch):
    bomb = gzip.compress(b"\0" * 300_000) * members
    Counting.given = 0
    monkeypatch.setattr(codings.zlib, "decompressobj", Counting)
    with pytest.raises(TooLarge):
        decode("gzip", bomb, 299_999 + 300_000 * (members - 1))
    assert Counting.given == 300_000 * members
    Counting.given = 0
    with pytest.raises(TooLarge):
        decode("gzip", bomb, 1000)
    assert Counting.given == 1001


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"", None),
        (b"identity", None),
        (b"br", None),
        (b"gzip", "gzip"),
        (b"GZip, deflate", "gzip"),
        (b"deflate, gzip", "gzip"),
        (b"deflate", "deflate"),
        (b"gzip;q=0.5, deflate ; q=0.8", "deflate"),
        (b"gzip;q=0, deflate;q=0", None),
        (b"gzip;q=0.2, identity;q=0.5", None),
        (b"*", "gzip"),
        (b"gzip;q=0, *", "deflate"),
        (b"*;q=0", None),
        (b"gzip;q=high", None),
        (b"x-gzip", "gzip"),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", "gzip"),
        (b"\xff,;,=;q", None),
    ],
)
def test_which_coding_a_client_likes_best(header, expected):
    assert accepted(header) == expected


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_no_body_does_worse_than_be_refused(coding, body, place, byte):
    packed = bytearray(encode(coding, body))
    packed[place % len(packed)] = byte
    for one in (body, bytes(packed)):
        try:
            assert len(decode(coding, one, 100)) <= 100
        except ProtocolError as error:
            assert error.status == 400
        except TooLarge:
            pass


@given(st.binary(max_size=60) | st.text(alphabet="gzip,deflate;q=0.5*", max_size=40).map(str.encode))
def test_no_header_breaks_the_choice(header):
    assert accepted(header) in (None, "gzip", "deflate")


# -- on a socket ------------------------------------------------------------------------------------------------------


def post(body: bytes, **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return b"POST /p HTTP/1.1\r\nContent-Length: %d\r\n%b" % (len(body), lines.encode()) + CLOSE + body


def answer_or_refusal(request, reply):
    if request.refused is not None:
        reply(error(request.refused.status, request.refused.text))
    else:
        reply(Answer(200, b"got %d: " % len(request.body) + request.body[:2000]))


def served(message: bytes, limits: Limits | None = None) -> bytes:
    answers = []

    async def test(front, port):
        answers.append(await exchange(port, message))
        while front.connections:
            await asyncio.sleep(0.01)
        assert front.in_flight == 0

    with_front(test, handler=answer_or_refusal, limits=limits or Limits(connections=4, body_bytes=1_000_000))
    return answers[0]


@pytest.mark.parametrize("coding", DEFLATED)
def test_a_packed_request(coding):
    assert b"\r\n\r\ngot 400: texttext" in served(post(DEFLATED[coding], Content_Encoding=coding))


@pytest.mark.parametrize("size", [17_000, 70_000, 999_999])
def test_a_request_that_is_unpacked_in_the_thread(size):
    assert b"got %d: xxx" % size in served(post(gzip.compress(b"x" * size), Content_Encoding="gzip"))


@pytest.mark.parametrize(
    ("body", "coding", "status", "said"),
    [
        (gzip.compress(b"x" * 1_000_001, mtime=0), "gzip", b"413", b"limit of 1000000"),
        (b"no", "gzip", b"400", b"not valid gzip"),
        (b"no" * 5000, "deflate", b"400", b"not valid deflate"),
        (b"no", "br", b"415", b"'br' is not supported"),
        (b"no", "gzip, gzip", b"415", b"accept-encoding: gzip, deflate\r\n"),
    ],
)
def test_packed_requests_that_are_refused(body, coding, status, said):
    answer = served(post(body, Content_Encoding=coding))
    assert answer.startswith(b"HTTP/1.1 " + status) and said in answer


def test_identity_is_no_coding():
    assert b"got 5: plain" in served(post(b"plain", Content_Encoding="Identity"))


def test_what_a_body_unpacks_to_counts_against_the_budget():
    limits = Limits(connections=4, body_bytes=1_000_000, in_flight_bytes=500_000)
    small, large = gzip.compress(b"x" * 500_000), gzip.compress(b"x" * 500_001)
    assert b"got 500000" in served(post(small, Content_Encoding="gzip"), limits)
    assert served(post(large, Content_Encoding="gzip"), limits).startswith(b"HTTP/1.1 503 ")


def test_two_unpacked_bodies_share_the_budget_and_give_it_back():
    async def test(front, port):
        replies = []
        front.handler = lambda request, reply: (
            replies.append(reply) if request.refused is None else answer_or_refusal(request, reply)
        )
        message = post(gzip.compress(b"x" * 90_000), Content_Encoding="gzip")
        running = asyncio.create_task(exchange(port, message))
        while not replies:
            await asyncio.sleep(0.01)
        assert front.in_flight == 90_000
        assert b"HTTP/1.1 503 " in await exchange(port, message)
        replies[0](Answer(200, b"done"))
        assert b"done" in await running
        assert front.in_flight == 0

    with_front(test, limits=Limits(connections=4, body_bytes=1_000_000, in_flight_bytes=100_000))


@pytest.mark.parametrize("size", [1024, 4000, 50_000])
@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_packed_answer(size, coding, unpack):
    async def test(front, port):
        front.handler = lambda request, reply: reply(Answer(200, b"y" * size, extra=b"x-extra: 1\r\n", packable=True))
        head, _end, body = (await exchange(port, post(b"", Accept_Encoding=coding))).partition(b"\r\n\r\n")
        assert unpack(body) == b"y" * size and b"content-length: %d\r\n" % len(body) in head
        for line in (b"content-encoding: " + coding.encode(), b"vary: accept-encoding", b"x-extra: 1"):
            assert line in head.split(b"\r\n")

    with_front(test)


@pytest.mark.parametrize("body", [b"y" * 1023, random.Random(1).randbytes(2000), random.Random(1).randbytes(9000)])
def test_an_answer_that_packing_does_not_help(body):
    async def test(front, port):
        front.handler = lambda request, reply: reply(Answer(200, body, packable=True))
        answer = await exchange(port, post(b"", Accept_Encoding="gzip"))
        assert answer.endswith(b"\r\n\r\n" + body) and b"content-encoding" not in answer

    with_front(test)


def test_a_head_that_comes_again_means_the_same_codings():
    async def test(front, port):
        front.handler = lambda request, reply: reply(Answer(200, request.body * 5, packable=True))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /p HTTP/1.1\r\n%bAccept-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        for text in (b"a" * 400, b"b" * 400, b"c" * 400):
            packed = gzip.compress(text)
            writer.write(head % (b"Content-Encoding: gzip\r\n", len(packed)) + packed)
            answered = await reader.readuntil(b"\r\n\r\n")
            length = int(answered.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert gzip.decompress(await reader.readexactly(length)) == text * 5
        # A packed body is another one than the bytes behind its head, so such a head is read anew each time.
        assert front.heads == {}
        for _ in range(2):
            writer.write(head % (b"", 400) + b"d" * 400)
            answered = await reader.readuntil(b"\r\n\r\n")
            length = int(answered.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert gzip.decompress(await reader.readexactly(length)) == b"d" * 2000
            assert len(front.heads) == 1
        writer.close()

    with_front(test)


def test_an_answer_that_clients_do_not_unpack():
    async def test(front, port):
        front.handler = lambda request, reply: reply(Answer(200, b"y" * 5000))
        answer = await exchange(port, post(b"", Accept_Encoding="gzip, deflate"))
        assert answer.endswith(b"\r\n\r\n" + b"y" * 5000) and b"content-encoding" not in answer

    with_front(test)


def test_the_loop_goes_on_while_a_large_body_is_unpacked(monkeypatch):
    began, go = threading.Event(), threading.Event()
    real = codings.decode

    def slow(coding: str, body: bytes, limit: int) -> bytes:
        if limit > codings._INLINE_OUT:
            began.set()
            assert go.wait(10)
        return real(coding, body, limit)

    monkeypatch.setattr(codings, "decode", slow)

    async def test(front, port):
        large = asyncio.create_task(exchange(port, post(gzip.compress(b"x" * 50_000), Content_Encoding="gzip")))
        while not began.is_set():
            await asyncio.sleep(0.01)
        assert b"got 3: abc" in await exchange(port, post(b"abc"))
        go.set()
        assert b"got 50000" in await large

    with_front(test, handler=answer_or_refusal)


def test_a_client_that_goes_while_its_body_is_unpacked(monkeypatch):
    go = threading.Event()
    real = codings._decode
    monkeypatch.setattr(codings, "_decode", lambda *arguments: (go.wait(10), real(*arguments))[1])

    async def test(front, port):
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(gzip.compress(b"x" * 90_000), Content_Encoding="gzip"))
        await writer.drain()
        while not front.codings._running:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while front.connections:
            await asyncio.sleep(0.01)
        go.set()
        while front.codings._running:
            await asyncio.sleep(0.01)
        assert front.in_flight == 0
        assert b"got 3: abc" in await exchange(port, post(b"abc"))

    with_front(test, handler=answer_or_refusal)
