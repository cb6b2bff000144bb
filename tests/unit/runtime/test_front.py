"""HTTP by hand on a socket: what a client library never sends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable

import pytest

from edgeward_runtime import connection
from edgeward_runtime.front import Front, Limits
from edgeward_runtime.messages import Answer

LIMITS = Limits(connections=4, body_bytes=100_000)


def with_front(test: Callable, *, handler: Callable | None = None, limits: Limits = LIMITS) -> None:
    def echo(request, reply):
        reply(Answer(200, request.method + b" " + request.path.encode() + b" " + request.body))

    async def main() -> None:
        front = Front(handler=handler or echo, limits=limits)
        port = await front.start("127.0.0.1", 0)
        try:
            await asyncio.wait_for(test(front, port), 20)
        finally:
            await front.stop(1.0)

    asyncio.run(main())


async def exchange(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Sends the pieces, then reads to the end of the stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
    writer.close()
    return answer


CLOSE = b"Connection: close\r\n\r\n"


def check(pieces: list[bytes], *expected: bytes, pause: float = 0.0, **options) -> None:
    async def test(front, port):
        answer = await exchange(port, *pieces, pause=pause)
        for text in expected:
            assert text in answer, answer[:500]

    with_front(test, **options)


def test_get_and_path():
    check(
        [b"GET /a%20b?q=%2F HTTP/1.1\r\nHost: x\r\n" + CLOSE],
        b"HTTP/1.1 200 OK\r\n",
        b"connection: close\r\n",
        b"\r\n\r\nGET /a b ",
    )


def test_absolute_target():
    check([b"GET http://host:80/path?x HTTP/1.1\r\nHost: x\r\n" + CLOSE], b"GET /path ")


def test_head_has_no_body():
    async def test(front, port):
        answer = await exchange(port, b"HEAD /a HTTP/1.1\r\nHost: x\r\n" + CLOSE)
        assert b"content-length: 8\r\n" in answer and answer.endswith(b"\r\n\r\n")

    with_front(test)


def test_every_byte_alone():
    message = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n" + CLOSE + b"hello"
    check([message[index : index + 1] for index in range(len(message))], b"POST /p hello", pause=0.0005)


def test_chunked_body():
    check(
        [
            b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            + CLOSE
            + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        ],
        b"POST /p abcde",
    )


def test_http_1_0_closes():
    check([b"GET /a HTTP/1.0\r\n\r\n"], b"GET /a ", b"connection: close")


def test_expect_continue():
    check(
        [b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" + CLOSE, b"ok"],
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", pause=0.05,
    )  # fmt: skip


def test_an_upgrade_is_answered_as_http_1_1():
    upgrade = b"GET /a HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n"
    check([upgrade, b"GET /b HTTP/1.1\r\nHost: x\r\n" + CLOSE], b"GET /a ", b"GET /b ", pause=0.1)


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 5\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
        (b"Content-Length: 0\r\n", b""),
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("first", [True, False])
def test_an_upgrade_with_a_body(framing, body, size, first):
    """As Java's own client sends every POST to an http address."""
    headers = framing + H2C if first else H2C + framing
    message = b"POST /java HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + body
    more = message + message + b"GET /b HTTP/1.1\r\nHost: x\r\n" + CLOSE
    whole = b"hello" if body else b""

    async def test(front, port):
        answer = await exchange(port, *[more[at : at + size] for at in range(0, len(more), size)])
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [b"POST /java " + whole] * 2 + [b"GET /b "], answer
        assert not any(b"Upgrade" in head for head in front.heads) and not front.in_flight

    with_front(test)


def test_a_head_before_an_upgrade_is_not_remembered_as_the_one_after_it():
    async def test(front, port):
        after = b"GET /after HTTP/1.1\r\nEdgeward-Source: x\r\n" + CLOSE
        await exchange(port, b"GET /before HTTP/1.1\r\n\r\nGET /up HTTP/1.1\r\n" + H2C + b"\r\n" + after)
        assert b"GET /after " in await exchange(port, after)

    with_front(test)


def test_an_upgrade_with_a_body_keeps_every_other_rule():
    head = b"POST /p HTTP/1.1\r\nHost: x\r\n"
    h2c = b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"
    check([head + h2c + b"Content-Length: 2\r\n\r\nok"], b"POST /p ok", b"connection: close\r\n")
    check([head + H2C + b"Content-Length: 150000\r\n\r\n"], b"HTTP/1.1 413 ")
    check([head + H2C + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], b"HTTP/1.1 400 ")
    both = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    check([head + H2C + both + b"2\r\nok\r\n0\r\n\r\n"], b"HTTP/1.1 400 ")
    chunks = [b"1;" + b"a" * 1000 + b"\r\nx\r\n"] * 200
    check([head + H2C + b"Transfer-Encoding: chunked\r\n\r\n", *chunks], b"HTTP/1.1 431 ")

    async def expects(front, port):
        message = head + h2c + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        answer = await exchange(port, message, b"ok", pause=0.05)
        assert answer.count(b" 100 Continue") == 1 and b"POST /p ok" in answer

    with_front(expects)


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header\x00: x\r\n\r\n",
    ],
)
def test_what_is_no_http(rubbish):
    check([rubbish], b"HTTP/1.1 400 Bad Request\r\n", b'{"error":"the request is not valid HTTP"}')


def test_headers_without_end():
    check([b"GET / HTTP/1.1\r\n"] + [b"X-A: " + b"a" * 1000 + b"\r\n"] * 100, b"HTTP/1.1 431 ")


@pytest.mark.parametrize("announced", [b"Content-Length: 150000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_body_over_the_limit_is_answered_although_the_client_sends_it_all(announced):
    body = b"a" * 150_000 if b"Length" in announced else b"249f0\r\n" + b"a" * 150_000 + b"\r\n0\r\n\r\n"
    check(
        [b"POST /p HTTP/1.1\r\nHost: x\r\n" + announced, body],
        b"HTTP/1.1 413 ",
        b"over the limit of 100000",
        pause=0.05,
    )


def test_a_client_that_never_stops_sending_is_cut_off():
    async def test(front, port):
        answer = await exchange(
            port, b"POST /p HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", *[b"a" * 100_000] * 100
        )
        assert len(answer) < 1000 and not front.connections

    with_front(test)


def test_pipelined_requests_are_answered_in_order_one_at_a_time():
    async def test(front, port):
        running, most, order = 0, 0, []

        def handler(request, reply):
            nonlocal running, most
            running += 1
            most = max(most, running)

            def later() -> None:
                nonlocal running
                running -= 1
                order.append(request.path)
                reply(Answer(200, request.path.encode()))

            asyncio.get_running_loop().call_later(0.001, later)

        front.handler = handler
        paths = [b"/%d" % number for number in range(200)]
        requests = [b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths[:-1]]
        answer = await exchange(port, b"".join(requests), b"GET /199 HTTP/1.1\r\nHost: x\r\n" + CLOSE)
        bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == paths and most == 1

    with_front(test)


def test_repeated_requests_with_changing_heads():
    async def test(front, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(50):
            body = b"x" * (number % 3)
            writer.write(b"POST /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (number % 2, len(body)) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            expected = b"POST /%d " % (number % 2) + body
            assert b"content-length: %d\r\n" % len(expected) in head
            assert await reader.readexactly(len(expected)) == expected
        writer.close()

    with_front(test)


def test_a_head_seen_before_is_not_trusted_beyond_its_bytes():
    """The same head again, but in pieces, with less or more behind it, or with a second request in one packet."""

    async def test(front, port):
        head = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
        expected = b"POST /p abc"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        pieces = [[head + b"abc"], [head + b"abc"], [head, b"abc"], [head + b"a", b"bc"], [head[:9], head[9:] + b"abc"]]
        for parts in [*pieces, [head + b"abc" + head + b"abc"], [head + b"abc" + head, b"abc"], [head + b"abc"]]:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.02)
            for _ in range(b"".join(parts).count(head)):
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(len(expected)) == expected
        assert len(front.heads) == 1
        writer.close()

    with_front(test)


@pytest.mark.parametrize(
    "message",
    [
        b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"POST /p HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
        b"POST /p HTTP/1.1\r\nContent-Length: 3\r\nContent-Encoding: identity\r\n\r\nabc",
        b"GET /p HTTP/1.1\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"POST /p HTTP/1.1\r\nContent-Length: 3\r\nEdgeward-Transfer-Seconds: 0.25\r\n\r\nabc",
        b"POST /p HTTP/1.1\r\nContent-Length: 3\r\nX: " + b"x" * 3000 + b"\r\n\r\nabc",
        b"GET /p HTTP/1.1\r\n\r\nGET /q HTTP/1.1\r\n\r\n",
        b"GET /p HTTP/1.1\r\n\r\nGET /q HT",
        b"rubbish\r\n\r\n",
    ],
)
def test_heads_that_are_not_remembered(message):
    async def test(front, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(message)
        await reader.readuntil(b"HTTP/1.1 400" if message.startswith(b"rubbish") else b"HTTP/1.1 200")
        assert front.heads == {}
        writer.close()

    with_front(test)


def test_more_connections_than_allowed():
    async def test(front, port):
        open_ones = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for path in (b"/v2/health/live", b"/v2/health/ready", b"/metrics"):
            answer = await exchange(port, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in answer and b"connection: close" in answer, "a probe is answered although it is busy"
        assert b"HTTP/1.1 503 " in await exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 503 " in await exchange(
            port, b"POST / HTTP/1.1\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000
        )
        for _reader, writer in open_ones:
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0.05)
        assert b"200 OK" in await exchange(port, b"GET / HTTP/1.1\r\n" + CLOSE)

    with_front(test)


def test_refused_connections_that_linger_do_not_count():
    async def test(front, port):
        refused = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for reader, writer in refused:
            writer.write(b"RUBBISH\r\n\r\n")
            assert b"HTTP/1.1 400 " in await reader.read()
        assert front.lingering == 4
        assert b"200 OK" in await exchange(port, b"GET / HTTP/1.1\r\n" + CLOSE)
        for _reader, writer in refused:
            writer.close()
        while front.lingering:
            await asyncio.sleep(0.01)

    with_front(test)


def test_slow_and_idle_clients():
    limits = Limits(connections=4, body_bytes=1000, idle_seconds=0.3, request_seconds=0.3, sweep_seconds=0.05)
    check([b"GET / HTTP/1.1\r\nHo"], b"HTTP/1.1 408 ", limits=limits)
    check([b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n", b"12", b"34"], b"HTTP/1.1 408 ", pause=0.2, limits=limits)

    async def idle(front, port):
        assert await exchange(port) == b""

    with_front(idle, limits=limits)


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nHost: x\r\n" + CLOSE, b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
@pytest.mark.parametrize("refused", [False, True])
def test_a_client_that_never_reads_is_cut_off(head, refused):
    limits = Limits(connections=1, body_bytes=1000, idle_seconds=0.3, sweep_seconds=0.05)

    async def test(front, port):
        front.handler = lambda request, reply: reply(Answer(200, b"x" * 20_000_000))
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, head + (b"RUBBISH\r\n\r\n" if refused else b""))
            while not front.unsent:
                await asyncio.sleep(0.01)
            while front.connections or front.unsent or front.lingering:
                await asyncio.sleep(0.01)

    with_front(test, limits=limits)


def test_a_client_over_the_limit_that_never_reads_is_cut_off(monkeypatch):
    monkeypatch.setattr(connection, "_SPARE_SECONDS", 0.3)

    async def test(front, port):
        front.handler = lambda request, reply: reply(Answer(200, b"x" * 20_000_000))
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, b"GET /metrics HTTP/1.1\r\n\r\n")
            while not front.unsent:
                await asyncio.sleep(0.01)
            while front.connections or front.unsent:
                await asyncio.sleep(0.01)

    with_front(test, limits=Limits(connections=0, body_bytes=1000, sweep_seconds=0.05))


def test_a_client_that_goes_while_its_request_runs():
    async def test(front, port):
        replies = []
        front.handler = lambda request, reply: replies.append(reply)
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        while not replies:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while front.connections:
            await asyncio.sleep(0.01)
        replies[0](Answer(200, b"to nobody"))

    with_front(test)


def test_stop_waits_for_requests_in_flight_and_closes_idle_ones():
    async def test(front, port):
        front.handler = lambda request, reply: asyncio.get_running_loop().call_later(0.3, reply, Answer(200, b"late"))
        _idle_reader, _idle_writer = await asyncio.open_connection("127.0.0.1", port)
        running = asyncio.create_task(exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
        await asyncio.sleep(0.05)
        assert await front.stop(5.0) == 0
        answer = await running
        assert b"late" in answer and b"connection: close" in answer

    with_front(test)


def test_stop_cuts_off_after_the_grace():
    async def test(front, port):
        front.handler = lambda request, reply: None
        running = asyncio.create_task(exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
        await asyncio.sleep(0.05)
        assert await front.stop(0.1) == 1
        assert await running == b""

    with_front(test)


@pytest.mark.parametrize("rest", [b"X-A: " + b"a" * 1000 + b"\r\n", b"1;" + b"a" * 1000 + b"\r\nx\r\n"])
def test_trailers_and_chunk_extensions_are_bounded(rest):
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"0\r\n" if rest.startswith(b"X") else b"")
    check([head, *[rest] * 200], b"HTTP/1.1 431 ")


def test_chunks_of_one_byte_are_no_overhead_to_refuse():
    chunks = b"1\r\nx\r\n" * 50_000
    check(
        [b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + CLOSE + chunks + b"0\r\n\r\n"],
        b"POST / " + b"x" * 50_000,
    )


def test_a_trailer_is_no_header():
    async def test(front, port):
        seen = []

        def handler(request, reply):
            seen.append((request.encoding, request.json_length))
            reply(Answer(200, b""))

        front.handler = handler
        trailers = b"Content-Encoding: gzip\r\nInference-Header-Content-Length: 1\r\n\r\n"
        await exchange(
            port, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"1\r\nx\r\n0\r\n" + trailers
        )
        assert seen == [(None, None)]

    with_front(test)


@pytest.mark.parametrize("before", [1, 3])
def test_a_bad_request_behind_good_ones_is_refused_after_their_answers(before):
    async def test(front, port):
        front.handler = lambda request, reply: asyncio.get_running_loop().call_later(
            0.1, reply, Answer(200, b"computed")
        )
        answer = await exchange(port, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * before + b"RUBBISH\r\n\r\n")
        assert answer.count(b"computed") == before
        assert answer.index(b"HTTP/1.1 400 ") > answer.rindex(b"computed")

    with_front(test)


def test_bodies_share_one_budget():
    async def test(front, port):
        replies = []
        front.handler = lambda request, reply: replies.append(reply)
        message = b"POST / HTTP/1.1\r\nContent-Length: 90000\r\n" + CLOSE + b"x" * 90_000
        running = asyncio.create_task(exchange(port, message))
        while not replies:
            await asyncio.sleep(0.01)
        answer = await exchange(port, message)
        assert b"HTTP/1.1 503 " in answer and b"retry-after" in answer
        assert b"HTTP/1.1 413 " in await exchange(port, message.replace(b"90000", b"900000"))
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(message[:70_000])
        while front.in_flight == 90_000:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        replies[0](Answer(200, b"done"))
        assert b"done" in await running
        while front.in_flight:
            await asyncio.sleep(0.01)

    with_front(test, limits=Limits(connections=9, body_bytes=100_000, in_flight_bytes=165_000))


class ChangedOnce:
    """Stands for Tls: its files have changed the first time it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def renew(self) -> bool:
        self.asked += 1
        return self.asked == 1


def test_the_time_limits_hold_while_certificates_cannot_be_renewed(monkeypatch):
    limits = Limits(connections=4, body_bytes=1000, idle_seconds=0.1, sweep_seconds=0.02)
    real, full = os.dup, True

    def dup(number):
        if full:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(number)

    async def test(front, port):
        nonlocal full
        monkeypatch.setattr(os, "dup", dup)
        front._tls = ChangedOnce()
        front._tls_options = dict  # plain, so that the answer can be read
        before = front._servers
        while front._tls.asked < 3:
            await asyncio.sleep(0.01)
        assert await exchange(port) == b"", "an idle one is closed"
        assert front._servers == before
        full = False
        while front._servers == before:
            await asyncio.sleep(0.01)
        assert b"200 OK" in await exchange(port, b"GET / HTTP/1.1\r\nHost: x\r\n" + CLOSE)

    with_front(test, limits=limits)


def test_the_time_limits_hold_for_all_when_one_connection_has_a_bug():
    class Broken:
        def check_time(self, now):
            raise RuntimeError("a bug")

        def close_if_idle(self):
            front_of.connections.discard(self)

    async def test(front, port):
        nonlocal front_of
        front_of = front
        front.connections.add(Broken())
        assert await exchange(port) == b""
        assert await exchange(port) == b""

    front_of = None
    with_front(test, limits=Limits(connections=4, body_bytes=1000, idle_seconds=0.1, sweep_seconds=0.02))


def test_new_certificates_on_every_address_and_none_answers_after_the_end():
    async def main():
        front = Front(handler=lambda request, reply: reply(Answer(200, b"")), limits=LIMITS)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        hosts = ["127.0.0.1", "127.0.0.2"]
        await front.start(hosts, port)
        for _ in range(2):
            await front._renew(asyncio.get_running_loop())
            for host in hosts:
                _reader, writer = await asyncio.open_connection(host, port)
                writer.close()
        await front.stop(1.0)
        for host in hosts:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, port)

    asyncio.run(main())


def test_certificates_that_change_while_the_server_ends():
    async def main():
        front = Front(handler=lambda request, reply: reply(Answer(200, b"")), limits=LIMITS)
        port = await front.start("127.0.0.1", 0)
        renewal = asyncio.create_task(front._renew(asyncio.get_running_loop()))
        await asyncio.sleep(0)
        await front.stop(1.0)
        await renewal
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    asyncio.run(main())
